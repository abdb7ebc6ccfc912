"""ComfyUI: measures and calibrates a model by running its own sampler inside one of the host's runs.

Duck-typed like `comfy.py`. A SAMPLER of ours, whose function is handed the host's first state and model,
calls the user's sampler function as often as the core calls. Everything the host does around a run (loading,
conditioning, wrappers of other packs) thus happens as in any other run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...denoiser import Denoise, Run, Space
from ...drift.calibration import Calibration, calibrate, calibrate_variance, samples_needed
from ...drift.measurement import Measurement, own_samples
from ...drift.recorder import Recorder, check_reference, noise_for, refine, step_noise, unit_noise
from ...drift.stepping import Remember, draws_noise, step_calls
from ...errors import HostError, SettingsError
from ...model_names import PRODUCTS, name_of
from ...schedules import MadeFor
from ..kept import Kept
from ..patch import StandIn
from .attach import patches_of, without_ours
from .cfg_pp import added_functions, show_branches
from .host import KEY, ComfyHost, run_of, sampler_name, sigma_data_of


@dataclass(frozen=True)
class Setup:
    """What a user connected, and what the face knows of the host.

    guide:      model -> a guider with the user's conditioning and cfg
    as_sampler: sampler function -> SAMPLER of the host
    scheduler:  name of the scheduler whose sigmas these are, if known
    on_call:    called with the clean estimate after every model call; may raise to cancel
    prepare:    (conditioning, a state) -> conditioning as the model's calls take it
    """

    model: Any
    sampler: Any
    sigmas: Tensor
    cfg: float
    guide: Callable[[Any], Any]
    as_sampler: Callable[[Callable], Any]
    host: ComfyHost
    scheduler: str | None = None
    on_call: Callable[[Tensor], None] = lambda denoised: None
    prepare: Callable[[Any, Tensor], Any] | None = None

    def __post_init__(self) -> None:
        if getattr(self.sampler, "sampler_function", None) is None:
            raise HostError(
                f"a {type(self.sampler).__name__} does not show its steps; choose a sampler of KSamplerSelect"
            )
        if len(self.sigmas) < 2:
            raise SettingsError("sigmas holds no step; connect those of a run that samples")

    @property
    def run(self) -> Run:
        """The run's facts; HostError for a model whose states we do not know."""
        return run_of(self.model.get_model_object("model_sampling"), self.sigmas)

    @property
    def space(self) -> Space:
        return self.run.space

    @property
    def sigma_data(self) -> float:
        return sigma_data_of(self.model.get_model_object("model_sampling"), self.space)

    @property
    def made_for(self) -> MadeFor:
        """What a measurement or schedule of this set-up is for."""
        return MadeFor(
            sampler=sampler_name(self.sampler),
            scheduler=self.scheduler,
            steps=self.run.steps,
            cfg=self.cfg,
            model=type(self.model.model).__name__,
            sigmas=self.run.sigmas,
        )


@dataclass(frozen=True)
class Steps:
    """How a sampler goes through a run, found without the model.

    starts:         which model calls begin the run's steps
    wants_branches: whether it steps along a branch of guidance as well
    draws_noise:    whether noise of its own enters its states
    """

    starts: tuple[int, ...]
    wants_branches: bool
    draws_noise: bool


def measure_model(
    setup: Setup,
    shape: Sequence[int],
    seeds: Sequence[int],
    reference: Tensor | None,
    times: int,
    batch: int,
    paper: bool = False,
    source: str = "given",
) -> tuple[Measurement, Tensor]:
    """Measure a model with whatever patches it carries; return the measurement and the clean latents used.

    shape:     [C, *S] of one latent
    seeds:     one per sample
    reference: clean latents [N, C, *S] in the host's units, used in turn; None: the model's own samples,
               taken without our corrections and with every step divided into `times`
    batch:     samples at a time, which bounds memory
    source:    where a given reference comes from, in words
    paper:     whether to measure the paper's δ, Δ and e as well, at one more run of the sampler

    Raises:  SettingsError, ShapeError or HostError before the first model call; SteadyDiffError for NaN.
    """
    starts = steps_of(setup, shape).starts
    if reference is not None:
        check_reference(reference, shape)
    recorder, used = Recorder(setup.run, starts), []
    for at in range(0, len(seeds), batch):
        part = seeds[at : at + batch]
        if reference is None:
            clean = sample_finely(setup, shape, part, times)
        else:
            clean = reference[[(at + j) % len(reference) for j in range(len(part))]]
        _measure_batch(setup, recorder, part, clean, paper)
        used.append(clean)
    taken = source if reference is not None else own_samples(setup.run.steps * times)
    label = "; ".join(str(patch) for patch in patches_of(setup.model, setup.host))
    return recorder.measurement(seeds[0], taken, label, setup.made_for), torch.cat(used)


def calibrate_model(
    setup: Setup, measurement: Measurement, count: int, target: Literal["norm", "variance"] = "norm"
) -> tuple[Calibration, int, bool]:
    """Find λ for every step of the measured run, on the model without our corrections.

    count:   samples, the first ones of the measurement, and how many are called at a time; more are taken
             where the sampler draws noise
    Returns: what was found, on how many samples, and whether the sampler draws noise
    target:  "norm" meets the predicted noise of training, "variance" the spectrum of noised clean samples
    Raises:  SettingsError or HostError before the first model call, also for a sampler that steps along the
             unconditional estimate and for another model than was measured; SteadyDiffError for NaN.
    """
    made_on, model = measurement.made_for.model, type(setup.model.model).__name__
    if made_on not in (None, model):
        meant, now = PRODUCTS.get(made_on, made_on), name_of(setup.model.model)
        raise SettingsError(f"the measurement was made on a {meant}, this is a {now}; measure it")
    steps = check_calibration(setup, measurement.shape)
    if target == "variance" and not measurement.clean_spectrum:
        raise SettingsError("this measurement is of an earlier version and holds no spectrum; measure again")
    known = measurement.training_norms
    most = min(measurement.count, len(known) or measurement.count)
    taken = min(samples_needed(count, steps.draws_noise), most)
    seeds = [measurement.seed + j for j in range(taken)]
    found: list[Calibration] = []

    def work(inner: InnerRun, x: Tensor) -> None:
        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            parts = zip(x.split(count), sigma.split(count), strict=True)
            return torch.cat([inner.evaluate(*part) for part in parts])

        if target == "norm":
            goals = torch.tensor(known[:taken]) if known else measurement.training_rms
            found.append(calibrate(inner.sample, evaluate, x, setup.run, goals, remember=inner.remember(x)))
            return
        clean = torch.tensor(measurement.clean_spectrum, dtype=torch.float64)
        found.append(
            calibrate_variance(inner.sample, evaluate, x, setup.run, clean, remember=inner.remember(x))
        )

    inside_run(
        setup, without_ours(setup.model, setup.host), unit_noise(measurement.shape, seeds), seeds[0], work
    )
    return found[0], taken, steps.draws_noise


def check_calibration(setup: Setup, shape: Sequence[int]) -> Steps:
    """Return how the sampler goes through the run; raise as `calibrate_model` does for a set-up that cannot
    be calibrated, whatever was measured.

    shape: [C, *S] of one latent. No model call.
    """
    steps = steps_of(setup, shape)
    if steps.wants_branches:
        raise SettingsError(
            "this sampler steps along the unconditional estimate as well, so that no single scale meets the "
            "norms; calibrate with euler, or another that is not of the CFG++ kind"
        )
    return steps


def steps_of(setup: Setup, shape: Sequence[int]) -> Steps:
    """Return how the sampler goes through the run. No model call."""
    _check(setup, shape)
    found = []

    def work(inner: InnerRun, x: Tensor) -> None:
        inner.without_model = True
        starts, drawn = step_calls(inner.sample, x, setup.run), draws_noise(inner.sample, x, setup.run)
        found.append(Steps(starts, inner.wants_branches, drawn))

    bare = without_ours(setup.model, setup.host)
    inside_run(setup, bare, unit_noise(shape, [0]), 0, work)
    return found[0]


def _check(setup: Setup, shape: Sequence[int]) -> None:
    """Refuse what cannot be sampled, in a sentence, before anything is loaded."""
    channels = setup.model.get_model_object("latent_format").latent_channels
    if shape[0] != channels:
        raise SettingsError(
            f"this model's latents have {channels} channels, got {shape[0]}; connect an empty latent for it"
        )
    most = float(setup.model.get_model_object("model_sampling").sigma_max)
    if setup.run.steps and setup.run.sigmas[0] < most / 2:
        raise SettingsError(
            f"the run starts at sigma {setup.run.sigmas[0]:.4g}, the model at {most:.4g}; set denoise to 1 "
            f"to measure"
        )


def sample_finely(setup: Setup, shape: Sequence[int], seeds: Sequence[int], times: int) -> Tensor:
    """The model's own clean samples [B, C, *S] in the host's units, by a run of many small steps."""
    fine = torch.tensor(refine(setup.run.sigmas, times), dtype=torch.float32)
    noise = unit_noise(shape, seeds)
    guider = setup.guide(without_ours(setup.model, setup.host))

    def callback(step, denoised, x, total):
        setup.on_call(denoised)

    return guider.sample(
        noise,
        torch.zeros_like(noise),
        setup.sampler,
        fine,
        callback=callback,
        disable_pbar=True,
        seed=seeds[0],
    ).cpu()


def _measure_batch(
    setup: Setup, recorder: Recorder, seeds: Sequence[int], clean: Tensor, paper: bool
) -> None:
    """One run and one round of noised clean samples, within one run of the host; for the paper's curves a
    second run, from noised clean samples."""
    hooked = setup.model.clone()

    def record(executor, x, timestep, model_options={}, seed=None):  # noqa: B006  # the host's
        recorded = recorder.around(lambda x, sigma: executor(x, sigma, model_options, seed))
        return recorded(x, timestep)

    # Under our own key and after our own wrapper: what is recorded has not been corrected yet.
    hooked.add_wrapper_with_key(setup.host.predict_noise, KEY, record)
    inner_clean = setup.model.model.process_latent_in(clean)

    def work(inner: InnerRun, x: Tensor) -> None:
        recorder.sample(inner.sample, inner.evaluate, x, inner.remember(x))
        noise, fresh = noise_for(inner_clean, seeds).to(x), step_noise(inner_clean, seeds).to(x)
        recorder.train(inner.evaluate_plainly, inner_clean.to(x), noise, fresh if paper else None)

    def pair(inner: InnerRun, x: Tensor) -> None:
        recorder.pair(inner.sample, inner.evaluate, inner_clean.to(x), noise_for(inner_clean, seeds).to(x))

    for one in (work, pair) if paper else (work,):
        inside_run(setup, hooked, unit_noise(clean.shape[1:], seeds), seeds[0], one)


def inside_run(
    setup: Setup, model: Any, noise: Tensor, seed: int, work: Callable[[InnerRun, Tensor], None]
) -> None:
    """Open a run of the host over the set-up's sigmas, and let `work` do as it likes with its first state."""

    def function(model, x, sigmas, extra_args=None, callback=None, disable=None):
        work(InnerRun(setup, model, extra_args or {}), x)
        return x

    function.__name__ = setup.sampler.sampler_function.__name__  # schedules look at it
    guider = setup.guide(model)
    guider.sample(
        noise,
        torch.zeros_like(noise),
        setup.as_sampler(function),
        setup.sigmas,
        disable_pbar=True,
        seed=seed,
    )


class InnerRun:
    """The user's sampler as the core knows samplers, and the host's model as the core knows denoisers."""

    def __init__(self, setup: Setup, model: Any, extra_args: dict) -> None:
        self._setup, self._model, self._extra = setup, model, extra_args
        self._more = dict(extra_args)
        self.wants_branches = self.without_model = False

    def evaluate(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Call the host's model, with what the sampler last sent along."""
        denoised = self._model(x, sigma.to(x), **self._more)
        self._setup.on_call(denoised)
        return denoised

    def remember(self, x: Tensor) -> Remember:
        """Return what notes what other packs' functions keep from call to call, of states of this size."""
        return lambda: Kept(self._extra.get("model_options"), copied=2 * x.numel()).restore

    def evaluate_plainly(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Call as `evaluate` does, with a state that is no sampler's and that nothing may rectify."""
        own = self._model
        while isinstance(self._model, StandIn):  # one for each method that rectifies
            self._model = self._model.own
        try:
            return self.evaluate(x, sigma)
        finally:
            self._model = own

    def evaluate_unguided(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Call as `evaluate` does, for the positive prompt alone."""
        guider = self._model.inner_model
        weight, guider.cfg = guider.cfg, 1.0
        try:
            return self.evaluate(x, sigma)
        finally:
            guider.cfg = weight

    @property
    def unprompted(self) -> Denoise | None:
        """The model under the negative prompt alone; None where the run has none."""
        conds = self._model.inner_model.conds
        if "negative" not in conds:
            return None

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            positive, conds["positive"] = conds["positive"], conds["negative"]
            try:
                return self.evaluate_unguided(x, sigma)
            finally:
                conds["positive"] = positive

        return evaluate

    def condition(self, conditioning: Any, x: Tensor) -> None:
        """From now on call with this conditioning of the host's, one row per sample of x."""
        assert self._setup.prepare is not None
        self._model.inner_model.conds["positive"] = self._setup.prepare(conditioning, x)

    def sample(self, denoise: Denoise, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
        """Run the user's sampler function on any denoiser."""
        own, levels = self._setup.sampler, torch.tensor(sigmas, dtype=torch.float32, device=x.device)
        model = StandIn(self._model, lambda x, sigma, more: self._predict(denoise, x, sigma, more))
        try:
            return own.sampler_function(
                model,
                x,
                levels,
                extra_args=dict(self._extra),
                callback=None,
                disable=True,
                **own.extra_options,
            )
        finally:
            self._more = dict(self._extra)

    def _predict(self, denoise: Denoise, x: Tensor, sigma: Tensor, more: dict) -> Tensor:
        self._more = more
        added = added_functions(more, self._extra)
        self.wants_branches |= bool(added)
        denoised = denoise(x, sigma)
        if self.without_model:
            show_branches(added, denoised, x, sigma)
        return denoised
