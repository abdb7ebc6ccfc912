"""What a handful of pictures says about a sampler's drift: formulas of tensors, with bootstrap errors.

The `judge` is the model itself: samples that spread too little are easier to denoise than real pictures,
those that spread too much are harder. Nothing here knows a sampler, a correction or a host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import Denoise, Space, add_noise, eps_from_denoised
from ..errors import ShapeError
from ..metrics.frechet import frechet_distance, moments

POOLED = 4  # pictures are compared at so many pixels a side

# Noise-to-signal ratios the judge is asked at, over the data's standard deviation.
RATIOS = (0.2, 0.4, 1.0, 2.0, 4.0)


def log_errors(
    denoise: Denoise, pictures: Tensor, noise: Sequence[Tensor], sigmas: Sequence[float], space: Space = "ve"
) -> Tensor:
    """Return log of the mean square of eps - eps', the model's error on noised pictures, for each level.

    Shapes:  pictures and each level's noise [N, C, *S]; result [levels, N], float64.
    Cost:    one model call of all pictures a level.
    """
    rows = []
    for sigma, eps in zip(sigmas, noise, strict=True):
        x = add_noise(pictures, eps, sigma, space)
        at = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        error = eps - eps_from_denoised(x, denoise(x, at), sigma, space)
        rows.append(error.flatten(1).double().square().mean(1).log())
    return torch.stack(rows)


def judge_gap(samples: Tensor, references: Tensor) -> tuple[float, float]:
    """Return j, by how much the log error is higher on samples than on real pictures, and its standard error.

    Shapes:  samples [levels, N], references [levels, M], as `log_errors` gives them.
    """
    own, real = samples.mean(0), references.mean(0)
    error = (own.var() / len(own) + real.var() / len(real)).sqrt()
    return float(own.mean() - real.mean()), float(error)


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the Wasserstein-1 distance of two sets of numbers [N] and [M]: the area between their CDFs."""
    both = torch.cat([a, b]).sort().values
    shares = [torch.searchsorted(one.sort().values, both[:-1], right=True) / len(one) for one in (a, b)]
    return float(((shares[0] - shares[1]).abs() * both.diff()).sum())


def judge_distance(samples: Tensor, references: Tensor) -> float:
    """Return the Wasserstein-1 distance of the log errors, the mean over levels; shapes as `judge_gap`."""
    pairs = zip(samples, references, strict=True)
    return sum(wasserstein(a, b) for a, b in pairs) / len(samples)


def pooled(pictures: Tensor) -> Tensor:
    """Return pictures [N, C, H, W], or videos [N, C, T, H, W] by their mean over T, as [N, C·POOLED²]."""
    flat = pictures.flatten(2, -3).mean(2) if pictures.ndim > 4 else pictures
    if flat.ndim != 4:
        raise ShapeError(f"pictures have the shape [N, C, H, W]; got {tuple(pictures.shape)}")
    return F.adaptive_avg_pool2d(flat.float(), POOLED).flatten(1)


def pooled_distance(samples: Tensor, references: Tensor) -> float:
    """Return the Gaussian Fréchet distance of two sets of pooled pictures [N, D] and [M, D]."""
    return frechet_distance(*moments(samples), *moments(references))


def spreads(pictures: Tensor, references: Tensor) -> Tensor:
    """Return each picture's squared distance to their mean, [N] float64; N - 1 parts sum to the variance.

    Clipped to the references' range first, as a few exploded pictures would rule the sum.
    """
    flat = pictures.double().clamp(float(references.min()), float(references.max())).flatten(1)
    return (flat - flat.mean(0)).square().sum(1)


def log_variance_ratio(samples: Tensor, references: Tensor) -> float:
    """Return v, the log ratio of total variances, from `spreads` [N] and [M]."""
    own, real = (one.sum() / (len(one) - 1) for one in (samples, references))
    return float((own / real).log())


def criterion(
    loss: Tensor, flat: Tensor, plain_loss: Tensor, plain_flat: Tensor, real_loss: Tensor, real_flat: Tensor
) -> float:
    """Return how far samples lie from real pictures over how far plain samples do; 1 is as far as plain.

    The mean of two quotients: of the judge's distance and of the pooled pictures'.

    Shapes:  losses [levels, N], pooled pictures turned, [D, N]: the pictures last, as `bootstrap` has them.
    """
    ours, plain = (
        (judge_distance(a, real_loss), pooled_distance(b.T, real_flat.T))
        for a, b in ((loss, flat), (plain_loss, plain_flat))
    )
    return (ours[0] / plain[0] + ours[1] / plain[1]) / 2


def level_of(ratio: float, space: Space) -> float:
    """Return the sigma at which noise is to signal as `ratio`."""
    return ratio if space == "ve" else ratio / (1 + ratio)


def bootstrap(statistic: Callable[..., float], *sets: Tensor, times: int = 100, seed: int = 0) -> Tensor:
    """Return a statistic [times] of pictures drawn anew with replacement; pictures are the last dimension.

    Sets of equal length share the drawn pictures, so that samples from the same seeds stay pairs.
    """
    drawn = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(times):
        index: dict[int, Tensor] = {}
        for one in sets:
            n = one.shape[-1]
            index[n] = index[n] if n in index else torch.randint(n, (n,), generator=drawn)
        values.append(statistic(*(one[..., index[one.shape[-1]]] for one in sets)))
    return torch.tensor(values, dtype=torch.float64)
