"""Training an anti-bias network on a model of the host, for the node and the command line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import comfy.samplers
import torch

from ...steadydiff.files.antibias import save_prompt
from ...steadydiff.hosts.comfy.train import Samples, card_for, train_on_model
from ...steadydiff.methods.antibias_prompt import Band
from ...steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from ...steadydiff.training.antibias import AntiBiasRecipe
from ...steadydiff.training.distributed import team
from ...steadydiff.training.loop import Plan
from .set_up import make_setup
from .training import progress

# What people mostly sample with, and hosts of all versions have.
SCHEDULERS = {"ve": ("normal", "karras"), "flow": ("simple", "normal")}


def train(
    model,
    samples: Samples,
    config: PromptConfig,
    recipe: AntiBiasRecipe,
    plan: Plan,
    numbers: Sequence[int],
    file: Path,
    state: Path,
    about: dict,
    **of_base: str,
) -> tuple[Band, ...]:
    """Train on a model of the host for runs of so many steps, write the file, and return what it explains.

    about:   for people who read the file
    of_base: what the file's card shall say of the model
    """
    euler, sigmas = comfy.samplers.sampler_object("euler"), levels(model, "normal", max(numbers))
    setup = make_setup(model, samples.captions[0], samples.captions[0], euler, sigmas, 1.0, plan.steps)
    # A preview of every step would cost more than the step.
    setup = replace(setup, on_call=lambda denoised: None)
    schedulers = SCHEDULERS[setup.space]
    schedules = tuple(tuple(levels(model, name, n).tolist()) for name in schedulers for n in numbers)
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(plan.seed)
        network = PromptNetwork(config)
    on_step = progress(plan.steps)
    trained, bands = train_on_model(setup, samples, network, schedules, recipe, plan, state, on_step)
    about = {
        **about,
        **plan.facts,
        "samples": len(samples.clean),
        "schedulers": schedulers,
        "recipe": vars(recipe),
    }
    if not team().rank:
        save_prompt(file, trained, replace(card_for(setup, recipe, schedules, bands, about), **of_base))
    return bands


def levels(model, scheduler: str, steps: int) -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
