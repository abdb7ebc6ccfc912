"""ComfyUI: attaches methods to a ModelPatcher; those of kind "prediction" run at its PREDICT_NOISE level.

Duck-typed: nothing of ComfyUI is imported here; its names and classes come in a `ComfyHost` from
`nodes/shared/host.py`. A model carries at most one `Attachment`, which holds all our patches. The state of
a run lives in a `Session`, which hangs on the run's own model options from its first model call to its last.
Methods of kind "state" come in between a sampler and its model, see `state.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from ...denoiser import Run
from ...errors import SettingsError
from ...methods.method import Method
from ...model_names import name_of
from ..patch import POST_CFG, Patch, in_order, states_of
from .host import KEY, ComfyHost, logger, run_of, sampler_name
from .session import ComfySession
from .state import StateRun, rectify


def attach(model: Any, patch: Patch, host: ComfyHost) -> Any:
    """Return a clone of `model` that carries `patch` beside what it already carries.

    Raises:  HostError or SettingsError if the method cannot work on this model. A node further down may still
             change the model's kind, so the run checks again.
    """
    patch.check_part()
    known, title = patches_of(model, host), patch.settings.title
    check_single((*known, patch))
    if patch.resource:
        patch.resource.check(model)
    patch.settings.check(states_of(model.get_model_object("model_sampling")).space)
    clone = _carrying(model, Attachment((*known, patch), host, chooser_of(model, host)))
    logger.info("SteadyDiff: %s attached (%s)", title, patch)
    return clone


def attach_chooser(model: Any, choose: Chooser, host: ComfyHost) -> Any:
    """Return a clone of `model` on which a function chooses patches for every run, before its others."""
    return _carrying(model, Attachment(patches_of(model, host), host, choose))


def _carrying(model: Any, attachment: Attachment) -> Any:
    clone = without_ours(model, attachment.host)
    for kind, wrapper in attachment.wrappers().items():
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    if models := [one for patch in attachment.patches for one in models_of(patch)]:
        clone.set_additional_models(KEY, models)
    return clone


def check_single(patches: Sequence[Patch]) -> None:
    """Raise SettingsError where a method that acts once at most is there twice."""
    titles = [patch.settings.title for patch in patches if patch.settings.single]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise SettingsError(f"{twice[0]} is on this model already, and two would correct twice; use one")


def models_of(patch: Patch) -> Sequence[Any]:
    """Return the ModelPatchers that a patch brings along."""
    return patch.resource.models if patch.resource else ()


def without_ours(model: Any, host: ComfyHost) -> Any:
    """Return a clone of a model without our corrections, and without the networks that they brought along."""
    clone = model.clone()
    for kind in (host.outer_sample, host.sampler_sample, host.predict_noise, host.apply_model):
        clone.remove_wrappers_with_key(kind, KEY)
    if clone.get_additional_models_with_key(KEY):
        clone.remove_additional_models(KEY)
    return clone


def patches_of(model: Any, host: ComfyHost) -> tuple[Patch, ...]:
    """Return what is attached to a model, the patch nearest the loader first."""
    return _carried(model, host).patches


def chooser_of(model: Any, host: ComfyHost) -> Chooser | None:
    """Return what chooses further patches when a run of a model begins."""
    return _carried(model, host).choose


def _carried(model: Any, host: ComfyHost) -> Attachment:
    """Return a model's attachment, an empty one for none."""
    found = model.get_wrappers(host.outer_sample, KEY)
    return found[0].__self__ if found else Attachment((), host)


class Chooser(Protocol):
    """Chooses what acts on the predictions of a run that begins.

    told: what it said of the latest one
    """

    told: str

    def __call__(
        self, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor, mask: Tensor | None, kinds: int
    ) -> tuple[Patch, ...]:
        """kinds: of latents, which are packed in `noise`"""
        ...


@dataclass(frozen=True)
class Attachment:
    """The patches of one model, the one nearest the loader first, and the wrappers that serve them.

    choose: chooses patches for every run, which come before these
    """

    patches: tuple[Patch, ...]
    host: ComfyHost
    choose: Chooser | None = None

    def wrappers(self) -> dict[str, Callable]:
        """Return the wrapper for each of the host's levels we use."""
        found = {
            self.host.outer_sample: self.outer_sample,
            self.host.sampler_sample: self.sampler_sample,
            self.host.predict_noise: self.predict_noise,
        }
        for patch in self.patches:
            found |= patch.resource.wrappers(self.host) if patch.resource else {}
        return found

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Open a session, sample, and close it however sampling ends; newer hosts may pass more arguments."""
        guider = executor.class_obj
        if self.host.in_training():
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        # After the sigmas come denoise_mask, callback, disable_pbar and the seed.
        seed = args[3] if len(args) > 3 else kwargs.get("seed")
        mask = args[0] if args else kwargs.get("denoise_mask")
        shapes, chosen = kwargs.get("latent_shapes") or (), ()
        if self.choose:
            chosen = self.choose(guider, noise, sampler, sigmas, mask, max(1, len(shapes)))
            check_single((*chosen, *self.patches))
            if not chosen and not self.patches:
                return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        session = self._open(guider, sampler, sigmas, seed, shapes, chosen)
        options = guider.model_options
        options[KEY] = session
        try:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            options.pop(KEY, None)
            session.close()

    def sampler_sample(
        self,
        executor,
        guider,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        *args,
        **kwargs,
    ):
        """Note what is given where a mask keeps a part, and let methods of kind "state" come in between the
        sampler and its model; newer hosts may pass more arguments."""
        session = guider.model_options.get(KEY)
        if session is not None and denoise_mask is not None:
            session.given(sigmas, noise, latent_image, denoise_mask)
        if not self.host.in_training() and len(sigmas) > 1:
            self._rectify(executor, StateRun(guider, sigmas, extra_args, noise, self.host))
        return executor(
            guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs
        )

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):  # noqa: B006  # the host's
        """Correct one guided model call. Despite the host's name it returns the clean estimate."""
        guider = executor.class_obj
        session = guider.model_options.get(KEY)
        if session is None:
            return executor(x, timestep, model_options, seed)
        patched = len(guider.model_options.get(POST_CFG, ()))
        return session.predict(executor, x, timestep, model_options, seed, patched)

    def _rectify(self, executor: Any, run: StateRun) -> None:
        """Let the sampler go through a function around its own for each method of kind "state"."""
        model = run.guider.model_patcher
        models = iter(model.get_additional_models_with_key(KEY))  # the clone's own
        for patch in self.patches:
            own = [next(models) for _ in models_of(patch)]
            if patch.settings.acts_on == "state":
                method = patch.resolve(model.get_model_object("model_sampling"))
                if not method.is_off:
                    rectify(executor, method, patch.resource, run, own)

    def _open(
        self,
        guider: Any,
        sampler: Any,
        sigmas: Tensor,
        seed: int | None,
        shapes: Sequence[Sequence[int]],
        before: tuple[Patch, ...],
    ) -> ComfySession:
        """before: patches that were chosen for this very run, nearest the loader"""
        model = guider.model_patcher
        model_sampling = model.get_model_object("model_sampling")
        run = run_of(model_sampling, sigmas, seed)
        if len(shapes) > 1:  # latents of several kinds, which the host packs
            run = replace(run, parts=tuple(tuple(shape[1:]) for shape in shapes))
        chosen = [patch.resolve(model_sampling) for patch in before]
        own = [one.resolve(model_sampling) for one in self.patches if one.settings.acts_on == "prediction"]
        session = ComfySession([*chosen, *own], run, self.host)
        if said := [one for settings in in_order(own) for one in _fit_of(settings, guider, sampler, run)]:
            self.host.say("\n".join(said))
        return session


def _fit_of(settings: Method, guider: Any, sampler: Any, run: Run) -> list[str]:
    """Say whether what was made for some run fits the one that begins, nothing of what was made for none.

    Also that it fits: on the host's node a warning of the run before would stay.
    """
    # Guiders with two scales keep the base class's cfg, which they do not use.
    cfg = None if hasattr(guider, "cfg1") else getattr(guider, "cfg", None)
    model = type(guider.model_patcher.model).__name__
    facts = {"sampler": sampler_name(sampler), "cfg": cfg, "sigmas": run.sigmas, "model": model}
    names = {"model": name_of(guider.model_patcher.model)}
    found = [f"{settings.title}: {one}" for one in settings.differences(**facts, names=names)]
    for difference in found:
        logger.warning("SteadyDiff: %s", difference)
    was_made_for_some = settings.differences(sampler="", cfg=-1.0, model="")
    return found or [f"{settings.title}: made for a run like this"] * bool(was_made_for_some)
