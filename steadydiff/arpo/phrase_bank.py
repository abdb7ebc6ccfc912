"""Phrase banks: a proposer that knows no language model, only lists of phrases and a scorer.

A bank is a folder of text files, or one text file, one phrase a line. Files in a folder `style` hold style,
all others content. `__name__` in a phrase stands for every line of the file name.txt, as in wildcards; files
in a folder `words` serve only for that. Empty lines and lines that begin with "#" say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SettingsError
from .embeddings import KEPT_FROM, kept_embeddings
from .phrases import Phrases
from .search import Scorer

ABSENT = 1  # of each list, in the hosts' faces; the next ones mostly say the same in other words
CHUNK = 8192  # phrases that are ranked at a time


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
    cache:   a folder that keeps the embeddings of longer lists from one run to the next; None: none does
    """

    lists: tuple[Phrases, ...]
    scorer: Scorer
    most: int = 16
    against: float = 0.5
    absent: int = 0
    cache: Path | None = None
    _embeddings: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not any(len(phrases) for phrases in self.lists):
            raise SettingsError("the phrase bank is empty; choose a bank or give phrases, one a line")
        if self.most < 1:
            raise SettingsError(f"most is 1 or more; got {self.most}")
        if not 0 <= self.against <= 1:
            raise SettingsError(f"against is between 0 and 1; got {self.against}")

    def caption(self, reference: Tensor) -> Phrases:
        """The one phrase nearest to the reference, of the content if there is any."""
        direction = self.scorer.picture(reference)
        found = [p for at in range(len(self.lists)) for p in self._nearest(at, direction, 1, Phrases())]
        return max(found, key=lambda pair: (bool(pair[1].content), pair[0]))[1]

    def propose(self, reference: Tensor, generated: Tensor, current: Phrases) -> Phrases:
        """Phrases of the largest sim(reference) - against * sim(generated); as negative what is `shown`."""
        wanted, drawn = self.scorer.picture(reference), self.scorer.picture(generated)
        direction = wanted - self.against * drawn
        found = [p for at in range(len(self.lists)) for p in self._nearest(at, direction, self.most, current)]
        best = [phrase for _, phrase in sorted(found, key=lambda pair: -pair[0])]
        absent = self.shown(reference, generated, current)
        return Phrases(sum((p.content for p in best), ()), sum((p.style for p in best), ()), absent)

    def shown(self, reference: Tensor, generated: Tensor, current: Phrases) -> tuple[str, ...]:
        """Of each list what the drawing shows most and the reference least; also what is a candidate."""
        if not self.absent:
            return ()
        direction = self.scorer.picture(generated) - self.scorer.picture(reference)
        found = (self._nearest(at, direction, self.absent, current) for at in range(len(self.lists)))
        return tuple(phrase.prompt for pairs in found for _, phrase in pairs)

    def _nearest(
        self, at: int, direction: Tensor, most: int, current: Phrases
    ) -> list[tuple[float, Phrases]]:
        """Similarity and phrase of the list's `most` nearest to a direction that are not in `current`."""
        phrases = self.lists[at]
        texts = [*phrases.content, *phrases.style]
        told = {p.casefold() for p in current.content + current.style}
        left = [i for i, text in enumerate(texts) if text.casefold() not in told]
        if not left:
            return []
        parts = self._embedded(at, texts, len(direction))[left].split(CHUNK)
        scores = torch.cat([part @ direction for part in parts])
        nearest = scores.argsort(descending=True, stable=True)[:most].tolist()
        content = len(phrases.content)
        return [
            (
                float(scores[i]),
                Phrases((texts[left[i]],)) if left[i] < content else Phrases((), (texts[left[i]],)),
            )
            for i in nearest
        ]

    def _embedded(self, at: int, texts: list[str], width: int) -> Tensor:
        """The embeddings [N, D] of a list; those of short ones lie in the scorer's own memory."""
        if self.cache is None or len(texts) < KEPT_FROM:
            return self.scorer.texts(texts)
        if at not in self._embeddings:
            self._embeddings[at] = kept_embeddings(self.scorer, texts, width, self.cache)
        return self._embeddings[at]
