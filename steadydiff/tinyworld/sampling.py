"""Sampling from the tiny world without a host, under our contract: for trainers, benches and fast tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, denoised_from_eps
from .files import check_variant
from .text import TextEncoder, WordTokenizer, tokenize

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, 4, H, W], timestep [B], context [B, T, D]) -> raw output, as a `UNet` gives it."""


def alphas_cumprod() -> Tensor:
    """SD1's noise schedule, [1000] float64: the square roots of beta run linearly."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


Levels = Callable[[], Tensor]
"""A schedule's alphas_cumprod, [1000] float64."""


def sigmas(variant: str, steps: int, levels: Levels = alphas_cumprod) -> tuple[float, ...]:
    """Noise levels from the first to 0, steps + 1 of them.

    "epsilon": evenly spaced timesteps of `levels` from 999 to 0 (hosts: "normal"); "flow": evenly spaced
    from 1 to 1 / steps ("simple" at shift 1).
    """
    if check_variant(variant) == "flow":
        return (*(1 - i / steps for i in range(steps)), 0.0)
    log_sigma = _log_sigmas(levels())
    t = torch.linspace(999, 0, steps, dtype=torch.float64)
    low = t.long().clamp(max=998)
    between = log_sigma[low] + (t - low) * (log_sigma[low + 1] - log_sigma[low])
    return (*between.exp().tolist(), 0.0)


def _log_sigmas(alphas_cumprod: Tensor) -> Tensor:
    """Return the logarithm of sigma for each level of a schedule, shaped like it."""
    return ((1 - alphas_cumprod) / alphas_cumprod).log() / 2


def denoiser(
    variant: str, unet: Network, context: Tensor, uncond: Tensor, cfg: float, levels: Levels = alphas_cumprod
) -> Denoise:
    """The guided clean estimate as a Denoise function; latents times 0.18215, as inside hosts' samplers.

    It shows its branches and cfg, see `Guided`; at cfg 1 there are no branches.

    Shapes:  context, uncond [B, T, D], one row per sample of x.
    """
    both = torch.cat([context, uncond]) if cfg != 1 else context
    if check_variant(variant) == "flow":
        return _FlowDenoiser(unet, both, cfg)
    return _EpsilonDenoiser(unet, both, cfg, levels())


class _TinyDenoiser:
    def __init__(self, unet: Network, context: Tensor, cfg: float) -> None:
        self._unet, self._context, self.cfg = unet, context, cfg
        self._latest: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        scaled, t = self.inputs(x, sigma)
        if self.cfg == 1:
            return self.clean(x, sigma, self._unet(scaled, t, self._context))
        cond, uncond = self._unet(torch.cat([scaled] * 2), torch.cat([t] * 2), self._context).chunk(2)
        self._latest = x, sigma, (cond, uncond)
        return self.clean(x, sigma, uncond + self.cfg * (cond - uncond))

    @property
    def branches(self) -> tuple[Tensor, Tensor] | None:
        """The conditional and the unconditional clean estimate of the latest call."""
        if self._latest is None:
            return None
        x, sigma, (cond, uncond) = self._latest
        return self.clean(x, sigma, cond), self.clean(x, sigma, uncond)

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes for a state at its noise level."""
        raise NotImplementedError

    def clean(self, x: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        """The clean estimate that the network's answer means."""
        raise NotImplementedError


class _EpsilonDenoiser(_TinyDenoiser):
    def __init__(self, unet: Network, context: Tensor, cfg: float, alphas_cumprod: Tensor) -> None:
        super().__init__(unet, context, cfg)
        self._log_sigmas = _log_sigmas(alphas_cumprod).float()

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        t = (sigma.log()[:, None] - self._log_sigmas).abs().argmin(1)
        return x / (sigma**2 + 1).sqrt().view(-1, 1, 1, 1), t

    def clean(self, x: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        return denoised_from_eps(x, prediction, sigma)


class _FlowDenoiser(_TinyDenoiser):
    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return x, 1000 * sigma

    def clean(self, x: Tensor, sigma: Tensor, prediction: Tensor) -> Tensor:
        return x - sigma.view(-1, 1, 1, 1) * prediction


@torch.no_grad()
def embed(
    text: TextEncoder, prompts: list[str], tokenizer: WordTokenizer | None = None
) -> tuple[Tensor, Tensor]:
    """Context of the prompts and of as many empty ones, each [B, T, D]."""
    context, empty = (text(tokenize(texts, tokenizer)) for texts in (prompts, [""]))
    return context, empty.expand(len(prompts), -1, -1)


def first_state(variant: str, noise: Tensor, sigma: float) -> Tensor:
    """What a text-to-image run starts from: unit-variance data drowned in noise at `sigma`."""
    return noise * (math.sqrt(1 + sigma**2) if check_variant(variant) == "epsilon" else sigma)


def run_of(variant: str, steps: int, seed: int | None = None) -> Run:
    """The facts of a run of `steps` steps."""
    return Run("ve" if check_variant(variant) == "epsilon" else "flow", sigmas(variant, steps), seed)
