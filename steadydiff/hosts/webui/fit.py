"""WebUI: chooses a correction by the rule of `drift/fit.py` inside one of the host's own runs, keeps it, and
finds the one that matches a run.

Built on `drift.py`: the sampler's next run becomes ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...drift import saved_fit
from ...drift.correction import PLAIN
from ...drift.digest import digest
from ...drift.fit import Fit, Problem, fit
from ...drift.fit_plan import FitPlan, check_count, fit_key, own_references, problem_of
from ...drift.measurement import own_samples
from ...drift.meter import Meter
from ...drift.recorder import check_reference, refine
from ...drift.saved_fit import SavedFit, Unfinished, file_name, methods_of
from ...drift.stepping import fixed_rng
from ...files.atomic import check_writable
from ...schedules import MadeFor
from ..patch import Patch
from .attach import Planned, WebuiHost
from .drift import InnerModel, check_levels, first_states, work_in_run
from .run import RunSetup


@dataclass(frozen=True)
class FitKey:
    """What a fit is kept under beside the run itself.

    folder:    where fits are kept
    weights:   what tells the checkpoint with its LoRAs from others, in JSON's terms
    model:     the checkpoint's name, and
    scheduler: the noise levels' way down, for people
    """

    folder: Path
    weights: Any
    model: str | None = None
    scheduler: str | None = None

    def of(self, setup: RunSetup, plan: FitPlan) -> tuple[str, MadeFor, Path]:
        """Return the key of a run's fit, what it is made for, and its file."""
        run, cfg = setup.run, float(setup.cfg or 0)
        made_for = MadeFor(setup.sampler, self.scheduler, run.steps, cfg, self.model, run.sigmas)
        key = fit_key(self.weights, run, [setup.sampler], cfg, plan)
        return key, made_for, self.folder / file_name(made_for, key)


@dataclass(frozen=True)
class FitRequest:
    """What is to be measured.

    plan:       how much; the run's batch is taken
    prompt:     digest of the prompts
    again:      measure though a fit is kept
    say:        told how far it is
    references: real pictures' clean latents [M, C, *S] in the model's own units, None: its own samples serve
    source:     where these come from, in words
    seen:       what tells their pictures from others; their latents differ by size, and by draws of a VAE
    """

    key: FitKey
    plan: FitPlan
    prompt: str
    again: bool = False
    say: Callable[[str], None] = lambda text: None
    references: Tensor | None = None
    source: str = ""
    seen: str | None = None


def fit_next(
    sampler: Any, host: WebuiHost, request: FitRequest, found: Callable[[SavedFit, Path, bool], None]
) -> None:
    """Let the sampler's next run measure; `found` is told the fit, its file, and whether it was kept before.

    SteadyDiffError comes out of that run.
    """

    def work(setup: RunSetup) -> Tensor:
        check_levels(setup)
        key, made_for, file = request.key.of(setup, request.plan)
        source = request.source or own_samples(setup.run.steps * request.plan.refine)
        kept = None if request.again else saved_fit.load(file, key)
        before = kept is not None and (kept.references, kept.seen) == (source, request.seen)
        if kept is None or not before:
            made, unfinished = _measured(setup, request, key, file)
            shape = tuple(setup.x.shape[1:])
            count, said = request.plan.pictures, request.prompt
            kept = SavedFit(key, made, made_for, count, source, said, shape, request.seen)
            saved_fit.save(file, kept)
            unfinished.end()
        found(kept, file, before)
        return setup.x

    work_in_run(sampler, host, work)


def _measured(setup: RunSetup, request: FitRequest, key: str, file: Path) -> tuple[Fit, Unfinished]:
    """Measure; what was measured when it is cancelled is gone on from next time."""
    shape, plan, real = setup.x.shape[1:], replace(request.plan, batch=len(setup.x)), request.references
    count = None if real is None else len(real)
    if real is not None:
        check_count(len(real))
        check_reference(real, shape)
    per_run = setup.step_calls()[-1] + 1
    check_writable(file)
    problem = digest(problem_of(key, request.prompt, shape, plan), plan.batch, request.seen)
    unfinished = Unfinished(file.with_suffix(".safetensors"), problem)
    least, most = plan.calls(per_run, count)
    done = plan.calls_made(per_run, count, unfinished.own, unfinished.done)
    inner = InnerModel(setup, Meter(least, most, done, per_run / plan.batch, request.say))
    begin = inner.remember()

    def sampler(denoise: Any, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
        begin()
        return setup.sample(denoise, x, sigmas)

    def draw(seeds: Sequence[int]) -> Tensor:
        first = first_states(setup, seeds)
        with torch.no_grad(), fixed_rng(first, seeds[0]):
            return sampler(inner, first, refine(setup.run.sigmas, plan.refine)).cpu()

    real = own_references(plan, unfinished, draw) if real is None else real
    seeds = range(plan.seed, plan.seed + plan.pictures)
    start = first_states(setup, seeds)
    problem = Problem(
        sampler,
        inner,
        start,
        setup.run,
        inner.unguided,
        real.to(start),
        judge_references=inner.unguided,
        unprompted=None if request.references is None else inner.unprompted,
    )
    return fit(problem, plan.settings, unfinished.done, lambda name: unfinished.save()), unfinished


def use_matching(setup: RunSetup, key: FitKey, plan: FitPlan) -> Planned:
    """Return what the fit that is kept for this run applies, and what is said of it; nothing if none is.

    Raises:  SettingsError for a file that cannot be read.
    """
    name, made_for, file = key.of(setup, plan)
    kept = saved_fit.load(file, name)
    if kept is None:
        return Planned((), f"no fit for {made_for.sampler}, {made_for.steps} steps, cfg {made_for.cfg:g}")
    if kept.fit.correction == PLAIN:
        return Planned((), "the fit leaves this model as it is")
    methods = methods_of(kept.fit.correction, kept.made_for, setup.run)
    return Planned(tuple(map(Patch, methods)), f"fit {kept.fit.correction}")
