"""WebUI: measures a model's drift and finds a schedule against it, inside one of the host's own runs.

The sampler's next run becomes ours: it samples, asks and repeats as the core wants, with the prompts, the
guidance and the model the host has made ready, and hands the host the clean samples as its pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...denoiser import add_noise
from ...drift.calibration import as_method, calibrate, calibrate_variance
from ...drift.measurement import Measurement, Recorder, noise_for, refine, unit_noise
from ...drift.stepping import same_luck
from ...errors import HostError, SettingsError
from ...schedules import MadeFor, Schedule
from .attach import WebuiHost, take_over
from .run import Start


@dataclass(frozen=True)
class Order:
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
    sampler: Any, host: WebuiHost, order: Order, found: Callable[[Schedule, Measurement], None]
) -> None:
    """Let the sampler's next run find a schedule for runs like it; SteadyDiffError comes out of that run."""

    def sample(original, model, x, *args, **kwargs):
        start = Start.of(original, model, x, kwargs, host.route(model))
        try:
            schedule, measurement, clean = calibrate_run(start, order)
        except RecursionError as error:  # hosts take it for a run the user has cancelled
            raise HostError(
                f"the sampler {start.sampler} ended in a RecursionError at the finer steps of a "
                f"calibration; choose another, or a smaller refine"
            ) from error
        found(schedule, measurement)
        return clean

    take_over(sampler, sample)


def calibrate_run(start: Start, order: Order) -> tuple[Schedule, Measurement, Tensor]:
    """Return a schedule for runs like this one, the measurement behind it, and the clean samples used."""
    if "sigmas" not in start.kwargs:
        raise SettingsError(
            f"the sampler {start.sampler} does not go through noise levels of its scheduler one by one; "
            f"calibrate with Euler, Heun, DPM++ 2M or another that does"
        )
    run, x = start.run, start.x
    seeds = range(order.seed, order.seed + len(x))
    noise = unit_noise(x.shape[1:], seeds).to(x)
    first = add_noise(torch.zeros_like(x), run.noise * noise, run.sigmas[0], run.space)
    ask = _asking(start)
    recorder = Recorder(run, start.step_calls())
    heard = recorder.around(ask)
    with same_luck(x):
        clean = start.sample(ask, first, refine(run.sigmas, order.refine))
    with same_luck(x):
        recorder.sample(start.sample, heard, first)
    recorder.train(heard, clean, noise_for(clean, seeds))
    made_for = MadeFor(start.sampler, order.scheduler, run.steps, start.cfg, order.model, run.sigmas)
    taken = f"own samples of {run.steps * order.refine} steps"
    measurement = recorder.measurement(order.seed, taken, made_for=made_for)
    if order.method == "variance":
        spectrum = torch.tensor(measurement.clean_spectrum, dtype=torch.float64)
        result = calibrate_variance(start.sample, ask, first, run, spectrum)
    else:
        result = calibrate(start.sample, ask, first, run, measurement.training_rms)
    return Schedule(*as_method(order.method, result.scales), made_for), measurement, clean


def _asking(start: Start) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the host's model, which takes its place in the run, for prompts that change, from sigma."""
    model, sigmas = start.model, start.run.sigmas[:-1]
    calls_per_step = max(1, (model.total_steps or 0) // max(1, model.steps or 0))

    def ask(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma[0]) * (1 + 1e-4)
        model.step = min(sum(at > level for at in sigmas), len(sigmas) - 1) * calls_per_step
        return model(x, sigma.to(x), **start.kwargs["extra_args"])

    return ask
