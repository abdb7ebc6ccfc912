"""The contract: what a denoiser is, what one sampling run is, and how x, x0 and eps follow from each other.

Adapters (`hosts/`) bring a host's model to this shape; methods (`methods/`) wrap it; both speak only of
`Denoise`, `Run` and the functions below.

One equation covers both spaces, with alpha = 1 in space "ve" and alpha = 1 - sigma in space "flow":

    x = alpha * x0 + sigma * eps

eps is Gaussian noise of standard deviation 1, but for the flow models that a `Run` names a louder one for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import SettingsError, ShapeError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, *S], sigma [B]) -> clean estimate [B, C, *S]: one full model call, guidance included."""

Space = Literal["ve", "flow"]
"""How x is built: "ve" x = x0 + sigma * eps, "flow" x = (1 - sigma) * x0 + sigma * eps."""

SPACES: tuple[Space, ...] = ("ve", "flow")


class Guided:
    """Guide a denoiser away from another, uncond + cfg * (cond - uncond), and show both branches.

    branches: the conditional and the unconditional clean estimate of the latest call; None before the first
    cfg:      the weight

    Any denoiser that has these under these names may be given to methods that look at them.

    Source: Ho and Salimans, 2022, arXiv 2207.12598, with cfg = 1 for no guidance.
    """

    def __init__(self, cond: Denoise, uncond: Denoise, cfg: float) -> None:
        self._cond, self._uncond, self.cfg = cond, uncond, cfg
        self.branches: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        cond, uncond = self.branches = self._cond(x, sigma), self._uncond(x, sigma)
        return torch.lerp(uncond, cond, self.cfg)  # exactly cond at 1


@dataclass(frozen=True)
class Run:
    """The facts of one sampling run, known before its first model call.

    space:  how the run's states are built
    sigmas: noise levels in the order the sampler visits them, the final one (usually 0) included
    seed:   seed of the run's noise; None = not known
    noise:  standard deviation of the noise in its states; noise of our own is multiplied by it
    step_calls: numbers, from 0, of the model calls that start a step; None = not asked for
    parts:  shapes [C, *S] of the latents that are packed one behind the other into states [B, 1, N], as those
            of a film and its sound; () = a state is one latent
    """

    space: Space
    sigmas: tuple[float, ...]
    seed: int | None = None
    noise: float = 1.0
    step_calls: tuple[int, ...] | None = None
    parts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check_space(self.space)
        sigmas = tuple(float(sigma) for sigma in self.sigmas)
        for sigma in sigmas:
            if not (math.isfinite(sigma) and sigma >= 0):
                raise SettingsError(f"a run's sigmas are finite and not negative; got {sigma}")
        object.__setattr__(self, "sigmas", sigmas)

    @property
    def steps(self) -> int:
        """How many steps the sampler takes."""
        return max(len(self.sigmas) - 1, 0)


def check_space(space: str) -> None:
    """Raise SettingsError unless `space` is one of SPACES."""
    if space not in SPACES:
        raise SettingsError(f"space is one of {', '.join(SPACES)}; got {space!r}")


def check_same_shape(x: Tensor, denoised: Tensor) -> None:
    """Raise ShapeError unless a state and its clean estimate have one shape."""
    if x.shape != denoised.shape:
        raise ShapeError(
            f"x and its clean estimate have one shape; got {tuple(x.shape)} and {tuple(denoised.shape)}"
        )


def per_sample(value: Tensor | float, x: Tensor) -> Tensor | float:
    """Give a per-sample value as many dimensions as `x`, so that it multiplies whole samples.

    Shapes:  value a number, [] or [B]; x [B, C, *S]; result a number or [B, 1, ...].
    Raises:  ShapeError if value has another length than the batch.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.ndim != 1 or len(value) not in (1, len(x)):
        raise ShapeError(
            f"a batch of {len(x)} takes one value or {len(x)}, in one dimension; got {tuple(value.shape)}"
        )
    return value.view(-1, *(1,) * (x.ndim - 1))


def signal_level(sigma: Tensor | float, space: Space) -> Tensor | float:
    """Return alpha, the share of the clean sample in x: 1 in "ve", 1 - sigma in "flow".

    Shapes:  sigma a number or any shape; result alike (the number 1 in "ve").
    """
    return 1.0 if space == "ve" else 1 - sigma


def add_noise(x0: Tensor, eps: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """Noise a clean sample: x = alpha * x0 + sigma * eps.

    Shapes:  x0, eps, result [B, C, *S]; sigma a number or [B].
    """
    sigma = per_sample(sigma, x0)
    return signal_level(sigma, space) * x0 + sigma * eps


def eps_from_denoised(x: Tensor, denoised: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """Return the noise that a clean estimate implies: eps = (x - alpha * denoised) / sigma.

    Shapes:  x, denoised, result [B, C, *S]; sigma a number or [B].
    Units:   sigma > 0; at sigma = 0 there is no noise to speak of and the result is not finite.
    """
    sigma = per_sample(sigma, x)
    return (x - signal_level(sigma, space) * denoised) / sigma


def denoised_from_eps(x: Tensor, eps: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """Return the clean estimate that a noise estimate implies: x0 = (x - sigma * eps) / alpha.

    Shapes:  x, eps, result [B, C, *S]; sigma a number or [B].
    Units:   alpha > 0; flow at sigma = 1 holds no signal and the result is not finite.
    """
    sigma = per_sample(sigma, x)
    return (x - sigma * eps) / signal_level(sigma, space)


def derivative(x: Tensor, denoised: Tensor, sigma: Tensor | float) -> Tensor:
    """Return dx/dsigma = (x - denoised) / sigma, which an Euler step follows.

    Shapes:  x, denoised, result [B, C, *S]; sigma a number or [B].
    Units:   in "ve" this is eps; in "flow" it is the velocity eps - x0, and *not* eps.
    Source:  Karras et al., 2022, arXiv 2206.00364, algorithm 1 (VE); in flow from x's own
             equation.
    """
    return (x - denoised) / per_sample(sigma, x)
