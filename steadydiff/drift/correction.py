"""What a fit may choose: a correction as numbers, which of them are tried first, and their neighbours.

The tries are a part of the rule in `fit.py`, which is frozen as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..denoiser import Run
from ..methods.diffier import DiffIER
from ..methods.epsilon_scaling import EpsilonScaling
from ..methods.method import Method
from ..methods.time_shift import TimeShift
from ..methods.window import later_half


@dataclass(frozen=True)
class Correction:
    """What may be done to a run; the defaults do nothing.

    scale:    lambda of Epsilon Scaling, and
    later:    whether only in the later half of the steps
    factor:   c of Time Shift
    strength: f of DiffIER, which costs calls
    s_noise:  factor on the noise that the sampler itself adds
    """

    scale: float = 1.0
    later: bool = False
    factor: float = 1.0
    strength: float = 0.0
    s_noise: float = 1.0

    def methods(self, run: Run) -> tuple[Method, ...]:
        """Return the methods that do it, innermost first; `s_noise` is the sampler's own business."""
        found: list[Method] = []
        if self.factor != 1:
            found.append(TimeShift(self.factor))
        if self.strength != 0:
            found.append(DiffIER(strength=self.strength))
        if self.scale != 1:
            high = later_half(run) if self.later else math.inf
            found.append(EpsilonScaling(self.scale, sigma_high=high))
        return tuple(found)

    def __str__(self) -> str:
        told = [
            f"lambda {self.scale:.4g}{' in the later half' if self.later else ''}" if self.scale != 1 else "",
            f"c {self.factor:.4g}" if self.factor != 1 else "",
            f"DiffIER {self.strength:.4g}" if self.strength else "",
            f"s_noise {self.s_noise:.4g}" if self.s_noise != 1 else "",
        ]
        return ", ".join(part for part in told if part) or "plain"


PLAIN = Correction()


def first_tries(low: bool, diffier: bool, s_noise: bool, easy: bool = True) -> list[Correction]:
    """Return what is tried where samples vary too little (`low`) or too much.

    easy: whether they are denoised too easily; with too much variance that is what guidance does. Both at
          once want less spread early and more detail late, or, where the sampler draws noise, more spread
    """
    guided = Correction(scale=1.08, later=True, factor=1.1)
    if low:
        tries = [Correction(factor=0.93), Correction(factor=0.8)]
    else:
        tries = [guided, Correction(factor=0.8 if easy else 1.05)]
    if s_noise:
        tries.append(Correction(s_noise=1.03 if low else 0.97))
    if diffier:
        tries.append(Correction(strength=0.3 if low else -0.2))
    return tries


def moved(correction: Correction, share: float) -> Correction:
    """Return a correction `share` times as far from doing nothing, within what is ever of use."""

    def far(value: float, least: float, most: float) -> float:
        return round(min(max(1 + share * (value - 1), least), most), 6)

    return replace(
        correction,
        scale=far(correction.scale, 0.9, 1.1),
        factor=far(correction.factor, 0.7, 1.1),
        strength=min(max(share * correction.strength, -0.5), 0.8),
        s_noise=far(correction.s_noise, 0.9, 1.1),
    )
