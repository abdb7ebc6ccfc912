"""The parts of a prompt, in lists. ARPO, its proposers and its nodes speak in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ARTICLE = re.compile(r"^(?:an?|the) ", re.IGNORECASE)


@dataclass(frozen=True)
class Phrases:
    """The parts of a prompt in order, in two lists: what is shown, and how it is shown; and what is not.

    Each phrase stands once, whatever its case: later ones like it are dropped, and so are commas and spaces
    at their ends. A prompt whose parts are unknown is all content. `negative` is the prompt beside it, of
    what should be absent: `prompt`, `each` and the length are without it.
    """

    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        object.__setattr__(self, "content", _unseen(self.content, seen))
        object.__setattr__(self, "style", _unseen(self.style, seen))
        object.__setattr__(self, "negative", _unseen(self.negative, seen))

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

    @property
    def negative_prompt(self) -> str:
        """The negative phrases, but for those that the prompt itself holds, whatever their articles."""
        held = (whole_words([_ARTICLE.sub("", phrase)]).search(self.prompt) for phrase in self.negative)
        return ", ".join(phrase for phrase, found in zip(self.negative, held, strict=True) if not found)

    def each(self) -> tuple[Phrases, ...]:
        """Every phrase by itself, still of its kind."""
        return (*(Phrases((p,)) for p in self.content), *(Phrases((), (p,)) for p in self.style))

    def __add__(self, other: Phrases) -> Phrases:
        return Phrases(self.content + other.content, self.style + other.style, self.negative + other.negative)

    def __sub__(self, other: Phrases) -> Phrases:
        """Without the phrases of another, whichever list they stand in there."""
        gone = {p.casefold() for p in other.content + other.style}
        lists = (self.content, self.style, self.negative)
        return Phrases(*(tuple(p for p in phrases if p.casefold() not in gone) for phrases in lists))

    def without(self, words: Iterable[str]) -> Phrases:
        """Without every phrase that holds one of these words, or one of these phrases, as a whole."""
        found = whole_words(words)
        lists = (self.content, self.style, self.negative)
        return Phrases(*(tuple(p for p in phrases if not found.search(p)) for phrases in lists))

    def __len__(self) -> int:
        return len(self.content) + len(self.style)


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of these words or runs of words, in any case, the longest first; never a part of a word.

    Chinese and Japanese write no spaces: there any place will do.
    """
    tidy = sorted(filter(None, (" ".join(word.split()) for word in words)), key=len, reverse=True)
    found = (
        re.escape(word) if "\u2e80" <= word[0] <= "\u9fff" else rf"(?<!\w){re.escape(word)}(?!\w)"
        for word in tidy
    )
    return re.compile("|".join(found) or r"(?!)", re.IGNORECASE)


def _unseen(phrases: Sequence[str], seen: set[str]) -> tuple[str, ...]:
    """Tidy phrases that are not empty and not `seen` yet; notes them there."""
    kept = []
    for phrase in (" ".join(p.split()).strip(", ") for p in phrases):
        if phrase and phrase.casefold() not in seen:
            seen.add(phrase.casefold())
            kept.append(phrase)
    return tuple(kept)
