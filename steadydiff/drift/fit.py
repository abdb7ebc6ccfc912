"""Choosing a correction for one model, sampler and number of steps, from few pictures. `fit` is the entry.

The model is sampled plainly, and two signs say what its samples lack: `j`, whether the model finds its own
samples easier to denoise than real pictures, and `v`, whether they vary less. They name what is worth trying;
it is tried on the same noise, and that is kept whose samples lie nearest to the real pictures. Where
neither is clear, or nothing comes nearer, all is left off, with the reason. Real pictures must not have been
the model's training data: on those the judge turns round, and samples that vary too little seem too hard,
which is left off as well.

Nothing here knows a host: a denoiser, a sampler and pictures are all it needs. What is tried can be kept and
taken up again after a stop.

The rule is frozen: its first tries and limits were set on one network of digits, then tested once on a second
one (docs/digits.md). Change it only with a new measurement on all worlds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run
from ..errors import SettingsError, ShapeError, SteadyDiffError
from . import signs
from .correction import PLAIN, Correction, first_tries, moved
from .stepping import Sampler, fixed_rng

Progress = MutableMapping[str, dict[str, Tensor]]
"""By what was tried: log errors [levels, N], of the references perhaps also without the prompt, pooled
pictures [N, D], spreads [N] and calls []: tensors, which safetensors can keep."""

LEAST_PICTURES = 8


@dataclass(frozen=True)
class Problem:
    """One way of sampling, and real pictures beside it.

    sampler:          any; it repeats itself under one seed
    denoise:          the uncorrected model as it is sampled, guidance included, with the samples' conditions
    x:                first states [N, C, *S]; 64 are good, 16 halve the gain
    run:              the run
    judge:            the model without guidance, with the samples' conditions, and
    references:       real pictures [M, C, *S] in the model's own space, and
    judge_references: the model without guidance, with the references' conditions (captions)
    noisy:            the sampler with a factor on its own noise, where it has one
    unprompted:       where the references have no captions and the judge has the samples' conditions for
                      them: the model without these conditions, by which it is known whether they fit
    """

    sampler: Sampler
    denoise: Denoise
    x: Tensor
    run: Run
    judge: Denoise
    references: Tensor
    judge_references: Denoise
    noisy: Callable[[float], Sampler] | None = None
    unprompted: Denoise | None = None


@dataclass(frozen=True)
class FitSettings:
    """How much is tried.

    thorough:  go on from the best of the short rule, step by step, to at most `runs` sampling runs
    runs:      sampling runs at most, the plain one included
    diffier:   DiffIER may be tried as well, at half as many calls more
    trust:     how many standard errors j must be away from 0
    keep:      the share by which the criterion must fall
    seed:      of the judge's noise and the bootstrap
    """

    thorough: bool = False
    runs: int = 6
    diffier: bool = False
    trust: float = 2.0
    keep: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.runs < 3:
            raise SettingsError(f"runs is at least 3, the plain one and two tries; got {self.runs}")
        if not (self.trust >= 0 and 0 <= self.keep < 1):
            raise SettingsError(
                f"trust is not negative, keep is a share from 0 to below 1; got {self.trust}, {self.keep}"
            )


@dataclass(frozen=True)
class Signs:
    """What pictures say about themselves, with standard errors.

    j: how much higher the model's log error is on them than on real pictures; below 0 they are too easy
    v: log ratio of their total variance to real pictures'
    """

    j: float
    j_error: float
    v: float
    v_error: float

    def __str__(self) -> str:
        return f"j {self.j:+.3f} ± {self.j_error:.3f}, v {self.v:+.3f} ± {self.v_error:.3f}"


@dataclass(frozen=True)
class Fit:
    """What was chosen and why.

    correction: PLAIN where it is left off
    reason:     a sentence
    before:     the signs of plain samples, and
    after:      of the chosen correction's
    scores:     by what was tried, the criterion over plain's (plain has 1) and its standard error
    calls:      model calls of a batch, by everything together, and runs: how many times the batch was sampled
    """

    correction: Correction
    reason: str
    before: Signs
    after: Signs
    scores: dict[str, tuple[float, float]]
    calls: int
    runs: int


def fit(
    problem: Problem,
    settings: FitSettings | None = None,
    done: Progress | None = None,
    on_trial: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Choose a correction; see the module.

    done:     what was tried before under the same problem and settings, found again by name; new trials are
              added to it as they end, and `on_trial` is told their names, for progress and for keeping
    Cost:     a sampling run a trial, and one call a level and picture for the judge
    Raises:   ShapeError for pictures of another shape or too few; SettingsError, before anything is sampled,
              for pictures of something else than the prompt asks for; SteadyDiffError for NaN from the model.
    """
    settings = settings or FitSettings()
    trials = _Trials(problem, settings, {} if done is None else done, on_trial)
    trials.check_prompt()
    before = trials.signs(PLAIN)
    off = why_off(before, settings.trust)
    if off:
        return trials.result(PLAIN, f"left off: {off}")
    tries = first_tries(
        vary_too_little(before, settings.trust), settings.diffier, problem.noisy is not None, before.j < 0
    )
    if settings.thorough and vary_too_little(before, settings.trust):
        tries.append(Correction(scale=1.02))
    for correction in tries:
        if len(trials.scores) < settings.runs:
            trials.score(correction)
    if settings.thorough:
        _go_on(trials, settings.runs)
    best = trials.best()
    score, _ = trials.scores[best]
    if score > 1 - settings.keep:
        return trials.result(
            PLAIN, f"left off: nothing that was tried is {settings.keep:.0%} nearer than plain"
        )
    return trials.result(best, f"{best} brings samples {1 - score:.0%} nearer to the real pictures")


def why_off(signs: Signs, trust: float) -> str:
    """Return why nothing should be tried, "" if something should."""
    if abs(signs.j) < trust * signs.j_error and abs(signs.v) < trust * signs.v_error:
        return (
            f"the model's error on its samples is that on real pictures, and so is their variance ({signs})"
        )
    if disagree(signs, trust):
        return (
            f"the model's error and the variance of its samples do not agree on a direction, as where it was "
            f"trained on the real pictures ({signs})"
        )
    return ""


def disagree(signs: Signs, trust: float) -> bool:
    """Say whether samples clearly vary too little and yet are too hard, so that no direction is known."""
    return signs.j > 0 > signs.v and signs.j >= trust * signs.j_error and -signs.v >= trust * signs.v_error


def vary_too_little(signs: Signs, trust: float) -> bool:
    """Say whether samples vary too little, rather than too much: by v where it is clear, else by j."""
    return signs.v < 0 if abs(signs.v) >= trust * signs.v_error else signs.j < 0


def _go_on(trials: _Trials, runs: int) -> None:
    """Walk on from the best try: doubled while that is better, else halved while that is; then its neighbour.

    Only c, lambda and their kin are walked along: each try's own number.
    """
    start = trials.best(without=PLAIN)
    stronger = trials.scores[start][0] < 1
    best = start
    while len(trials.scores) < runs:
        ahead = moved(best, 2.0 if stronger else 0.5)
        if ahead in trials.scores:
            break
        if trials.score(ahead) < trials.scores[best][0]:
            best = ahead
        elif stronger and best == start:
            stronger = False
        else:
            break


class _Counted:
    """A denoiser that counts its calls and shows what it stands for (branches, cfg)."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise, self.calls = denoise, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return self._denoise(x, sigma)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)


class _Trials:
    """What was tried, each made once, with the figures that follow."""

    def __init__(
        self, problem: Problem, settings: FitSettings, done: Progress, on_trial: Callable[[str], None]
    ) -> None:
        own, real = problem.x, problem.references
        if own.shape[1:] != real.shape[1:]:
            raise ShapeError(
                f"samples and real pictures have one shape; got {tuple(own.shape[1:])} "
                f"and {tuple(real.shape[1:])}"
            )
        if min(len(own), len(real)) < LEAST_PICTURES:
            raise ShapeError(
                f"at least {LEAST_PICTURES} samples and real pictures are needed; got {len(own)} "
                f"and {len(real)}"
            )
        self._problem, self._settings, self._done, self._on_trial = problem, settings, done, on_trial
        self.scores: dict[Correction, tuple[float, float]] = {PLAIN: (1.0, 0.0)}
        std = float(real.cpu().double().std())
        self._sigmas = tuple(signs.level_of(ratio * std, problem.run.space) for ratio in signs.RATIOS)
        if "references" not in done:
            judges = {"loss": problem.judge_references, "unprompted": problem.unprompted}
            self._keep("references", real, 0, **{name: judge for name, judge in judges.items() if judge})
        self._real = done["references"]

    def check_prompt(self) -> None:
        """Raise SettingsError for references that the prompt does not ask for: judged under it, they are
        hard for that alone, and every sample seems too easy beside them."""
        if "unprompted" not in self._real:
            return
        harm, error = signs.prompt_harm(self._real["loss"], self._real["unprompted"])
        if harm > self._settings.trust * error:
            raise SettingsError(
                f"the real pictures are not what the prompt asks for: under it the model's error on them is "
                f"{100 * math.expm1(harm):.0f} % larger than without it; take pictures of what it asks for, "
                f"or the model's own samples"
            )

    def signs(self, correction: Correction) -> Signs:
        own, real, seed = self._of(correction), self._real, self._settings.seed
        j, j_error = signs.judge_gap(own["loss"], real["loss"])
        v = signs.log_variance_ratio(own["spread"], real["spread"])
        drawn = signs.bootstrap(signs.log_variance_ratio, own["spread"], real["spread"], seed=seed)
        return Signs(j, j_error, v, float(drawn.std()))

    def score(self, correction: Correction) -> float:
        """Return the criterion over plain's, 1 for the same; its error is that of the pair's difference."""
        sets = self._of(correction), self._of(PLAIN), self._real
        criterion = signs.Criterion(*((one["loss"], one["pooled"]) for one in sets))
        pictures = [torch.arange(len(one["pooled"])) for one in sets]
        drawn = signs.bootstrap(criterion, *pictures, times=50, seed=self._settings.seed)
        self.scores[correction] = criterion(*pictures), float(drawn.std())
        return self.scores[correction][0]

    def best(self, without: Correction | None = None) -> Correction:
        found = (correction for correction in self.scores if correction != without)
        return min(found, key=lambda correction: self.scores[correction][0])

    def result(self, correction: Correction, reason: str) -> Fit:
        return Fit(
            correction,
            reason,
            self.signs(PLAIN),
            self.signs(correction),
            {str(one): score for one, score in self.scores.items()},
            calls=sum(int(kept["calls"]) for kept in self._done.values()),
            runs=len(self._done) - 1,
        )

    def _of(self, correction: Correction) -> dict[str, Tensor]:
        name = str(correction)
        if name not in self._done:
            pictures, calls = self._sampled(correction)
            self._keep(name, pictures, calls, loss=self._problem.judge)
        return self._done[name]

    def _sampled(self, correction: Correction) -> tuple[Tensor, int]:
        own = self._problem
        denoise: Denoise = (counted := _Counted(own.denoise))
        for method in correction.methods(own.run):
            denoise = method.wrap(denoise, own.run)
        sampler = own.sampler
        if correction.s_noise != 1:
            assert own.noisy is not None
            sampler = own.noisy(correction.s_noise)
        with torch.no_grad(), fixed_rng(own.x):
            return sampler(denoise, own.x.clone(), own.run.sigmas), counted.calls

    def _keep(self, name: str, pictures: Tensor, calls: int, **judges: Denoise) -> None:
        """Call the judges about pictures and note what is needed of them."""
        real, drawn = self._problem.references, torch.Generator().manual_seed(self._settings.seed)
        pictures = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
        if not bool(pictures.isfinite().all()):
            raise SteadyDiffError(f"the pictures of '{name}' hold NaN or infinity; nothing can be fitted")
        shown = pictures.clamp(float(real.min()), float(real.max()))
        noise = [torch.randn(shown.shape, generator=drawn).to(shown) for _ in self._sigmas]
        with torch.no_grad():
            kept = {
                figure: signs.log_errors(judge, shown, noise, self._sigmas, self._problem.run.space)
                for figure, judge in judges.items()
            }
        self._done[name] = kept | {
            "pooled": signs.pooled(shown.cpu()),
            "spread": signs.spreads(shown, real),
            "calls": torch.tensor(calls + len(kept) * len(self._sigmas)),
        }
        self._on_trial(name)
