"""What `bench photos` trains of one of the photos' networks: its anti-bias network, that network itself for
as many seconds, and fine-tunes by MDSS beside a plain one of as many steps. States are kept in the bench's
folder; a stopped training goes on.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from steadydiff.denoiser import Denoise
from steadydiff.methods.antibias_prompt import PromptModel
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.tinyworld.photos import files, sampling, train
from steadydiff.tinyworld.photos.words import CLASSES
from steadydiff.tinyworld.sampling import Network
from steadydiff.tinyworld.text import TextEncoder
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
from steadydiff.training.mdss import MdssBase, MdssLoss, MdssRecipe, train_mdss
from tools.bench.mdss import Plain
from tools.bench.shared import photo_judges as judges
from tools.bench.shared.two_outputs import Recorded

Split = tuple[Tensor, Tensor]
"""Pictures [N, 3, 32, 32] uint8 and their classes [N]."""

PLAN = Plan(steps=1200, lr=1e-3, warmup=50, decay=0.5, betas=(0.9, 0.999), weight_decay=0.0, ema=0.998)
AS_LONG = replace(PLAN, steps=1350)
"""An anti-bias step takes 1.12 times the network's own."""
FINE = replace(PLAN, steps=500)
TUNED = {"fine-tuned": None, "SDSS": 0, "MDSS k 4": 4, "MDSS k 10": 10, "MDSS k 20": 20}
"""Fine-tunes by name, and over how many levels of the training schedule MDSS carries errors."""
LEVELS = ((1 - sampling.alphas_cumprod()) / sampling.alphas_cumprod()).sqrt().float()
SIZE = PromptConfig(3, 16, (1, 2, 2), blocks=2, attention_levels=())  # 391,411 weights


def contexts_of(text: TextEncoder) -> Tensor:
    """Return the conditioning of every class, and last that of none."""
    contexts, none = sampling.embed(text, [f"a photo of a {name}" for name in CLASSES])
    return torch.cat([contexts, none[:1]])


def drawn(split: Split, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pictures, half of them flipped, and classes, some of them left out."""
    pictures, labels = judges.as_floats(split[0][index]), split[1][index]
    flipped = torch.rand(len(index), 1, 1, 1, generator=rng) < 0.5
    left_out = torch.rand(len(index), generator=rng) < UNCONDITIONAL
    return torch.where(flipped, pictures.flip(-1), pictures), labels.masked_fill(left_out, len(CLASSES))


def any_of(split: Split, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return drawn(split, torch.randint(len(split[0]), (n,), generator=rng), rng)


def prompt(net: str, network: Network, seen: Split, unseen: Split, work: Path) -> PromptModel:
    """Train the anti-bias network of one file's network on the pictures that one was trained on."""
    rows = contexts_of(files.load(net)[1])

    def denoise(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return denoiser(rows[label])(x, sigma)

    def denoiser(context: Tensor) -> Denoise:
        return sampling.clipped(sampling.denoiser("epsilon", network, context, context, 1.0))

    base = AntiBiasBase(
        "ve",
        tuple(sampling.sigmas("epsilon", steps) for steps in range(FEWEST, MOST + 1)),
        partial(any_of, seen),
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


def in_half(model: TwoHeads, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return both outputs, worked out in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        prediction, xi = model(x, t, context)
    return prediction.float(), None if xi is None else xi.float()


def tuned(net: str, name: str, seen: Split, work: Path) -> Recorded:
    """Fine-tune one file's network; `name` is one of TUNED."""
    unet, text = files.load(net)
    contexts, k = contexts_of(text), TUNED[name]

    def evaluate(model: TwoHeads, x: Tensor, at: Tensor, label: Tensor) -> tuple[Tensor, Tensor | None]:
        return in_half(model, x, at, contexts[label])

    base = MdssBase(net, unet.train(), "ve", "eps", LEVELS, partial(any_of, seen), evaluate)
    heads, recipe = TwoHeads(unet, xi=k is not None), MdssRecipe(k=k or 0, batch=train.BATCH)
    state = work / "trained" / f"{net}_{name.replace(' ', '_')}.safetensors"
    with torch.enable_grad():
        loss: type[MdssLoss] = Plain if k is None else MdssLoss
        trained = train_mdss(heads, base, recipe, FINE, state, loss=loss).eval()
    return Recorded(partial(in_half, trained), LEVELS, recipe.k)
