"""The attribute reader: what is in a picture of the tiny world. A judge of pictures, no part of a model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, STYLES, Scenes

# What is read, and how many answers there are. "first" is the left or upper object of a pair; "pair" is none,
# side by side or one above the other. Position is that of a single object; the second object's answers mean
# nothing without one.
HEADS = {
    "pair": 3,
    "background": len(BACKGROUNDS),
    "style": len(STYLES),
    "position": len(POSITIONS),
    "first_shape": len(SHAPES),
    "first_colour": len(COLOURS),
    "first_size": len(SIZES),
    "second_shape": len(SHAPES),
    "second_colour": len(COLOURS),
    "second_size": len(SIZES),
}
FEATURES = 128
IGNORED = -100  # torch's own mark for "no target"


def attributes(scenes: Scenes) -> dict[str, Tensor]:
    """The right answers [N] of every head, IGNORED where a question has none."""
    pair = scenes.count == 2
    swapped = pair & (scenes.relation % 2 == 1)  # "right of" and "below" name the right or lower object first
    answers = {
        "pair": np.where(pair, 1 + scenes.relation // 2, 0),
        "background": scenes.background,
        "style": scenes.style,
        "position": np.where(pair, IGNORED, scenes.position),
    }
    for name in ("shape", "colour", "size"):
        both = getattr(scenes, name)
        both = np.where(swapped[:, None], both[:, ::-1], both)
        answers[f"first_{name}"] = both[:, 0]
        answers[f"second_{name}"] = np.where(pair, both[:, 1], IGNORED)
    return {k: torch.from_numpy(np.asarray(v)).long() for k, v in answers.items()}


def _conv(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1), nn.GroupNorm(8, c_out), nn.SiLU())


class Reader(nn.Module):
    """Pictures [B, 3, 64, 64] in 0..1 to answers; `features` [B, 128] serve the Fréchet distance."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            _conv(3, 32, 2),
            _conv(32, 48, 2),
            _conv(48, 64, 1),
            _conv(64, 64, 2),
            _conv(64, 32, 1),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, FEATURES),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, n) for name, n in HEADS.items()})

    def features(self, pictures: Tensor) -> Tensor:
        return self.trunk(pictures * 2 - 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        h = self.features(pictures)
        return {name: head(h) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """The answer to every question, [B] each."""
        return {name: logits.argmax(-1) for name, logits in self(pictures).items()}


def answers_loss(logits: dict[str, Tensor], answers: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of all questions that have an answer, summed over questions, averaged over pictures."""
    losses = [F.cross_entropy(logits[k], answers[k], ignore_index=IGNORED, reduction="sum") for k in HEADS]
    return torch.stack(losses).sum() / len(answers["pair"])


def found(read: dict[str, Tensor], requested: dict[str, Tensor]) -> Tensor:
    """True [B] where every requested object was read with its shape and colour, none too many or too few."""
    right = (read["pair"] > 0) == (requested["pair"] > 0)
    for name in ("first_shape", "first_colour", "second_shape", "second_colour"):
        right &= (requested[name] == IGNORED) | (read[name] == requested[name])
    return right
