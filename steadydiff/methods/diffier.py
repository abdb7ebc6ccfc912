"""DiffIER: Chen, Ding, Xue, "DiffIER: Optimizing Diffusion Models with Iterative Error Reduction",
arXiv 2508.13628.

The paper moves the guided noise prediction towards fresh Gaussian noise, step by step of gradient descent. As
printed that corrects nothing. The reading that does puts the fresh noise back into the clean estimate, calls
the guided model again there, and carries the error it makes to the prediction: `renoise` here. The free
functions are the formulas, `DiffIER` the settings; docs/diffier.md says what is the paper's and what is ours.
"""

# Over 400 lines: one paper has one file.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..denoiser import (
    Denoise,
    Run,
    Space,
    add_noise,
    check_same_shape,
    eps_from_denoised,
    per_sample,
    signal_level,
)
from ..drift.measurement import Measurement
from ..errors import SettingsError
from ..noise import PerSampleNoise
from .epsilon_scaling import scale_at, scale_epsilon, scale_table, sigma_limit
from .method import Defaults
from .window import Windowed, check_window, edges, later_half

Mode = Literal["renoise", "norm", "previous", "literal"]
MODES: tuple[Mode, ...] = get_args(Mode)

PAPER = {"strength": 0.1, "divide_by_cfg": False, "iterations": 10, "threshold": 1e-3}
"""The paper's eta = 0.05, of which strength is the double, and its threshold. It names no bound for the
iterations; this one is ours."""

LARGEST_MEASURED = 0.5
"""The strength that a measured variance error asks for at most, to either side."""

# The error in a sample's noise that is carried at most, RMS over its elements. A model that predicts no noise
# at all errs by 1; under strong guidance it may err by far more, and estimates would then run away.
MAX_ERROR = 2.0

TINY = torch.finfo(torch.float32).tiny


def carry_error(denoised: Tensor, again: Tensor, strength: Tensor | float) -> Tensor:
    """Carry the error a model makes on its own noised estimate to that estimate.

    With x' = alpha * denoised + sigma * z and `again` the model's clean estimate at x', the error of its
    noise there is e' - z = alpha * (denoised - again) / sigma. The step of descent e <- e - f * (e' - z), f
    the `strength`, then reads in clean estimates

        denoised' = denoised + f * (denoised - again)

    Shapes:  denoised, again, result [B, C, *S]; strength a number or [B].
    Units:   strength is f = 2 * eta; 0 returns `denoised` bit for bit.
    Source:  Chen et al., 2025, arXiv 2508.13628, algorithm 1, lines 8 to 10, read as the training loss at x';
             a gradient of the squared sum over elements, and descent (the printed sign climbs).

    In statistics this is twicing (Tukey, 1977), with fresh noise before the second smoothing.
    """
    check_same_shape(denoised, again)
    return torch.lerp(denoised, again, -per_sample(strength, denoised))


def residual_loss(denoised: Tensor, again: Tensor, sigma: Tensor | float, space: Space = "ve") -> Tensor:
    """Mean square of e' - z, the error of the noise that `carry_error` carries, per sample.

    Shapes:  denoised, again [B, C, *S]; sigma a number or [B]; result [B].
    Source:  the same, equation 12, at x'. Summed over the steps it is the accumulated error of figure 2.

    A perfect model has one, too: what is in the noise it cannot tell from signal. In units of unit noise; for
    louder noise divide by its variance.
    """
    check_same_shape(denoised, again)
    ratio = signal_level(sigma, space) / _at_least(sigma, TINY**0.25)
    return (denoised - again).flatten(1).square().mean(1) * ratio**2


def optimal_weight(clean: Tensor, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of w* - 1, for the guidance weight w* whose noise at x is nearest to z.

    Shapes:  clean, and the branches' clean estimates cond and uncond at x = alpha * clean + sigma * z, all
             [B, C, *S]; results [B]. Sum each over samples and draws before dividing: that is the minimum
             of the summed loss, while a mean of quotients hangs on their smallest denominators. Unbiased on
             real pictures; at guided estimates in their place a perfect model's w* nears the guidance weight.
    Source:  the same, equations 9 and 16, with the noise z in the place of the true score.
    """
    check_same_shape(clean, cond)
    check_same_shape(cond, uncond)
    guidance = (cond - uncond).flatten(1)
    return (guidance * (clean - cond).flatten(1)).sum(1), guidance.square().sum(1)


def norm_factor(
    rms: Tensor, target: Tensor, strength: float, iterations: int, threshold: float = 0.0
) -> Tensor:
    """What a prediction of one RMS is multiplied by, after n steps towards the same one of another RMS.

    n is `iterations`, or with a threshold as many as bring the mean squared distance below it, if fewer.

    Shapes:  rms, target, result [B].
    Source:  the same, algorithm 1, with the rescaled prediction as the target: its distance shrinks by
             1 - strength at each step, so that no step need be taken.
    """
    ratio = target / rms.clamp(min=TINY)
    kept: Tensor | float = (1 - strength) ** iterations
    if threshold > 0:
        loss = (rms - target).square()
        needed = iterations * (loss > threshold)
        if 0 < strength < 1:
            halves = torch.log(loss.clamp(min=TINY) / threshold) / (-2 * math.log(1 - strength))
            needed = halves.ceil().clamp(0, iterations)
        kept = (1 - strength) ** needed
    return ratio + kept * (1 - ratio)


def strength_from(measured: Measurement) -> float:
    """Return the strength that a measured variance error asks for: f = -log(1 + error), 0 where unclear.

    Samples that vary too little get a positive one, which widens, the others a negative one, which narrows;
    at most LARGEST_MEASURED. Unclear is an error of less than two standard errors.

    Ours, not the paper's. docs/diffier.md has what it was set by.
    """
    error = measured.variance_error[-1]
    known = measured.standard_errors.get("variance_error", (0.0,))
    if abs(error) <= 2 * known[-1]:
        return 0.0
    strength = -math.log1p(max(error, -0.9))
    return min(max(strength, -LARGEST_MEASURED), LARGEST_MEASURED)


def values_of(values: str, own: dict[str, Any], mode: str, measured: Measurement | None) -> dict[str, Any]:
    """Return the settings that a face's `values` choose: its own, the paper's, or with a measured strength.

    Raises:  SettingsError for a measured strength without a measurement or in another mode than renoise.
    """
    if values != "auto":
        return PAPER if values == "paper" else own
    if mode != "renoise":
        raise SettingsError(f"values auto goes with mode renoise, whose strength has a sign; mode is {mode}")
    if measured is None:
        raise SettingsError(
            "values auto takes its strength from a measurement of the plain model with this sampler, steps "
            "and cfg, from Measure Drift; there is none"
        )
    return own | {"strength": strength_from(measured)}


@dataclass(frozen=True)
class DiffIER(Windowed, Defaults):
    """Move the guided prediction, at every step of a part of the run, as its own error suggests.

    mode:        "renoise" calls the model again at its own noised estimate: `iterations` more calls a step;
                 "norm" pulls the predicted noise to the RMS of the conditional branch, without more calls;
                 "previous" pulls it to the previous step's and "literal" towards plain noise, as the paper
                 prints it: both for research, both harm
    strength:    f, the share of the error that is carried over, twice the paper's eta; 0 changes nothing,
                 above 0 samples spread more, below (only "renoise") less
    divide_by_cfg: "renoise" divides it by the guidance weight, if the denoiser shows one as `cfg`: guidance
                 multiplies the error of a prediction, and how strongly it answers to a change, by as much
    iterations:  at most this many steps of descent; 0 changes nothing
    threshold:   "renoise" ends for a sample once its mean loss changes by less from one iteration to the
                 next, "norm" once it is below; 0 = never. Above 0 "renoise" reads one value back from the
                 device per iteration
    antithetic:  "renoise" calls at +z and -z, at twice the calls; no noise is then added
    measurement: "norm" takes the RMS from this one's noised clean samples instead
    sigma_high:  noise level from which on (downwards) it acts; None = at the later half of the run's steps
    sigma_low:   down to which; both included, as in `EpsilonScaling`, and equal bounds switch it off

    Neutral: strength 0, iterations 0, or equal bounds; `wrap` then returns the denoiser itself.

    "norm" without a measurement needs a denoiser with `branches`, as `Guided` has them. A state that is all
    but noise (sigma / alpha above MAX_NOISE_RATIO) is left alone.
    """

    title: ClassVar[str] = "DiffIER"
    order: ClassVar[int] = 1
    single: ClassVar[bool] = True

    mode: Mode = "renoise"
    strength: float = 0.5
    divide_by_cfg: bool = True
    iterations: int = 1
    threshold: float = 0.0
    antithetic: bool = False
    measurement: Measurement | None = None
    sigma_high: float | None = None
    sigma_low: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"mode is one of {', '.join(MODES)}; got {self.mode!r}")
        least = -1 if self.mode == "renoise" else 0
        if not least <= self.strength <= 1:
            only = "" if least else ", negative only in mode renoise"
            raise SettingsError(f"strength is a number from {least} to 1{only}; got {self.strength}")
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise SettingsError(f"iterations is a whole number, 0 is off; got {self.iterations}")
        if not 0 <= self.threshold < math.inf:
            raise SettingsError(f"threshold is a finite number, 0 for none; got {self.threshold}")
        check_window(math.inf if self.sigma_high is None else self.sigma_high, self.sigma_low)

    def __str__(self) -> str:
        renoise = self.mode == "renoise"
        divided = " / cfg" if renoise and self.divide_by_cfg else ""
        more = ", antithetic" if renoise and self.antithetic else ""
        return (
            f"{self.mode}, strength {self.strength:g}{divided}, iterations {self.iterations}, "
            f"threshold {self.threshold:g}{more}"
        )

    def check(self, space: Space) -> None:
        """Raise SettingsError if these settings cannot work on a model of this space."""
        if self.mode == "norm" and self.measurement is not None and self.measurement.space != space:
            raise SettingsError(
                f"the measurement is of a {self.measurement.space} model, this one is of space {space}; "
                f"measure this model"
            )

    @property
    def extra_calls(self) -> int:
        """Model calls at an active step beyond the sampler's own; with a threshold, at most."""
        return self.iterations * (2 if self.antithetic else 1) if self.mode == "renoise" else 0

    def differences(self, **facts: Any) -> list[str]:
        """Say where a run's model differs from the one that the measurement was made on."""
        made, model = self.measurement and self.measurement.made_for.model, facts.get("model")
        return (
            [f"the measurement was made on {made}, this is {model}"]
            if made and model not in (None, made)
            else []
        )

    @property
    def wants_branches(self) -> bool:
        """Whether the denoiser must show its branches."""
        return self.mode == "norm" and self.measurement is None

    def window(self, run: Run) -> tuple[float, float]:
        """Return the lowest and the highest sigma at which it acts, the bounds' tolerance included."""
        high = later_half(run) if self.sigma_high is None else self.sigma_high
        low, high = edges(high, self.sigma_low, run)
        return low, min(high, sigma_limit(run.space))

    def active_steps(self, run: Run) -> int:
        """Return at how many of the run's steps it acts."""
        if self.is_off:
            return 0
        low, high = self.window(run)
        return sum(low <= sigma <= high for sigma in sorted(run.sigmas, reverse=True)[:-1])

    def summary(self, run: Run) -> str:
        """Say at how many steps it acts, e.g. "renoise at 10 of 20 steps"."""
        active, none = self.active_steps(run), f"left all {run.steps} steps as they were"
        return f"{self.mode} at {active} of {run.steps} steps" if active else none

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser whose clean estimates carry the correction; called once per run.

        Raises:  SettingsError as `check` does, and if "norm" has nothing to compare with; before any model
                 call.
        """
        self.check(run.space)
        if self.is_off:
            return denoise
        if self.wants_branches and not hasattr(denoise, "branches"):
            raise SettingsError(
                "mode norm compares with the conditional branch, which this denoiser does not show; make it "
                "with steadydiff.Guided, or give a measurement"
            )
        return _CORRECTED[self.mode](self, denoise, run)

    @property
    def is_off(self) -> bool:
        """Whether these settings change nothing."""
        return self.strength == 0 or self.iterations == 0 or self.sigma_low == self.sigma_high


class _Corrected:
    """One run of DiffIER; its modes differ in `correct`.

    calls: the sampler's own model calls so far
    extra: those made beyond them
    """

    calls_model = False  # correcting costs model calls, so that it is worth waiting for whether it is due
    draws = False  # it needs noise

    def __init__(self, settings: DiffIER, denoise: Denoise, run: Run) -> None:
        self.settings, self.run = settings, run
        self.calls = self.extra = 0
        self._denoise, self._noise = denoise, PerSampleNoise(run.seed, "diffier")
        self._low, self._high = settings.window(run)
        # Some samplers call the model above the run's first sigma ("churn"), hence the double.
        self._always = self._low <= 0 and self._high >= 2 * max(run.sigmas, default=0.0)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        inside = None if self._always else (sigma >= self._low) & (sigma <= self._high)
        # Read before the model is called, as samplers read theirs: afterwards it would wait for the model.
        due = not self.calls_model or inside is None or bool(inside.any())
        denoised = self._denoise(x, sigma)
        self.calls += 1
        if self.draws:
            self._noise.see(x)
        if not due:
            return denoised
        corrected = self.correct(x, _wide(denoised), sigma).to(denoised.dtype)
        return _chosen(inside, corrected, denoised)

    def correct(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """Return the corrected clean estimate, in at least float32."""
        raise NotImplementedError

    def _drawn(self, like: Tensor, iteration: int) -> Tensor:
        """Noise of this call, as loud as that of the run's states."""
        return self.run.noise * self._noise.draw(like, self.calls, iteration)


class _Renoised(_Corrected):
    calls_model = draws = True

    def correct(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        own = self.settings
        cfg = getattr(self._denoise, "cfg", 1.0) if own.divide_by_cfg else 1.0
        strength = own.strength / max(1.0, cfg)
        going = before = None  # which samples still move, and their losses one iteration earlier
        for iteration in range(own.iterations):
            predictions = self._call_again(x, denoised, sigma, iteration)
            estimate, again = denoised, sum(predictions[1:], predictions[0]) / len(predictions)
            loss = residual_loss(estimate, again, sigma, self.run.space) / self.run.noise**2
            believed = strength * (loss / MAX_ERROR**2).clamp(min=1).rsqrt()
            denoised = _chosen(going, carry_error(estimate, again, believed), estimate)
            if own.threshold == 0 or iteration + 1 == own.iterations:
                continue
            if before is not None:
                changing = (loss - before).abs() >= own.threshold
                going = changing if going is None else going & changing
                if not going.any():
                    break
            before = loss
        return denoised

    def _call_again(self, x: Tensor, denoised: Tensor, sigma: Tensor, iteration: int) -> list[Tensor]:
        """The model's clean estimates at the noised one: one, or two of opposite noise."""
        noise, predictions = self._drawn(denoised, iteration), []
        for signed in (noise, -noise) if self.settings.antithetic else (noise,):
            at = add_noise(denoised, signed, sigma.to(denoised), self.run.space)
            predictions.append(_wide(self._denoise(at.to(x.dtype), sigma)))
            self.extra += 1
        return predictions


class _Normed(_Corrected):
    def __init__(self, settings: DiffIER, denoise: Denoise, run: Run) -> None:
        super().__init__(settings, denoise, run)
        self._table = None if settings.measurement is None else _rms_table(settings.measurement)

    def correct(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        own, wide = self.settings, _wide(x)
        level = sigma.to(wide)
        rms = _noise_rms(wide, denoised, level, self.run.space)
        if self._table is not None:
            self._table = self._table.to(sigma.device)
            target = scale_at(sigma.clamp(min=TINY), self._table).to(rms)
        else:
            branches = getattr(self._denoise, "branches", None)
            if branches is None:  # this call had no branches, so it is the conditional one itself
                return denoised
            target = _noise_rms(wide, _wide(branches[0]), level, self.run.space)
        threshold = own.threshold * self.run.noise**2
        factor = norm_factor(rms, target, own.strength, own.iterations, threshold)
        return scale_epsilon(wide, denoised, 1 / factor.clamp(min=TINY), sigma=level, space=self.run.space)


class _Predicted(_Corrected):
    """The modes that move the predicted noise itself."""

    def correct(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        level = per_sample(sigma.to(denoised), x)
        eps = _eps(x, denoised, sigma, self.run.space)
        return denoised + (eps - self.moved(eps)) * level / signal_level(level, self.run.space)

    def moved(self, eps: Tensor) -> Tensor:
        raise NotImplementedError


class _Literal(_Predicted):
    draws = True

    def moved(self, eps: Tensor) -> Tensor:
        for iteration in range(self.settings.iterations):
            eps = torch.lerp(eps, self._drawn(eps, iteration), self.settings.strength)
        return eps


class _Previous(_Predicted):
    _before: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        corrected = super().__call__(x, sigma)
        self._before = _eps(x, _wide(corrected), sigma, self.run.space)
        return corrected

    def moved(self, eps: Tensor) -> Tensor:
        if self._before is None or self._before.shape != eps.shape:
            return eps
        share = 1 - (1 - self.settings.strength) ** self.settings.iterations
        return torch.lerp(eps, self._before, share)


_CORRECTED: dict[str, type[_Corrected]] = {
    "renoise": _Renoised,
    "norm": _Normed,
    "previous": _Previous,
    "literal": _Literal,
}


def _chosen(which: Tensor | None, values: Tensor, others: Tensor) -> Tensor:
    """The values of the samples that `which` [B] names, the others of the rest; None names all."""
    return values if which is None else torch.where(which.view(-1, *(1,) * (values.ndim - 1)), values, others)


def _wide(values: Tensor) -> Tensor:
    """At least float32: half precision neither holds squares nor small corrections."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _eps(x: Tensor, denoised: Tensor, sigma: Tensor, space: Space) -> Tensor:
    # At sigma 0 there is no noise; what is then done to it is multiplied by sigma again.
    return eps_from_denoised(_wide(x), denoised, sigma.to(denoised).clamp(min=1e-6), space)


def _noise_rms(x: Tensor, denoised: Tensor, sigma: Tensor, space: Space) -> Tensor:
    """RMS of the noise that a clean estimate implies, per sample."""
    return _eps(x, denoised, sigma, space).flatten(1).square().mean(1).sqrt()


def _rms_table(measured: Measurement) -> Tensor:
    """The measured training norms as RMS per element, over log sigma, for `scale_at`."""
    per_element = math.sqrt(math.prod(measured.shape))
    return scale_table(tuple(norm / per_element for norm in measured.training_rms), measured.sigmas[:-1])


def _at_least(value: Tensor | float, least: float) -> Tensor | float:
    return value.clamp(min=least) if isinstance(value, Tensor) else max(value, least)
