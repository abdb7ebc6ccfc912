"""ARPO on the tiny world with its phrase bank: what comes back of captions, and what the prompts then draw.

References are held-out drawings. A search begins with nothing or with a wrong thing, and a cell is one way to
find a prompt from there for one part of them, which has its own seed of the drawings. What clip-interrogator
does without drawing anything is measured beside it, in our own words (fast, classic and best of its modes),
and so are the true captions, as they are and as phrases, which no search can beat by much.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from steadydiff.arpo.phrase_bank import PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO, Log
from steadydiff.tinyworld import files
from steadydiff.tinyworld.reader import IGNORED, attributes
from steadydiff.tinyworld.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Scenes,
    render,
    sample_scenes,
    with_article,
)  # fmt: skip
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures
from tools.launch.arpo import CONDITION, SCENES, SCENES_SEED, bank, draw, scorer
from tools.launch.console import say

PART, PARTS, SEEDS = 20, 10, 3  # 200 references in all
STARTS = ("empty", "wrong")
MOST_FLAVOURS, MIN_COUNT = 32, 8  # clip-interrogator's own
KINDS = ("shape", "colour", "size", "position", "background", "style")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Attributes = set[tuple[str, str]]


# --- what a caption says ----------------------------------------------------------------------------------


def truth(scenes: Scenes, i: int) -> Attributes:
    """What the whole caption of scene i says; how a pair lies counts as its position."""
    found = {("background", tuple(BACKGROUNDS)[scenes.background[i]]), ("style", STYLES[scenes.style[i]])}
    for k in range(scenes.count[i]):
        colour, shape = thing(scenes, i, k)
        found |= {("colour", colour), ("shape", shape), ("size", SIZES[scenes.size[i, k]])}
    single = scenes.count[i] == 1
    return found | {("position", POSITIONS[scenes.position[i]] if single else RELATIONS[scenes.relation[i]])}


def said(prompt: str, scenes: Scenes, i: int) -> Attributes:
    """What a prompt says of scene i.

    A relation counts as the caption's if it is told of the second thing, as its inverse if of the first; one
    told of something that is not there is a wrong position.
    """
    text = prompt.lower()
    found = {("background", name) for name in re.findall(rf"\b({_any(BACKGROUNDS)}) background\b", text)}
    found |= {("style", name) for name in re.findall(rf"\b({_any(STYLES)}) drawing\b", text)}
    for kind, names in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
        found |= {(kind, name) for name in re.findall(rf"\b({_any(names)})\b", text)}
    things = [thing(scenes, i, k) for k in range(scenes.count[i])]
    told = rf"\b({_any(RELATIONS)}) (?:an? )?(?:(?:{_any(SIZES)}) )?({_any(COLOURS)}) ({_any(SHAPES)})\b"
    for relation, *other in re.findall(told, text):
        at = things.index(tuple(other)) if len(things) == 2 and tuple(other) in things else None
        names = {None: f"{relation} nothing", 0: INVERSE[relation], 1: relation}
        found.add(("position", names[at]))
    alone = re.sub(rf"\b({_any(RELATIONS)})\b", " ", text)
    return found | {("position", name) for name in re.findall(rf"\b({_any(POSITIONS)})\b", alone)}


def thing(scenes: Scenes, i: int, k: int) -> tuple[str, str]:
    return tuple(COLOURS)[scenes.colour[i, k]], SHAPES[scenes.shape[i, k]]


def _any(names) -> str:
    """A pattern of any of these, the longer first."""
    return "|".join(sorted(names, key=len, reverse=True))


# --- ways to a prompt -------------------------------------------------------------------------------------


@cache
def references(part: int) -> tuple[Scenes, Tensor]:
    """The scenes of a part, and their drawings [N, H, W, 3]."""
    scenes = sample_scenes(SCENES_SEED, SCENES)[part * PART : (part + 1) * PART]
    return scenes, render(scenes).permute(0, 2, 3, 1)


@cache
def wrong_thing(part: int, i: int) -> str:
    """The thing of the next scene that has neither shape nor colour of this one's."""
    scenes, _ = references(part)
    here = {word for k in range(scenes.count[i]) for word in thing(scenes, i, k)}
    others = (thing(scenes, j % PART, 0) for j in range(i + 1, i + PART))
    return with_article(" ".join(next(words for words in others if not here & set(words))))


def starts(part: int, start: str) -> list[Phrases]:
    return [Phrases.of("" if start == "empty" else wrong_thing(part, i)) for i in range(PART)]


@cache
def searched(part: int, start: str, seed: int, drop: bool) -> list[Log]:
    """Five iterations for every reference, in step with each other, so that they draw together."""
    settings, drawn = ARPO(5, drop=drop), _drawn.setdefault(seed, {})
    begun: dict[int, Iterator[Log]] = {
        i: settings.search(picture, lambda text, _: drawn[text], bank(), scorer(), seed, first)
        for i, (picture, first) in enumerate(zip(references(part)[1], starts(part, start), strict=True))
    }
    logs, due = dict[int, Log](), [first.prompt for first in starts(part, start)]
    while begun:
        drawings(due, seed)
        logs |= {i: next(search) for i, search in begun.items()}
        begun = {i: search for i, search in begun.items() if not logs[i].stopped}
        due = [logs[i].following.prompt for i in begun]
    return [logs[i] for i in range(PART)]


_drawn: dict[int, dict[str, Tensor]] = {}


def drawings(prompts: list[str], seed: int) -> list[Tensor]:
    """A drawing for each prompt; those of earlier cells are kept."""
    known = _drawn.setdefault(seed, {})
    new = sorted(set(prompts) - set(known))
    known.update(zip(new, draw(new, seed), strict=True) if new else ())
    return [known[prompt] for prompt in prompts]


def by_arpo(iterations: int, drop: bool, part: int, start: str, seed: int) -> list[str]:
    """The prompt after so many iterations, or the last one if the search ended before."""
    logs = searched(part, start, seed, drop)
    return [log.steps[min(iterations, len(log.steps) - 1)].phrases.prompt for log in logs]


def by_best_picture(part: int, start: str, seed: int) -> list[str]:
    """Of five iterations the prompt whose picture is nearest."""
    return [log.best.phrases.prompt for log in searched(part, start, seed, False)]


def by_start(part: int, start: str, seed: int) -> list[str]:
    return [phrases.prompt for phrases in starts(part, start)]


def by_caption(part: int, start: str, seed: int) -> list[str]:
    return world.captions(references(part)[0])


Similar = Callable[[list[str]], list[float]]


def by_true_phrases(part: int, start: str, seed: int) -> list[str]:
    """All that is true, in the bank's own words."""
    scenes, _ = references(part)
    prompts = []
    for i, whole in enumerate(world.captions(scenes)):
        style, rest = whole.split(" of ", 1)
        rest, ground = rest.rsplit(" on a ", 1)
        cut = f" {RELATIONS[scenes.relation[i]]} " if scenes.count[i] == 2 else " at the "
        prompts.append(
            ", ".join([*rest.replace(cut, f", {cut.strip()} ").split(", "), f"on a {ground}", style])
        )
    return prompts


def fast(ranked: list[list[str]], first: str, similar: Similar) -> str:
    """The phrases nearest to the reference of all lists, after the caption, until the window is full."""
    return _filled(first, flavours(ranked, similar))


def classic(ranked: list[list[str]], first: str, similar: Similar) -> str:
    """The nearest phrase of each list."""
    return _filled(first, [phrases[0] for phrases in ranked])


def chain(ranked: list[list[str]], first: str, similar: Similar) -> str:
    """The best one after the other, the first eight whether they help or not; of these prompts the best."""
    left, current, at_current = flavours(ranked, similar), first, similar([first])[0]
    best, at_best = current, at_current
    for count in range(MOST_FLAVOURS):
        longer = [", ".join(filter(None, [current, phrase])) for phrase in left]
        scores = dict(zip(longer, similar(longer), strict=True))
        read = compress(longer, scorer().fits(longer))
        text = max(read, key=scores.__getitem__, default=None)
        if text is None or (count >= MIN_COUNT and scores[text] <= at_current):
            break
        left.pop(longer.index(text))
        current, at_current = text, scores[text]
        if at_current > at_best:
            best, at_best = current, at_current
    return best


def flavours(ranked: list[list[str]], similar: Similar) -> list[str]:
    """The nearest of all lists."""
    known = [phrase for phrases in ranked for phrase in phrases]
    scores = dict(zip(known, similar(known), strict=True))
    return sorted(known, key=scores.__getitem__, reverse=True)[:MOST_FLAVOURS]


def _filled(text: str, phrases: list[str]) -> str:
    for phrase in phrases:
        longer = ", ".join(filter(None, [text, phrase]))
        if not scorer().fits([longer])[0]:
            break
        text = longer
    return text


@cache
def ranked_prompts(way: Callable[..., str], part: int, start: str) -> list[str]:
    """One look at the reference, none at a drawing; each list ranked by its similarity."""
    prompts = []
    for picture, first in zip(references(part)[1], starts(part, start), strict=True):
        wanted = scorer().picture(picture)

        def similar(texts: list[str], wanted: Tensor = wanted) -> list[float]:
            return (scorer().texts(texts) @ wanted).tolist()

        ranked = []
        for phrases in ([*phrases.content, *phrases.style] for phrases in bank().lists):
            scores = dict(zip(phrases, similar(phrases), strict=True))
            ranked.append(sorted(phrases, key=scores.__getitem__, reverse=True)[:MOST_FLAVOURS])
        prompts.append(way(ranked, first.prompt, similar))
    return prompts


def by_ranking(way: Callable[..., str], part: int, start: str, seed: int) -> list[str]:
    return ranked_prompts(way, part, start)


WAYS: dict[str, Callable[[int, str, int], list[str]]] = {
    "caption only": by_start,
    "one-shot, fast": partial(by_ranking, fast),
    "one-shot, classic": partial(by_ranking, classic),
    "one-shot, chain": partial(by_ranking, chain),
    "ARPO 1": partial(by_arpo, 1, False),
    "ARPO 2": partial(by_arpo, 2, False),
    "ARPO 5": partial(by_arpo, 5, False),
    "ARPO 5, best picture": by_best_picture,
    "ARPO 5, dropping": partial(by_arpo, 5, True),
    "true phrases": by_true_phrases,
    "true caption": by_caption,
}


# --- judging ----------------------------------------------------------------------------------------------


@torch.no_grad()
def judged(way: Callable[[int, str, int], list[str]], start: str, seed: int, part: int) -> Figures:
    """Attributes in the prompts, similarities to the references, and what the reader sees in the pictures.

    found is the share of its questions answered right; feature is the cosine of its features, which nothing
    here has optimised, less their mean over the references.
    """
    (scenes, wanted), prompts = references(part), way(part, start, seed)
    pairs = [(truth(scenes, i), said(prompt, scenes, i)) for i, prompt in enumerate(prompts)]
    right = [len(asked & told) for asked, told in pairs]
    figures: Figures = {
        "recall": sum(r / len(asked) for r, (asked, _) in zip(right, pairs, strict=True)) / PART,
        "precision": sum(r / max(len(told), 1) for r, (_, told) in zip(right, pairs, strict=True)) / PART,
    }
    for kind in KINDS:
        asked, both = ([{a for a in found if a[0] == kind} for found in side] for side in (
            [asked for asked, _ in pairs], [asked & told for asked, told in pairs],
        ))  # fmt: skip
        figures[f"recall_{kind}"] = sum(map(len, both)) / sum(map(len, asked))
    drawn = torch.stack(drawings(prompts, seed))
    reference = torch.stack([scorer().picture(picture) for picture in wanted])
    recreated = torch.stack([scorer().picture(picture) for picture in drawn])
    figures["clip_t"] = float((reference * scorer().texts(prompts)).sum(1).mean())
    figures["clip_i"] = float((reference * recreated).sum(1).mean())
    reader = files.load_reader()
    real, made = (reader.features(pictures.permute(0, 3, 1, 2)) for pictures in (wanted, drawn))
    figures["feature"] = float(F.cosine_similarity(real - real.mean(0), made - real.mean(0)).mean())
    answers, read = attributes(scenes), reader.read(drawn.permute(0, 3, 1, 2))
    asked = torch.stack([answers[name] != IGNORED for name in answers])
    hit = torch.stack([answers[name] == read[name] for name in answers])
    figures["found"] = float((asked & hit).sum() / asked.sum())
    return figures


class Embedded:
    """A scorer of random embeddings as wide as ViT-L-14's, which costs nothing but the ranking."""

    def picture(self, picture: Tensor) -> Tensor:
        return F.normalize(picture.flatten()[:768], dim=0)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.randn(len(texts), 768, generator=torch.Generator().manual_seed(0)), dim=1)

    def fits(self, texts: Sequence[str]) -> list[bool]:
        return [True] * len(texts)


def ranking_seconds(phrases: int = 10_000, lists: int = 10) -> float:
    """One proposal of a bank of so many phrases whose embeddings are there; the median of five."""
    each = phrases // lists
    made = tuple(Phrases(tuple(f"phrase {i} {j}" for j in range(each))) for i in range(lists))
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory() as folder:
        large, taken = PhraseBank(made, Embedded(), cache=Path(folder)), []
        for _ in range(6):
            begun = time.perf_counter()
            large.propose(pictures[0], pictures[1], Phrases(("phrase 3 4",)))
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def main() -> int:
    say(f"ranking 10,000 embedded phrases: {ranking_seconds():.3f} s, {torch.get_num_threads()} threads")
    facts = {"weights": world.weights(), "judges": world.judges(), "part": PART,
             "bank": [len(phrases) for phrases in bank().lists], "most": bank().most,
             "against": bank().against,
             "condition": str(CONDITION)}  # fmt: skip
    bench = Bench("arpo", facts)
    for part in range(PARTS):
        seed = part % SEEDS
        for start in STARTS:
            for name, way in WAYS.items():
                key = f"{start} {name} {seed} {part}"
                bench.cell(key, partial(judged, way, start, seed, part), quick=part == 0)
    return bench.run()


if __name__ == "__main__":
    sys.exit(main())
