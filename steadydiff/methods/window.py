"""The part of a run that a method acts in, as noise levels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

from ..denoiser import Run
from ..errors import SettingsError

Own = TypeVar("Own", bound="Windowed")

# A percentage turned into sigma and the sampler's own sigma may differ in the last float32 bits; a step on
# the edge of the window is inside.
EDGE_TOLERANCE = 1e-6


def check_window(sigma_high: float, sigma_low: float) -> None:
    """Raise SettingsError unless these are noise levels, the high one first."""
    if not 0 <= sigma_low <= sigma_high:
        raise SettingsError(
            f"sigma_high and sigma_low are noise levels, the high one first; got {sigma_high} and {sigma_low}"
        )


def edges(sigma_high: float, sigma_low: float, run: Run) -> tuple[float, float]:
    """Return the lowest and the highest sigma inside, the tolerance included.

    Where the run's first step is inside, so is every call within it: samplers may call above its sigma.
    """
    high = math.inf if sigma_high >= max(run.sigmas, default=0.0) else sigma_high
    return sigma_low * (1 - EDGE_TOLERANCE), high * (1 + EDGE_TOLERANCE)


def later_half(run: Run) -> float:
    """Return the sigma from which on the later half of a run's steps goes down."""
    steps = sorted(run.sigmas[:-1], reverse=True)
    return steps[len(steps) // 2] if steps else math.inf


class Windowed:
    """Frozen settings with the fields sigma_high and sigma_low."""

    def within(self: Own, sigma_high: float, sigma_low: float) -> Own:
        """Return a copy that acts between two noise levels, both included; equal levels switch it off."""
        changes: dict[str, Any] = {"sigma_high": sigma_high, "sigma_low": sigma_low}
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]  (a mixin is no dataclass itself)
