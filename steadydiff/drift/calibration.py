"""Finding λ from a measurement, step by step: what one λ did is seen before the next is chosen.

`calibrate` lets the predicted noise be as large as in training, `calibrate_variance` the states; `fit_linear`
lays the paper's k·t + b through what they found, out of which `steady.py` takes chance. It knows no host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, signal_level
from ..errors import SettingsError
from ..metrics.spectrum import ring_sizes, spectrum
from ..references import OTHER_KIND
from ..schedules import linear_schedule
from .steady import innovation_error
from .stepping import Remember, Sampler, nothing
from .walk import NUDGE, Walk

LEAST, MOST = 0.8, 1.25
"""No λ outside is tried: what needs more is not cured by a scale."""

TARGETS = ("norm", "linear", "uniform", "variance")
"""What a schedule may be made of a calibration, see `as_method`."""

TRIALS = 3
"""At most so many values of λ per step, which bounds the cost to so many sampling runs."""

LEAST_DRAWN = 32
"""So many samples at least are wanted where the sampler draws noise."""

CLOSE = 1e-5  # relative difference of norms that counts as met
LONGEST = 0.1  # change of λ from one trial to the next


@dataclass(frozen=True)
class Calibration:
    """One λ per step, the noisiest first, and what they led to.

    scales:  λ; 1 at the last step, after which no noise is predicted, and where λ has no effect
    reached: root mean squared norm of the predicted noise, or of the state, at each step of the corrected run
    target:  what it should be, from the measurement
    calls:   model calls spent, each of the whole batch
    errors:  standard error of each λ over the choice of samples; 0 where λ has no effect, and where it is
             not known: for one sample, and by `calibrate_variance`
    """

    scales: tuple[float, ...]
    reached: tuple[float, ...]
    target: tuple[float, ...]
    calls: int
    errors: tuple[float, ...]

    @property
    def at_bounds(self) -> tuple[int, ...]:
        """Which steps, counted from 1, ended at the least or the largest λ that is tried."""
        ends = LEAST + CLOSE, MOST - CLOSE  # `_nearest` closes in on one and never meets it
        return tuple(step for step, scale in enumerate(self.scales, 1) if not ends[0] < scale < ends[1])


def calibrate(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    run: Run,
    target: Sequence[float] | Tensor,
    on_call: Callable[[], None] = lambda: None,
    remember: Remember = nothing,
) -> Calibration:
    """Choose each λ so that at the next step the predicted noise is as large as its target there.

    Every λ is found on the states that the λ before it have led to, so that what is repaired already is not
    repaired twice. Two or three trials a step are enough, as λ acts all but linearly; the states of the best
    trial are taken further.

    sampler: any that can be taken step by step and repeats itself under one seed
    denoise: the uncorrected model
    x:       first states [B, C, *S]; 8 to 16 samples of unit energy, see `unit_noise`
    target:  norm of the predicted noise on noised clean samples: the root mean square at each step, or the
             same samples' own [B, steps], which tells what is chance
    on_call: called after every model call, for progress
    remember: what is kept beside the model; each trial of a step meets what the step before has left

    Cost:    at most TRIALS sampling runs of the batch. Memory: one clean estimate per model call.
    Raises:  SettingsError for a sampler that cannot be stepped or repeated; SteadyDiffError for NaN from the
             model.
    Source:  the aim is Ning et al., 2023, arXiv 2308.15321, figure 5: after scaling, the norms in sampling
             meet those in training. They search for λ by sample quality; the step-by-step solution is ours.
    """
    goals = torch.as_tensor(target, dtype=torch.float64).square()
    if goals.shape[-1] != run.steps:
        raise SettingsError(f"a norm for each of {run.steps} steps is wanted; got {goals.shape[-1]}")
    goals = goals.expand(len(x), -1).T  # [steps, B]
    means = goals.mean(1)
    walk = Walk(sampler, denoise, x, run, on_call, remember)
    scales, errors, reached, pace = [], [], [walk.size], 1.0
    before = walk.energy / means[0] - goals[0] / means[0]
    for goal, mean in zip(goals[1:], means[1:], strict=True):
        scale, pace, rate = _solve(walk, float(mean.sqrt()), scales[-1] if scales else 1.0, pace)
        after = (walk.energy - goal) / mean
        scales.append(scale)
        errors.append(innovation_error(before, after) / (2 * abs(rate)) if rate else 0.0)
        reached.append(walk.size)
        before = after
    return Calibration(
        (*scales, 1.0), tuple(reached), tuple(means.sqrt().tolist()), walk.calls, (*errors, 0.0)
    )


def calibrate_variance(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    run: Run,
    clean: Tensor,
    on_call: Callable[[], None] = lambda: None,
    remember: Remember = nothing,
) -> Calibration:
    """Choose each λ so that the state it leads to varies as noised clean samples do.

    λ adds or takes white noise, and noise is no substitute for contrast: energies are compared ring by ring
    of the spectrum, where the finest show the noise and the coarsest the content, and the λ is taken whose
    Gaussian of these energies is nearest to the clean one's in the sense of Kullback and Leibler.

    clean:   `spectrum` [C, R] of clean samples
    Others:  as for `calibrate`; take some 64 samples, as contents differ more than noise does
    Cost:    one sampling run; with solvers of several stages one more call for each stage after the first.
    Source:  ours. Var(x) = alpha² Var(x0) + sigma² holds for every perfect sampler, see `metrics/deltas`.
    """
    walk, size = Walk(sampler, denoise, x, run, on_call, remember), x[0].numel()
    sizes = ring_sizes(tuple(x.shape[1:]))
    goals = [
        float(signal_level(sigma, run.space)) ** 2 * clean + (sigma * run.noise) ** 2
        for sigma in run.sigmas[:-1]
    ]
    scales, states = [], [spectrum(x)]
    for goal in goals[1:]:
        scale = _nearest(walk, goal, sizes)
        trial = walk.attempt(scale)
        walk.take(trial)
        scales.append(scale)
        states.append(spectrum(trial.call.x))
    norms = [[math.sqrt(size * _energy(s, sizes)) for s in spectra] for spectra in (states, goals)]
    unknown = (0.0,) * run.steps
    return Calibration((*scales, 1.0), tuple(norms[0]), tuple(norms[1]), walk.calls, unknown)


def samples_needed(count: int, drawn: bool) -> int:
    """Return how many samples to calibrate on, where a user asked for `count`; drawn: as `draws_noise`."""
    return max(count, LEAST_DRAWN) if drawn else count


def remarks(
    found: Calibration, count: int, drawn: bool, own: bool = False, shipped: bool = False
) -> list[str]:
    """Say in sentences how far a calibration on `count` samples is to be trusted.

    drawn: as `draws_noise`; own: whether the model's own samples were the reference, or
    shipped: the pictures that ship
    """
    said = [f"Found on {count} samples with {found.calls} rounds of model calls."]
    sought = [error for error, scale in zip(found.errors, found.scales, strict=True) if error or scale != 1]
    if any(sought):
        mean = sum(sought) / len(sought)
        said.append(
            f"Standard error of a step's scale: {mean:.2g} on average, {max(sought):.2g} at most; the scales "
            f"are smoothed and shrunk by it."
        )
    if found.at_bounds:
        steps = ", ".join(map(str, found.at_bounds))
        said.append(
            f"At a bound ({LEAST:g} or {MOST:g}): step {steps}. No scale cures what is wrong there; take "
            f"more steps or another solver."
        )
    if drawn and count < LEAST_DRAWN:
        said.append(
            f"This sampler draws noise: {LEAST_DRAWN} samples are wanted, {count} were measured; measure "
            f"more."
        )
    if own:
        said.append(
            "The reference was the model's own samples: the scales mend few-step error only, not the model's "
            "own bias, which cannot be seen so. Measure against real pictures for that."
        )
    if shipped:
        said.append(
            f"The reference was shipped pictures, which {OTHER_KIND}; the scales make up for all of it. "
            f"Measure against real pictures of what the prompt asks for before you use them."
        )
    return said


def fit_linear(scales: Sequence[float], slope: bool = True) -> tuple[float, float]:
    """Least-squares k and b of λ = k·t + b, t = 0 at the last step; without `slope` k is 0 and b the mean.

    The last quarter of the steps is not fitted, but at least the last step, which `calibrate` leaves at 1 for
    want of a step after it.
    Raises:  SettingsError for fewer than two steps.
    Source:  Ning et al., 2023, arXiv 2308.15321, equation 22, with t as in the authors' code. At 20 steps the
             paper fits t in (5, T), counted from 1: it leaves out a quarter, where norms leave the line.
    """
    if len(scales) < 2:
        raise SettingsError(f"a line is fitted to at least 2 steps; got {len(scales)}")
    fitted = scales[: len(scales) - max(len(scales) // 4, 1)]
    points = [(len(scales) - 1 - i, scale) for i, scale in enumerate(fitted)]
    mean_t = sum(t for t, _ in points) / len(points)
    mean = sum(scale for _, scale in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if not slope or not spread:
        return 0.0, mean
    k = sum((t - mean_t) * (scale - mean) for t, scale in points) / spread
    return k, mean - k * mean_t


def as_method(method: str, scales: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """Return a schedule's mode and values: the scales themselves, or what is fitted to them."""
    if method in ("norm", "variance"):
        return "table", scales
    return method, linear_schedule(len(scales), *fit_linear(scales, slope=method == "linear"))


def _solve(walk: Walk, goal: float, scale: float, pace: float) -> tuple[float, float, float]:
    """Take one step so that the norm after it meets the goal; return λ, pace, and change of log norm per λ.

    pace: measured change of log norm over the change that the arithmetic alone predicts, from step to step
    """
    trial = walk.attempt(scale)
    expected = walk.effect(trial)
    if not expected:  # λ is left out here
        walk.take(walk.attempt(1.0) if scale != 1 else trial)
        return 1.0, pace, 0.0
    for _ in range(TRIALS - 1):
        miss = math.log(trial.size / goal)
        change = -miss / (pace * expected)
        scale = min(max(trial.scale + max(-LONGEST, min(change, LONGEST)), LEAST), MOST)
        if abs(miss) < CLOSE or scale == trial.scale:
            break
        better = walk.attempt(scale)
        moved = math.log(better.size / trial.size) / (better.scale - trial.scale)
        pace = min(max(moved / expected, 0.2), 5.0)
        if abs(math.log(better.size / goal)) > abs(miss):
            break
        trial = better
    walk.take(trial)
    return trial.scale, pace, pace * expected


def _nearest(walk: Walk, goal: Tensor, sizes: Tensor) -> float:
    """Return the λ whose next state's spectrum is nearest to the goal; 1 where λ is left out.

    The state moves along a line as 1 - 1/λ grows, so that its energies are parabolas in it.
    """
    raw = walk.stages(1.0)
    start, end = (walk.lead(raw, scale).x.cpu().double() for scale in (1.0, 1 + NUDGE))
    slope = (end - start) / (1 - 1 / (1 + NUDGE))
    if not slope.any():
        return 1.0
    at, along = spectrum(start), spectrum(slope)
    cross = (spectrum(start + slope) - at - along) / 2

    def distance(scale: float) -> float:
        weight = 1 - 1 / scale
        ratio = (at + 2 * weight * cross + weight**2 * along) / goal
        return float((sizes * (ratio - ratio.log())).sum())

    low, high = LEAST, MOST
    while high - low > CLOSE:
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if distance(a) < distance(b) else (a, high)
    return (low + high) / 2


def _energy(energies: Tensor, sizes: Tensor) -> float:
    """Mean square of a sample, from its spectrum."""
    return float((energies * sizes).sum() / (sizes.sum() * len(energies)))
