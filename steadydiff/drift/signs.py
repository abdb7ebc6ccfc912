"""What a handful of pictures says about a sampler's drift: formulas of tensors, with bootstrap errors.

The `judge` is the model itself: samples that spread too little are easier to denoise than real pictures,
those that spread too much are harder. Nothing here knows a sampler, a correction or a host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import Denoise, Space, add_noise, eps_from_denoised
from ..errors import ShapeError

POOLED = 8  # pictures are compared at so many pixels a side

# Noise-to-signal ratios the judge is called at, over the data's standard deviation. At lower noise it records
# how smooth a network draws, whatever the correction, and that drowns the rest.
RATIOS = (0.4, 1.0, 2.0, 4.0)


def log_errors(
    denoise: Denoise, pictures: Tensor, noise: Sequence[Tensor], sigmas: Sequence[float], space: Space = "ve"
) -> Tensor:
    """Return log of the mean square of eps - eps', the model's error on noised pictures, for each level.

    Shapes:  pictures and each level's noise [N, C, *S]; result [levels, N], float64 on the CPU.
    Cost:    one model call of all pictures a level.
    """
    rows = []
    for sigma, eps in zip(sigmas, noise, strict=True):
        x = add_noise(pictures, eps, sigma, space)
        at = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        error = eps - eps_from_denoised(x, denoise(x, at), sigma, space)
        rows.append(error.flatten(1).cpu().double().square().mean(1).log())
    return torch.stack(rows)


def judge_gap(samples: Tensor, references: Tensor) -> tuple[float, float]:
    """Return j, by how much the log error is higher on samples than on real pictures, and its standard error.

    Shapes:  samples [levels, N], references [levels, M], as `log_errors` gives them.
    """
    own, real = samples.mean(0), references.mean(0)
    error = (own.var() / len(own) + real.var() / len(real)).sqrt()
    return float(own.mean() - real.mean()), float(error)


def prompt_harm(prompted: Tensor, unprompted: Tensor) -> tuple[float, float]:
    """Return by how much the log error on real pictures is higher under the prompt than without it, and what
    that may be by chance: its own standard error or, if larger, that of the pictures in j.

    Pictures of what the prompt asks for have 0 at most, if the model is any good: it knows them better.

    Shapes:  [levels, M] of the same pictures and noise, as `log_errors` gives them.
    """
    with_it, higher = prompted.mean(0), (prompted - unprompted).mean(0)
    error = torch.stack([with_it.var(), higher.var()]).max() / len(higher)
    return float(higher.mean()), float(error.sqrt())


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


def energy_distance(samples: Tensor, references: Tensor) -> float:
    """Return the energy distance of two sets of pooled pictures [N, D] and [M, D].

    2 E|x - y| - E|x - x'| - E|y - y'|, pictures with themselves included, so that it is never negative; 0
    only for equal sets.

    Source:  Székely and Rizzo, 2013, Energy statistics.
    """
    return _energy(_apart(samples, samples), _apart(references, references), _apart(samples, references))


def _energy(own: Tensor, real: Tensor, both: Tensor) -> float:
    return 2 * float(both.mean()) - float(own.mean()) - float(real.mean())


def nearness(samples: Tensor, references: Tensor) -> float:
    """Return by how much the distance of samples to their nearest fellow is off real pictures', as |log|.

    Guidance draws the samples of one prompt together where their total variance says the opposite.

    Shapes:  pooled pictures [N, D] and [M, D]; as many of each are taken, as more lie nearer.
    """
    return _nearness(_apart(samples, samples), _apart(references, references))


def _nearness(own: Tensor, real: Tensor) -> float:
    count = min(len(own), len(real))
    ours, theirs = (_to_nearest(one[:count, :count]) for one in (own, real))
    return abs(math.log(ours / theirs)) if ours > 0 and theirs > 0 else math.inf


def _to_nearest(apart: Tensor) -> float:
    return float(apart.clone().fill_diagonal_(math.inf).min(1).values.mean())


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").double()


def spreads(pictures: Tensor, references: Tensor) -> Tensor:
    """Return each picture's squared distance to their mean; N - 1 parts sum to the variance.

    Shapes:  result [N], float64 on the CPU.
    Clipped to the references' range first, as a few exploded pictures would rule the sum.
    """
    flat = pictures.cpu().double().clamp(float(references.min()), float(references.max())).flatten(1)
    return (flat - flat.mean(0)).square().sum(1)


def log_variance_ratio(samples: Tensor, references: Tensor) -> float:
    """Return v, the log ratio of total variances, from `spreads` [N] and [M]."""
    own, real = (one.sum() / (len(one) - 1) for one in (samples, references))
    return float((own / real).log())


class Criterion:
    """How far samples lie from real pictures over how far plain samples do; 1 is as far as plain.

    The geometric mean of three quotients: of the judge's distance, of the pooled pictures' energy distance,
    and of `nearness`, which is a logarithm already. Called with the numbers of the pictures that count, of
    each set, as `bootstrap` draws them; what lies between two pictures is found once.

    Shapes:  of each set its losses [levels, N] and pooled pictures [N, D]; numbers [N].
    """

    def __init__(
        self, own: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]
    ) -> None:
        self._loss, pictures = real
        self._apart = _apart(pictures, pictures)
        self._sets = [(loss, _apart(one, one), _apart(one, pictures)) for loss, one in (own, plain)]

    def __call__(self, own: Tensor, plain: Tensor, real: Tensor) -> float:
        apart = self._apart[real][:, real]
        ours, theirs = (
            math.log(judge_distance(loss[:, at], self._loss[:, real]))
            + math.log(_energy(within[at][:, at], apart, across[at][:, real]))
            + _nearness(within[at][:, at], apart)
            for at, (loss, within, across) in zip((own, plain), self._sets, strict=True)
        )
        return math.exp((ours - theirs) / 3)


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
