"""Fine-tuning a model by MDSS (Ren, thesis, chapter 3): it learns from states that hold its own errors.

One step: a share of the batch, which grows as training goes on, is noised k + 1 steps of the schedule too
high, taken one step down by the model itself and the rest by the closed form; the model learns the noise of
the state without error there, and the second head the error. The other samples are noised as always.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Space, per_sample
from ..errors import SettingsError
from ..files.mdss import Head, MdssCard, save_mdss
from ..methods.mdss import (
    VARIANTS,
    Level,
    Prediction,
    Sample,
    Variant,
    clean_estimate,
    network_target,
    scheduled_ratio,
    targets,
    training_levels,
)
from ..model_names import PRODUCTS
from ..networks.xi_head import TwoHeads
from .loop import Identity, OnStep, Plan, fit, steps_of, stratified

PLAN = Plan(steps=20_000, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, ema=0.9999)
"""The thesis' AdamW and moving average, which the loop warms up. It trains 10,000 to 50,000 steps and finds
its curve flat from 20,000 on; decay and betas are not given."""


Checkpoint = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class MdssBase:
    """A model to fine-tune, and its data.

    name:       of the model, for people and for telling trainings apart
    network:    with a last layer that `last_layer` finds
    prediction: what the network answers
    sigmas:     the sampler's noise levels of its training schedule, from the least to the most
    draw:       (n, random numbers) -> clean latents [n, C, *S] in the sampler's units and conditioning
                [n, ...], dropped at the rate at which the model was trained without
    evaluate:   (model, state in the network's input scaling, place in sigmas [n], conditioning) -> what the
                model answers
    noise:      standard deviation of the noise in its states
    """

    name: str
    network: nn.Module
    space: Space
    prediction: Prediction
    sigmas: Tensor
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    evaluate: Callable[[TwoHeads, Tensor, Tensor, Tensor], Any]
    noise: float = 1.0


@dataclass(frozen=True)
class MdssRecipe:
    """How the model is taught.

    variant: how errors are carried on
    k:       over how many steps of the training schedule; 0 is SDSS
    batch:   samples per step
    """

    variant: Variant = "posterior"
    k: int = 4
    batch: int = 128

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise SettingsError(f"variant is one of {', '.join(VARIANTS)}; got {self.variant!r}")
        if self.k < 0 or self.batch < 1:
            raise SettingsError(f"k is 0 or more, batch 1 or more; got {self.k} and {self.batch}")

    def check(self, name: str, space: Space, levels: int) -> None:
        """Raise SettingsError unless this can be taught to a model whose schedule has so many levels."""
        name = PRODUCTS.get(name, name)
        if (self.variant == "flow") != (space == "flow"):
            fitting = "flow" if space == "flow" else "posterior or ddim"
            raise SettingsError(f"{name} takes the variant {fitting}; got {self.variant}")
        if self.k > levels - 2:
            raise SettingsError(
                f"k counts steps of the training schedule; that of {name} has {levels}, so k is at most "
                f"{levels - 2}; got {self.k}"
            )

    def sigma_range(self, base: MdssBase) -> tuple[float, float]:
        """Lowest and highest level of states with errors."""
        return float(base.sigmas[0]), float(base.sigmas[len(base.sigmas) - self.k - 2])


@dataclass(frozen=True)
class MdssRequest:
    """What a user asks for, whatever the model; no variant: the one for its kind; rank 0: all weights."""

    variant: Variant | None
    k: int
    batch: int
    second_head: bool
    rank: int
    checkpointing: bool

    def recipe(self, space: Space) -> MdssRecipe:
        """Return how a model of this space is taught."""
        return MdssRecipe(self.variant or variant_for(space), self.k, self.batch)

    def heads(self, network: nn.Module) -> TwoHeads:
        """Return the network with what is trained of it."""
        return TwoHeads(network, self.second_head, self.rank)


class MdssLoss:
    """One step's loss, thesis equation 3.6, and its two parts.

    Equation A.2's ratio is taken as the share of a batch; samples without errors teach the second head
    nothing, "just as DDPMs".
    """

    def __init__(
        self,
        model: TwoHeads,
        base: MdssBase,
        recipe: MdssRecipe,
        total: int,
        done: Callable[[], int] = lambda: 0,
        accumulate: int = 1,
    ) -> None:
        recipe.check(base.name, base.space, len(base.sigmas))
        self.model, self.base, self.recipe = model, base, recipe
        self._total, self._done, self._step = total, done, -1
        self._calls, self._accumulate = 0, accumulate
        self._levels = training_levels(base.sigmas, base.space)
        self._device = next(model.parameters()).device

    def __call__(self, rng: torch.Generator, seed: int) -> dict[str, Tensor]:
        del seed
        if self._calls % self._accumulate == 0:
            # The state was read just before the first call, and says how many steps there are behind us.
            self._step = self._step + 1 if self._step >= 0 else self._done()
        self._calls += 1
        n, device, most = self.recipe.batch, self._device, len(self.base.sigmas)
        x0, conditioning = self.base.draw(n, rng)
        eps = self.base.noise * torch.randn(x0.shape, generator=rng, dtype=x0.dtype)
        errs = torch.rand(n, generator=rng) < self.ratio()
        at = places(torch.rand(n, generator=rng), torch.where(errs, most - self.recipe.k - 1, most))
        x0, eps, conditioning, errs, at = (v.to(device) for v in (x0, eps, conditioning, errs, at))
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            sample = self.noised(x0, eps, at)
            if errs.any():
                with torch.no_grad():
                    carried = self.lesson(x0[errs], eps[errs], at[errs], conditioning[errs])
                for value, own in zip(sample, carried, strict=True):
                    value[errs] = own
            prediction, xi = self.base.evaluate(self.model, sample.seen, at, conditioning)
        target = network_target(sample, x0, self.level(at), self.base.prediction)
        figures = {"eps": (prediction.float() - target).square().mean()}
        figures["loss"] = figures["eps"]
        if xi is not None:
            own = per_sample(errs.float(), x0)
            figures["xi"] = ((xi.float() - sample.xi) * own).square().mean()
            figures["error"] = sample.xi.square().mean()  # what "xi" is for a head that answers 0
            figures["loss"] = figures["eps"] + figures["xi"]
        return figures

    def ratio(self) -> float:
        """Share of this step's samples that carry errors."""
        return scheduled_ratio(self._step, self._total)

    def level(self, at: Tensor) -> Level:
        """The levels at these places in the schedule, in float64 on the CPU."""
        return Level(*(value[at.cpu()] for value in self._levels))

    def noised(self, x0: Tensor, eps: Tensor, at: Tensor) -> Sample:
        """Samples without errors."""
        alpha, sigma = (per_sample(value.to(x0), x0) for value in self.level(at))
        return Sample(alpha * x0 + sigma * eps, eps.clone(), torch.zeros_like(x0))

    def lesson(self, x0: Tensor, eps: Tensor, at: Tensor, conditioning: Tensor) -> Sample:
        """Samples with errors: one model call, without gradient."""
        above = at + self.recipe.k
        levels = self.level(above + 1), self.level(above), self.level(at)
        top = self.noised(x0, eps, above + 1).seen
        prediction, _ = self.base.evaluate(self.model, top, above + 1, conditioning)
        x0_hat = clean_estimate(top, prediction.float(), levels[0], self.base.prediction)
        return targets(x0, eps, x0_hat, levels, self.recipe.variant)


def places(rand: Tensor, counts: Tensor) -> Tensor:
    """Return places of 0 to below counts [n], `stratified`.

    Shapes:  rand [n], uniform in 0 to below 1; counts, result [n], whole numbers.
    """
    return (stratified(rand) * counts).long().minimum(counts - 1)


def variant_for(space: Space) -> Variant:
    """The thesis' way to carry errors on, and ours for flow models."""
    return "flow" if space == "flow" else "posterior"


def train_mdss(
    model: TwoHeads,
    base: MdssBase,
    recipe: MdssRecipe,
    plan: Plan,
    state: Path,
    on_step: OnStep | None = None,
    loss: type[MdssLoss] = MdssLoss,
) -> TwoHeads:
    """Train in place, resuming from `state` if it exists; return the moving average.

    Raises:  SettingsError before the first step if the recipe does not suit the base, or `state` belongs to
             another base, recipe or kind of training.
    """
    kind = base.name, recipe, loss.__name__, sorted(name for name, _ in model.named_parameters())
    sizes = [tuple(weight.shape) for weight in model.parameters()]
    settings = {
        "base": PRODUCTS.get(base.name, base.name),
        "variant": recipe.variant,
        "k": recipe.k,
        "batch_size": recipe.batch,
        "second_head": model.xi is not None,
        "lora_rank": model.lora.rank if model.lora else 0,
    }
    identity = Identity.of((kind, sizes), settings)

    def done() -> int:
        return steps_of(state) if state.exists() else 0

    step = loss(model, base, recipe, plan.steps, done, plan.accumulate)
    with model.attached():
        return fit(model, step, plan, state, identity=identity, on_step=on_step)


def save_trained(
    path: Path, model: TwoHeads, base: MdssBase, recipe: MdssRecipe, checkpoint: Checkpoint, **facts: Any
) -> None:
    """Write a LoRA in half precision if the model has one, or else a checkpoint; with its second head.

    checkpoint: the network's weights by name -> tensors of the file
    facts:      what the card shall say besides
    """
    if model.lora:
        tensors = {name: value.half() for name, value in model.lora.tensors().items()}
    else:
        tensors = checkpoint(model.network.state_dict())
    facts = {
        "base": PRODUCTS.get(base.name, base.name),
        "space": base.space,
        "sigma_range": recipe.sigma_range(base),
        **facts,
    }
    card = MdssCard(form="lora" if model.lora else "checkpoint", variant=recipe.variant, k=recipe.k, **facts)
    head = Head(*(v.detach().cpu() for v in (model.xi.weight, model.xi.bias))) if model.xi else None
    save_mdss(path, {k: v.detach().cpu() for k, v in tensors.items()}, head, card)
