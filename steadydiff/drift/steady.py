"""What of the λs that were found step by step is chance, and taking it out of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..denoiser import Space
from ..schedules import log_ratio

REACH = 2.0  # change of log(sigma / alpha) over which λ - 1 is taken to fall to 1/e of its correlation


def steady(
    scales: Sequence[float], errors: Sequence[float], sigmas: Sequence[float], space: Space = "ve"
) -> tuple[float, ...]:
    """Take chance out of λ: smooth λ - 1 along log(sigma / alpha), and shrink it by its standard error.

    The result is the mean of a Gaussian process given the λs: λ - 1 is 0 on average, of one variance at all
    steps (estimated as what the standard errors leave of the λs' own), and correlated between two levels as
    exp(-distance / REACH). Without errors the λs stay as they are; where all is chance they become 1. Steps
    with λ = 1 and no error are those at which none was sought: they stay 1 and tell nothing of others.

    Units:   errors as in `Calibration`; sigmas include the final one.
    Source:  ours. Shrinking one value by its error is James and Stein, 1961, in the form of Efron and Morris,
             1975, for unequal variances; the correlation is Ornstein and Uhlenbeck's.
    """
    pairs = enumerate(zip(scales, errors, strict=True))
    found = [step for step, (scale, error) in pairs if scale != 1 or error]
    if not any(errors):
        return tuple(scales)
    off = torch.tensor([scales[step] - 1 for step in found], dtype=torch.float64)
    chance = torch.tensor([errors[step] for step in found], dtype=torch.float64).square()
    at = torch.tensor([log_ratio(sigmas[step], space) for step in found], dtype=torch.float64)
    spread = real_variance(off, chance)
    at = at.clamp(-1e3, 1e3)  # pure noise is far from all else
    likely = spread * (-(at[:, None] - at).abs() / REACH).exp()
    kept = off - chance * torch.linalg.solve(likely + chance.diag(), off) if spread else 0 * off
    steadied = dict(zip(found, (1 + kept).tolist(), strict=True))
    return tuple(steadied.get(step, scale) for step, scale in enumerate(scales))


def real_variance(values: Tensor, chance: Tensor) -> float:
    """Return the mean square of the true values behind these, each known up to its own variance.

    Shapes:  values, chance [N]; a value of no chance counts most.
    Source:  Efron and Morris, 1975: the mean of values² - chance, weighed by 1 / (result + chance), for which
             it is solved; 0 if chance alone explains the values.
    """
    found = float(values.square().mean())
    for _ in range(50):
        weight = 1 / (found + chance)
        if not weight.isfinite().all():
            break
        found = max(float((weight * (values.square() - chance)).sum() / weight.sum()), 0.0)
    return found


def innovation_error(before: Tensor, after: Tensor) -> float:
    """Return the standard error of the mean of `after` as far as it does not follow from `before`.

    What a sample is off at one step it is still off at the next, as far as the sampler keeps its state; λ has
    met that already. The share that is kept, from 0 to 1, is the regression of the one on the other.

    Shapes:  before, after [B], values of the same samples. 0 for one sample, which tells nothing of chance.
    """
    if len(after) < 2:
        return 0.0
    before, after = before - before.mean(), after - after.mean()
    power = before.square().sum()
    kept = ((before * after).sum() / power).clamp(0, 1) if power else 0.0
    new = after - kept * before
    return float((new.square().sum() / (len(new) - 1) / len(new)).sqrt())
