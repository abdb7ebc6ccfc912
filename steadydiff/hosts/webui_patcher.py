"""The Forge family: corrects by a post-CFG function on a clone of the UNet's ModelPatcher.

Only plain functions are registered: these hosts deep-copy a patcher's options, and an object in them with all
it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Space
from ..errors import HostError
from .session import POST_CFG
from .webui import Answer, Session, replaced


class PatcherRoute:
    """One run's hooks on the UNet of a CFGDenoiser."""

    def __init__(self, model: Any, sampling_function: Callable) -> None:
        self.model, self._ask = model, sampling_function
        inner = self._objects.unet.model
        self.levels: Any = inner.predictor if hasattr(inner, "predictor") else inner.model_sampling
        self.space: Space = space_of(self.levels)

    @property
    def _objects(self) -> Any:
        return self.model.inner_model.inner_model.forge_objects

    def alphas_cumprod(self) -> Tensor:
        """The model's own."""
        return self.model.inner_model.inner_model.alphas_cumprod

    @contextmanager
    def installed(self, session: Session) -> Iterator[None]:
        """Let the UNet's answers go through the session, also that of a refiner."""
        patched: list[tuple[Any, Any, Any]] = []
        update, weight = self.model.update_inner_model, [1.0]

        def note(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
            weight[0] = cond_scale  # not among what every host tells a post-CFG function
            return model, x, timestep, uncond, cond, cond_scale, model_options, seed

        def correct(args: dict) -> Tensor:
            x, sigma, own = args["input"], args["sigma"], args["model_options"]
            cfg = float(args.get("cond_scale", weight[0]))
            options = {**own, POST_CFG: [one for one in own[POST_CFG] if one is not correct]}

            def again(x: Tensor, sigma: Tensor) -> Answer:
                shown: list[dict] = []

                def show(args: dict) -> Tensor:
                    shown.append(args)
                    return args["denoised"]

                asked = {**options, POST_CFG: [*options[POST_CFG], show]}
                conds = args["uncond"], args["cond"]
                denoised = self._ask(args["model"], x, sigma, *conds, cfg, asked)
                return _answer(shown[0], denoised, cfg)

            return session.correct(x, sigma, _answer(args, args["denoised"], cfg), again)

        def patch() -> None:
            objects = self._objects
            unet = objects.unet
            objects.unet = unet.clone()
            objects.unet.set_model_sampler_post_cfg_function(correct)
            objects.unet.add_conditioning_modifier(note)
            patched.append((objects, unet, objects.unet))

        def new_update():  # the refiner brings another model
            update()
            patch()

        try:
            patch()
            with replaced(self.model, update_inner_model=new_update):
                yield
        finally:
            for objects, before, ours in patched:
                if objects.unet is ours:
                    objects.unet = before


def _answer(args: dict, denoised: Tensor, cfg: float) -> Answer:
    # At cfg 1 the negative prompt is not asked; some hosts then show zeros in its place.
    uncond = None if args.get("uncond") is None or cfg == 1 else args["uncond_denoised"]
    return Answer(denoised, args["cond_denoised"], uncond, cfg)


def space_of(levels: Any) -> Space:
    """Return how a model builds its states; HostError if it does so in a way we do not know.

    Found by trying: a flow model's network is shown its states unscaled, and its states are a mixture.
    """
    one, half = torch.ones(1, 1, 1, 1), torch.tensor([0.5])
    unscaled = bool(levels.calculate_input(half, one) == 1)
    mixed = unscaled  # Forge Classic's models cannot mix; none of them is a flow model
    if hasattr(levels, "noise_scaling"):
        mixed = bool(levels.noise_scaling(half.view_as(one), torch.zeros_like(one), one) == 0.5)
    if unscaled != mixed:
        raise HostError(
            f"this model mixes noise and picture in a way SteadyDiff does not know "
            f"({type(levels).__name__}), so its noise cannot be scaled; switch SteadyDiff off for it"
        )
    return "flow" if unscaled else "ve"
