"""Methods nobody has heard of, written from the contract alone, to show that adapters know no others."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from steadydiff.methods.method import Defaults, Method
from steadydiff.methods.window import EDGE_TOLERANCE, Windowed


@dataclass(frozen=True)
class Brightened(Windowed, Defaults):
    """Multiply the clean estimate."""

    title: ClassVar[str] = "Brightened"
    order: ClassVar[int] = 7

    factor: float = 1.1
    sigma_high: float = math.inf
    sigma_low: float = 0.0

    def check(self, space):
        pass

    def summary(self, run):
        acted = [s for s in run.sigmas[:-1] if self.sigma_low * (1 - EDGE_TOLERANCE) <= s <= self.sigma_high]
        return f"times {self.factor} at {len(acted)} of {run.steps} steps"

    def differences(self, **facts):
        return ["made for nothing"] if self.factor == 1.3 else []

    @property
    def is_off(self):
        return self.factor == 1 or self.sigma_low == self.sigma_high

    def wrap(self, denoise, run):
        if self.is_off:
            return denoise

        def brightened(x, sigma):
            inside = (sigma <= self.sigma_high) & (sigma >= self.sigma_low * (1 - EDGE_TOLERANCE))
            factor = 1 + (self.factor - 1) * inside.to(x.dtype)
            return denoise(x, sigma) * factor.view(-1, *[1] * (x.ndim - 1))

        return brightened


@dataclass(frozen=True)
class Nudged(Windowed, Defaults):
    """Add to the sampler's state before each model call."""

    title: ClassVar[str] = "Nudged"
    acts_on: ClassVar[str] = "state"
    order: ClassVar[int] = 7

    by: float = 0.1
    sigma_high: float = math.inf
    sigma_low: float = 0.0
    mask: object = 1.0

    @property
    def is_off(self):
        return self.by == 0 or self.sigma_low == self.sigma_high

    def check(self, space):
        pass

    def masked(self, mask):
        return replace(self, mask=mask)

    def summary(self, run):
        return f"by {self.by}"

    def wrap(self, denoise, run):
        return denoise if self.is_off else _Nudging(self, denoise)


class _Nudging:
    def __init__(self, method, denoise):
        self._method, self._denoise, self.applied = method, denoise, 0

    def __call__(self, x, sigma):
        method = self._method
        if method.sigma_low * (1 - EDGE_TOLERANCE) <= float(sigma[0]) <= method.sigma_high:
            x += method.by * method.mask
            self.applied += 1
        return self._denoise(x, sigma)

    def error(self, x, sigma):
        return 0.0

    def __str__(self):
        return f"nudged {self.applied} states"


@pytest.fixture
def seventh() -> type[Method]:
    return Nudged


@pytest.fixture
def sixth() -> type[Method]:
    return Brightened
