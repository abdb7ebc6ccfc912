"""What Auto Correct does once a run is known: takes what is kept for it, or measures and keeps that.

`Fitter` serves both of its ways: with the run's conditioning connected it measures at once; without,
`AutoRun` hangs on the model and takes conditioning, sampler, levels and CFG from the sampler that begins.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import comfy.samplers
import comfy.utils
import torch

from ...steadydiff.drift import saved_fit
from ...steadydiff.drift.digest import digest
from ...steadydiff.drift.fit_plan import FitPlan, own_references, problem_of
from ...steadydiff.drift.measurement import own_samples
from ...steadydiff.drift.saved_fit import SavedFit, Unfinished
from ...steadydiff.drift.stepping import fixed_rng
from ...steadydiff.errors import HostError, SettingsError, SteadyDiffError
from ...steadydiff.files.atomic import check_writable
from ...steadydiff.hosts.comfy.attach import without_ours
from ...steadydiff.hosts.comfy.drift import Setup
from ...steadydiff.hosts.comfy.fit import check_fit, draw_reference, fit_model, key_of
from ...steadydiff.hosts.comfy.host import logger
from ...steadydiff.hosts.comfy.session import without_caches
from ...steadydiff.hosts.patch import Patch
from .host import HOST, executing_node, say
from .meter import Meter
from .schedule_folder import auto_file
from .set_up import scheduler_name

CONNECTED = "connected images"
MEASURE = ("when needed", "again", "never")
NEVER = (
    "Not measured: measure is never, and no measurement of this model with this sampler, steps, cfg and "
    "quality is kept. The model is left as it is."
)


class Fitter:
    """Finds the fit of a run.

    images: real pictures [H, W, 3] in 0..1, of any sizes, or None; `vae` encodes them
    source: where they come from, in words

    Raises:  SettingsError for images without a vae.
    """

    def __init__(
        self, plan: FitPlan, measure: str, images: Sequence[torch.Tensor] | None, vae, source: str = CONNECTED
    ) -> None:
        if images is not None and vae is None:
            raise SettingsError(f"{source} need the vae that encodes them; connect it")
        self._images = images and images[: plan.pictures]
        self._digest = digest_of(self._images, vae) if self._images else None
        self._plan, self._vae, self._measure, self._source = plan, vae, measure, source
        self._measured: set[str] = set()

    def __call__(self, setup: Setup, shape: tuple[int, ...], prompt: str) -> tuple[SavedFit | None, str]:
        """Return the fit, None where there is to be none, and what is said of it.

        shape: [C, *S] of one latent;  prompt: a digest of the conditioning
        """
        key = key_of(setup, self._plan, self._digest)
        file = auto_file(setup.made_for, key)
        anew = self._measure == "again" and key not in self._measured
        kept = None if anew else saved_fit.load(file, key)
        if kept is None and self._measure == "never":
            return None, NEVER
        if kept is None:
            kept = self._measured_now(setup, shape, key, prompt, file)
            self._measured.add(key)
        return kept, "\n".join([kept.report(), *kept.remarks(prompt, shape), f"Kept in {file.name}."])

    def _measured_now(self, setup: Setup, shape: tuple[int, ...], key: str, prompt: str, file) -> SavedFit:
        """Measure, and keep what was found; what was measured when it is cancelled is gone on from next
        time."""
        plan, images = self._plan, self._images
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
            real, references = encoded(images, self._vae, shape), f"{count} {self._source}"
        fit = fit_model(
            setup, shape, real, plan, unfinished.done, lambda name: unfinished.save(), images is None
        )
        kept = SavedFit(key, fit, setup.made_for, plan.pictures, references, prompt, shape)
        saved_fit.save(file, kept)
        unfinished.end()
        return kept


class AutoRun:
    """Chooses the correction of every run of a sampler when it begins; hangs on a model, see `attach.py`.

    told: what was said of the latest run
    """

    def __init__(self, fitter: Fitter) -> None:
        self._fitter, self._node, self.told = fitter, executing_node(), ""

    def __call__(self, guider, noise, sampler, sigmas, mask=None, kinds: int = 1) -> tuple[Patch, ...]:
        """Return what a fit chose for a run that is about to begin.

        kinds: of latents, packed in `noise`

        Raises:  SettingsError or HostError for a run that cannot be measured as it is set.
        """
        check_guider(guider)
        model = without_caches(without_ours(guider.model_patcher, HOST))
        if left := left_alone(model, sigmas, mask, kinds):
            self._tell(f"Auto Correct leaves this run as it is: {left}.", warning=True)
            return ()

        def guide(patched):
            own = copy.copy(guider)
            own.model_patcher, own.model_options = patched, patched.model_options
            return own

        setup = Setup(
            model,
            sampler,
            sigmas.cpu(),
            float(guider.cfg),
            guide,
            comfy.samplers.KSAMPLER,
            HOST,
            scheduler_name(model, sigmas.cpu()),
        )
        with fixed_rng(torch.empty(0, device=model.load_device)):  # the sampler's stream stays its own
            try:
                kept, info = self._fitter(setup, tuple(noise.shape[1:]), prompt_of(guider))
            except SteadyDiffError as error:  # seen at the sampler's node
                raise type(error)(f"Auto Correct: {error}; or take Auto Correct away") from error
        self._tell(info)
        if kept is None:
            return ()
        methods = saved_fit.methods_of(kept.fit.correction, setup.made_for, setup.run)
        return tuple(Patch(method) for method in methods)

    def _tell(self, info: str, warning: bool = False) -> None:
        """Say it on the node itself and on the sampler's, which is executing."""
        self.told = info
        logger.log(30 if warning else 20, "SteadyDiff: %s", info.splitlines()[0])
        say(info.splitlines()[0])
        say(info, self._node)


def check_guider(guider) -> None:
    """Raise HostError for a guider that calls for more than a prompt, one to steer away from, and a CFG."""
    if type(guider).predict_noise is not comfy.samplers.CFGGuider.predict_noise:
        raise HostError(
            f"Auto Correct measures under one prompt and one CFG scale, a {type(guider).__name__} has more; "
            f"use CFGGuider or BasicGuider, or take Auto Correct away"
        )


def left_alone(model, sigmas: torch.Tensor, mask, kinds: int) -> str:
    """Say why a run cannot be measured though nothing is set wrong; empty for one that can be."""
    most = float(model.get_model_object("model_sampling").sigma_max)
    if len(sigmas) < 2:
        return "it has no step"
    if float(sigmas[0]) < most / 2:
        return f"it starts at sigma {float(sigmas[0]):.4g}, the model at {most:.4g}, so it is a part of a run"
    if float(sigmas[-1]) > 0:
        return f"it ends at sigma {float(sigmas[-1]):.4g}, not at 0, so it is a part of a run"
    if mask is not None:
        return "a mask keeps a part of the picture, which cannot be measured"
    return f"it draws latents of {kinds} kinds together, which cannot be measured" if kinds > 1 else ""


def prompt_of(guider) -> str:
    """Return a digest of a guider's conditioning, the same as of what the node would be connected to."""
    made = ("cross_attn", "model_conds", "uuid")  # by the guider
    own = {
        name: [
            [cond.get("cross_attn"), {key: one for key, one in cond.items() if key not in made}]
            for cond in conds
        ]
        for name, conds in guider.original_conds.items()
    }
    return digest(own.get("positive"), own.get("negative"))


def digest_of(images: Sequence[torch.Tensor], vae) -> str:
    """Tell images from others by every pixel, without encoding them."""
    found = hashlib.sha256(
        f"{[list(picture.shape) for picture in images]} {type(vae.first_stage_model).__name__}".encode()
    )
    for picture in images:
        found.update((picture.cpu().float().clamp(0, 1) * 65535).round().int().numpy().tobytes())
    return found.hexdigest()


def encoded(images: Sequence[torch.Tensor], vae, shape: tuple[int, ...]) -> torch.Tensor:
    """The images as latents [N, C, *S] of the size that is sampled; cut where their shape differs.

    Smaller ones are enlarged smoothly: `area` would repeat each pixel as a block.
    """
    height, width = (side * vae.spacial_compression_encode() for side in shape[-2:])

    def fitted(picture: torch.Tensor) -> torch.Tensor:
        whole = picture[None, ..., :3].movedim(-1, 1)
        grows = max(height / whole.shape[-2], width / whole.shape[-1]) > 1
        how = "bicubic" if grows else "area"
        return comfy.utils.common_upscale(whole, width, height, how, "center").clamp(0, 1).movedim(1, -1)

    # One by one: VAEs of videos take several for one video.
    return torch.cat([vae.encode(fitted(picture)).cpu() for picture in images])
