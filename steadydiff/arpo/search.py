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

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from statistics import mean
from typing import Protocol

from torch import Tensor

from ..errors import ProposerError, SettingsError, ShapeError
from .chunks import WINDOW, ChunkedScorer
from .directions import mean_direction
from .log import FAILED, Log, Step, theme_fingerprint
from .phrases import Phrases

Generate = Callable[[str, int], Tensor]
"""(prompt, seed) -> the picture [H, W, 3] in 0..1 that the text-to-image model draws."""

MIN_ABSENT = 0.02  # what the drawing and the reference differ in by chance is mostly less
SEEDS = 2**64  # that hosts know; those that follow on the last begin at 0 again

Fits = Callable[[list[str]], list[bool]]
"""Which texts the scorer's text model reads to their ends."""


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
        Phrases that are already in `current`, or excluded, are dropped by the search, and so is of the
        `negative` ones what the drawing has no more of than the reference.
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

    def fits(self, texts: Sequence[str]) -> list[bool]:
        """Which texts the text model reads to their ends."""
        ...


# --- selection --------------------------------------------------------------------------------------------

Similarities = Callable[[list[str]], list[float]]
"""How near each text is to the reference; one call is one batch."""


@dataclass(frozen=True)
class Selection:
    """What a greedy choice among candidates came to.

    gains: (phrase, similarity) in the order of choice, the similarity being that of the prompt with it
    similarity: of the prompt with all that was added
    full: whether candidates were left out because the text model would not have read them
    """

    added: Phrases
    similarity: float
    gains: tuple[tuple[str, float], ...] = ()
    full: bool = False


def select_phrases(
    similarities: Similarities, current: Phrases, candidates: Phrases, fits: Fits, min_gain: float = 0.0
) -> Selection:
    """Add one candidate after the other, always the one that brings the prompt nearest, while that helps.

    Units:   min_gain is a difference of cosines; a phrase must gain more than that.
    Source:  Ren, chapter 4, algorithm 8; differs from it in three things. A phrase must gain: algorithm 8
             takes what gains nothing, and thus everything once the text model's window is full. A phrase the
             text model would not read is no candidate. And it stops when the best phrase does not gain:
             nothing was added since its rivals were measured and none is better, so algorithm 8 would only
             drop them one by one. Both choose the same; this one measures a round for every phrase added.
    """
    best = similarities([current.prompt])[0]
    left, added, gains, full = list((candidates - current).each()), Phrases(), [], False
    while True:
        prompts = [(current + added + p).prompt for p in left]
        read = fits(prompts)
        full |= not all(read)  # and has no more room later, as prompts only grow
        left, prompts = list(compress(left, read)), list(compress(prompts, read))
        scores = similarities(prompts) if prompts else []
        at = max(range(len(left)), key=scores.__getitem__, default=None)
        if at is None or not scores[at] > best + min_gain:
            return Selection(added, best, tuple(gains), full)
        best, phrase = scores[at], left.pop(at)
        added += phrase
        gains.append((phrase.prompt, best))


def drop_phrases(similarities: Similarities, current: Phrases, min_gain: float = 0.0) -> Selection:
    """Take out one phrase after the other, the one whose loss brings the prompt nearest, while one does.

    Returns what is left as `added`. It is no part of the paper, whose prompts only grow: a caption that was
    wrong from the start stays in them.
    """
    best, gains = similarities([current.prompt])[0], []
    while len(current) > 1:
        shorter = [(p.prompt, current - p) for p in current.each()]
        scores = similarities([rest.prompt for _, rest in shorter])
        at = max(range(len(shorter)), key=scores.__getitem__)
        if not scores[at] > best + min_gain:
            break
        best, (phrase, current) = scores[at], shorter[at]
        gains.append((phrase, best))
    return Selection(current, best, tuple(gains))


def absent_phrases(
    phrases: tuple[str, ...], scorer: Scorer, drawn: Tensor, wanted: Tensor, least: float = MIN_ABSENT
) -> tuple[str, ...]:
    """Of these phrases those that a drawing has and the reference has not, the surest first.

    No part of the paper.

    least: by how much the drawing must be nearer to a phrase, as a difference of cosines
    Shapes:  drawn, wanted [D], the embeddings of the pictures.
    """
    if not phrases:
        return ()
    nearer = (scorer.texts(phrases) @ (drawn - wanted)).tolist()
    pairs = sorted(zip(nearer, phrases, strict=True), key=lambda pair: -pair[0])
    return tuple(phrase for gap, phrase in pairs if gap > least)


def shown_by(proposer: Proposer, theme: Sequence[Tensor], step: Step) -> tuple[str, ...]:
    """What a phrase bank says is absent, even if it is a candidate too, as all of a short list is."""
    shown = getattr(proposer, "shown", None)
    if shown is None:
        return ()
    return tuple(phrase for one in theme for phrase in shown(one, step.typical, step.phrases))


# --- search -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ARPO:
    """How to search for the prompt of a picture.

    iterations: how often the prompt is improved; it is drawn once more at the end   0 only draws it
    target:     image similarity at which it is near enough to stop                  1 never
    min_gain:   similarity that a phrase must add                                    0 any, as the paper
    excluded:   words, or phrases, that no proposed phrase may hold, in any case
    drop:       also take out phrases that hinder                                    False, as the paper
    seeds:      drawings of each prompt, from this many seeds; their mean similarity counts   1
    max_tokens: how long a prompt may be, in whole windows of 75 tokens              75, as the paper
    """

    iterations: int = 5
    target: float = 1.0
    min_gain: float = 0.0
    excluded: tuple[str, ...] = ()
    drop: bool = False
    seeds: int = 1
    max_tokens: int = WINDOW

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise SettingsError(f"iterations is 0 or more; got {self.iterations}")
        if self.seeds < 1:
            raise SettingsError(f"seeds is 1 or more; got {self.seeds}")
        if self.max_tokens < WINDOW:
            raise SettingsError(f"max_tokens is {WINDOW} or more; got {self.max_tokens}")
        if not 0 <= self.min_gain <= 1:
            raise SettingsError(f"min_gain is between 0 and 1; got {self.min_gain}")
        if not -1 <= self.target <= 1:
            raise SettingsError(f"target is between -1 and 1, as cosines are; got {self.target}")

    def search(
        self,
        reference: Tensor | Sequence[Tensor],
        generate: Generate,
        proposer: Proposer,
        scorer: Scorer,
        seed: int,
        prompt: Phrases | None = None,
        log: Log | None = None,
    ) -> Iterator[Log]:
        """Yield the log after every step; the last one says in `stopped` why there is no other.

        Every prompt is drawn with the same seed, or with the same `seeds` that follow on it, so that two
        pictures differ by their prompts alone; of those of a prompt the proposer sees the most typical. What
        `generate` raises passes through; a ProposerError ends the search with the log that is there.

        reference: one picture, or several that share a theme: the prompt then comes near to their mean, the
                   most typical of them is captioned, and the proposer is asked about each
        prompt: where to begin; None asks the proposer for a caption
        log:    an earlier search of the same reference and seed to go on from; `prompt` then means nothing

        Shapes:  reference [H, W, 3] in 0..1, several may differ in size.
        Raises:  ShapeError; SettingsError if the log is of another search; ProposerError without a caption.
        """
        theme = [reference] if isinstance(reference, Tensor) else list(reference)
        for picture in theme:
            if picture.ndim != 3 or picture.shape[-1] != 3:
                raise ShapeError(f"a reference picture is [H, W, 3]; got {list(picture.shape)}")
        if not theme:
            raise ShapeError("a theme has one picture or more; got none")
        if self.max_tokens >= 2 * WINDOW:
            scorer = ChunkedScorer(scorer, self.max_tokens // WINDOW)
        wanted = mean_direction([scorer.picture(picture) for picture in theme])
        typical = theme[0]
        if len(theme) > 1:
            typical = max(theme, key=lambda picture: float(scorer.picture(picture) @ wanted))
        log = self._begun(theme, typical, proposer, seed, prompt, log)

        def similarities(texts: list[str]) -> list[float]:
            return (scorer.texts(texts) @ wanted).tolist()

        while not log.stopped:
            current, begun = log.following, time.perf_counter()
            pictures = [generate(current.prompt, (seed + k) % SEEDS) for k in range(self.seeds)]
            seconds = {"generate": time.perf_counter() - begun}
            drawn = [scorer.picture(picture) for picture in pictures]
            each = [float(one @ wanted) for one in drawn]
            near = mean(each)  # of one itself
            step = Step(
                current,
                pictures[0],
                similarities([current.prompt])[0],
                near,
                seconds=seconds,
                others=tuple(pictures[1:]),
                similarities=tuple(each) if len(each) > 1 else (),
            )
            if near >= self.target < 1:
                following, reason = current, "the target similarity is reached"
            elif len(log.steps) >= self.iterations:
                following, reason = current, "all iterations are done"
            else:
                step, following, reason = self._improved(step, theme, proposer, scorer.fits, similarities)
                named = Phrases(negative=step.candidates.negative + shown_by(proposer, theme, step))
                named = (named - following).without(self.excluded).negative
                absent = absent_phrases(named, scorer, mean_direction(drawn), wanted)
                following += Phrases(negative=absent)
            log = replace(log, steps=(*log.steps, step), following=following, stopped=reason)
            yield log

    def _begun(
        self,
        theme: Sequence[Tensor],
        typical: Tensor,
        proposer: Proposer,
        seed: int,
        prompt: Phrases | None,
        log: Log | None,
    ) -> Log:
        """A new log, or an earlier one if it is of this search; the step where it stopped is done again."""
        name = theme_fingerprint(theme)
        if log is None:
            first = proposer.caption(typical).without(self.excluded) if prompt is None else prompt
            return Log(name, seed, first, seeds=self.seeds)
        if (log.reference, log.seed) != (name, seed):
            raise SettingsError(
                "the log is of another reference picture or seed; give those again, or start without a log"
            )
        if log.seeds != self.seeds:
            raise SettingsError(
                f"the log has drawings of {log.seeds} seeds each, now {self.seeds} are wanted; give as many "
                "again, or start without a log"
            )
        if not log.stopped:
            return log
        return replace(log, steps=log.steps[:-1], following=log.steps[-1].phrases, stopped="")

    def _improved(
        self, step: Step, theme: Sequence[Tensor], proposer: Proposer, fits: Fits, similarities: Similarities
    ) -> tuple[Step, Phrases, str]:
        """The step with what was proposed and chosen, the prompt to draw next, or why there is no other."""
        current, begun = step.phrases, time.perf_counter()
        try:
            found = (proposer.propose(one, step.typical, current) for one in theme)
            candidates = (sum(found, Phrases()) - current).without(self.excluded)
        except ProposerError as error:
            return step, current, f"{FAILED}{error}"
        proposing, begun = time.perf_counter() - begun, time.perf_counter()
        chosen = select_phrases(similarities, current, candidates, fits, self.min_gain)
        following, drops = current + chosen.added, ()
        if self.drop:
            kept = drop_phrases(similarities, following, self.min_gain)
            following, drops = kept.added, kept.gains
        seconds = step.seconds | {"propose": proposing, "select": time.perf_counter() - begun}
        step = replace(step, candidates=candidates, gains=chosen.gains, drops=drops, seconds=seconds)
        if following != current:
            return step, following, ""
        full = "the text model's window is full" if chosen.full else "no phrase brings the prompt nearer"
        return step, current, full
