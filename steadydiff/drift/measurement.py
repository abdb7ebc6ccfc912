"""The drift of a model while it samples, measured: what is recorded, and the `Measurement` that carries it.

A `Recorder` records a model's own predictions, before any correction, while a sampler runs and while noised
clean samples are shown. It knows no host; `hosts/comfy_drift.py` and the benches drive it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, add_noise, check_space, signal_level
from ..errors import SettingsError, ShapeError, SteadyDiffError
from ..metrics.deltas import marginal_variance
from ..metrics.norms import NormCurve, norm_quotient, predicted_norm
from ..metrics.paper import PAPER_CURVES, PaperCurves, energy
from ..metrics.running import Rows, RunningMoments, check_count, standard_errors
from ..metrics.spectrum import ring_count, spectrum
from ..schedules import MadeFor, parsed
from .stepping import Remember, Sampler, nothing

MEASUREMENT_FORMAT = "steadydiff.measurement"
MEASUREMENT_VERSION = 1
CURVES = (
    "sampling_norm",
    "training_norm",
    "sampling_rms",
    "training_rms",
    "state_variance",
    "expected_variance",
)
OWN_SAMPLES = "own samples"
FEW_STEP_ONLY = "few-step error only, not the model's own bias"
"""What a model's own samples show as reference: the bias that made them is in them, and cancels."""

MOST_KEPT = 256
"""Of so many samples a measurement holds the norms one by one."""


@dataclass(frozen=True)
class Measurement:
    """What a model predicts while it samples, beside what it predicts on noised clean samples.

    space, sigmas: the run, the final sigma included
    count, shape:  how many samples, and the shape [C, *S] of one
    seed:          of the first sample's noise; sample j has seed + j
    reference:     where the clean samples came from, in words
    sampling_norm: mean L2 norm of the predicted noise at each step of the run, and
    training_norm: on clean samples noised to the same sigma
    sampling_rms:  as sampling_norm, but the root of the mean square, and
    training_rms:  as training_norm, likewise
    state_variance:    variance of the sampler's states, mean over elements, the final one included, and
    expected_variance: of noised clean samples, alpha² Var(x0) + sigma²
    clean_spectrum:    `spectrum` of the clean samples, [C][R], and
    training_norms:    the norms behind training_norm, [N][steps], of the first MOST_KEPT samples; both empty
                       in measurements of earlier versions
    delta:          `delta_paper` of the states of runs that begin at noised clean samples, the final one
                    included, in the units of x; this and the next two are empty unless asked for
    step_delta:     `single_step_error` after one ancestral step from a truly noised sample, at each step, and
    estimate_error: e, root mean square error of the clean estimate there
    standard_errors: of norms, "quotient", "variance_error" and the three above, by name, over the samples;
                    empty in measurements of earlier versions
    label:         what corrected the model, in words; "" = nothing of ours
    made_for:      sampler, cfg and model it was measured with
    """

    space: Space
    sigmas: tuple[float, ...]
    count: int
    shape: tuple[int, ...]
    seed: int
    reference: str
    sampling_norm: tuple[float, ...]
    training_norm: tuple[float, ...]
    sampling_rms: tuple[float, ...]
    training_rms: tuple[float, ...]
    state_variance: tuple[float, ...]
    expected_variance: tuple[float, ...]
    clean_spectrum: tuple[tuple[float, ...], ...] = ()
    training_norms: tuple[tuple[float, ...], ...] = ()
    delta: tuple[float, ...] = ()
    step_delta: tuple[float, ...] = ()
    estimate_error: tuple[float, ...] = ()
    standard_errors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    label: str = ""
    made_for: MadeFor = field(default_factory=MadeFor)

    def __post_init__(self) -> None:
        Run(self.space, self.sigmas)
        numbers, texts = (self.seed, self.count, *self.shape), (self.reference, self.label)
        if not all(type(n) is int for n in numbers) or len(self.shape) < 2 or min(numbers[1:]) < 1:
            raise SettingsError(f"seed, count and shape [C, *S] are whole numbers; got {numbers}")
        if not all(type(text) is str for text in texts):
            raise SettingsError("a measurement's reference and label are texts")
        for name in (*CURVES, *PAPER_CURVES):
            values = getattr(self, name)
            given = values or name in CURVES
            object.__setattr__(self, name, self._checked(name, values) if given else ())
        errors = {name: self._checked(name, values) for name, values in self.standard_errors.items()}
        object.__setattr__(self, "standard_errors", errors)
        self._check_rows("clean_spectrum", self.shape[0], ring_count(self.shape))
        self._check_rows("training_norms", min(self.count, MOST_KEPT), len(self.sigmas) - 1)

    def _checked(self, name: str, values: Sequence[float]) -> tuple[float, ...]:
        """A curve's values; those of states have one more than the run has steps."""
        of_states = name.endswith("variance") or name in ("delta", "variance_error")
        expected = len(self.sigmas) - (not of_states)
        values = tuple(float(value) for value in values)
        if len(values) != expected or not all(map(math.isfinite, values)):
            raise SettingsError(
                f"a measurement of {len(self.sigmas) - 1} steps has {expected} finite values of {name}; "
                f"got {len(values)}"
            )
        return values

    def _check_rows(self, name: str, count: int, length: int) -> None:
        rows = tuple(tuple(float(value) for value in row) for row in getattr(self, name))
        if rows and len(rows) != count or any(len(row) != length for row in rows):
            raise SettingsError(f"{name} of this measurement has {count} rows of {length} values")
        if not all(math.isfinite(value) and value >= 0 for row in rows for value in row):
            raise SettingsError(f"{name} holds finite values, none negative")
        object.__setattr__(self, name, rows)

    @property
    def run(self) -> Run:
        """The run that was measured."""
        return Run(self.space, self.sigmas, self.seed)

    @property
    def is_own(self) -> bool:
        """Whether the clean samples were the model's own."""
        return self.reference.startswith(OWN_SAMPLES)

    @property
    def shows(self) -> str:
        """What the curves show with this reference, in words."""
        return FEW_STEP_ONLY if self.is_own else "few-step error and the model's own bias"

    @property
    def quotient(self) -> tuple[float, ...]:
        """ΔN per step, see `norm_quotient`."""
        return norm_quotient(self.sampling_norm, self.training_norm)

    @property
    def variance_error(self) -> tuple[float, ...]:
        """Variance of the states over what it should be, minus 1; one more value than steps."""
        pairs = zip(self.state_variance, self.expected_variance, strict=True)
        return tuple(state / expected - 1 if expected else 0.0 for state, expected in pairs)

    def summary(self) -> dict[str, float]:
        """The drift in three numbers: mean and largest |ΔN - 1|, and the final variance error."""
        off = [abs(quotient - 1) for quotient in self.quotient]
        return {
            "mean_norm_drift": sum(off) / len(off),
            "largest_norm_drift": max(off),
            "final_variance_error": self.variance_error[-1],
        }

    def to_json(self) -> str:
        """Write the measurement as JSON text; what it was made for is listed as far as it is known."""
        data = asdict(self)
        data["made_for"] = {name: value for name, value in data["made_for"].items() if value is not None}
        data["curves"] = {name: data.pop(name) for name in CURVES}
        return json.dumps({"format": MEASUREMENT_FORMAT, "version": MEASUREMENT_VERSION, **data})

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> Measurement:
        """Read a measurement from JSON text, or from what a JSON parser made of it.

        Raises:  SettingsError if it is none, of another version, or its values do not fit together.
        """
        data = parsed(source, "a measurement")
        if data.get("format") != MEASUREMENT_FORMAT or data.get("version") != MEASUREMENT_VERSION:
            raise SettingsError(
                f"a measurement is JSON of format {MEASUREMENT_FORMAT!r}, version {MEASUREMENT_VERSION}; got "
                f"format {data.get('format')!r}, version {data.get('version')!r}"
            )
        try:
            return cls(**_facts(data))
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise SettingsError(f"this measurement is damaged: {error}") from error


class Recorder:
    """Gathers one measurement, batch after batch; memory does not grow with their number.

    A model's raw predictions must come through `around`; corrections go outside it. Then, for every batch,
    `sample` runs the sampler and `train` shows noised clean samples.
    """

    def __init__(self, run: Run, starts: Sequence[int]) -> None:
        """starts: which model calls of a run begin its steps, from `step_calls`."""
        self.run = run
        self._starts = {call: step for step, call in enumerate(starts)}
        self._record: Callable[[Tensor, Tensor], None] | None = None
        self._sampling, self._training = NormCurve(run.steps), NormCurve(run.steps)
        self._states = [RunningMoments() for _ in run.sigmas]
        self._clean, self._clean_spectrum = RunningMoments(), RunningMoments()
        self._kept: list[Callable[[], None]] = []  # before each of the sampler's steps, and at the end
        self._paper = PaperCurves(run, MOST_KEPT)
        self._centres: dict[int, Tensor] = {}
        places = {"sampling": run.steps, "training": run.steps, "states": run.steps + 1, "clean": 1}
        self._rows = {name: Rows(count, MOST_KEPT) for name, count in places.items()}

    def around(self, denoise: Denoise) -> Denoise:
        """Return a denoiser that is recorded."""
        return _Recorded(denoise, self)

    def sample(self, sampler: Sampler, denoise: Denoise, x: Tensor, remember: Remember = nothing) -> Tensor:
        """Sample a batch from its first states [B, C, *S] and return the final ones."""
        calls, self._kept = 0, []

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            step = self._starts.get(calls)
            calls += 1
            if step is None:
                return denoise(x, sigma)
            self._kept.append(remember())
            return self._recording(record(step), denoise, x, sigma)

        def record(step: int) -> Callable[[Tensor, Tensor], None]:
            def recorded(x: Tensor, denoised: Tensor) -> None:
                norms = self._norms(x, denoised, step)
                self._sampling.add(step, norms)
                self._rows["sampling"].add(step, norms)
                self._add_state(step, x)

            return recorded

        final = sampler(evaluate, x, self.run.sigmas)
        self._add_state(self.run.steps, _finite(final, "the sampler's result"))
        self._kept.append(remember())
        return final

    def pair(self, sampler: Sampler, denoise: Denoise, clean: Tensor, noise: Tensor) -> None:
        """Run the sampler from clean samples [B, C, *S] noised to its first level, for the paper's δ.

        Source:  Ning et al., 2023, arXiv 2308.15321, algorithms 1 and 3.
        """
        calls = 0

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            step = self._starts.get(calls)
            calls += 1
            if step is not None:
                self._paper.add_state(step, x, clean)
            return denoise(x, sigma)

        first = add_noise(clean, self.run.noise * noise, self.run.sigmas[0], self.run.space)
        self._paper.add_state(self.run.steps, sampler(evaluate, first, self.run.sigmas), clean)

    def train(self, denoise: Denoise, clean: Tensor, noise: Tensor, fresh: Tensor | None = None) -> None:
        """Show the model a batch of clean samples [B, C, *S], noised to each sigma of the run.

        What is kept beside the model is, at each, what the sampled batch met there.

        fresh: noise for one ancestral step from each of them, for the paper's Δ and e; None: without

        Source:  Ning et al., 2023, arXiv 2308.15321, algorithm 2 and equation 14, with any correction.
        """
        self._clean.add(_finite(clean, "a clean sample"))
        self._rows["clean"].add(0, self._spread_of_each(-1, clean))
        self._clean_spectrum.add(torch.stack([spectrum(sample[None]) for sample in clean]))
        for step, sigma in enumerate(self.run.sigmas[:-1]):
            at = torch.full((len(clean),), sigma, dtype=torch.float32, device=clean.device)

            def record(x: Tensor, denoised: Tensor, step: int = step) -> None:
                norms = self._norms(x, denoised, step)
                self._training.add(step, norms)
                self._rows["training"].add(step, norms)

            if self._kept:
                self._kept[step]()
            x = add_noise(clean, self.run.noise * noise, at, self.run.space)
            denoised = self._recording(record, denoise, x, at)
            if fresh is not None:
                self._paper.add_step(step, x, denoised, clean, self.run.noise * fresh)
        if self._kept:
            self._kept[-1]()

    @property
    def sampling_rms(self) -> tuple[float, ...]:
        """Root mean squared norm of the predicted noise per step of the runs."""
        return self._sampling.rms

    @property
    def training_rms(self) -> tuple[float, ...]:
        """The same on noised clean samples."""
        return self._training.rms

    @property
    def training_norms(self) -> tuple[tuple[float, ...], ...]:
        """The norms on noised clean samples, [N][steps], of the first MOST_KEPT samples."""
        return tuple(map(tuple, self._rows["training"].values.tolist()))

    @property
    def state_variance(self) -> tuple[float, ...]:
        """Variance of the states before each step and of the final ones, mean over elements."""
        return tuple(float(state.variance.mean()) for state in self._states)

    def measurement(
        self, seed: int, reference: str, label: str = "", made_for: MadeFor | None = None
    ) -> Measurement:
        """Return what was gathered as a `Measurement`."""
        run, clean_variance = self.run, float(self._clean.variance.mean())
        return Measurement(
            space=run.space,
            sigmas=run.sigmas,
            count=check_count(self._states[-1].count),
            shape=tuple(self._states[-1].mean.shape),
            seed=seed,
            reference=reference,
            sampling_norm=self._sampling.mean,
            training_norm=self._training.mean,
            sampling_rms=self.sampling_rms,
            training_rms=self.training_rms,
            state_variance=self.state_variance,
            expected_variance=tuple(
                marginal_variance(clean_variance, s, run.space, run.noise) for s in run.sigmas
            ),
            clean_spectrum=tuple(map(tuple, self._clean_spectrum.mean.tolist())),
            training_norms=self.training_norms,
            **self._paper.curves,
            standard_errors=self._standard_errors(),
            label=label,
            made_for=made_for or MadeFor(sigmas=run.sigmas),
        )

    def _standard_errors(self) -> dict[str, tuple[float, ...]]:
        """Of every curve, from the samples whose values are known one by one."""
        count, rows = self._states[-1].count, {name: kept.values for name, kept in self._rows.items()}
        sampling, training = rows["sampling"], rows["training"]
        sigmas = torch.tensor(self.run.sigmas, dtype=torch.float64)
        expected = rows["clean"] * signal_level(sigmas, self.run.space) ** 2 + (self.run.noise * sigmas) ** 2
        return {
            "sampling_norm": standard_errors(sampling, count),
            "training_norm": standard_errors(training, count),
            "quotient": standard_errors(off_quotient(sampling, training), count),
            "variance_error": standard_errors(off_quotient(rows["states"], expected), count),
            **self._paper.standard_errors,
        }

    def _add_state(self, step: int, x: Tensor) -> None:
        self._states[step].add(x)
        self._rows["states"].add(step, self._spread_of_each(step, x))

    def _spread_of_each(self, place: int, x: Tensor) -> Tensor:
        """Mean square of each sample about the mean of the first batch there, or about 0 if that is one."""
        x = x.cpu().double()
        mean = x.mean(0) if len(x) > 1 else torch.zeros_like(x[0])
        return energy(x - self._centres.setdefault(place, mean))

    def _norms(self, x: Tensor, denoised: Tensor, step: int) -> Tensor:
        sigma = self.run.sigmas[step]
        _finite(denoised, f"the model's answer at step {step + 1}, sigma {sigma:.4g},")
        return predicted_norm(x, denoised, sigma, self.run.space)

    def _recording(
        self, record: Callable[[Tensor, Tensor], None], denoise: Denoise, x: Tensor, sigma: Tensor
    ) -> Tensor:
        """Call, and let `record` have the model's first prediction; further ones are a correction's own."""
        self._record = record
        try:
            return denoise(x, sigma)
        finally:
            self._record = None


class _Recorded:
    """A denoiser a recorder records; it shows what the one within does, see `Guided`."""

    def __init__(self, denoise: Denoise, recorder: Recorder) -> None:
        self._denoise: Any = denoise
        self._recorder = recorder

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        denoised = self._denoise(x, sigma)
        record, self._recorder._record = self._recorder._record, None
        if record is not None:
            record(x, denoised)
        return denoised

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoise, name)


def unit_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Gaussian noise of exactly its expected energy, one seed per sample.

    Shapes:  shape [C, *S] of one sample; result [B, C, *S], on the CPU.
    Units:   the mean square of each sample is 1. By chance alone the norms of 16 samples of 256 elements
             would differ by 1 % from draw to draw, as much as the drift that is to be measured.
    """
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]
    return torch.stack([one / one.square().mean().sqrt() for one in noise])


def noise_for(clean: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise for clean samples, with chance taken out: unit energy, and no correlation with its own sample.

    Shapes:  clean, result [B, C, *S].
    Units:   the energy of alpha·x0 + sigma·noise is then exactly alpha² |x0|² + sigma² n, which for free
             noise holds only on average.
    """
    noise = unit_noise(clean.shape[1:], [seed + TRAINING_SEEDS for seed in seeds]).to(clean)
    dims = tuple(range(1, clean.ndim))
    power = clean.square().sum(dims, keepdim=True)
    share = (noise * clean).sum(dims, keepdim=True) / power.clamp(min=torch.finfo(power.dtype).tiny)
    noise = noise - share * clean
    return noise / noise.square().mean(dims, keepdim=True).sqrt()


def own_samples(steps: int) -> str:
    """Return in words that a model's own samples of so many steps are the reference."""
    return f"{OWN_SAMPLES} of {steps} steps"


def step_noise(clean: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise for one ancestral step from noised clean samples [B, C, *S], apart from both other noises."""
    return unit_noise(clean.shape[1:], [seed + 2 * TRAINING_SEEDS for seed in seeds]).to(clean)


# Apart from the seeds of sampling, so that noise and clean sample are independent. Not a multiple of 2**32:
# PyTorch's CPU generator takes the low 32 bits only.
TRAINING_SEEDS = 0x9E3779B9


def refine(sigmas: Sequence[float], times: int) -> tuple[float, ...]:
    """Divide every step into `times`: evenly in log sigma, the step to 0 evenly in sigma.

    Raises:  SettingsError unless times is at least 1.
    """
    if times < 1:
        raise SettingsError(f"a step is divided into at least 1; got {times}")
    fine: list[float] = []
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        shares = [i / times for i in range(times)]
        fine += [a * (b / a) ** share if b else a * (1 - share) for share in shares]
    return (*fine, sigmas[-1])


def check_reference(clean: Tensor, shape: Sequence[int]) -> None:
    """Raise ShapeError unless clean samples have the shape [C, *S] that is sampled."""
    if tuple(clean.shape[1:]) != tuple(shape):
        raise ShapeError(
            f"reference latents have the model's own shape, {list(shape)} here; got {list(clean.shape[1:])}: "
            f"encode the pictures with this model's VAE, at the size that is sampled"
        )


def off_quotient(over: Tensor, under: Tensor) -> Tensor:
    """How far each sample is off the quotient of two means: its share in that quotient's error.

    Shapes:  over, under, result [N, places], paired sample by sample.
    """
    mean = under.mean(0)
    off = (over - over.mean(0) / mean * under) / mean
    return off.nan_to_num(0.0, 0.0, 0.0)


def _finite(values: Tensor, what: str) -> Tensor:
    if not values.isfinite().all():
        raise SteadyDiffError(f"{what} holds NaN or infinity; nothing was measured")
    return values


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass's arguments from the parsed file; what we do not know is dropped."""
    check_space(data["space"])
    known = {entry.name for entry in fields(Measurement)}
    facts = {name: value for name, value in {**data, **data["curves"]}.items() if name in known}
    names = {entry.name for entry in fields(MadeFor)}
    made_for = {name: value for name, value in data.get("made_for", {}).items() if name in names}
    return facts | {
        "sigmas": tuple(map(float, data["sigmas"])),
        "shape": tuple(map(int, data["shape"])),
        "made_for": MadeFor(**made_for),
    }
