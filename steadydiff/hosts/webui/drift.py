"""WebUI: measures a model's drift and finds a schedule against it, inside one of the host's own runs.

The sampler's next run becomes ours: it samples, calls the model and repeats as the core wants, with the
prompts, the guidance and the model the host has made ready, and hands the host the clean samples as its
pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoiser import add_noise
from ...drift.calibration import (
    as_method,
    calibrate,
    calibrate_variance,
    remarks,
    samples_needed,
    steady,
)
from ...drift.measurement import Measurement, Recorder, noise_for, own_samples, refine, unit_noise
from ...drift.stepping import Remember, draws_noise, fixed_rng
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

    def sample(original, model, x, *args, **kwargs):
        setup = RunSetup.of(original, model, x, kwargs, host.route(model))
        try:
            schedule, measurement, said, clean = calibrate_run(setup, request)
        except RecursionError as error:  # hosts take it for a run the user has cancelled
            raise HostError(
                f"the sampler {setup.sampler} ended in a RecursionError at the finer steps of a "
                f"calibration; choose another, or a smaller refine"
            ) from error
        found(schedule, measurement, said)
        return clean

    take_over(sampler, sample)


def calibrate_run(setup: RunSetup, request: DriftRequest) -> tuple[Schedule, Measurement, list[str], Tensor]:
    """Return a schedule for runs like this one, the measurement behind it, how far to trust it in sentences,
    and clean samples in the place of the run's own.

    Where the sampler draws noise, whole batches are added until the samples are enough.
    """
    if "sigmas" not in setup.kwargs:
        raise SettingsError(
            f"the sampler {setup.sampler} does not go through noise levels of its scheduler one by one; "
            f"calibrate with Euler, Heun, DPM++ 2M or another that does"
        )
    run, x = setup.run, setup.x
    drawn = draws_noise(setup.sample, torch.zeros_like(x[:1]), run)
    count = math.ceil(samples_needed(len(x), drawn) / len(x)) * len(x)
    seeds = range(request.seed, request.seed + count)
    noise = unit_noise(x.shape[1:], seeds).to(x)
    first = add_noise(torch.zeros_like(noise), run.noise * noise, run.sigmas[0], run.space)
    evaluate, remember = _evaluator(setup)
    recorder = Recorder(run, setup.step_calls())
    recorded = recorder.around(evaluate)
    with fixed_rng(first):
        clean = setup.sample(evaluate, first, refine(run.sigmas, request.refine))
    with fixed_rng(first):
        recorder.sample(setup.sample, recorded, first, remember)
    recorder.train(recorded, clean, noise_for(clean, seeds))
    made_for = MadeFor(setup.sampler, request.scheduler, run.steps, setup.cfg, request.model, run.sigmas)
    taken = own_samples(run.steps * request.refine)
    measurement = recorder.measurement(request.seed, taken, made_for=made_for)
    if request.method == "variance":
        spectrum = torch.tensor(measurement.clean_spectrum, dtype=torch.float64)
        result = calibrate_variance(setup.sample, evaluate, first, run, spectrum, remember=remember)
    else:
        goals = torch.tensor(recorder.training_norms)
        result = calibrate(setup.sample, evaluate, first, run, goals, remember=remember)
    scales = steady(result.scales, result.errors, run.sigmas, run.space)
    schedule = Schedule(*as_method(request.method, scales), made_for)
    return schedule, measurement, remarks(result, count, drawn, measurement.is_own), clean[: len(x)]


def _evaluator(setup: RunSetup) -> tuple[Callable[[Tensor, Tensor], Tensor], Remember]:
    """Return the host's model, which takes its place in the run, for prompts that change, from sigma, and
    what notes the memory of other extensions' functions.

    It is asked for as many samples at a time as the run has, for which the host has made the prompts ready;
    each such part meets what it has left itself in that memory.
    """
    model, sigmas, begun = setup.model, setup.run.sigmas[:-1], setup.kept()
    left: dict[int, Kept] = {}
    calls_per_step = max(1, (model.total_steps or 0) // max(1, model.steps or 0))

    def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
        level, predictions = float(sigma[0]) * (1 + 1e-4), []
        parts = zip(x.split(len(setup.x)), sigma.to(x).split(len(setup.x)), strict=True)
        for number, (part, at) in enumerate(parts):
            left.get(number, begun).restore()
            model.step = min(sum(one > level for one in sigmas), len(sigmas) - 1) * calls_per_step
            predictions.append(model(part, at, **setup.kwargs["extra_args"]))
            left[number] = setup.kept()
        return torch.cat(predictions)

    def remember() -> Callable[[], None]:
        noted = {**left}
        return lambda: left.update(noted)

    return evaluate, remember
