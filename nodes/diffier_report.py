"""SteadyDiffDiffIERReport: shows at which step a model errs by how much, and what a correction repairs."""

import json
import math

from comfy_api.latest import io

from ..steadydiff.drift.gap import Gap
from ..steadydiff.hosts.comfy.gap import measure_gap
from ..steadydiff.plots import gap_figure
from .shared import ksampler, schema
from .shared.host import fitted_shape
from .shared.plot import image
from .shared.set_up import make_setup


class SteadyDiffDiffIERReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffDiffIERReport",
            display_name="DiffIER Report (SteadyDiff)",
            category=schema.MEASURING,
            description="Shows what DiffIER finds and what it repairs, step by step: samples without "
            "SteadyDiff's corrections and with those the model carries, and at each step asks the model "
            "about its own estimate, noised again. Draws the error and its sum over the run; with real "
            "pictures as reference also the guidance weight that has the smallest error at them. Says how "
            "many model calls each run made.",
            search_aliases=["training-inference gap", "accumulated error", "optimal cfg", "guidance weight"],
            inputs=[
                io.Model.Input("model", tooltip="The model with its corrections, e.g. from DiffIER."),
                io.Conditioning.Input("positive", tooltip="Prompt of all samples."),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Sampler.Input("sampler", tooltip="The sampler to measure with, from KSamplerSelect."),
                io.Sigmas.Input("sigmas", tooltip="Noise levels of a whole run, from BasicScheduler."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you sample at."),
                ksampler.cfg("As in the sampler. At 1 there is no guidance, and no weight is measured."),
                ksampler.seed("Of the first sample; the next ones take the next seeds. Keep it to compare."),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=100000,
                    tooltip="How many samples. More make the curves steadier and take as much longer.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many are sampled at a time: larger is faster and takes more memory.",
                ),
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="Real pictures like those the prompt asks for, as latents of the size of "
                    "latent_image, e.g. from VAE Encode. Only at them is the best guidance weight known; "
                    "at the model's own estimates it would repeat cfg. 16 are few, 64 good.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="Error per step, its sum, and the weight."),
                io.String.Output(display_name="report", tooltip="The figures as JSON: read, keep, share."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        sampler,
        sigmas,
        latent_image,
        cfg,
        seed,
        count,
        batch_size,
        reference=None,
    ) -> io.NodeOutput:
        clean = None if reference is None else reference["samples"]
        shown = 0 if clean is None else math.ceil(len(clean) / batch_size)
        calls = (2 * math.ceil(count / batch_size) + shown) * (len(sigmas) - 1)
        setup = make_setup(model, positive, negative, sampler, sigmas, cfg, calls)
        shape = fitted_shape(model, latent_image)
        plain, corrected = measure_gap(setup, shape, range(seed, seed + count), batch_size, clean)
        plot = image(gap_figure, plain, corrected, cfg)
        return io.NodeOutput(plot, report(plain, corrected))


def report(plain: Gap, corrected: Gap) -> str:
    """The figures a reader wants first, then all."""
    pairs = zip(corrected.before, corrected.after, strict=True)
    summary = {
        "error_without": plain.accumulated[-1],
        "error_corrected": corrected.accumulated[-1],
        "repaired_per_step": [before - after for before, after in pairs],
        "model_calls_without": plain.calls,
        "model_calls_corrected": corrected.calls,
        "extra_model_calls": corrected.extra,
        "guidance_weight_of_least_error": plain.best_weight,
    }
    parts = {"summary": summary, "without": plain.as_dict(), "corrected": corrected.as_dict()}
    return json.dumps(parts, indent=2)
