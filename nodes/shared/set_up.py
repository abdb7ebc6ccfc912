"""What the measuring and the calibrating node share: the host's parts of a set-up, progress and cancel."""

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ...steadydiff.errors import SettingsError
from ...steadydiff.hosts.comfy.attach import chooser_of
from ...steadydiff.hosts.comfy.drift import Setup
from ...steadydiff.hosts.comfy.session import without_caches
from .host import HOST


def make_setup(model, positive, negative, sampler, sigmas, cfg, calls: int) -> Setup:
    """Bring together what the user connected; `calls` is how many model calls the progress bar stands for.

    Raises:  SettingsError for a model whose correction is chosen only when a sampler runs.
    """
    if chooser_of(model, HOST):
        raise SettingsError(
            "this model carries Auto Correct, which measures by itself when a sampler runs; connect the "
            "model from before it here"
        )

    def guide(patched):
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return guider

    return Setup(
        model=without_caches(model),
        sampler=sampler,
        sigmas=sigmas,
        cfg=cfg,
        guide=guide,
        as_sampler=comfy.samplers.KSAMPLER,
        host=HOST,
        scheduler=scheduler_name(model, sigmas),
        on_call=progress(model, calls),
        prepare=lambda conditioning, x: prepare(model, conditioning, x),
    )


def prepare(model, conditioning, x: torch.Tensor) -> list[dict]:
    """Return conditioning as a running guider holds it."""
    conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
    return comfy.samplers.process_conds(model.model, x, conds, x.device)["positive"]


def scheduler_name(model, sigmas) -> str | None:
    """Name the host's scheduler that gives these sigmas, if one does."""
    if len(sigmas) < 2:
        return None
    model_sampling = model.get_model_object("model_sampling")
    for name in comfy.samplers.SCHEDULER_NAMES:
        found = comfy.samplers.calculate_sigmas(model_sampling, name, len(sigmas) - 1)
        if found.shape == sigmas.shape and torch.allclose(found, sigmas.to(found), rtol=1e-5):
            return name
    return None


def progress(model, calls: int, previews: bool = True):
    """Return what is called after every model call: it moves the bar, shows a preview, obeys Cancel.

    previews: off for a node that shows a picture of its own at the end, over which the page would leave them
    """
    bar, done = comfy.utils.ProgressBar(max(calls, 1)), 0
    previewer = previews and latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def on_call(denoised):
        nonlocal done
        comfy.model_management.throw_exception_if_processing_interrupted()
        done += 1
        picture = previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None
        bar.update_absolute(min(done, calls), calls, picture)

    return on_call
