"""Fréchet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], in float64 on the CPU."""
    features = features.cpu().double()
    return features.mean(0), torch.cov(features.T)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, |m_a - m_b|² + tr(A + B - 2 (A^½ B A^½)^½).

    Shapes:  means [D], covariances [D, D].
    Dtype:   computed in float64, on the CPU.
    Raises:  ShapeError if the two sides differ in D.
    Source:  Dowson and Landau, 1982; on a network's features it is what Heusel et al., 2017 call FID.

    Biased upwards for few samples: compare only values taken with the same number of them.
    """
    if mean_a.shape != mean_b.shape or cov_a.shape != cov_b.shape:
        raise ShapeError(
            f"both sides have one feature size; got {tuple(mean_a.shape)} and {tuple(mean_b.shape)}"
        )
    mean_a, cov_a, mean_b, cov_b = (t.cpu().double() for t in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)
