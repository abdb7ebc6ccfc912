"""ComfyUI: trains an anti-bias prompt network on a model inside one of the host's runs.

Duck-typed like `comfy.py`. The host does what it does around any run (loading, conditioning, wrappers of
other packs); our sampler function trains instead of sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..antibias_files import Card
from ..errors import SettingsError, SteadyDiffError
from ..networks.antibias_prompt import PromptNetwork
from ..training.antibias import Base, PromptLoss, Recipe, StepPairs, train_prompt
from ..training.loop import Plan
from .comfy_drift import Inner, Setup, inside_run, without_ours

LEAST_SAMPLES = 8
"""With fewer the network would learn the samples, not the model's error."""

OnStep = Callable[[int, float], None]
"""(step, loss), after every step; may raise to cancel, which keeps the state."""


def train_on_model(
    setup: Setup,
    clean: Tensor,
    network: PromptNetwork,
    schedules: tuple[tuple[float, ...], ...],
    recipe: Recipe,
    plan: Plan,
    state: Path,
    on_step: OnStep,
) -> PromptNetwork:
    """Train in place on a model without our corrections and without guidance; return the moving average.

    setup:     cfg 1; its sampler is not used
    clean:     latents [N, C, *S] in the host's units
    schedules: noise levels of whole runs

    Raises:  SettingsError before the first step; HostError for a model whose states we do not know.
    """
    check_latents(setup, clean)
    trained: list[PromptNetwork] = []

    def work(inner: Inner, x: Tensor) -> None:
        # The host runs nodes in inference mode, whose tensors training must not touch.
        with torch.inference_mode(False), torch.enable_grad():
            data = setup.model.model.process_latent_in(clean.clone()).to("cpu", torch.float32)
            base = Base(setup.space, schedules, _draw(data), _denoise(inner), setup.sigma_data)
            network.to(x.device)
            trained.append(
                train_prompt(network, base, recipe, plan, state, _Heard(network, base, recipe, on_step))
            )

    inside_run(setup, without_ours(setup), torch.zeros_like(clean[:1]), plan.seed, work)
    return trained[0].cpu()


def check_latents(setup: Setup, clean: Tensor) -> None:
    """Raise SettingsError for latents that the model or the training cannot use."""
    channels = setup.model.get_model_object("latent_format").latent_channels
    if clean.ndim < 3 or clean.shape[1] != channels:
        raise SettingsError(
            f"this model's latents have {channels} channels, got {tuple(clean.shape)}; encode with its VAE"
        )
    if len(clean) < LEAST_SAMPLES:
        raise SettingsError(
            f"{len(clean)} samples are too few to learn from; give {LEAST_SAMPLES} or more, better thousands"
        )
    if not clean.isfinite().all():
        raise SettingsError("the latents hold values that are not finite numbers; encode the pictures again")


def card_for(setup: Setup, recipe: Recipe, schedules: tuple[tuple[float, ...], ...], training: dict) -> Card:
    """Return what a file must say of a network that was trained on this model."""
    return Card(
        target=recipe.target,
        space=setup.space,
        sigma_data=setup.sigma_data,
        sigma_range=StepPairs.of(schedules).sigma_range,
        base=type(setup.model.model).__name__,
        family=type(setup.model.model.model_config).__name__,
        latent_format=type(setup.model.get_model_object("latent_format")).__name__,
        training=training,
    )


class _Heard(PromptLoss):
    """The loss, with a word to the host after every step."""

    def __init__(self, network: PromptNetwork, base: Base, recipe: Recipe, on_step: OnStep):
        super().__init__(network, base, recipe)
        self._on_step, self._steps = on_step, 0

    def __call__(self, rng: torch.Generator, seed: int) -> dict[str, Tensor]:
        figures = super().__call__(rng, seed)
        loss = float(figures["loss"].detach())
        if loss != loss:
            raise SteadyDiffError(
                "the loss is not a number any more; lower the learning rate and start again"
            )
        self._steps += 1
        self._on_step(self._steps, loss)
        return figures


def _draw(data: Tensor) -> Callable[[int, torch.Generator], tuple[Tensor, Any]]:
    return lambda n, rng: (data[torch.randint(len(data), (n,), generator=rng)], None)


def _denoise(inner: Inner) -> Callable[[Tensor, Tensor, Any], Tensor]:
    def denoise(x: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        with torch.inference_mode():
            denoised = inner.ask_plainly(x, sigma)
        return denoised.clone()

    return denoise
