"""What `bench photos` trains: an anti-bias network of one of the photos' networks, and, as a control, that
network itself for as many seconds. States are kept in the bench's folder; a stopped training goes on.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from steadydiff.denoiser import Denoise
from steadydiff.methods.antibias_prompt import PromptModel
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.tinyworld.photos import files, sampling, train
from steadydiff.tinyworld.photos.words import CLASSES
from steadydiff.tinyworld.sampling import Network
from steadydiff.training.antibias import (
    FEWEST,
    MOST,
    UNCONDITIONAL,
    AntiBiasBase,
    AntiBiasRecipe,
    StepPairs,
    measure_bands,
    train_prompt,
)
from steadydiff.training.loop import Plan, fit
from tools.bench.shared import photo_judges as judges

Split = tuple[Tensor, Tensor]
"""Pictures [N, 3, 32, 32] uint8 and their classes [N]."""

PLAN = Plan(steps=1200, lr=1e-3, warmup=50, decay=0.5, betas=(0.9, 0.999), weight_decay=0.0, ema=0.998)
AS_LONG = replace(PLAN, steps=1350)
"""An anti-bias step takes 1.12 times the network's own."""
SIZE = PromptConfig(3, 16, (1, 2, 2), blocks=2, attention_levels=())  # 391,411 weights


def prompt(net: str, network: Network, seen: Split, unseen: Split, work: Path) -> PromptModel:
    """Train the anti-bias network of one file's network on the pictures that one was trained on."""
    text = files.load(net)[1]
    contexts, none = sampling.embed(text, [f"a photo of a {name}" for name in CLASSES])
    rows = torch.cat([contexts, none[:1]])

    def denoise(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return denoiser(rows[label])(x, sigma)

    def denoiser(context: Tensor) -> Denoise:
        return sampling.clipped(sampling.denoiser("epsilon", network, context, context, 1.0))

    def drawn(split: Split, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        pictures, labels = judges.as_floats(split[0][index]), split[1][index]
        flipped = torch.rand(len(index), 1, 1, 1, generator=rng) < 0.5
        left_out = torch.rand(len(index), generator=rng) < UNCONDITIONAL
        return torch.where(flipped, pictures.flip(-1), pictures), labels.masked_fill(left_out, len(CLASSES))

    base = AntiBiasBase(
        "ve",
        tuple(sampling.sigmas("epsilon", steps) for steps in range(FEWEST, MOST + 1)),
        lambda n, rng: drawn(seen, torch.randint(len(seen[0]), (n,), generator=rng), rng),
        denoise,
        held_out=(len(unseen[0]), lambda index, rng: drawn(unseen, torch.as_tensor(index), rng)),
    )
    torch.manual_seed(0)
    recipe, made = AntiBiasRecipe(batch=train.BATCH), PromptNetwork(SIZE)
    with torch.enable_grad():
        made = train_prompt(made, base, recipe, PLAN, work / "trained" / f"{net}_antibias.safetensors")
    bands = measure_bands(made, base, recipe, seed=0)
    levels = StepPairs.of(base.schedules).sigma_range
    return PromptModel(made, recipe.target, "ve", sigma_range=levels, bands=bands)


def as_long(net: str, seen: Split, work: Path) -> train.Trainee:
    """Train one file's network itself for as many seconds as its anti-bias network."""
    model = train.trainee(net)
    with torch.enable_grad():
        loss = train.loss_of(model, "epsilon", *seen)
        return fit(model, loss, AS_LONG, work / "trained" / f"{net}_as_long.safetensors").eval()
