"""SteadyDiffMeasure: shows how far a model drifts from its training while it samples."""

import json
import math

from comfy_api.latest import io

from ..steadydiff.drift.measurement import Measurement
from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy.drift import measure_model
from ..steadydiff.inputs.drift import MEASURE, PAPER_CURVES
from ..steadydiff.inputs.references import STAND_IN
from ..steadydiff.plots import drift_figure
from ..steadydiff.references import OWN, SHIPPED, shipped_references
from .shared import ksampler, schema
from .shared.auto_run import encoded
from .shared.host import fitted_shape
from .shared.plot import image
from .shared.set_up import make_setup

SOURCE = "steadydiff_reference"
"""Where latents of ours say what they are, for a second measurement against them."""


class SteadyDiffMeasure(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffMeasure",
            display_name="Measure Drift (SteadyDiff)",
            category=schema.MEASURING,
            description="Shows a model's exposure bias: how much more noise it predicts while sampling "
            "than on noised clean pictures, step by step, and how far the variance of the states is off. "
            "Measures the model with whatever patches it carries; give the measurement of the bare model to "
            "a second one to see both. Without references the model's own finely stepped samples serve, "
            "which shows few-step error only, not the model's own bias.",
            search_aliases=["exposure bias", "eps norm", "sampling drift", "variance error"],
            inputs=[
                io.Model.Input("model", tooltip="The model to measure, with or without corrections."),
                io.Conditioning.Input("positive", tooltip="Prompt of all samples."),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Sampler.Input("sampler", tooltip="The sampler to measure with, from KSamplerSelect."),
                io.Sigmas.Input("sigmas", tooltip="Noise levels of a whole run, from BasicScheduler."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you sample at."),
                ksampler.cfg("As in the sampler; the drift depends on it, usually growing with it."),
                ksampler.seed("Of the first sample; the next ones take the next seeds. Keep it to compare."),
                *schema.widgets(MEASURE),
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="Clean latents of the size of latent_image, e.g. from VAE Encode, or the "
                    "reference output of another measurement. Real pictures like those the prompt asks for. "
                    "Without them the plot shows few-step error only, not the model's own bias.",
                ),
                schema.advanced(PAPER_CURVES),
                schema.Measurement.Input(
                    "measurement",
                    optional=True,
                    tooltip="An earlier measurement, drawn in grey for comparison, e.g. of the bare model.",
                ),
                schema.later(STAND_IN),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Encodes the shipped pictures; the model's own VAE."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="Norms, their quotient, and variance errors."),
                io.String.Output(display_name="report", tooltip="The figures as JSON: read, keep, share."),
                schema.Measurement.Output(
                    display_name="measurement", tooltip="For Calibrate, and for comparing."
                ),
                io.Latent.Output(display_name="reference", tooltip="The clean latents that were used."),
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
        refine,
        reference=None,
        paper_curves=False,
        measurement=None,
        stand_in=OWN,
        vae=None,
    ) -> io.NodeOutput:
        other = None if measurement is None else Measurement.from_json(measurement)
        if reference is None and stand_in == SHIPPED:
            reference = shipped_latents(count, vae, fitted_shape(model, latent_image))
        steps = len(sigmas) - 1
        calls = math.ceil(count / batch_size) * steps * (2 + paper_curves + (0 if reference else refine))
        setup = make_setup(model, positive, negative, sampler, sigmas, cfg, calls)
        shape = fitted_shape(model, latent_image)
        clean = None if reference is None else reference["samples"]
        source = "given" if reference is None else reference.get(SOURCE, "given")
        seeds = range(seed, seed + count)
        found, used = measure_model(setup, shape, seeds, clean, refine, batch_size, paper_curves, source)
        plot = image(drift_figure, found, other)
        return io.NodeOutput(
            plot, report(found, other), found.to_json(), {"samples": used, SOURCE: found.reference}
        )


def shipped_latents(count: int, vae, shape: tuple[int, ...]) -> dict:
    """The pictures that ship as a reference, at most `count` of them, at the size that is sampled."""
    if vae is None:
        raise SettingsError(f"{SHIPPED} need the vae that encodes them; connect it")
    shipped = shipped_references(count)
    return {"samples": encoded(list(shipped.pictures), vae, shape), SOURCE: shipped.source}


def report(found: Measurement, other: Measurement | None) -> str:
    """The figures a reader wants first, then the whole measurement."""
    measurement = json.loads(found.to_json())
    del measurement["training_norms"]  # a thousand numbers that only Calibrate reads
    parts = {"summary": found.summary(), "shows": found.shows, "measurement": measurement}
    if other is not None:
        parts["compared_with"] = {"label": other.label, "summary": other.summary()}
    return json.dumps(parts, indent=2)
