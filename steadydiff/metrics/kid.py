"""Kernel distance between two sets of features (KID): squared MMD with a polynomial kernel, unbiased."""

from __future__ import annotations

from torch import Tensor

from ..errors import ShapeError
from .running import check_count

ROWS = 1024  # of a kernel matrix at a time, which bounds memory


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a·b / D + 1)³ for every pair.

    Shapes:  a [N, D], b [M, D]; result [N, M].
    Source:  Binkowski et al., 2018, arXiv 1801.01401, section 4.
    """
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features; expected 0 for equal distributions.

    Shapes:  a [N, D], b [M, D], N and M at least 2.
    Dtype:   float64, on the CPU; a part of the kernel matrix at a time.
    Raises:  ShapeError if the sets differ in D; SettingsError for fewer than two samples.
    Source:  Gretton et al., 2012, lemma 6, with the kernel of KID.

    Unlike the Fréchet distance it is not biased by few samples, and may come out slightly below 0.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"both sides have one feature size, [N, D]; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.cpu().double(), b.cpu().double()
    cross = sum(float(polynomial_kernel(rows, b).sum()) for rows in a.split(ROWS)) / (len(a) * len(b))
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * cross


def _mean_of_pairs(a: Tensor) -> float:
    """Mean of the kernel over all pairs of different samples."""
    count = check_count(len(a))
    total = sum(float(polynomial_kernel(rows, a).sum()) for rows in a.split(ROWS))
    own = float(((a.square().sum(1) / a.shape[1] + 1) ** 3).sum())
    return (total - own) / (count * (count - 1))
