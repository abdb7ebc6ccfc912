"""Fréchet distance against closed forms."""

import pytest
import torch

from steadydiff.errors import ShapeError
from steadydiff.metrics.frechet import frechet_distance, moments


def test_equal_gaussians_are_no_distance_apart():
    mean, cov = moments(torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)


def test_diagonal_gaussians_differ_by_means_and_standard_deviations():
    mean, a, b = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0]), torch.tensor([1.0, 16.0])
    expected = 1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2
    assert frechet_distance(mean, a.diag(), torch.zeros(2), b.diag()) == pytest.approx(expected)


def test_it_is_symmetric_and_turns_with_the_features():
    rng = torch.Generator().manual_seed(1)
    a, b = (
        torch.randn(300, 4, generator=rng),
        torch.randn(300, 4, generator=rng) @ torch.randn(4, 4, generator=rng),
    )
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
    there = frechet_distance(*moments(a), *moments(b))
    assert frechet_distance(*moments(b), *moments(a)) == pytest.approx(there)
    assert frechet_distance(*moments(a.double() @ turn), *moments(b.double() @ turn)) == pytest.approx(there)


def test_features_of_two_sizes_are_refused():
    with pytest.raises(ShapeError, match="feature size"):
        frechet_distance(*moments(torch.randn(9, 3)), *moments(torch.randn(9, 4)))
