"""ComfyUI: attaches a method to a ModelPatcher and runs it at the host's PREDICT_NOISE level.

Duck-typed: nothing of ComfyUI is imported here; its names and classes come in a `ComfyHost` from
`nodes/shared/host.py`. A model carries at most one `Attachment`, which holds all our patches. The state of
a run lives in a `Session`, which hangs on the run's own model options from its first model call to its last.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...denoiser import Run, Space
from ...errors import SettingsError
from ...methods.method import Method
from ...model_names import name_of
from ..kept import Kept, as_kept
from ..patch import POST_CFG, Patch, count_calls, in_order, nest, states_of

KEY = "steadydiff"
"""Under this name our wrappers hang on a model, and the session on a run's model options."""

ANTIBIAS_KEY = "steadydiff_antibias"
"""Under this name an anti-bias network and its wrapper hang on a model."""

MDSS_KEY = "steadydiff_mdss"
"""Under this name MDSS's wrappers hang on a model, and what they note on a call's transformer options."""

logger = logging.getLogger("steadydiff")


@dataclass(frozen=True)
class ComfyHost:
    """What the adapter must know of the host, handed over by the face.

    outer_sample:  the host's name for wrappers around a whole run
    predict_noise: its name for wrappers around one guided model call
    in_training:   whether the host is training right now
    check_interrupted: raises if the user cancelled
    sampler_sample: its name for wrappers around a sampler
    apply_model:    its name for wrappers around one call of the network
    area_and_mult:  its function of a prompt, x and sigma that says where in x the prompt counts, how much
    """

    outer_sample: str
    predict_noise: str
    in_training: Callable[[], bool] = lambda: False
    check_interrupted: Callable[[], None] = lambda: None
    sampler_sample: str = "sampler_sample"
    apply_model: str = "apply_model"
    area_and_mult: Callable[[dict, Tensor, Tensor], Any] = lambda prompt, x, sigma: None


def run_of(model_sampling: Any, sigmas: Tensor, seed: int | None = None) -> Run:
    """Return the facts of a run over these levels; HostError for a model whose states we do not know."""
    states = states_of(model_sampling)
    return Run(states.space, tuple(sigmas.tolist()), seed, states.noise)


def sigma_data_of(model_sampling: Any, space: Space) -> float:
    """Return the standard deviation of the data that a model's input scaling assumes; 1 in flow."""
    return float(getattr(model_sampling, "sigma_data", 1.0)) if space == "ve" else 1.0


def attach(model: Any, patch: Patch, host: ComfyHost) -> Any:
    """Return a clone of `model` that carries `patch` beside what it already carries.

    Raises:  HostError or SettingsError if the method cannot work on this model. A node further down may still
             change the model's kind, so the run checks again.
    """
    patch.settings.check(states_of(model.get_model_object("model_sampling")).space)
    attachment = Attachment((*patches_of(model, host), patch), host)
    if (
        patch.settings.single
        and sum(one.settings.title == patch.settings.title for one in attachment.patches) > 1
    ):
        raise SettingsError(f"this model has a {patch.settings.title} node already; use one")
    clone = model.clone()
    for kind, wrapper in attachment.wrappers().items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    logger.info("SteadyDiff: %s attached (%s)", patch.settings.title, patch)
    return clone


def patches_of(model: Any, host: ComfyHost) -> tuple[Patch, ...]:
    """Return what is attached to a model, the patch nearest the loader first."""
    found = model.get_wrappers(host.outer_sample, KEY)
    return found[0].__self__.patches if found else ()


@dataclass(frozen=True)
class Attachment:
    """The patches of one model, the one nearest the loader first, and the wrappers that serve them."""

    patches: tuple[Patch, ...]
    host: ComfyHost

    def wrappers(self) -> dict[str, Callable]:
        """Return the wrapper for each of the host's levels we use."""
        return {
            self.host.outer_sample: self.outer_sample,
            self.host.sampler_sample: self.sampler_sample,
            self.host.predict_noise: self.predict_noise,
        }

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Open a session, sample, and close it however sampling ends; newer hosts may pass more arguments."""
        guider = executor.class_obj
        if self.host.in_training():
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        # After the sigmas come denoise_mask, callback, disable_pbar and the seed.
        seed = args[3] if len(args) > 3 else kwargs.get("seed")
        session = self._open(guider, sampler, sigmas, seed)
        options = guider.model_options
        options[KEY] = session
        try:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            options.pop(KEY, None)
            session.close()

    def sampler_sample(
        self, executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
        *args, **kwargs,
    ):  # fmt: skip
        """Note what is given where a mask keeps a part; newer hosts may pass more arguments."""
        session = guider.model_options.get(KEY)
        if session is not None and denoise_mask is not None:
            session.given(sigmas, noise, latent_image, denoise_mask)
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

    def _open(self, guider: Any, sampler: Any, sigmas: Tensor, seed: int | None) -> Session:
        model = guider.model_patcher
        model_sampling = model.get_model_object("model_sampling")
        run = run_of(model_sampling, sigmas, seed)
        session = Session([patch.resolve(model_sampling) for patch in self.patches], run, self.host)
        for settings in session.methods:
            _warn_of_differences(settings, guider, sampler, run)
        return session


class Session:
    """One sampling run: the nested denoisers around the host's model."""

    def __init__(self, methods: list[Method], run: Run, host: ComfyHost):
        self.methods = in_order(methods)
        self.run, self.calls = run, 0
        wanted = any(method.wants_branches for method in methods)
        self._model = GuidedModel(host, wanted, any(method.extra_calls for method in methods))
        self._branch: Any = None
        self._call: Any = None
        self._denoise = nest(self._model, self.methods, run)
        scalings = [method for method in self.methods if method.scales_branch]
        self._scale_branch = nest(lambda x, sigma: self._branch, scalings, run)

    def given(self, sigmas: Tensor, noise: Tensor, latent: Tensor, mask: Tensor) -> None:
        """Let a method's own calls show the model the given part of a masked run as the sampler's do."""
        self._model.given = sigmas, noise, latent, mask

    def predict(self, executor, x, sigma, model_options, seed, patched: int) -> Tensor:
        """Return the corrected clean estimate; the first `patched` post-CFG functions are the model's own."""
        self.calls += 1
        self._call = x, sigma
        if len(model_options.get(POST_CFG, ())) > patched:
            model_options = self._for_cfg_pp(model_options, patched)
        self._model.begin(executor, model_options, seed, patched)
        return self._denoise(x, sigma)

    def _for_cfg_pp(self, model_options: dict, patched: int) -> dict:
        """Let CFG++ samplers see scaled branches.

        They step along the unconditional estimate, which they pick up through a post-CFG function of their
        own. Only that function is shown scaled branches: it runs under every guider (pre-CFG functions do
        not), and other packs' functions keep seeing branches that agree with the result they work on.
        """
        functions = model_options[POST_CFG]
        own = [self._shown_scaled(function) for function in functions[patched:]]
        return {**model_options, POST_CFG: [*functions[:patched], *own]}

    def _shown_scaled(self, function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
        def shown(args: dict) -> Tensor:
            asked = [name for name in ("cond", "uncond") if args.get(name) is not None]
            return function({**args, **{f"{name}_denoised": self._scaled(args, name) for name in asked}})

        return shown

    def _scaled(self, args: dict, name: str) -> Tensor:
        self._branch = args[f"{name}_denoised"]
        return self._scale_branch(*self._call)  # the sampler's own; a method may have called at another level

    def close(self) -> None:
        """Log what each method did, and let go of the run.

        The session is a reference cycle, and a model caught in one looks to the host like a leak.
        """
        self._branch = self._call = None
        calls = count_calls(self.calls, self._model.close())
        for method in self.methods:
            logger.info("SteadyDiff: %s %s; %s", method.title, method.summary(self.run), calls)


class GuidedModel:
    """The host's guided model as the methods know denoisers.

    The first call after `begin` is the sampler's own; further ones are a method's, see `inner_options`, and
    other packs' functions know nothing of them, see `kept.py`.

    asks_again: whether there are further ones
    branches: if wanted, the conditional and the unconditional clean estimate of the latest call, None where
              the host showed none; the second is None where only the first was asked for
    cfg:      the guider's weight now, the larger of two
    """

    def __init__(self, host: ComfyHost, wants_branches: bool, asks_again: bool) -> None:
        self._host, self._noted, self._extra = host, [self._note] if wants_branches else [], 0
        self._asks_again, self._before = asks_again, Kept()
        self._call: Any = ()
        self.given: Any = None
        self.branches: Any = None
        self.cfg = 1.0

    def begin(self, executor: Any, model_options: dict, seed: int | None, patched: int) -> None:
        """Take in what the sampler sent along with its call."""
        self._call, self._own = (executor, model_options, seed, patched), True
        self.cfg = cfg_of(executor.class_obj)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        executor, options, _, patched = self._call
        if self._own:
            self._own = False
            if self._asks_again:
                self._before = Kept(options, executor.class_obj.model_options, copied=2 * x.numel())
            return self._ask(x, sigma, options)
        self._host.check_interrupted()
        self._extra += 1
        with as_kept(self._before):
            options = inner_options(options, patched)
            return self._ask(self._with_given(x, sigma, options), sigma, options)

    def _ask(self, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        executor, _, seed, _ = self._call
        self.branches = None
        if self._noted:
            options = {**options, POST_CFG: [*options.get(POST_CFG, ()), *self._noted]}
        return executor(x, sigma, options, seed)

    def _with_given(self, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        """The state, where a mask keeps a part with the given latent there, noised as the host would."""
        if self.given is None:
            return x
        (sigmas, noise, latent, mask), guider = self.given, self._call[0].class_obj
        if "denoise_mask_function" in options:
            about = {"model": guider, "sigmas": sigmas}
            mask = options["denoise_mask_function"](sigma, mask, extra_options=about)
        kept = guider.inner_model.scale_latent_inpaint(x=x, sigma=sigma, noise=noise, latent_image=latent)
        return (x * mask + kept * (1.0 - mask)).to(x.dtype)

    def _note(self, args: dict) -> Tensor:
        uncond = None if args.get("uncond") is None else args["uncond_denoised"]
        self.branches = args["cond_denoised"], uncond
        return args["denoised"]

    def close(self) -> int:
        """Let go of the host's objects; return how many calls were a method's."""
        self._call, self._before, self.given, self.branches, self._noted = (), Kept(), None, None, []
        return self._extra


def cfg_of(guider: Any) -> float:
    """Return a guider's weight, the larger one of guiders with two, 1 of those without."""
    names = ("cfg1", "cfg2") if hasattr(guider, "cfg1") else ("cfg",)
    return max(float(getattr(guider, name, 1.0)) for name in names)


def inner_options(model_options: dict, patched: int) -> dict:
    """Return the options for a model call of ours in between those of the sampler.

    The sampler's own post-CFG functions (after the first `patched`) do not see it, nor does MDSS take its
    second output from it. ComfyUI's EasyCache and LazyCache neither answer it nor learn from it: they are
    shown a holder whose part of the run is over.
    """
    options = {**model_options}
    if POST_CFG in options:
        options[POST_CFG] = options[POST_CFG][:patched]
    if "transformer_options" in options:
        transformer = {k: v for k, v in options["transformer_options"].items() if k != MDSS_KEY}
        if "easycache" in transformer:
            transformer["easycache"] = copy.copy(transformer["easycache"])
            transformer["easycache"].end_t = math.inf
        options["transformer_options"] = transformer
    return options


def without_caches(model: Any) -> Any:
    """The model without ComfyUI's EasyCache and LazyCache, which would answer in its place when measured."""
    cache = model.model_options.get("transformer_options", {}).get("easycache")
    if cache is None:
        return model
    logger.info("SteadyDiff: %s is left out here; the network itself is asked", cache.name)
    clone = model.clone()
    del clone.model_options["transformer_options"]["easycache"]
    for kind in clone.wrappers:
        for key in ("easycache", "lazycache"):
            clone.remove_wrappers_with_key(kind, key)
    return clone


def _warn_of_differences(settings: Method, guider: Any, sampler: Any, run: Run) -> None:
    """Say once per run if a schedule was made for something else than what now runs."""
    # Guiders with two scales keep the base class's cfg, which they do not use.
    cfg = None if hasattr(guider, "cfg1") else getattr(guider, "cfg", None)
    model = type(guider.model_patcher.model).__name__
    facts = {"sampler": sampler_name(sampler), "cfg": cfg, "sigmas": run.sigmas, "model": model}
    names = {"model": name_of(guider.model_patcher.model)}
    for difference in settings.differences(**facts, names=names):
        logger.warning("SteadyDiff: %s: %s", settings.title, difference)


def sampler_name(sampler: Any) -> str | None:
    """Return a sampler's name as the host lists it ("ddim" is its "euler"), None if it does not tell."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", None)
    if name is None:
        return None
    return name.removeprefix("sample_").removesuffix("_function").replace("unipc", "uni_pc")
