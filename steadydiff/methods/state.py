"""What methods share that rectify the sampler's own state: settings, and one run's count of corrections."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space
from ..errors import SettingsError
from .method import Defaults
from .window import Windowed, check_window

# Levels within this of each other are one: samplers compute the sigma they call at in float32.
SAME_SIGMA = 1e-4


class StateSettings(Windowed, Defaults):
    """What the settings of such a method have in common.

    what:     the trained thing it applies, for people
    model:    that thing, and what must be known of it: at least the `space` of the model it was trained on
    strength: what it does to the state is multiplied by this; 0 changes nothing
    sigma_high, sigma_low: noise levels between which it acts, both included
    """

    title: ClassVar[str]
    what: ClassVar[str]
    acts_on: ClassVar[Literal["prediction", "state"]] = "state"
    single: ClassVar[bool] = True

    model: Any
    strength: float
    sigma_high: float
    sigma_low: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise SettingsError(f"strength is a number of 0 or more; got {self.strength}")
        check_window(self.sigma_high, self.sigma_low)

    @property
    def is_off(self) -> bool:
        """Whether these settings change nothing."""
        return self.strength == 0 or self.sigma_low == self.sigma_high

    def __str__(self) -> str:
        return f"strength {self.strength:g}"

    def summary(self, run: Run) -> str:
        """Say what is planned; what was done is told by the editor."""
        del run
        return "off" if self.is_off else str(self)

    def check(self, space: Space) -> None:
        """Raise SettingsError for a model of the other space than that of the one it was trained on."""
        if self.model.space != space:
            raise SettingsError(
                f"this {self.what} was trained on a {self.model.space} model and this is a {space} one; load "
                f"one made for it"
            )


def input_scale(sigma: Tensor | float, space: Space, sigma_data: float = 1.0) -> Tensor | float:
    """Return how much larger a state is than what the base model's network is shown of it.

    Shapes:  sigma, result a number or any shape.
    Source:  Karras et al., 2022, arXiv 2206.00364, table 1: c_in = 1 / sqrt(sigma² + sigma_data²); 1 in flow.
    """
    return (sigma**2 + sigma_data**2) ** 0.5 if space == "ve" else 1.0


def inside(sigma: Tensor, *ranges: tuple[float, float]) -> Tensor:
    """Return 1 where sigma lies in all of these (low, high), both included, else 0.

    Shapes:  sigma, result [B].
    """
    low = max(low for low, _ in ranges) * (1 - SAME_SIGMA)
    high = min(high for _, high in ranges) * (1 + SAME_SIGMA)
    return ((sigma >= low) & (sigma <= high)).to(sigma.dtype)


class StateEditor:
    """One run's wrapped denoiser that writes into the sampler's state; it corrects a state only once."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self._calls = self.applied = 0
        self._last: tuple[Tensor, Tensor] | None = None

    def error(self, x: Tensor, sigma: Tensor) -> Tensor | float:
        """What the call at work takes off the state once the model has answered: nothing."""
        del x, sigma
        return 0.0

    def _is_new(self, x: Tensor, sigma: Tensor) -> bool:
        """Whether this is not the tensor last written to, at the same level: a step taken again."""
        return self._last is None or x is not self._last[0] or not torch.equal(sigma, self._last[1])

    def _note(self, x: Tensor, sigma: Tensor) -> None:
        """Remember that this state has been corrected."""
        self._last = x, sigma
        self.applied += 1
