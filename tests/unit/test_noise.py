"""Brownian motion over noise levels: unit increments that fit together, in whatever order they are asked."""

import itertools

import pytest
import torch

from steadydiff.drift.stepping import fixed_rng
from steadydiff.noise import Motion

LIKE = torch.zeros(2, 3, 64, 64)
LEVELS = (10.0, 4.0, 1.5, 0.02, 0.001)


@pytest.mark.parametrize("order", list(itertools.permutations((0, 2, 3, 4)))[::5])
def test_increments_are_unit_apart_and_add_up(order):
    torch.manual_seed(0)
    motion = Motion(LIKE)
    motion(LEVELS[order[0]], LEVELS[order[1]])
    motion(LEVELS[order[2]], LEVELS[order[3]])
    steps = [motion(torch.tensor(a), b) for a, b in itertools.pairwise(LEVELS)]
    assert all(abs(float(step.std()) - 1) < 0.03 for step in steps)
    for a, b in itertools.combinations(steps, 2):
        assert abs(float((a * b).mean())) < 0.03
    sizes = [(a - b) ** 0.5 for a, b in itertools.pairwise(LEVELS)]
    whole = motion(LEVELS[0], LEVELS[-1]) * (LEVELS[0] - LEVELS[-1]) ** 0.5
    parts = sum(step * size for step, size in zip(steps, sizes, strict=True))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)


def test_the_same_luck_finds_the_same_motion():
    found = []
    for _ in range(2):
        with fixed_rng(LIKE):
            found.append(Motion(LIKE.double())(2.0, 1.0))
    assert torch.equal(*found) and found[0].dtype == torch.float64
