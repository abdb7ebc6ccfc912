"""A method nobody has heard of, written from the contract alone, to show that adapters know no other."""

import math
from dataclasses import dataclass
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

    def wrap(self, denoise, run):
        if self.factor == 1 or self.sigma_low == self.sigma_high:
            return denoise

        def brightened(x, sigma):
            inside = (sigma <= self.sigma_high) & (sigma >= self.sigma_low * (1 - EDGE_TOLERANCE))
            factor = 1 + (self.factor - 1) * inside.to(x.dtype)
            return denoise(x, sigma) * factor.view(-1, *[1] * (x.ndim - 1))

        return brightened


@pytest.fixture
def sixth() -> type[Method]:
    return Brightened
