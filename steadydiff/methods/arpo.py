"""ARPO: Ren, Zhan, Yu, Tao, "Reverse Prompt: Cracking the Recipe Inside Text-to-Image Generation" (chapter 4
of Ren's thesis): from a reference picture back to a prompt, by a loop that closes.

It is no sampler: it calls three things that a face supplies. `generate` draws a prompt, a `Proposer` says
what the drawing lacks beside the reference, a `Scorer` says how near texts and pictures are to each other.

    for log in ARPO(iterations=5).search(reference, generate, proposer, scorer, seed=1):
        save(log)                       # whole after every iteration; stop iterating to cancel
    log.best.phrases.prompt             # and log.best.picture

`select_phrases` is the paper's algorithm 8, `ARPO` the settings; docs/arpo.md says what is the paper's and
what is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Generate = Callable[[str, int], Tensor]
"""(prompt, seed) -> the picture [H, W, 3] in 0..1 that the text-to-image model draws."""

Fits = Callable[[str], bool]
"""Whether the scorer's text model reads a text to its end."""


@dataclass(frozen=True)
class Phrases:
    """The parts of a prompt in order, in two lists: what is shown, and how it is shown.

    Each phrase stands once, whatever its case: later ones like it are dropped, and so are commas and spaces
    at their ends. A prompt whose parts are unknown is all content.
    """

    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        object.__setattr__(self, "content", _unseen(self.content, seen))
        object.__setattr__(self, "style", _unseen(self.style, seen))

    @classmethod
    def of(cls, prompt: str) -> Phrases:
        """The parts of a prompt between its commas; commas within brackets part nothing."""
        parts, depth = [""], 0
        for letter in prompt:
            depth += (letter in "([{") - (letter in ")]}")
            if letter == "," and depth <= 0:
                parts.append("")
            else:
                parts[-1] += letter
        return cls(tuple(parts))

    @property
    def prompt(self) -> str:
        return ", ".join(self.content + self.style)

    def each(self) -> tuple[Phrases, ...]:
        """Every phrase by itself, still of its kind."""
        return (*(Phrases((p,)) for p in self.content), *(Phrases((), (p,)) for p in self.style))

    def __add__(self, other: Phrases) -> Phrases:
        return Phrases(self.content + other.content, self.style + other.style)

    def __sub__(self, other: Phrases) -> Phrases:
        """Without the phrases of another, whichever list they stand in there."""
        gone = {p.casefold() for p in other.content + other.style}
        content, style = (
            [p for p in kind if p.casefold() not in gone] for kind in (self.content, self.style)
        )
        return Phrases(tuple(content), tuple(style))

    def __len__(self) -> int:
        return len(self.content) + len(self.style)


def _unseen(phrases: Sequence[str], seen: set[str]) -> tuple[str, ...]:
    """Tidy phrases that are not empty and not `seen` yet; notes them there."""
    kept = []
    for phrase in (" ".join(p.split()).strip(", ") for p in phrases):
        if phrase and phrase.casefold() not in seen:
            seen.add(phrase.casefold())
            kept.append(phrase)
    return tuple(kept)


class Proposer(Protocol):
    """Says in phrases what is in a picture, and what a drawing lacks beside it.

    Pictures are [H, W, 3] in 0..1, and may differ in size. What cannot be done raises ProposerError with one
    clear sentence: the search then ends and keeps what it has.
    """

    def caption(self, reference: Tensor) -> Phrases:
        """A first short prompt for the reference."""
        ...

    def propose(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        """Candidates that would bring the drawing nearer to the reference, the likeliest first.

        generated: what was drawn from `current`
        Phrases that are already in `current`, or excluded, are dropped by the search.
        """
        ...


class Scorer(Protocol):
    """Places pictures and texts in one space, where near means alike; similarities are dot products."""

    def picture(self, picture: Tensor) -> Tensor:
        """The embedding [D], of length 1, of a picture [H, W, 3] in 0..1."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """The embeddings [N, D], of length 1, of texts; one batch, and texts seen before cost nothing."""
        ...

    def fits(self, text: str) -> bool:
        """Whether the text model reads this to its end."""
        ...
