"""A first prompt from a tagger of WD's kind: an ONNX file, run by onnxruntime, or weights, run by timm, if
these are here.

A tagger is a file name.onnx, or name.safetensors with the network's name.json or config.json, and beside it
its tags, name.csv or selected_tags.csv, as makers publish them: a column `name`, and a column `category`
in which 0 is what a picture shows. In a folder of its own it is called model. Nothing is fetched.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from ..files.checkpoints import read_tensors
from ..files.text import read_text
from .phrases import Phrases
from .search import Proposer

TAGGERS = "steadydiff_taggers"
"""The folder of a host's models in which users put theirs."""

THRESHOLD, MOST = 0.35, 16  # what users of WD's take, and what leaves the search room in CLIP's window
MAX_WORDS = 200  # characters of another package's words in a message
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
    """The taggers of a folder by name, those that the packages which are here can run."""
    found = {}
    for suffix, (package, _) in RUNNERS.items():
        if find_spec(package):
            for file in (*folder.glob(f"*{suffix}"), *folder.glob(f"*/model{suffix}")):
                own = file.parent.name if file.parent != folder else file.stem
                found |= {own: file} if tags_file(file) and (suffix == ".onnx" or config_file(file)) else {}
    return dict(sorted(found.items()))


def tags_file(file: Path) -> Path | None:
    return _beside(file, ".csv", "selected_tags.csv")


def config_file(file: Path) -> Path | None:
    return _beside(file, ".json", "config.json")


def _beside(file: Path, suffix: str, name: str) -> Path | None:
    return next((path for path in (file.with_suffix(suffix), file.with_name(name)) if path.is_file()), None)


def load_tagger(file: Path) -> Callable[[Tensor], Phrases]:
    """A captioner of pictures [H, W, 3] in 0..1.

    Raises:  SettingsError for a file that is no tagger, or without the package that runs it.
    """
    package, load = RUNNERS.get(file.suffix.lower(), RUNNERS[".onnx"])
    if find_spec(package) is None:
        raise SettingsError(f"{file.name} needs {package}; run: python -m pip install {package}")
    try:
        names = read_tags(tags_file(file))
        run, side = load(file)
    except Exception as error:  # onnxruntime has its own kinds, every network, and a package that is broken
        why = " ".join(str(error).split())[:MAX_WORDS]
        raise SettingsError(f"{file.name} is no tagger that can be read: {why}") from None
    return lambda picture: tagged(run, side, names, picture)


def _onnx(file: Path) -> tuple[Run, int]:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    side = given.shape[1]
    if len(given.shape) != 4 or given.shape[3] != 3 or not isinstance(side, int):
        raise ValueError(f"its input is {given.shape}, not a picture [1, side, side, 3]")

    def run(picture: Tensor) -> Tensor:
        [found] = session.run(None, {given.name: picture.numpy()})
        return torch.from_numpy(found)

    return run, side


def _timm(file: Path) -> tuple[Run, int]:
    """A network of timm's, built as config.json says: its `architecture`, with its `model_args`."""
    timm: Any = import_module("timm")
    config = json.loads(read_text(config_file(file) or file.with_name("config.json")))
    architecture, arguments = config["architecture"], config.get("model_args") or {}
    if architecture not in timm.list_models():  # others name a place to fetch it from
        raise ValueError(f"timm knows no {architecture!r}")
    if other := arguments.keys() & signature(timm.create_model).parameters.keys():
        raise ValueError(f"its config.json sets {', '.join(sorted(other))}, which would load other files")
    with torch.random.fork_rng(devices=[]):  # initial weights must not move the caller's random numbers
        network = timm.create_model(architecture, num_classes=config["num_classes"], **arguments).eval()
    network.load_state_dict(read_tensors(file)[0])
    kept = config["pretrained_cfg"]
    if "input_size" not in kept:
        raise ValueError("its config.json has no input_size")
    mean, std = (torch.tensor(kept.get(name, [0.5] * 3)).flip(0) for name in ("mean", "std"))

    @torch.no_grad()
    def run(picture: Tensor) -> Tensor:
        return network(((picture / 255 - mean) / std).movedim(-1, 1)).sigmoid()

    return run, kept["input_size"][-1]


RUNNERS: dict[str, tuple[str, Callable[[Path], tuple[Run, int]]]] = {
    ".safetensors": ("timm", _timm),
    ".onnx": ("onnxruntime", _onnx),
}
"""By the ending of a tagger's file: the package that runs it, and how. Of equal names the last one counts."""


def read_tags(file: Path | None) -> list[str]:
    """The tag of each output, empty where it names nothing that a picture shows."""
    if file is None:
        raise ValueError("there is no table of its tags beside it")
    rows = list(csv.DictReader(read_text(file).splitlines()))
    return [_words(row["name"]) if row["category"] == SHOWN else "" for row in rows]


def _words(tag: str) -> str:
    """A tag without underscores and brackets, which hosts read as stress; nothing of faces such as ";)"."""
    words = " ".join(re.sub(r"[_()\[\]{}<>\\]", " ", tag).split())
    return words if words.isalnum() or re.search(r"[^\W\d_]{2}", words) else ""


def tagged(run: Run, side: int, names: Sequence[str], picture: Tensor) -> Phrases:
    """The surest tags of a picture [H, W, 3] in 0..1."""
    chances = run(squared(picture, side))[0].tolist()
    if len(chances) != len(names):
        raise SettingsError(f"the tagger has {len(chances)} outputs and its table {len(names)} tags")
    found = sorted(zip(chances, names, strict=True), key=lambda pair: -pair[0])
    return Phrases(tuple(name for chance, name in found if name and chance >= THRESHOLD)[:MOST])


def squared(picture: Tensor, side: int) -> Tensor:
    """On a white square, as large as the network wants it, blue first, in 0..255."""
    picture = picture.detach().float().cpu()  # where taggers run, whatever the host keeps pictures in
    height, width, longer = *picture.shape[:2], max(picture.shape[:2])
    left, top = (longer - width) // 2, (longer - height) // 2
    sides = left, longer - width - left, top, longer - height - top
    white = F.pad(picture.movedim(-1, 0)[None], sides, value=1)
    made = F.interpolate(white, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (made.movedim(1, -1).flip(-1) * 255).float().contiguous()
