"""Improved precision and recall: which share of each set of features lies within the other's reach."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingsError, ShapeError

ROWS = 1024  # of a distance matrix at a time, which bounds memory


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of generated samples within the real ones' manifold, and of real ones within the generated.

    Shapes:  real [N, D], generated [M, D], both longer than k.
    Units:   0 to 1. Precision is fidelity, recall is variety. Values depend on N, M and k: compare only like
             with like.
    Raises:  ShapeError if the sets differ in D; SettingsError if one has no k-th neighbour.
    Source:  Kynkäänniemi et al., 2019, arXiv 1904.06991: a manifold is the union of balls around its samples,
             each reaching to the sample's k-th nearest neighbour, itself not counted.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ShapeError(
            f"both sides have one feature size, [N, D]; got {tuple(real.shape)} and {tuple(generated.shape)}"
        )
    return coverage(generated, real, k), coverage(real, generated, k)


def coverage(points: Tensor, manifold: Tensor, k: int) -> float:
    """Share of points [N, D] within the manifold of others [M, D]."""
    radii = reaches(manifold, k)
    inside = [(_distances(rows, manifold) <= radii).any(1) for rows in points.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def reaches(points: Tensor, k: int) -> Tensor:
    """Distance [N] from each point [N, D] to its k-th nearest neighbour."""
    if not 1 <= k < len(points):
        raise SettingsError(f"the k-th neighbour needs 1 <= k < number of samples; got {k} and {len(points)}")
    # The nearest is the point itself.
    rows = [_distances(rows, points).kthvalue(k + 1, dim=1).values for rows in points.split(ROWS)]
    return torch.cat(rows)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances [N, M] in float64 on the CPU, by differences: products would move a point off its place."""
    return torch.cdist(a.cpu().double(), b.cpu().double(), compute_mode="donot_use_mm_for_euclid_dist")
