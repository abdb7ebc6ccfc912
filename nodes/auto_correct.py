"""SteadyDiffAuto: measures a model once, chooses a correction and applies it; what it found is kept."""

from dataclasses import replace

import comfy.samplers
from comfy_api.latest import io, ui

from ..steadydiff.drift.digest import digest
from ..steadydiff.drift.fit_plan import QUALITIES, FitPlan
from ..steadydiff.errors import SettingsError
from ..steadydiff.hosts.comfy.attach import attach_chooser, patches_of
from ..steadydiff.hosts.comfy.fit import check_bare, corrected
from ..steadydiff.inputs.references import STAND_IN
from ..steadydiff.plots import fit_figure
from ..steadydiff.references import OWN, SHIPPED, shipped_references
from .shared import ksampler, schema
from .shared.auto_run import CONNECTED, MEASURE, AutoRun, Fitter
from .shared.host import HOST, fitted_shape, say
from .shared.plot import image, no_image
from .shared.set_up import make_setup

WAITS = (
    "Measures when a sampler first runs with it, under that sampler's own prompt, size, steps and CFG, once "
    "for each. At 20 steps that takes at most the time of {} pictures. The result is then said here."
)

YET = "Nothing is measured yet: a sampler that runs with this model does."


class SteadyDiffAuto(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffAuto",
            display_name="Auto Correct (SteadyDiff)",
            category=schema.CATEGORY,
            description="Measures what a model's pictures lack, tries corrections, and applies the one that "
            "helps, or none. Put it between the model and the sampler. Measures once for a model, its LoRAs, "
            "sampler, steps and CFG, and keeps what it found: a new prompt or seed does not measure again. "
            "Experimental: the rule misses its goal on the small networks it was tried on (docs/digits.md), "
            "and no large model was measured.",
            search_aliases=["steady", "drift", "exposure bias", "epsilon scaling", "calibrate", "washed out"],
            advanced=["steps", "cfg", "sampler_name", "scheduler", "seed", "batch_size"],
            is_experimental=True,
            is_input_list=True,  # so that ComfyUI's own node for a folder of pictures fits
            has_intermediate_output=True,  # the page keeps the plot
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model as you use it, with its LoRAs and without other corrections "
                    "of SteadyDiff; put those behind this node.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Leave it open, with negative and latent_image: then it measures when a sampler "
                    "runs, as that is set. Connect the three to measure now and see info and plot. Another "
                    "prompt later on does not measure again.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to steer away from, at cfg above 1.",
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="An empty latent of the size you sample at.",
                ),
                ksampler.steps("Used with positive connected: the same as in your KSampler."),
                ksampler.cfg(
                    "Used with positive connected: as in your KSampler. With guidance the answer is "
                    "mostly: leave it as it is."
                ),
                ksampler.sampler_name(
                    "Used with positive connected: as in your KSampler; not one of the CFG++ kind, "
                    "dpm_fast or dpm_adaptive."
                ),
                ksampler.scheduler("Used with positive connected: the same as in your KSampler."),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="normal",
                    tooltip="How many pictures it measures on: 16, 32 or 64. Takes, at 20 steps, at most the "
                    "time of 64, 128 or 486 pictures, without images 125, 250 or 730; mostly it knows "
                    "earlier. More is surer.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURE),
                    default="when needed",
                    tooltip="when needed: only if nothing is kept for this model, its LoRAs, sampler, steps, "
                    "cfg and quality. again: anew. never: uses what is kept, else leaves the model as it is.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="8 or more real pictures of what the prompt asks for that the model was not "
                    "trained on, a batch or a folder's. Without them the model's own finely stepped samples "
                    "serve, which show the error of few steps only. Cut to the size of latent_image.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the images; the model's own VAE."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Of the first picture it measures on. A new one alone does not measure again.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="How many pictures are sampled at a time: more is faster and takes more memory.",
                ),
                schema.later(STAND_IN),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The corrected model; measured now, the very same where there is nothing to "
                    "correct."
                ),
                io.String.Output(
                    display_name="info", tooltip="What it chose and why, with errors, in sentences."
                ),
                io.Image.Output(display_name="plot", tooltip="What was found and what was tried."),
            ],
        )

    @classmethod
    def execute(cls, images=None, **others) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch] if images else None
        model, info, plot = correct(pictures, **{name: values[0] for name, values in others.items()})
        if "positive" not in others:  # there is no plot yet
            return io.NodeOutput(model, info, plot)
        return io.NodeOutput(model, info, plot, ui=ui.PreviewImage(plot, cls=cls))


def correct(
    images,
    model,
    steps,
    cfg,
    sampler_name,
    scheduler,
    quality,
    measure,
    positive=None,
    negative=None,
    latent_image=None,
    vae=None,
    seed=0,
    batch_size=4,
    stand_in=OWN,
) -> tuple:
    """Return the model, corrected or as it is, what is said of it, and its plot.

    images: real pictures [H, W, 3] in 0..1, of any sizes, or None
    positive, negative, latent_image: all of them, to measure now, or none, to measure when a sampler runs
    """
    check_bare(patches_of(model, HOST))
    plan = FitPlan.of(quality, batch=batch_size, seed=seed)
    source = CONNECTED
    if images is None and stand_in == SHIPPED:
        images, source = list(shipped_references(plan.pictures).pictures), SHIPPED
    fitter = Fitter(plan, measure, images, vae, source)
    run = {"positive": positive, "negative": negative, "latent_image": latent_image}
    missing = [name for name, given in run.items() if given is None]
    if missing and len(missing) < len(run):
        raise SettingsError(
            f"{' and '.join(missing)} must be connected as well, or none of {', '.join(run)}: then it "
            f"measures when a sampler runs"
        )
    if latent_image is None:
        waits = WAITS.format(most_pictures(plan, images))
        say(waits)
        return attach_chooser(model, AutoRun(fitter), HOST), waits, no_image(YET)
    sampler = comfy.samplers.sampler_object(sampler_name)
    own = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, 1.0)
    setup = make_setup(model, positive, negative, sampler, own.sigmas.cpu(), cfg, calls=0)
    setup = replace(setup, scheduler=scheduler)
    kept, info = fitter(setup, fitted_shape(model, latent_image), digest(positive, negative))
    say(kept.headline if kept else info)
    if kept is None:
        return model, info, no_image("Nothing is measured.")
    return corrected(replace(setup, model=model), kept.fit.correction), info, image(fit_figure, kept)


def most_pictures(plan: FitPlan, images, steps: int = 20) -> int:
    """Return the most pictures' time that measuring takes at so many model calls a run."""
    count = None if images is None else len(images[: plan.pictures])
    return round(plan.calls(steps, count)[1] * plan.batch / steps)
