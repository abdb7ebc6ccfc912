"""Finding λ from a measurement, step by step: what one λ did is seen before the next is chosen.

`calibrate` lets the predicted noise be as large as in training, `calibrate_variance` the states; `steady`
takes chance out of what they found, and `fit_linear` lays the paper's k·t + b through it. It knows no host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, signal_level
from ..errors import SettingsError, SteadyDiffError
from ..methods.epsilon_scaling import scale_epsilon, stride_shares
from ..metrics.norms import predicted_norm
from ..metrics.spectrum import ring_sizes, spectrum
from ..schedules import linear_schedule, log_ratio
from .stepping import ModelCall, Remember, Sampler, even_noise, next_call, nothing, step_calls

LEAST, MOST = 0.8, 1.25
"""No λ outside is tried: what needs more is not cured by a scale."""

TARGETS = ("norm", "linear", "uniform", "variance")
"""What a schedule may be made of a calibration, see `as_method`."""

TRIALS = 3
"""At most so many values of λ per step, which bounds the cost to so many sampling runs."""

LEAST_DRAWN = 32
"""So many samples at least are wanted where the sampler draws noise."""

REACH = 2.0  # change of log(sigma / alpha) over which λ - 1 is taken to fall to 1/e of its correlation
CLOSE = 1e-5  # relative difference of norms that counts as met
NUDGE = 1e-3  # by which λ is moved to see where the sampler's arithmetic takes the next state
LONGEST = 0.1  # change of λ from one trial to the next


@dataclass(frozen=True)
class Calibration:
    """One λ per step, the noisiest first, and what they led to.

    scales:  λ; 1 at the last step, after which no noise is predicted, and where λ has no effect
    reached: root mean squared norm of the predicted noise, or of the state, at each step of the corrected run
    wanted:  what it should be, from the measurement
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
        return tuple(step for step, scale in enumerate(self.scales, 1) if scale in (LEAST, MOST))


def calibrate(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    run: Run,
    target: Sequence[float] | Tensor,
    on_call: Callable[[], None] = lambda: None,
    remember: Remember = nothing,
) -> Calibration:
    """Choose each λ so that at the next step the predicted noise is as large as `wanted` there.

    Every λ is found on the states that the λ before it have led to, so that what is repaired already is not
    repaired twice. Two or three trials a step are enough, as λ acts all but linearly; the states of the best
    trial are taken further.

    sampler: any that can be taken step by step and repeats itself under one seed
    denoise: the uncorrected model
    x:       first states [B, C, *S]; 8 to 16 samples of unit energy, see `unit_noise`
    wanted:  norm of the predicted noise on noised clean samples: the root mean square at each step, or the
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
    walk = _Walk(sampler, denoise, x, run, on_call, remember)
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
    walk, size = _Walk(sampler, denoise, x, run, on_call, remember), x[0].numel()
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


def samples_needed(count: int, drawn: bool) -> int:
    """Return how many samples to calibrate on, where a user asked for `count`; drawn: as `draws_noise`."""
    return max(count, LEAST_DRAWN) if drawn else count


def remarks(found: Calibration, count: int, drawn: bool, own: bool = False) -> list[str]:
    """Say in sentences how far a calibration on `count` samples is to be trusted.

    drawn: as `draws_noise`; own: whether the model's own samples were the reference
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


def _solve(walk: _Walk, goal: float, scale: float, pace: float) -> tuple[float, float, float]:
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


def _nearest(walk: _Walk, goal: Tensor, sizes: Tensor) -> float:
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


@dataclass(frozen=True)
class _Trial:
    """One step tried with one λ: its raw predictions, and the call it leads to with that one's."""

    scale: float
    raw: tuple[Tensor, ...]
    call: ModelCall
    prediction: Tensor
    energy: Tensor
    restore: Callable[[], None]

    @property
    def size(self) -> float:
        """Root mean squared norm of the predicted noise."""
        return float(self.energy.mean().sqrt())


class _Walk:
    """A run in progress: the predictions given so far, and the model's raw prediction to the present call."""

    def __init__(
        self,
        sampler: Sampler,
        denoise: Denoise,
        x: Tensor,
        run: Run,
        on_call: Callable[[], None],
        remember: Remember,
    ) -> None:
        self._sampler, self._denoise, self._x, self._run = sampler, denoise, x, run
        self._remember = remember
        self._shares = stride_shares(run.space, run)
        self._starts, self._step, self.calls, self._on_call = step_calls(sampler, x, run), 0, 0, on_call
        self._given: list[Tensor] = []
        call = self._next([])
        for _ in range(self._starts[0]):  # what a sampler calls before its first step
            self._given.append(self._evaluate(call))
            call = self._next([])
        self._call, self._raw, self._restore = call, self._evaluate(call), remember()
        self.energy = self._energy(call, self._raw, 0)

    @property
    def size(self) -> float:
        """Root mean squared norm of the noise that is predicted at present."""
        return float(self.energy.mean().sqrt())

    def attempt(self, scale: float) -> _Trial:
        """Take the present step with one λ and call the model where it leads."""
        raw = self.stages(scale)
        call = self.lead(raw, scale)
        prediction = self._evaluate(call)
        energy = self._energy(call, prediction, self._step + 1)
        return _Trial(scale, raw, call, prediction, energy, self._remember())

    def stages(self, scale: float) -> tuple[Tensor, ...]:
        """The raw predictions within the present step; the model is called for those after the first."""
        self._restore()
        raw = (self._raw,)
        for _ in range(self._starts[self._step + 1] - self._starts[self._step] - 1):
            raw = (*raw, self._evaluate(self.lead(raw, scale)))
        return raw

    def lead(self, raw: Sequence[Tensor], scale: float) -> ModelCall:
        """Where raw predictions, scaled, take the sampler. No model call."""
        call, corrected = self._call, []
        for prediction in raw:
            corrected.append(self._scaled(call, prediction, scale))
            call = self._next(corrected)
        return call

    def effect(self, trial: _Trial) -> float:
        """Change of log norm per λ if the state moves as the arithmetic says and the clean estimate stays.

        No model call: the raw predictions of the trial are scaled otherwise and the sampler is called again.
        """
        moved = (self.lead(trial.raw, trial.scale + NUDGE).x - trial.call.x).cpu().double() / NUDGE
        alpha = 1.0 if self._run.space == "ve" else 1 - self._run.sigmas[self._step + 1]
        noise = (trial.call.x - alpha * trial.prediction).cpu().double()
        return float((moved * noise).sum() / noise.square().sum())

    def take(self, trial: _Trial) -> None:
        """Go where a trial led."""
        call = self._call
        for raw in trial.raw:
            self._given.append(self._scaled(call, raw, trial.scale))
            call = self._next([])
        self._step, self._call, self._raw = self._step + 1, call, trial.prediction
        self.energy, self._restore = trial.energy, trial.restore

    def _next(self, more: Sequence[Tensor]) -> ModelCall:
        with even_noise(self._x):
            found = next_call(self._sampler, self._x, self._run.sigmas, [*self._given, *more])
        if not isinstance(found, ModelCall):
            raise SettingsError("this sampler does not ask the same questions each time; choose e.g. euler")
        return found

    def _evaluate(self, call: ModelCall) -> Tensor:
        self.calls += 1
        prediction = self._denoise(*call)
        self._on_call()
        return prediction

    def _scaled(self, call: ModelCall, raw: Tensor, scale: float) -> Tensor:
        x, sigma = call
        if (self._shares(sigma) < 1).any():  # too long a stride for λ to act in full: none is sought
            return raw
        return scale_epsilon(x, raw, scale, sigma=sigma.to(x), space=self._run.space)

    def _energy(self, call: ModelCall, prediction: Tensor, step: int) -> Tensor:
        """Squared norm of the predicted noise, sample by sample."""
        sigma = self._run.sigmas[step]
        energy = predicted_norm(call.x, prediction, sigma, self._run.space).square()
        if not (energy.isfinite().all() and energy.sum() > 0):
            raise SteadyDiffError(
                f"the model's answer at step {step + 1}, sigma {sigma:.4g}, holds NaN or infinity, or no "
                f"noise at all; nothing was calibrated"
            )
        return energy.cpu()
