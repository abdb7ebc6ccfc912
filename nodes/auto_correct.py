"""SteadyDiffAuto: measures a model once, chooses a correction and applies it; what it found is kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..steadydiff.drift import kept_fit
from ..steadydiff.drift.fit_plan import QUALITIES, Plan, own_references, problem_of
from ..steadydiff.drift.kept_fit import KeptFit, Unfinished, digest
from ..steadydiff.drift.measurement import own_samples
from ..steadydiff.errors import SettingsError
from ..steadydiff.files.atomic import check_writable
from ..steadydiff.hosts.comfy.fit import (
    check_fit,
    corrected,
    draw_reference,
    fit_model,
    key_of,
)
from ..steadydiff.plots import fit_figure
from .shared import schema
from .shared.host import fitted_shape, say
from .shared.meter import Meter
from .shared.plot import image
from .shared.schedule_folder import auto_file
from .shared.set_up import make_setup

MEASURE = ("when needed", "again", "never")
NEVER = (
    "Not measured: measure is never, and no measurement of this model with this sampler, steps, cfg and "
    "quality is kept. The model is left as it is."
)


class SteadyDiffAuto(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffAuto",
            display_name="Auto Correct (SteadyDiff)",
            category=schema.CATEGORY,
            description="Measures what a model's pictures lack, tries corrections, and applies the one that "
            "helps, or none. Measures once for a model, its LoRAs, sampler, steps and CFG, and keeps what it "
            "found: a new prompt or seed does not measure again. Experimental: the rule misses its goal on "
            "the small networks it was tried on (docs/digits.md), and no large model was measured.",
            search_aliases=["steady", "drift", "exposure bias", "epsilon scaling", "calibrate", "washed out"],
            is_experimental=True,
            is_input_list=True,  # so that ComfyUI's own node for a folder of pictures fits
            has_intermediate_output=True,  # the page keeps the plot
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model as you use it, with its LoRAs and without other corrections "
                    "of SteadyDiff; put those behind this node.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt of the pictures it measures on. Another prompt later on "
                    "does not measure again.",
                ),
                io.Conditioning.Input("negative", tooltip="What to steer away from, at cfg above 1."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you sample at."),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="The same as in your KSampler.",
                ),
                io.Float.Input(
                    "cfg", default=8.0, min=schema.Least(0.0), max=100.0, step=0.1, round=0.01,
                    tooltip="As in your KSampler. With guidance the answer is mostly: leave it as it is.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="euler",
                    tooltip="As in your KSampler; not one of the CFG++ kind, dpm_fast or dpm_adaptive.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="normal",
                    tooltip="The same as in your KSampler.",
                ),
                io.Combo.Input(
                    "quality", options=list(QUALITIES), default="normal",
                    tooltip="How many pictures it measures on: 16, 32 or 64. Takes, at 20 steps, at most the "
                    "time of 61, 122 or 474 pictures, without images 125, 250 or 730; mostly it knows "
                    "earlier. More is surer.",
                ),
                io.Combo.Input(
                    "measure", options=list(MEASURE), default="when needed",
                    tooltip="when needed: only if nothing is kept for this model, its LoRAs, sampler, steps, "
                    "cfg and quality. again: anew. never: uses what is kept, else leaves the model as it is.",
                ),
                io.Image.Input(
                    "images", optional=True,
                    tooltip="8 or more real pictures of what the prompt asks for that the model was not "
                    "trained on, a batch or a folder's. Without them the model's own finely stepped samples "
                    "serve, which show the error of few steps only. Cut to the size of latent_image.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the images; the model's own VAE."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True,
                    control_after_generate=False, extra_dict={"advanced": True},
                    tooltip="Of the first picture it measures on. A new one alone does not measure again.",
                ),
                io.Int.Input(
                    "batch_size", default=4, min=1, max=4096, optional=True, extra_dict={"advanced": True},
                    tooltip="How many pictures are sampled at a time: more is faster and takes more memory.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The corrected model, or the very same where there is nothing to correct."
                ),
                io.String.Output(
                    display_name="info", tooltip="What it chose and why, with errors, in sentences."
                ),
                io.Image.Output(display_name="plot", tooltip="What was found and what was tried."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, images=None, **others) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch] if images else None
        model, info, plot = correct(pictures, **{name: values[0] for name, values in others.items()})
        return io.NodeOutput(model, info, plot, ui=ui.PreviewImage(plot, cls=cls))


def correct(
    images, model, positive, negative, latent_image, steps, cfg, sampler_name, scheduler, quality, measure,
    vae=None, seed=0, batch_size=4,
) -> tuple:  # fmt: skip
    """Return the model, corrected or as it is, what is said of it, and its plot.

    images: real pictures [H, W, 3] in 0..1, of any sizes, or None
    """
    sampler = comfy.samplers.sampler_object(sampler_name)
    own = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, 1.0)
    setup = make_setup(model, positive, negative, sampler, own.sigmas.cpu(), cfg, calls=0)
    setup = replace(setup, scheduler=scheduler)
    shape = fitted_shape(model, latent_image)
    plan = Plan.of(quality, batch=batch_size, seed=seed)
    if images is not None and vae is None:
        raise SettingsError("images need the vae that encodes them; connect it")
    images = None if images is None else images[: plan.pictures]
    key = key_of(setup, plan, None if images is None else digest_of(images, vae))
    file, prompt = auto_file(setup.made_for, key), digest(positive, negative)
    kept = None if measure == "again" else kept_fit.load(file, key)
    if kept is None and measure == "never":
        say(NEVER)
        return model, NEVER, image(fit_figure, None)
    if kept is None:
        kept = measured(setup, shape, plan, images, vae, key, prompt, file)
    info = "\n".join([kept.report(), *kept.remarks(prompt, shape), f"Kept in {file.name}."])
    say(kept.headline)
    return corrected(replace(setup, model=model), kept.fit.correction), info, image(fit_figure, kept)


def measured(setup, shape, plan: Plan, images, vae, key: str, prompt: str, file: Path) -> KeptFit:
    """Measure, and keep what was found; what was measured when it is cancelled is gone on from next time."""
    count = None if images is None else len(images)
    per_run = check_fit(setup, shape, count)
    check_writable(file)
    unfinished = Unfinished(file.with_suffix(".safetensors"), problem_of(key, prompt, shape, plan))
    least, most = plan.calls(per_run, count)
    done = plan.calls_made(per_run, count, unfinished.own, unfinished.done)
    setup = replace(setup, on_call=Meter(setup.model, least, most, done, per_run / plan.batch))

    if images is None:
        real = own_references(plan, unfinished, partial(draw_reference, setup, shape, plan.refine))
        references = own_samples(setup.run.steps * plan.refine)
    else:
        real, references = encoded(images, vae, shape), f"{count} connected images"
    fit = fit_model(setup, shape, real, plan, unfinished.done, lambda name: unfinished.save())
    kept = KeptFit(key, fit, setup.made_for, plan.pictures, references, prompt, shape)
    kept_fit.save(file, kept)
    unfinished.end()
    return kept


def digest_of(images: Sequence[torch.Tensor], vae) -> str:
    """Tell images from others by every pixel, without encoding them."""
    found = hashlib.sha256(
        f"{[list(picture.shape) for picture in images]} {type(vae.first_stage_model).__name__}".encode()
    )
    for picture in images:
        found.update((picture.cpu().float().clamp(0, 1) * 65535).round().int().numpy().tobytes())
    return found.hexdigest()


def encoded(images: Sequence[torch.Tensor], vae, shape: tuple[int, ...]) -> torch.Tensor:
    """The images as latents [N, C, *S] of the size that is sampled; cut where their shape differs."""
    height, width = (side * vae.spacial_compression_encode() for side in shape[-2:])

    def fitted(picture: torch.Tensor) -> torch.Tensor:
        whole = picture[None, ..., :3].movedim(-1, 1)
        return comfy.utils.common_upscale(whole, width, height, "area", "center").movedim(1, -1)

    # One by one: VAEs of videos take several for one video.
    return torch.cat([vae.encode(fitted(picture)).cpu() for picture in images])
