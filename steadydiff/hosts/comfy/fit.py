"""ComfyUI: chooses a correction by the rule of `drift/fit.py` inside the host's own runs, and attaches it.

Duck-typed like `drift.py`, and built on its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...denoiser import Denoise
from ...drift.correction import Correction
from ...drift.digest import described
from ...drift.fit import Fit, Problem, Progress, fit
from ...drift.fit_plan import FitPlan, check_count, fit_key, in_batches
from ...drift.recorder import check_reference, unit_noise
from ...drift.saved_fit import methods_of
from ...drift.stepping import fixed_rng
from ...errors import SettingsError, ShapeError
from ..patch import Patch
from .attach import attach, patches_of, without_ours
from .drift import InnerRun, Setup, inside_run, sample_finely, steps_of

TENSORS = 16  # of a model's weights that are looked at


def check_fit(setup: Setup, shape: Sequence[int], references: int | None) -> int:
    """Refuse what cannot be fitted, in a sentence; return how many model calls a run of the sampler makes.

    shape:      [C, *S] of one latent
    references: how many real pictures there are; None: the model's own samples serve

    Raises:  SettingsError, ShapeError or HostError. No model call.
    """
    check_bare(patches_of(setup.model, setup.host))
    if references is not None:
        check_count(references)
    if len(shape) < 3:
        raise ShapeError(f"pictures or videos are needed; this model's latents are {list(shape)}")
    steps = steps_of(setup, shape)
    if steps.wants_branches:
        raise SettingsError(
            "this sampler steps along the unconditional estimate as well, where a correction cannot be "
            "tried; choose euler, or another that is not of the CFG++ kind"
        )
    return steps.starts[-1] + 1


def check_bare(carried: Sequence[Patch]) -> None:
    """Raise SettingsError for a model that carries corrections of ours."""
    if carried:
        names = ", ".join(patch.settings.title for patch in carried)
        raise SettingsError(
            f"the model carries {names} already, and corrections add up; connect the model without them "
            f"here, and put other nodes of SteadyDiff behind this one"
        )


def draw_reference(setup: Setup, shape: Sequence[int], refine: int, seeds: Sequence[int]) -> Tensor:
    """Return the model's own finely stepped samples [N, C, *S], in the host's units."""
    with fixed_rng(torch.empty(0, device=setup.model.load_device), seeds[0]):
        return sample_finely(setup, shape, seeds, refine)


def fit_model(
    setup: Setup,
    shape: Sequence[int],
    references: Tensor,
    plan: FitPlan,
    done: Progress,
    on_trial: Callable[[str], None],
    are_own: bool = False,
) -> Fit:
    """Choose a correction for a model as it is, without ours.

    shape:      [C, *S] of one latent
    references: clean latents [M, C, *S] in the host's units, and
    are_own:    whether they are the model's own samples, which the prompt has asked for
    done, on_trial: as for `drift.fit.fit`

    Raises:  ShapeError before the first model call; SettingsError for pictures of something else than the
             prompt asks for; SteadyDiffError for NaN.
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

        judge = in_batches(inner.evaluate_unguided, plan.batch)
        unprompted = None if are_own else inner.unprompted
        problem = Problem(
            sampler,
            in_batches(inner.evaluate, plan.batch),
            start,
            setup.run,
            judge,
            real.to(start),
            judge_references=judge,
            unprompted=unprompted and in_batches(unprompted, plan.batch),
        )
        found.append(fit(problem, plan.settings, done, on_trial))

    # The host reserves memory for as many as it is handed: a batch.
    for part in others:
        inside_run(setup, bare, part, plan.seed, lambda inner, x: states.append(x))
    inside_run(setup, bare, first, plan.seed, work)
    return found[0]


def corrected(setup: Setup, correction: Correction) -> Any:
    """Return the set-up's model with what a fit chose, itself where that is nothing."""
    model = setup.model
    for method in methods_of(correction, setup.made_for, setup.run):
        model = attach(model, Patch(method), setup.host)
    return model


def key_of(setup: Setup, plan: FitPlan, pictures: str | None) -> str:
    """Return the key of a fit: the model with its LoRAs and patches, the run, and how much is measured.

    pictures: a digest of the images, None without: the model's own samples
    """
    sampler = setup.made_for.sampler, described(setup.sampler.extra_options, tensors=False)
    reference = plan.refine if pictures is None else pictures
    return fit_key(fingerprint(setup.model), setup.run, sampler, setup.cfg, plan, reference)


def fingerprint(model: Any) -> Any:
    """Return what tells a model with its LoRAs and patches from others, in JSON's terms.

    Class, names and shapes of the weights and some of their numbers as they were loaded, every patch of the
    weights, and by name and numbers what else hangs on the model.
    """
    weights = model.model_state_dict("diffusion_model.")
    names = sorted(weights)
    chosen = names[:: max(1, len(names) // TENSORS)]
    wrappers = {kind: held for kind, held in model.wrappers.items() if held}  # without what was taken off
    loaded = {name: getattr(model.backup.get(name), "weight", weights[name]) for name in chosen}
    return [
        type(model.model).__name__,
        [[name, list(weights[name].shape)] for name in names],
        described(loaded),
        described(model.patches),
        described([model.object_patches, model.model_options, wrappers], tensors=False),
    ]
