"""The digits: scikit-learn's 1,797 handwritten digits of 8x8 pixels, and small networks of ours.

Everything is kept in the bench's folder: a noise predictor (linear-1000, class-conditional, one label in ten
dropped for guidance) trained on the first half in less than two minutes of one core, and a classifier
of the same half whose features judge. Its pictures are [N, 1, 8, 8] in -1..1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steadydiff.denoiser import Denoise
from steadydiff.tinyworld.photos.sampling import alphas_cumprod, denoiser
from tools.launch.console import Stop, say

SIDE, CLASSES, NONE = 8, 10, 10  # NONE is the label of no label
STEPS, BATCH, RATE, EMA, DROPPED = 2500, 256, 2e-3, 0.998, 0.1
TRAINING, REFERENCES = 900, 300  # the rest is held out
RECIPE = 1  # counts up when what is kept in the folder must be made again


class World(NamedTuple):
    """One network, and the split of the digits that it is trained and judged on.

    name:   of the bench that looks at it
    seed:   of the split and of all that is trained on it
    width, blocks: of the network
    """

    name: str
    seed: int
    width: int
    blocks: int


FIRST, SECOND = World("digits", 0, 128, 3), World("digits_second", 1, 96, 4)


class Split(NamedTuple):
    """Pictures [N, 1, 8, 8] in -1..1 and their labels [N]."""

    pictures: Tensor
    labels: Tensor


def splits(world: World = FIRST) -> dict[str, Split]:
    """Return training, reference and held-out pictures, disjoint, in an order that is always the same."""
    try:
        load_digits = import_module("sklearn.datasets").load_digits
    except ImportError:
        raise Stop(
            "The digits are scikit-learn's; pip install --no-deps -r tools/requirements-bench.txt"
        ) from None
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(world.seed))
    pictures = (torch.tensor(found.data).float() / 8 - 1).view(-1, 1, SIDE, SIDE)[order]
    labels = torch.tensor(found.target).long()[order]
    sizes = (TRAINING, REFERENCES, len(order) - TRAINING - REFERENCES)
    parts = zip(pictures.split(sizes), labels.split(sizes), strict=True)
    return {
        name: Split(*part) for name, part in zip(("training", "references", "held out"), parts, strict=True)
    }


class Network(nn.Module):
    """Noise of a noisy digit [B, 1, 8, 8] at a level t [B] of 1000, and its label [B]; FIRST has 0.14 M."""

    def __init__(self, width: int = FIRST.width, blocks: int = FIRST.blocks) -> None:
        super().__init__()
        self.label = nn.Embedding(CLASSES + 1, width)
        self.level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.into, self.out = nn.Linear(SIDE**2, width), nn.Linear(width, SIDE**2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.out(self.hidden(x, t, label)).view(x.shape)

    def hidden(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return what the last layer reads, [B, width]."""
        frequencies = torch.exp(-math.log(1000) * torch.arange(32) / 31)
        angles = t[:, None].float() * frequencies
        told = self.level(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(label)
        h = self.into(x.flatten(1))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + block(norm(h) + told)
        return h


class Judge(nn.Module):
    """A classifier; `features` are the 32 values its last layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(512, 32),
        )
        self.out = nn.Linear(32, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.conv(x)))


def work_folder(world: World = FIRST) -> Path:
    """Where a bench keeps its networks: STEADYDIFF_DIGITS_WORK, else output/digits; each seed in its own."""
    folder = Path(os.environ.get("STEADYDIFF_DIGITS_WORK", "output/digits"))
    return folder / f"seed{world.seed}" if world.seed else folder


def network(split: Split, world: World = FIRST) -> Network:
    """Return the noise predictor, trained first where the folder has none."""
    make = partial(Network, world.width, world.blocks)
    return _kept(make, "network", partial(_train_network, split=split), world)


def judge(split: Split, world: World = FIRST) -> Judge:
    """Return the classifier, trained first where the folder has none."""
    return _kept(Judge, "judge", partial(_train_judge, split=split), world)


Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, 1, 8, 8] in the network's input scaling, t [B], label [B]) -> its noise, as a `Network` gives it."""


def denoise_with(net: Predict, labels: Tensor, cfg: float) -> Denoise:
    """Return the network as a denoiser of pictures with these labels, guided by cfg; 1 is no guidance."""
    return denoiser("epsilon", net, labels, torch.full_like(labels, NONE), cfg)


def _kept(kind, name: str, train, world: World):  # noqa: ANN001, ANN202  (one network of either kind)
    with torch.random.fork_rng():
        torch.manual_seed(world.seed)
        model, file = kind(), work_folder(world) / f"{name}.safetensors"
        if file.exists():
            model.load_state_dict(load_file(file))
        else:
            say(f"Training the digits' {name}, once ...")
            with torch.enable_grad():  # whoever asks for it first may be sampling
                model.load_state_dict(train(model))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), file)
    return model.eval().requires_grad_(False)


def _train_network(model: Network, split: Split) -> dict[str, Tensor]:
    signal = alphas_cumprod().sqrt().float()
    noise = (1 - alphas_cumprod()).sqrt().float()
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.1)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(STEPS):
        index = torch.randint(len(split.labels), (BATCH,))
        t, eps = torch.randint(1000, (BATCH,)), torch.randn(BATCH, 1, SIDE, SIDE)
        label = torch.where(torch.rand(BATCH) < DROPPED, NONE, split.labels[index])
        at = (slice(None), None, None, None)
        x = signal[t][at] * split.pictures[index] + noise[t][at] * eps
        loss = F.mse_loss(model(x, t, label), eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        for name, value in model.state_dict().items():
            kept[name].lerp_(value, 1 - min(EMA, step / (step + 10)))
        if step % 500 == 499:
            say(f"  step {step + 1} of {STEPS}: loss {loss.item():.4f}")
    return kept


def _train_judge(model: Judge, split: Split) -> dict[str, Tensor]:
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(600):
        index = torch.randint(len(split.labels), (128,))
        loss = F.cross_entropy(model(split.pictures[index]), split.labels[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.state_dict()
