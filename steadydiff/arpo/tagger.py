"""A first prompt from a tagger: a network of WD's kind as an ONNX file, run by onnxruntime, if that is here.

A tagger is a file name.onnx with its tags beside it, name.csv or selected_tags.csv, as their makers publish
them: a column `name`, and a column `category` in which 0 is what a picture shows. Nothing is fetched.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from ..files.text import read_text
from .phrases import Phrases
from .search import Proposer

TAGGERS = "steadydiff_taggers"
"""The folder of a host's models in which users put theirs."""

THRESHOLD, MOST = 0.35, 16  # what users of WD's take, and what leaves the search room in CLIP's window
SHOWN = "0"  # category; 4 are characters, 9 ratings

Run = Callable[[Tensor], Tensor]
"""A picture [1, side, side, 3], blue first, in 0..255, to probabilities [1, N]."""


@dataclass(frozen=True)
class Captioned:
    """A proposer whose first prompt comes from elsewhere."""

    proposer: Proposer
    first: Callable[[Tensor], Phrases]

    def caption(self, reference: Tensor) -> Phrases:
        return self.first(reference)

    def propose(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        return self.proposer.propose(reference, generated, current)

    def shown(self, reference: Tensor, generated: Tensor, current: Phrases) -> tuple[str, ...]:
        shown = getattr(self.proposer, "shown", None)
        return shown(reference, generated, current) if shown else ()


def find_taggers(folder: Path) -> dict[str, Path]:
    """The taggers of a folder by name; none without onnxruntime."""
    if not find_spec("onnxruntime"):
        return {}
    return {file.stem: file for file in sorted(folder.glob("*.onnx")) if tags_file(file)}


def tags_file(file: Path) -> Path | None:
    found = (file.with_suffix(".csv"), file.with_name("selected_tags.csv"))
    return next((path for path in found if path.is_file()), None)


def load_tagger(file: Path) -> Callable[[Tensor], Phrases]:
    """A captioner of pictures [H, W, 3] in 0..1.

    Raises:  SettingsError for a file that is no tagger, or without onnxruntime.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SettingsError(
            f"{file.name} needs onnxruntime; run: python -m pip install onnxruntime"
        ) from None
    try:
        names = read_tags(tags_file(file))
        session: Any = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        [given] = session.get_inputs()
        side = given.shape[1]
        if len(given.shape) != 4 or given.shape[3] != 3 or not isinstance(side, int):
            raise ValueError(f"its input is {given.shape}, not a picture [1, side, side, 3]")
    except Exception as error:  # onnxruntime has its own kinds
        raise SettingsError(f"{file.name} is no tagger that can be read: {error}") from None

    def run(picture: Tensor) -> Tensor:
        [found] = session.run(None, {given.name: picture.numpy()})
        return torch.from_numpy(found)

    return lambda picture: tagged(run, side, names, picture)


def read_tags(file: Path | None) -> list[str]:
    """The tag of each output, empty where it names nothing that a picture shows."""
    if file is None:
        raise ValueError("there is no table of its tags beside it")
    rows = list(csv.DictReader(read_text(file).splitlines()))
    return [row["name"].replace("_", " ") if row["category"] == SHOWN else "" for row in rows]


def tagged(run: Run, side: int, names: Sequence[str], picture: Tensor) -> Phrases:
    """The surest tags of a picture [H, W, 3] in 0..1."""
    chances = run(squared(picture, side))[0].tolist()
    if len(chances) != len(names):
        raise SettingsError(f"the tagger has {len(chances)} outputs and its table {len(names)} tags")
    found = sorted(zip(chances, names, strict=True), key=lambda pair: -pair[0])
    return Phrases(tuple(name for chance, name in found if name and chance >= THRESHOLD)[:MOST])


def squared(picture: Tensor, side: int) -> Tensor:
    """On a white square, as large as the network wants it, blue first, in 0..255."""
    height, width, longer = *picture.shape[:2], max(picture.shape[:2])
    left, top = (longer - width) // 2, (longer - height) // 2
    sides = left, longer - width - left, top, longer - height - top
    white = F.pad(picture.movedim(-1, 0)[None], sides, value=1)
    made = F.interpolate(white, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (made.movedim(1, -1).flip(-1) * 255).float().contiguous()
