"""ComfyUI: trains an anti-bias prompt network on a model inside one of the host's runs.

Duck-typed like `comfy.py`. The host does what it does around any run (loading, conditioning, wrappers of
other packs); our sampler function trains instead of sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError, SettingsError
from ...files.antibias import AntiBiasCard
from ...methods.antibias_prompt import Band
from ...model_names import name_of
from ...networks.antibias_prompt import PromptNetwork
from ...networks.xi_head import patch_of
from ...training.antibias import (
    UNCONDITIONAL,
    AntiBiasBase,
    AntiBiasRecipe,
    StepPairs,
    measure_bands,
    split_off,
    train_prompt,
)
from ...training.loop import OnStep, Plan
from .attach import without_ours
from .drift import InnerRun, Setup, inside_run

LEAST_SAMPLES = 8
"""With fewer the network would learn the samples, not the model's error."""

Conditioning = list[tuple[Tensor, dict[str, Any]]]
"""As the host hands it from node to node: texts [1, T, D] with what belongs to them."""


def check_input(model: Any) -> None:
    """Raise HostError for a model whose network reads more than the noisy latent."""
    network = model.get_model_object("diffusion_model")
    channels = model.get_model_object("latent_format").latent_channels
    known = (channels, channels * patch_of(network) ** 2)  # SD3 counts channels, Flux those of a patch
    if getattr(network, "in_channels", channels) not in known:
        raise HostError(
            f"this {name_of(model.model)} reads more than the noisy latent (an inpainting or editing "
            f"model); train on the model it was made from"
        )


@dataclass(frozen=True)
class Samples:
    """What a network is trained on.

    clean:    latents [N, C, *S] in the host's units
    captions: conditioning of each, or one for all
    empty:    conditioning without a caption, for some of the samples; None: none is dropped

    Raises:  SettingsError for latents and captions of different numbers, and where `check` does.
    """

    clean: Tensor
    captions: Sequence[Conditioning]
    empty: Conditioning | None = None

    def __post_init__(self) -> None:
        if len(self.captions) not in (1, len(self.clean)):
            raise SettingsError(
                f"there are {len(self.captions)} captions for {len(self.clean)} samples; give one for each, "
                f"or one for all"
            )

    def check(self, model: Any) -> None:
        """Raise SettingsError for latents that the model or the training cannot use, HostError for a model
        that cannot be trained on latents alone."""
        check_input(model)
        clean, channels = self.clean, model.get_model_object("latent_format").latent_channels
        if clean.ndim < 3 or clean.shape[1] != channels:
            raise SettingsError(
                f"this model's latents have {channels} channels, got {tuple(clean.shape)}; encode with its "
                f"VAE"
            )
        if len(clean) < LEAST_SAMPLES:
            raise SettingsError(
                f"{len(clean)} samples are too few to learn from; give {LEAST_SAMPLES} or more, better "
                f"thousands"
            )
        if not clean.isfinite().all():
            raise SettingsError(
                "the latents hold values that are not finite numbers; encode the pictures again"
            )

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n samples: their places, and those of their captions, -1 where there shall be none."""
        rows = torch.randint(len(self.clean), (n,), generator=rng)
        return rows, self.captioned(rows, rng)

    def captioned(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Return the places of these samples' captions, -1 where there shall be none."""
        captions = rows % len(self.captions)
        if self.empty is not None:
            captions[torch.rand(len(rows), generator=rng) < UNCONDITIONAL] = -1
        return captions

    def conditioning(self, captions: Tensor) -> Conditioning:
        """Join the captions at these places."""
        known = [self.captions[at] if at >= 0 else self.empty for at in captions.tolist()]
        return joined([caption for caption in known if caption is not None])

    def latents(self, model: Any) -> Tensor:
        """The clean latents in the units of the model's sampler."""
        return model.model.process_latent_in(self.clean.clone()).to("cpu", torch.float32)


def joined(captions: Sequence[Conditioning]) -> Conditioning:
    """Return one conditioning with a row for each of these; shorter texts are repeated, as the host does it.

    Raises:  SettingsError for texts whose lengths have no short common multiple.
    """
    rows = [caption[0] for caption in captions]
    if all(row is rows[0] for row in rows):
        return [rows[0]]
    lengths = {text.shape[1] for text, _ in rows}
    length = math.lcm(*lengths)
    if length > 4 * max(lengths):
        raise SettingsError(
            f"captions have {', '.join(map(str, sorted(lengths)))} tokens, which do not fit into one batch; "
            f"shorten the longest ones"
        )

    def stretched(value: Tensor, text: Tensor) -> Tensor:
        per_token = value.ndim > 1 and value.shape[1] == text.shape[1]
        return torch.cat([value] * (length // text.shape[1]), 1) if per_token else value

    more = {
        name: torch.cat([stretched(own[name], text) for text, own in rows])
        if isinstance(value, Tensor)
        else value
        for name, value in rows[0][1].items()
    }
    return [(torch.cat([stretched(text, text) for text, _ in rows]), more)]


def train_on_model(
    setup: Setup,
    samples: Samples,
    network: PromptNetwork,
    schedules: tuple[tuple[float, ...], ...],
    recipe: AntiBiasRecipe,
    plan: Plan,
    state: Path,
    on_step: OnStep,
) -> tuple[PromptNetwork, tuple[Band, ...]]:
    """Train in place on a model without our corrections and without guidance; return the moving average, and
    what it explains of samples held out.

    setup:     cfg 1; its sampler is not used
    schedules: noise levels of whole runs

    Raises:  SettingsError before the first step; HostError for a model whose states we do not know.
    """
    samples.check(setup.model)
    trained: list[tuple[PromptNetwork, tuple[Band, ...]]] = []
    data = samples.latents(setup.model)
    learnt, kept = split_off(len(data))

    def these(rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Conditioning]:
        return data[rows], samples.conditioning(samples.captioned(rows, rng))

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Conditioning]:
        return these(learnt[torch.randint(len(learnt), (n,), generator=rng)], rng)

    def work(inner: InnerRun, x: Tensor) -> None:
        # The host runs nodes in inference mode, whose tensors training must not touch.
        with torch.inference_mode(False), torch.enable_grad():
            run = setup.run
            kind = run.space, schedules, draw, _denoise(inner), setup.sigma_data, run.noise
            base = AntiBiasBase(*kind, held_out=(len(kept), lambda places, rng: these(kept[places], rng)))
            network.to(x.device)
            found = train_prompt(network, base, recipe, plan, state, on_step)
            # A cancel counts here too, and keeps the state.
            bands = measure_bands(found, base, recipe, plan.seed, lambda: on_step(plan.steps, 0.0))
            trained.append((found, bands))

    inside_run(
        setup, without_ours(setup.model, setup.host), torch.zeros_like(samples.clean[:1]), plan.seed, work
    )
    [(found, bands)] = trained
    return found.cpu(), bands


def card_for(
    setup: Setup,
    recipe: AntiBiasRecipe,
    schedules: tuple[tuple[float, ...], ...],
    bands: tuple[Band, ...],
    training: dict,
) -> AntiBiasCard:
    """Return what a file must say of a network that was trained on this model."""
    return AntiBiasCard(
        target=recipe.target,
        space=setup.space,
        sigma_data=setup.sigma_data,
        sigma_range=StepPairs.of(schedules).sigma_range,
        bands=bands,
        base=type(setup.model.model).__name__,
        training=training,
        **names_of(setup.model),
    )


def names_of(model: Any) -> dict[str, str]:
    """What a file's card says of the model it was made for, by the host's names."""
    return {
        "family": type(model.model.model_config).__name__,
        "latent_format": type(model.get_model_object("latent_format")).__name__,
    }


def _denoise(inner: InnerRun) -> Callable[[Tensor, Tensor, Any], Tensor]:
    def denoise(x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        with torch.inference_mode():
            inner.condition(conditioning, x)
            denoised = inner.evaluate_plainly(x, sigma)
        return denoised.clone()

    return denoise
