"""What measures the drift of a model while it samples.

A `Recorder` records a model's own predictions, before any correction, while a sampler runs and while noised
clean samples are shown. It knows no host; `hosts/comfy/drift.py` and the benches drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, add_noise, signal_level
from ..errors import SettingsError, ShapeError, SteadyDiffError
from ..metrics.deltas import marginal_variance
from ..metrics.norms import NormCurve, predicted_norm
from ..metrics.paper import PaperCurves, energy
from ..metrics.running import Rows, RunningMoments, check_count, standard_errors
from ..metrics.spectrum import spectrum
from ..schedules import MadeFor
from .measurement import MOST_KEPT, Measurement
from .stepping import Remember, Sampler, nothing


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


# Apart from the seeds of sampling, so that noise and clean sample are independent. Not a multiple of 2**32:
# PyTorch's CPU generator takes the low 32 bits only.
TRAINING_SEEDS = 0x9E3779B9


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


def step_noise(clean: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise for one ancestral step from noised clean samples [B, C, *S], apart from both other noises."""
    return unit_noise(clean.shape[1:], [seed + 2 * TRAINING_SEEDS for seed in seeds]).to(clean)


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
