"""ComfyUI: one sampling run's nested denoisers, around the host's guided model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...denoiser import Run
from ...methods.method import Method
from ..kept import Kept, as_kept
from ..patch import POST_CFG, count_calls, in_order, nest
from .host import CALL_KEY, ComfyHost, logger


class ComfySession:
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
        own = [self._given_scaled(function) for function in functions[patched:]]
        return {**model_options, POST_CFG: [*functions[:patched], *own]}

    def _given_scaled(self, function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
        def shown(args: dict) -> Tensor:
            names = [name for name in ("cond", "uncond") if args.get(name) is not None]
            return function({**args, **{f"{name}_denoised": self._scaled(args, name) for name in names}})

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

    def __init__(self, host: ComfyHost, wants_branches: bool, calls_again: bool) -> None:
        self._host, self._noted, self._extra = host, [self._note] if wants_branches else [], 0
        self._calls_again, self._before = calls_again, Kept()
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
            if self._calls_again:
                self._before = Kept(options, executor.class_obj.model_options, copied=2 * x.numel())
            return self._evaluate(x, sigma, options)
        self._host.check_interrupted()
        self._extra += 1
        with as_kept(self._before):
            options = inner_options(options, patched)
            return self._evaluate(self._with_given(x, sigma, options), sigma, options)

    def _evaluate(self, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
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
            more = {"model": guider, "sigmas": sigmas}
            mask = options["denoise_mask_function"](sigma, mask, extra_options=more)
        about = {"x": x, "sigma": sigma, "noise": noise, "latent_image": latent, "denoise_mask": mask}
        kept = guider.inner_model.scale_latent_inpaint(**about)
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
        transformer = {k: v for k, v in options["transformer_options"].items() if k != CALL_KEY}
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
