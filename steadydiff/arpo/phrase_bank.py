"""Phrase banks: a proposer that knows no language model, only lists of phrases and a scorer.

A bank is a folder of text files, one phrase a line. Files in a folder `style` hold style, all others content.
`__name__` in a phrase stands for every line of the file name.txt, as in wildcards; files in a folder `words`
serve only for that. Empty lines and lines that begin with "#" say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

from torch import Tensor

from ..errors import SettingsError
from ..files.text import is_hidden, read_text
from .phrases import Phrases
from .search import Scorer

BANKS = Path(__file__).resolve().parents[2] / "phrases"
MOST_PHRASES = 20_000  # embeddings of so many are some 60 MB
ABSENT = 1  # of each list, in the hosts' faces; the next ones mostly say the same in other words
_WILDCARD = re.compile(r"__([^\W_]+(?:[_-][^\W_]+)*)__")


@dataclass(frozen=True)
class PhraseBank:
    """Proposes what is near to the reference, the more so the farther it is from the drawing.

    lists:   all it knows, a list for each file: mediums, lights and so on
    most:    how many it proposes of each list, the first ones; of all together those that say much the same
             as the best would leave no room for another kind
    against: how much the drawing counts. 0: phrases are ranked by the reference alone. 1: by the difference,
             and what the drawing shows by luck, without being told, is hidden
    absent:  how many of each list it proposes as `negative`, what the drawing shows most and the reference
             least; 0: none
    """

    lists: tuple[Phrases, ...]
    scorer: Scorer
    most: int = 16
    against: float = 0.5
    absent: int = 0

    def __post_init__(self) -> None:
        if not any(len(phrases) for phrases in self.lists):
            raise SettingsError("the phrase bank is empty; choose a bank or give phrases, one a line")
        if self.most < 1:
            raise SettingsError(f"most is 1 or more; got {self.most}")
        if not 0 <= self.against <= 1:
            raise SettingsError(f"against is between 0 and 1; got {self.against}")

    def caption(self, reference: Tensor) -> Phrases:
        """The one phrase nearest to the reference, of the content if there is any."""
        known = sum(self.lists, Phrases())
        return self._ranked(Phrases(known.content) or known, self.scorer.picture(reference))[0][1]

    def propose(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        """Phrases of the largest sim(reference) - against * sim(generated); negative ones of the smallest
        sim(reference) - sim(generated)."""
        wanted, drawn = self.scorer.picture(reference), self.scorer.picture(generated)
        lacking = wanted - self.against * drawn
        found = [p for phrases in self.lists for p in self._ranked(phrases - current, lacking)[: self.most]]
        best = sorted(found, key=lambda pair: -pair[0])
        absent = [
            p.prompt
            for phrases in (self.lists if self.absent else ())
            for _, p in self._ranked(phrases - current, drawn - wanted)[: self.absent]
        ]
        return sum((phrase for _, phrase in best), Phrases(negative=tuple(absent)))

    def _ranked(self, phrases: Phrases, direction: Tensor) -> list[tuple[float, Phrases]]:
        """Similarity to a direction and phrase, the nearest first."""
        if not len(phrases):
            return []
        scores = (self.scorer.texts([*phrases.content, *phrases.style]) @ direction).tolist()
        return sorted(zip(scores, phrases.each(), strict=True), key=lambda pair: -pair[0])


def find_banks(own: Path) -> dict[str, Path]:
    """Folders of banks by name: those that ship, and the user's, every folder of `own`."""
    found = [*sorted(BANKS.iterdir()), *(sorted(own.iterdir()) if own.is_dir() else [])]
    return {folder.name: folder for folder in found if folder.is_dir() and not folder.name.startswith(".")}


def read_bank(folder: Path) -> tuple[Phrases, ...]:
    """The lists of a bank, their wildcards filled in.

    Raises:  SettingsError naming the file: it is not there, is no text, names a file that is not there or
             itself, or fills in to too many phrases.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.txt")):
        if is_hidden(file, folder):  # what macOS, notebooks and editors leave behind
            continue
        if file.stem in files:
            raise SettingsError(f"{folder.name} has two files {file.name}; wildcards could mean either")
        files[file.stem] = file
    if not files:
        raise SettingsError(f"no phrase bank is in {folder.name}: a folder of .txt files, one phrase a line")
    lists = []
    for name, file in files.items():
        folders = file.relative_to(folder).parent.parts
        if "words" not in folders:
            lines = tuple(_filled(name, files))
            lists.append(Phrases((), lines) if "style" in folders else Phrases(lines))
    if sum(map(len, lists)) > MOST_PHRASES:
        raise SettingsError(f"{folder.name} has more than {MOST_PHRASES} phrases; part it into several banks")
    return tuple(lists)


def _filled(name: str, files: dict[str, Path], within: tuple[str, ...] = ()) -> list[str]:
    """The lines of a file with every wildcard in them filled in."""
    if name in within:
        raise SettingsError(f"{name}.txt stands for itself, by way of {', '.join(within)}")
    if name not in files:
        raise SettingsError(f"{within[-1]}.txt names __{name}__, but the bank has no {name}.txt")
    try:
        lines = read_text(files[name]).splitlines()
    except OSError as error:
        raise SettingsError(f"{name}.txt cannot be read: {error}") from None
    found = []
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            parts = _WILDCARD.split(line.strip())  # text, name, text, name, ..., text
            choices = [_filled(p, files, (*within, name)) if i % 2 else [p] for i, p in enumerate(parts)]
            if len(found) + prod(map(len, choices)) > MOST_PHRASES:
                raise SettingsError(
                    f"{name}.txt: {line.strip()!r} stands for more than {MOST_PHRASES} phrases"
                )
            found += ["".join(choice) for choice in product(*choices)]
    return found
