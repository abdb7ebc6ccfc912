"""The log of a reverse prompt search, and its file: a safetensors file of pictures with a JSON header."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import stdev

import torch
from torch import Tensor

from ..errors import CheckpointError, SettingsError
from ..files.checkpoints import check_file_name, load_checkpoint, save_checkpoint
from .phrases import Phrases

KIND, VERSION = "arpo_log", 1

FAILED = "the proposer failed: "
"""Begins the reason of a search that ended because its proposer raised an error."""


@dataclass(frozen=True)
class Step:
    """One iteration: a prompt, what it draws, and what was then found lacking.

    picture: [H, W, 3] in 0..1
    text_similarity, image_similarity: of the prompt and of its picture to the reference; of several pictures
        the mean
    others: pictures of the prompt from further seeds
    similarities: of all pictures, where there are several
    candidates: what was proposed; empty at the last step, which is only drawn
    gains, drops: (phrase, similarity) of what was added and of what was taken out, in this order
    seconds: for "generate", "propose" and "select"
    """

    phrases: Phrases
    picture: Tensor
    text_similarity: float
    image_similarity: float
    candidates: Phrases = field(default_factory=Phrases)
    gains: tuple[tuple[str, float], ...] = ()
    drops: tuple[tuple[str, float], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    others: tuple[Tensor, ...] = ()
    similarities: tuple[float, ...] = ()

    @property
    def pictures(self) -> tuple[Tensor, ...]:
        """One of each seed."""
        return (self.picture, *self.others)

    @property
    def spread(self) -> float:
        """Standard deviation of the pictures' similarities; 0 of one."""
        return stdev(self.similarities) if len(self.similarities) > 1 else 0.0

    @property
    def typical(self) -> Tensor:
        """The picture whose similarity is nearest to the mean."""
        away = [abs(near - self.image_similarity) for near in self.similarities]
        return self.pictures[away.index(min(away))] if away else self.picture


@dataclass(frozen=True)
class Log:
    """A search so far. It is whole after every iteration, and a search goes on from it.

    reference: `theme_fingerprint` of the reference picture, or of the several of a theme
    following: the prompt to draw next
    stopped: why it ended, in words; empty while it may go on
    seeds: pictures drawn of every prompt
    """

    reference: str
    seed: int
    following: Phrases
    steps: tuple[Step, ...] = ()
    stopped: str = ""
    seeds: int = 1

    @property
    def failure(self) -> str:
        """Why nothing was found: the proposer failed before it had proposed anything; empty otherwise."""
        return self.stopped if self.stopped.startswith(FAILED) and len(self.steps) == 1 else ""

    @property
    def best(self) -> Step:
        """The step whose picture is nearest to the reference; of equals the first, which is shorter."""
        return max(self._drawn, key=lambda step: step.image_similarity)

    @property
    def best_by_text(self) -> Step:
        """The step whose prompt is nearest to the reference, which the search itself looks for."""
        return max(self._drawn, key=lambda step: step.text_similarity)

    def negative(self, step: Step) -> str:
        """What drawings had and the reference has not, as a negative prompt beside the prompt of a step."""
        return self.found(step).negative_prompt

    def found(self, step: Step) -> Phrases:
        """The phrases of a step with all negative ones that were found up to the end."""
        return replace(step.phrases, negative=self.following.negative)

    @property
    def _drawn(self) -> tuple[Step, ...]:
        if not self.steps:
            raise SettingsError("nothing has been drawn yet; the search ended before its first picture")
        return self.steps


def theme_fingerprint(pictures: Sequence[Tensor]) -> str:
    """A digest of several pictures; of one its `fingerprint`."""
    names = [fingerprint(picture) for picture in pictures]
    return names[0] if len(names) == 1 else hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


def fingerprint(picture: Tensor) -> str:
    """A short digest of a picture, by which a log knows its reference."""
    pixels = _eight_bit(picture)
    return hashlib.sha256(str(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()[:16]


# --- file -------------------------------------------------------------------------------------------------


def log_file(name: str, folder: Path) -> Path | None:
    """Where a search is kept, None for no name; a name is one word of a file name, not a path."""
    plain = name.strip()
    if not plain:
        return None
    check_file_name(name, plain, "keep_as")
    return folder / f"{plain}.safetensors"


def kept_names(name: str, count: int) -> list[str]:
    """What the searches of a batch are kept as: numbered where there are several."""
    return [name] if count == 1 else [f"{name.strip()}_{at}" if name.strip() else "" for at in range(count)]


def save_log(log: Log, path: Path) -> None:
    """Write a log whole or not at all; its pictures may differ in size and are kept as 8 bit."""
    pictures = {
        f"picture.{i}" + (f".{k}" if k else ""): _eight_bit(picture)
        for i, step in enumerate(log.steps)
        for k, picture in enumerate(step.pictures)
    }
    save_checkpoint(path, pictures, kind=KIND, version=VERSION, log=as_dict(log))


def load_log(path: Path) -> Log:
    """Read a file of `save_log`.

    Raises:  CheckpointError if it is missing, damaged or of another kind.
    """
    pictures, header = load_checkpoint(path, kind=KIND, version=VERSION)
    try:
        if any(p.dtype != torch.uint8 or p.ndim != 3 or p.shape[2] != 3 for p in pictures.values()):
            raise ValueError("a picture is [H, W, 3] of bytes")
        return _from_dict(header["log"], {name: picture / 255 for name, picture in pictures.items()})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{path.name} is no whole log of a search ({error!r}); start a new one"
        ) from None


def as_dict(log: Log) -> dict:
    """All but the pictures, ready for JSON."""
    steps = [{k: v for k, v in vars(step).items() if k not in ("picture", "others")} for step in log.steps]
    for step in steps:
        step |= {name: asdict(step[name]) for name in ("phrases", "candidates")}
    return {**vars(log), "following": asdict(log.following), "steps": steps}


def _from_dict(stored: dict, pictures: dict[str, Tensor]) -> Log:
    seeds = int(stored.get("seeds", 1))  # which logs of one seed from before have not
    if len(pictures) != len(stored["steps"]) * seeds:
        raise ValueError("each step has a picture of each seed")
    steps = tuple(
        Step(
            phrases=_phrases(step["phrases"]),
            picture=pictures[f"picture.{i}"],
            text_similarity=float(step["text_similarity"]),
            image_similarity=float(step["image_similarity"]),
            candidates=_phrases(step["candidates"]),
            gains=_scores(step["gains"]),
            drops=_scores(step["drops"]),
            seconds={str(k): float(v) for k, v in step["seconds"].items()},
            others=tuple(pictures[f"picture.{i}.{k}"] for k in range(1, seeds)),
            similarities=tuple(float(near) for near in step.get("similarities", ())),
        )
        for i, step in enumerate(stored["steps"])
    )
    following, stopped = _phrases(stored["following"]), str(stored["stopped"])
    return Log(str(stored["reference"]), int(stored["seed"]), following, steps, stopped, seeds)


def _phrases(stored: dict) -> Phrases:
    lists = stored["content"], stored["style"], stored.get("negative", ())  # which earlier logs have not
    return Phrases(*(tuple(str(p) for p in phrases) for phrases in lists))


def _scores(stored: list) -> tuple[tuple[str, float], ...]:
    return tuple((str(phrase), float(score)) for phrase, score in stored)


def _eight_bit(picture: Tensor) -> Tensor:
    return (picture.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
