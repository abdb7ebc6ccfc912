"""The Forge family: corrects by a post-CFG function on a clone of the UNet's ModelPatcher.

Only plain functions are registered: these hosts deep-copy a patcher's options, and an object in them with all
it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...denoiser import Space
from ...errors import HostError
from ...files.mdss import Head
from ...networks.xi_head import apply_head, capture
from ..patch import POST_CFG, fitting_layer, states_of
from .run import CallModel, UnitConversion, full_precision
from .session import Prediction, WebuiSession, bypassed, second_of

WRAPPER = "model_function_wrapper"
"""Under this name these hosts keep the one function that calls to the network go through."""

COND, UNCOND = 0, 1
"""What these hosts call a prompt and a negative prompt in a call to the network."""


class PatcherRoute:
    """One run's hooks on the UNet of a CFGDenoiser."""

    def __init__(self, model: Any, sampling_function: Callable) -> None:
        self.model, self._sample = model, sampling_function
        unet = self._objects.unet.model
        self.levels: Any = unet.predictor if hasattr(unet, "predictor") else unet.model_sampling
        states = states_of(self.levels)
        self.space: Space = states.space
        self.noise = states.noise
        config = getattr(unet, "model_config", None) or getattr(self._sd_model, "model_config", None)
        latents = getattr(unet, "latent_format", None) or getattr(config, "latent_format", None)
        self.facts: dict[str, Any] = {
            "family": config and type(config).__name__,
            "latent_format": latents and getattr(latents, "__name__", type(latents).__name__),
            "sigma_data": float(getattr(self.levels, "sigma_data", 1.0)) if self.space == "ve" else 1.0,
        }
        # reForge keeps a clean estimate there instead, which its DDIM CFG++ then takes for noise.
        self.shows_noise = not hasattr(model, "cond_scale_miltiplier")
        self._correct: Any = None
        self._over, self._corrected, self._theirs = False, False, []
        self._patched = ExitStack()
        self._hook: Callable[[Any], None]
        self._layer: nn.Module | None = None
        self._head: Head | None = None
        self._passes: list[Sequence[int]] = []
        self._captured: Sequence[Tensor] = ()
        self._second: dict[str, Tensor] = {}

    @property
    def _sd_model(self) -> Any:
        return self.model.inner_model.inner_model

    @property
    def _objects(self) -> Any:
        return self._sd_model.forge_objects

    def alphas_cumprod(self) -> Tensor:
        return self._sd_model.alphas_cumprod

    def install(self, session: WebuiSession) -> None:
        weight = 1.0

        def note(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
            nonlocal weight  # not among what every host tells a post-CFG function
            weight = cond_scale
            return model, x, timestep, uncond, cond, cond_scale, model_options, seed

        def correct(args: dict) -> Tensor:
            if self._over or self._corrected:  # in somebody's clone, or registered twice, see `sent_along`
                return args["denoised"]
            self._corrected = True
            return session.guarded(lambda: corrected(args), lambda: args["denoised"])

        def corrected(args: dict) -> Tensor:
            cfg = float(args.get("cond_scale", weight))
            ours = correct, *self._theirs
            own = [function for function in args["model_options"][POST_CFG] if function not in ours]
            if self._head is not None:
                self._second = self._outputs(self._head, args, cfg)

            def again(x: Tensor, sigma: Tensor) -> Prediction:
                shown: list[dict] = []
                options = {**args["model_options"], POST_CFG: [*own, lambda args: _shown(shown, args)]}
                conds = args["uncond"], args["cond"]
                denoised = self._sample(args["model"], x, sigma, *conds, cfg, options)
                return _predict(cfg, denoised, shown[-1])

            first = _predict(cfg, args["denoised"], args)
            return session.correct(args["input"], args["sigma"], first, again)

        def shift(unet: Any) -> None:
            theirs = unet.model_options.get(WRAPPER)

            def shifted(apply_model: Callable, args: dict) -> Tensor:
                def call(x: Tensor, sigma: Tensor) -> Tensor:
                    asked = {**args, "input": x, "timestep": sigma}
                    return theirs(apply_model, asked) if theirs else apply_model(x, sigma, **args["c"])

                if self._over:  # in somebody's clone
                    return call(args["input"], args["timestep"])
                return session.shifted(UnitConversion(), args["input"], args["timestep"], call)

            unet.set_model_unet_function_wrapper(shifted)

        def hook(unet: Any) -> None:
            if session.shifts_level:
                shift(unet)
            unet.set_model_sampler_post_cfg_function(correct)
            unet.add_conditioning_modifier(note)

        self._hook, self._correct = hook, correct
        self._patch()

    def follow(self, session: WebuiSession) -> None:
        self._layer = self._head = None  # nothing was trained for the refiner
        self._patch()

    def remove(self) -> None:
        self._over = True
        self._patched.close()
        self._captured, self._second = (), {}

    def _patch(self) -> None:
        objects, unet = self._objects, self._objects.unet
        objects.unet = ours = unet.clone()
        self._hook(ours)

        def give_back() -> None:
            if objects.unet is ours:
                objects.unet = unet

        self._patched.callback(give_back)

    def partners(self) -> tuple[Any, ...]:
        return (self._objects.unet.model_options,)

    def sent_along(self, session: WebuiSession, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Samplers of the CFG++ kind step along the unconditional estimate, which they pick up through a
        post-CFG function of their own. reForge takes it in the place of the model's own functions, Neo beside
        them; ours goes first either way, and theirs is shown branches that agree with the result."""
        self._corrected, self._theirs = False, []
        options = kwargs.get("model_options") or {}
        if not options.get(POST_CFG):
            return kwargs
        self._theirs = [_corrected_branches(function, session) for function in options[POST_CFG]]
        return {**kwargs, "model_options": {**options, POST_CFG: [self._correct, *self._theirs]}}

    def hooked(self, evaluate: CallModel) -> Tensor:
        if self._layer is None:
            return evaluate()
        self._passes.clear()
        self._second = {}

        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            options = kwargs.get("transformer_options") or {}
            self._passes.append(options.get("cond_or_uncond", ()))

        handle = self._objects.unet.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            with capture(self._layer) as self._captured:
                return evaluate()
        finally:
            handle.remove()

    def second_output(self, what: str, head: Head, branches: str) -> Callable[[Tensor, Tensor], Tensor]:
        network, family = self._objects.unet.model.diffusion_model, self.facts["family"]
        self._layer = fitting_layer(network, what, head, family or "")
        self._head = head
        return lambda x, sigma: second_of(self._second, branches).to(x)

    def _outputs(self, head: Head, args: dict, cfg: float) -> dict[str, Tensor]:
        """The second output for what the last layer has read, for each setting of MDSS's `branches`."""
        found: dict[int, list[Tensor]] = {COND: [], UNCOND: []}
        if len(self._captured) != len(self._passes):
            raise bypassed()
        for seen, kinds in zip(self._captured, self._passes, strict=True):
            weight, bias = (value.to(seen.device) for value in head)
            if not kinds or len(seen) != len(kinds) * len(args["input"]):
                raise bypassed()
            with full_precision(seen):
                parts = apply_head(seen, weight, bias).chunk(len(kinds))
            for kind, xi in zip(kinds, parts, strict=True):
                found[kind].append(xi)
        if not found[COND]:
            raise bypassed()
        weights = _weights(args["cond"], len(found[COND]))
        positive = sum(xi * (weight / sum(weights)) for xi, weight in zip(found[COND], weights, strict=True))
        assert isinstance(positive, Tensor)
        if not found[UNCOND]:
            return {"positive": positive, "guided": positive}
        negative = torch.stack(found[UNCOND]).mean(0)
        return {"positive": positive, "guided": torch.lerp(negative, positive, cfg * sum(weights))}


def _corrected_branches(
    function: Callable[[dict], Tensor], session: WebuiSession
) -> Callable[[dict], Tensor]:
    def shown(args: dict) -> Tensor:
        x, sigma = args["input"], args["sigma"]
        names = [f"{name}_denoised" for name in ("cond", "uncond") if args.get(name) is not None]
        return function({**args, **{name: session.corrected_branch(x, sigma, args[name]) for name in names}})

    return shown


def _weights(conds: Sequence[dict], count: int) -> list[float]:
    """The weights of prompts joined by AND, in the order in which the host asks for them: the last first.

    Raises: HostError if it calls in another order, since they differ in length, and weights do, too.
    """
    weights = [float(cond.get("strength", 1.0)) for cond in reversed(conds)]
    lengths = {cond["model_conds"]["c_crossattn"].cond.shape[1] for cond in conds}
    if len(weights) != count or (len(lengths) > 1 and len({*weights}) > 1):
        raise HostError(
            "MDSS cannot tell apart prompts joined by AND of different weights and lengths; give them one "
            "weight"
        )
    return weights


def _shown(shown: list[dict], args: dict) -> Tensor:
    shown.append(args)
    return args["denoised"]


def _predict(cfg: float, denoised: Tensor, args: dict) -> Prediction:
    # At cfg 1 the negative prompt is not run; some hosts then show zeros in its place.
    uncond = None if args.get("uncond") is None or cfg == 1 else args["uncond_denoised"]
    return Prediction(cfg, denoised, args["cond_denoised"], uncond)
