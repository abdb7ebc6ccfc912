"""WebUI: measures a model's drift and finds a schedule against it, inside one of the host's own runs.

The sampler's next run becomes ours: it samples, calls the model and repeats as the core wants, with the
prompts, the guidance and the model the host has made ready, and hands the host the clean samples as its
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoiser import Denoise, add_noise
from ...drift.calibration import as_method, calibrate, calibrate_variance, remarks, samples_needed
from ...drift.measurement import Measurement, own_samples
from ...drift.recorder import Recorder, noise_for, refine, unit_noise
from ...drift.steady import steady
from ...drift.stepping import draws_noise, fixed_rng
from ...errors import HostError, SettingsError
from ...schedules import MadeFor, Schedule
from ..kept import Kept
from .attach import WebuiHost, take_over
from .run import RunSetup


@dataclass(frozen=True)
class DriftRequest:
    """What is to be found.

    method:    one of `calibration.METHODS`
    refine:    into how many the steps of the clean samples are divided
    seed:      of the first sample
    scheduler: name of the noise levels' way down, and
    model:     of the checkpoint, both for people
    """

    method: str
    refine: int
    seed: int
    scheduler: str | None = None
    model: str | None = None


def calibrate_next(
    sampler: Any,
    host: WebuiHost,
    request: DriftRequest,
    found: Callable[[Schedule, Measurement, list[str]], None],
) -> None:
    """Let the sampler's next run find a schedule for runs like it; SteadyDiffError comes out of that run."""

    def work(setup: RunSetup) -> Tensor:
        schedule, measurement, said, clean = calibrate_run(setup, request)
        found(schedule, measurement, said)
        return clean

    work_in_run(sampler, host, work)


def work_in_run(sampler: Any, host: WebuiHost, work: Callable[[RunSetup], Tensor]) -> None:
    """Let the sampler's next run be ours: `work` returns what the host takes for its samples."""

    def sample(original, model, x, *args, **kwargs):
        setup = RunSetup.of(original, model, x, kwargs, host.route(model))
        try:
            return work(setup)
        except RecursionError as error:  # hosts take it for a run the user has cancelled
            raise HostError(
                f"the sampler {setup.sampler} ended in a RecursionError at the finer steps of a "
                f"calibration; choose another, or a smaller refine"
            ) from error

    take_over(sampler, sample)


def calibrate_run(setup: RunSetup, request: DriftRequest) -> tuple[Schedule, Measurement, list[str], Tensor]:
    """Return a schedule for runs like this one, the measurement behind it, how far to trust it in sentences,
    and clean samples in the place of the run's own.

    Where the sampler draws noise, whole batches are added until the samples are enough.
    """
    check_levels(setup)
    run, x = setup.run, setup.x
    drawn = draws_noise(setup.sample, torch.zeros_like(x[:1]), run)
    count = math.ceil(samples_needed(len(x), drawn) / len(x)) * len(x)
    seeds = range(request.seed, request.seed + count)
    first = first_states(setup, seeds)
    evaluate = InnerModel(setup)
    recorder = Recorder(run, setup.step_calls())
    recorded = recorder.around(evaluate)
    with fixed_rng(first):
        clean = setup.sample(evaluate, first, refine(run.sigmas, request.refine))
    with fixed_rng(first):
        recorder.sample(setup.sample, recorded, first, evaluate.remember)
    recorder.train(recorded, clean, noise_for(clean, seeds))
    made_for = MadeFor(setup.sampler, request.scheduler, run.steps, setup.cfg, request.model, run.sigmas)
    taken = own_samples(run.steps * request.refine)
    measurement = recorder.measurement(request.seed, taken, made_for=made_for)
    if request.method == "variance":
        spectrum = torch.tensor(measurement.clean_spectrum, dtype=torch.float64)
        result = calibrate_variance(setup.sample, evaluate, first, run, spectrum, remember=evaluate.remember)
    else:
        goals = torch.tensor(recorder.training_norms)
        result = calibrate(setup.sample, evaluate, first, run, goals, remember=evaluate.remember)
    scales = steady(result.scales, result.errors, run.sigmas, run.space)
    schedule = Schedule(*as_method(request.method, scales), made_for)
    return schedule, measurement, remarks(result, count, drawn, measurement.is_own), clean[: len(x)]


def check_levels(setup: RunSetup) -> None:
    """Raise SettingsError for a sampler that cannot be taken through other noise levels."""
    if "sigmas" not in setup.kwargs:
        raise SettingsError(
            f"the sampler {setup.sampler} does not go through noise levels of its scheduler one by one; "
            f"calibrate with Euler, Heun, DPM++ 2M or another that does"
        )


def first_states(setup: RunSetup, seeds: Sequence[int]) -> Tensor:
    """Return the states [N, C, *S] that the run begins with, from a seed each."""
    noise = unit_noise(setup.x.shape[1:], seeds).to(setup.x)
    run = setup.run
    return add_noise(torch.zeros_like(noise), run.noise * noise, run.sigmas[0], run.space)


class InnerModel:
    """The host's model, which takes its place in the run, for prompts that change, from sigma.

    It is asked for as many samples at a time as the run has, for which the host has made the prompts ready;
    each such part meets what it has left itself in the memory of other extensions' functions.
    """

    def __init__(self, setup: RunSetup, on_call: Callable[[], None] = lambda: None) -> None:
        """on_call: called after every call of the host's model."""
        self._setup, self._on_call, self._begun = setup, on_call, setup.kept()
        self._left: dict[int, Kept] = {}
        model = setup.model
        self._calls_per_step = max(1, (model.total_steps or 0) // max(1, model.steps or 0))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._predicted(x, sigma, self._setup.kwargs["extra_args"])

    def unguided(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean estimate under the positive prompt alone."""
        return self._predicted(x, sigma, {**self._setup.kwargs["extra_args"], "cond_scale": 1.0})

    @property
    def unprompted(self) -> Denoise | None:
        """The model under the negative prompt alone; None where the host has left that out."""
        sent = self._setup.kwargs["extra_args"]
        if sent.get("uncond") is None:
            return None
        return lambda x, sigma: self._predicted(x, sigma, {**sent, "cond_scale": 0.0})

    def _predicted(self, x: Tensor, sigma: Tensor, sent: dict[str, Any]) -> Tensor:
        setup, model, sigmas = self._setup, self._setup.model, self._setup.run.sigmas[:-1]
        level, batch, predictions = float(sigma[0]) * (1 + 1e-4), len(self._setup.x), []
        parts = zip(x.split(batch), sigma.to(x).split(batch), strict=True)
        for number, (part, at) in enumerate(parts):
            self._left.get(number, self._begun).restore()
            model.step = min(sum(one > level for one in sigmas), len(sigmas) - 1) * self._calls_per_step
            rows = [min(row, len(part) - 1) for row in range(batch)]  # the last part may be smaller
            predictions.append(model(part[rows], at[rows], **sent)[: len(part)])
            self._left[number] = setup.kept()
            self._on_call()
        return torch.cat(predictions)

    def remember(self) -> Callable[[], None]:
        """Note the memory of other extensions' functions; return what puts it back."""
        noted = {**self._left}

        def restore() -> None:
            self._left = {**noted}

        return restore
