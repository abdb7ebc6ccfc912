"""Prompts longer than CLIP's window, scored as hosts encode them: in chunks, of which the mean counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .directions import mean_direction
from .phrases import Phrases

if TYPE_CHECKING:
    from .search import Scorer

WINDOW = 75
"""Tokens that CLIP reads at a time, beside those that begin and end a text."""

REMEMBERED = 100_000  # texts of which it is known whether they fit


@dataclass(frozen=True)
class ChunkedScorer:
    """A `Scorer` that reads several windows of another's: as many phrases as fit in the first, and so on.

    Hosts part prompts so at 75 tokens and give the model all chunks. ComfyUI may cut within a phrase, WebUIs
    at a comma near the end of the window; here always at a comma. Of a text of one chunk nothing changes.
    """

    scorer: Scorer
    most: int
    _fitting: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    def picture(self, picture: Tensor) -> Tensor:
        return self.scorer.picture(picture)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Shapes:  result [N, D], of length 1: means over each text's chunks, weighted by their words.

        A window that has just begun would otherwise count as much as a full one, and hide what that says.
        """
        chunks = [self.chunks(text) for text in texts]
        embeddings = iter(self.scorer.texts([chunk for parts in chunks for chunk in parts]))
        return torch.stack(
            [
                mean_direction([next(embeddings) for _ in parts], [float(len(p.split())) for p in parts])
                for parts in chunks
            ]
        )

    def fits(self, texts: Sequence[str]) -> list[bool]:
        self._look(texts)
        found = [self.chunks(text) for text in texts]
        return [len(parts) <= self.most and all(map(self._fits, parts)) for parts in found]

    def chunks(self, text: str) -> list[str]:
        """A text in parts that each fit; a phrase that is longer than a window is a part by itself."""
        if self._fits(text):
            return [text]
        left, found = Phrases.of(text).content, []
        while left:
            low, high = 1, len(left)  # the most phrases that fit together, by halving
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits(", ".join(left[:middle])) else (low, middle - 1)
            found.append(", ".join(left[:low]))
            left = left[low:]
        return found or [text]

    def _fits(self, text: str) -> bool:
        self._look([text])
        return self._fitting[text]

    def _look(self, texts: Sequence[str]) -> None:
        """Ask for all that is not known yet, as one batch."""
        if len(self._fitting) > REMEMBERED:
            self._fitting.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._fitting]
        if new:
            self._fitting.update(zip(new, self.scorer.fits(new), strict=True))
