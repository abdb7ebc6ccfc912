"""ComfyUI: chooses a correction by the rule of `drift/fit.py` inside the host's own runs, and attaches it.

Duck-typed like `drift.py`, and built on its runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...denoiser import Denoise
from ...drift.fit import (
    LEAST_PICTURES,
    Correction,
    Fit,
    FitSettings,
    Problem,
    Progress,
    first_tries,
    fit,
)
from ...drift.kept_fit import VERSION, described, digest, lambda_schedule
from ...drift.measurement import check_reference, unit_noise
from ...drift.signs import RATIOS
from ...drift.stepping import fixed_rng
from ...errors import SettingsError, ShapeError
from ...methods.epsilon_scaling import EpsilonScaling
from ..patch import Patch
from .attach import attach, patches_of, without_ours
from .drift import InnerRun, Setup, inside_run, sample_finely, steps_of

TENSORS = 16  # of a model's weights that are looked at
MOST_SORTED = 2**20


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    pictures: samples, with seeds from `seed` on; the model's own references, if needed, have the next ones
    batch:    how many are called at a time, which bounds memory
    refine:   into how many each step of the model's own references is divided
    settings: of the rule
    """

    pictures: int
    batch: int = 4
    refine: int = 4
    seed: int = 0
    settings: FitSettings = field(default_factory=FitSettings)

    @property
    def runs(self) -> int:
        """Sampling runs at most."""
        tries = len(first_tries(low=True, diffier=self.settings.diffier, s_noise=False))
        return self.settings.runs if self.settings.thorough else min(self.settings.runs, 1 + tries)

    def batches(self, count: int) -> int:
        return math.ceil(count / self.batch)

    def calls(self, per_run: int, references: int | None) -> tuple[int, int]:
        """Return how many model calls are made at least and at most.

        per_run:    of them in a sampling run
        references: how many real pictures there are; None: the model's own samples serve
        """
        real = self.batches(self.pictures if references is None else references)
        before = real * (len(RATIOS) + (per_run * self.refine if references is None else 0))
        one = self.batches(self.pictures) * (per_run + len(RATIOS))
        return before + one, before + self.runs * one

    def calls_made(self, per_run: int, references: int | None, own: Tensor | None, done: Progress) -> int:
        """Return how many of these were made for what is known."""
        made = 0 if own is None else self.batches(len(own)) * per_run * self.refine
        for name, kept in done.items():
            count = references if name == "references" else None
            made += int(kept["calls"]) * self.batches(self.pictures if count is None else count)
        return made


def check_fit(setup: Setup, shape: Sequence[int], references: int | None) -> int:
    """Refuse what cannot be fitted, in a sentence; return how many model calls a run of the sampler makes.

    shape:      [C, *S] of one latent
    references: how many real pictures there are; None: the model's own samples serve

    Raises:  SettingsError, ShapeError or HostError. No model call.
    """
    if carried := patches_of(setup.model, setup.host):
        names = ", ".join(patch.settings.title for patch in carried)
        raise SettingsError(
            f"the model carries {names} already, and corrections add up; connect the model without them "
            f"here, and put other nodes of SteadyDiff behind this one"
        )
    if references is not None and references < LEAST_PICTURES:
        raise SettingsError(f"at least {LEAST_PICTURES} images are needed, 32 are good; got {references}")
    if len(shape) < 3:
        raise ShapeError(f"pictures or videos are needed; this model's latents are {list(shape)}")
    steps = steps_of(setup, shape)
    if steps.wants_branches:
        raise SettingsError(
            "this sampler steps along the unconditional estimate as well, where a correction cannot be "
            "tried; choose euler, or another that is not of the CFG++ kind"
        )
    return steps.starts[-1] + 1


def own_references(
    setup: Setup, shape: Sequence[int], plan: Plan, known: Tensor | None, on_batch: Callable[[Tensor], None]
) -> Tensor:
    """Return the model's own finely stepped samples [N, C, *S] in the host's units, as references.

    known:    those that were made before
    on_batch: told all so far after every batch
    """
    first = plan.seed + plan.pictures
    while known is None or len(known) < plan.pictures:
        made = 0 if known is None else len(known)
        seeds = range(first + made, first + min(made + plan.batch, plan.pictures))
        with fixed_rng(torch.empty(0, device=setup.model.load_device), seeds[0]):
            drawn = sample_finely(setup, shape, seeds, plan.refine)
        known = drawn if known is None else torch.cat([known, drawn])
        on_batch(known)
    return without_outliers(known)


def without_outliers(pictures: Tensor) -> Tensor:
    """Clip latents to what all but 1 in 100 numbers lie in: nothing else bounds a model's own samples, and a
    few exploded ones would rule every figure."""
    flat = pictures.flatten().float()
    ends = flat[:: -(-len(flat) // MOST_SORTED)].quantile(torch.tensor([0.005, 0.995]))
    return pictures.clamp(*ends.tolist())


def fit_model(
    setup: Setup,
    shape: Sequence[int],
    references: Tensor,
    plan: Plan,
    done: Progress,
    on_trial: Callable[[str], None],
) -> Fit:
    """Choose a correction for a model as it is, without ours.

    shape:      [C, *S] of one latent
    references: clean latents [M, C, *S] in the host's units
    done, on_trial: as for `drift.fit.fit`

    Raises:  ShapeError before the first model call; SteadyDiffError for NaN.
    """
    check_reference(references, shape)
    bare = without_ours(setup.model, setup.host)
    real = setup.model.model.process_latent_in(references)
    noise = unit_noise(shape, range(plan.seed, plan.seed + plan.pictures))
    first, *others = noise.split(plan.batch)
    states: list[Tensor] = []
    found: list[Fit] = []

    def work(inner: InnerRun, x: Tensor) -> None:
        start = torch.cat([x, *states])
        restore = inner.remember(start)()

        def sampler(denoise: Denoise, x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
            restore()
            return inner.sample(denoise, x, sigmas)

        def in_batches(evaluate: Denoise) -> Denoise:
            def evaluated(x: Tensor, sigma: Tensor) -> Tensor:
                parts = zip(x.split(plan.batch), sigma.split(plan.batch), strict=True)
                return torch.cat([evaluate(*part) for part in parts])

            return evaluated

        judge = in_batches(inner.evaluate_unguided)
        problem = Problem(
            sampler,
            in_batches(inner.evaluate),
            start,
            setup.run,
            judge,
            real.to(start),
            judge_references=judge,
        )
        found.append(fit(problem, plan.settings, done, on_trial))

    # The host reserves memory for as many as it is handed: a batch.
    for part in others:
        inside_run(setup, bare, part, plan.seed, lambda inner, x: states.append(x))
    inside_run(setup, bare, first, plan.seed, work)
    return found[0]


def corrected(setup: Setup, correction: Correction) -> Any:
    """Return the set-up's model with what a fit chose, itself where that is nothing.

    Its lambda becomes a schedule over the run, which other runs read off by level, and are told that they
    differ.
    """
    model, methods = setup.model, replace(correction, scale=1.0).methods(setup.run)
    if schedule := lambda_schedule(correction, setup.made_for):
        methods = (*methods, EpsilonScaling(schedule=schedule))
    for method in methods:
        model = attach(model, Patch(method), setup.host)
    return model


def key_of(setup: Setup, plan: Plan, pictures: str | None) -> str:
    """Return the key of a fit: the model with its LoRAs and patches, the run, and how much is measured.

    pictures: a digest of the images, None without: the model's own samples
    """
    run, sampler = setup.run, setup.sampler
    return digest(
        VERSION,
        fingerprint(setup.model),
        [run.space, run.noise, setup.made_for.sampler, described(sampler.extra_options, tensors=False)],
        [f"{sigma:.6g}" for sigma in run.sigmas],
        float(setup.cfg),
        [plan.pictures, asdict(plan.settings), plan.refine if pictures is None else pictures],
    )


def problem_of(key: str, prompt: str, shape: Sequence[int], plan: Plan) -> str:
    """Return a digest of all that what was tried so far depends on."""
    return digest(key, prompt, list(shape), plan.seed)


def fingerprint(model: Any) -> Any:
    """Return what tells a model with its LoRAs and patches from others, in JSON's terms.

    Class, names and shapes of the weights and some of their numbers as they were loaded, every patch of the
    weights, and by name and numbers what else hangs on the model.
    """
    weights = model.model_state_dict("diffusion_model.")
    names = sorted(weights)
    chosen = names[:: max(1, len(names) // TENSORS)]
    loaded = {name: getattr(model.backup.get(name), "weight", weights[name]) for name in chosen}
    return [
        type(model.model).__name__,
        [[name, list(weights[name].shape)] for name in names],
        described(loaded),
        described(model.patches),
        described([model.object_patches, model.model_options, model.wrappers], tensors=False),
    ]
