"""ARPO on the tiny world with its phrase bank: what comes back of captions, and what the prompts then draw.

References are held-out drawings. A search begins with nothing or with a wrong thing, and a cell is one way to
find a prompt from there for one part of them, which has its own seed of the drawings. What clip-interrogator
does without drawing anything is measured beside it, in our own words (fast, classic and best of its modes),
and so are the true captions, as they are and as phrases, which no search can beat by much.

Cells of "cost" begin with a wrong thing and also tell what a search took, and which of its negative phrases
are right. Beside the bank a model with known errors proposes there, also without parts of the method.
"""

# Over 400 lines: its cells share one world of drawings, captions and searches.

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from steadydiff.arpo.language.proposer import Framework
from steadydiff.arpo.phrase_bank import PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO, Log, Proposer, Scorer
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
)
from tools.bench.shared import world
from tools.bench.shared.frame import Bench, Figures
from tools.bench.shared.teller import Teller, phrases_of, scenes_of
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
    """Five iterations for every reference."""
    return in_step(part, start, seed, ARPO(5, drop=drop), [(bank(), scorer())] * PART)


def in_step(
    part: int, start: str, seed: int, settings: ARPO, helpers: Sequence[tuple[Proposer, Scorer]]
) -> list[Log]:
    """A search for every reference, in step with each other, so that they draw together."""
    drawn = _drawn.setdefault(seed, {})
    begun: dict[int, Iterator[Log]] = {
        i: settings.search(picture, lambda text, _: drawn[text], *helpers[i], seed, first)
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
    return [", ".join(phrases) for phrases in phrases_of(references(part)[0])]


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
        asked, both = (
            [{a for a in found if a[0] == kind} for found in side]
            for side in (
                [asked for asked, _ in pairs],
                [asked & told for asked, told in pairs],
            )
        )
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


# --- cost, and negative phrases ---------------------------------------------------------------------------

NOISE, MIXED = 0.1, 0.1  # of the model that proposes, by our choice


@dataclass
class Counted:
    """A scorer that counts what is encoded, once each: texts beside those of the bank, and pictures."""

    scorer: Scorer
    apart: frozenset[str] = frozenset()
    seen_texts: set[str] = field(default_factory=set)
    seen_pictures: set[int] = field(default_factory=set)

    def picture(self, picture: Tensor) -> Tensor:
        self.seen_pictures.add(picture.data_ptr())
        return self.scorer.picture(picture)

    def texts(self, texts: Sequence[str]) -> Tensor:
        self.seen_texts.update(text for text in texts if text not in self.apart)
        return self.scorer.texts(texts)

    def fits(self, texts: Sequence[str]) -> list[bool]:
        return self.scorer.fits(texts)


@dataclass(frozen=True)
class Search:
    """What a search found and took: its prompt, its drawings, encodes and questions, and what is absent."""

    prompt: str
    drawn: list[Tensor]
    texts: int = 0
    pictures: int = 0
    questions: int = 0
    negative: tuple[str, ...] = ()


def with_bank(settings: ARPO, part: int, seed: int) -> list[Search]:
    known = frozenset(text for phrases in bank().lists for text in phrases.content + phrases.style)
    counted = [Counted(scorer(), known) for _ in range(PART)]
    banks = [PhraseBank(bank().lists, one, absent=bank().absent) for one in counted]
    logs = in_step(part, "wrong", seed, settings, list(zip(banks, counted, strict=True)))
    return [searched_by(log, one, 0) for log, one in zip(logs, counted, strict=True)]


def with_model(framework: Framework, part: int, seed: int) -> list[Search]:
    counted = [Counted(scorer()) for _ in range(PART)]
    tellers = [Teller(NOISE, MIXED) for _ in range(PART)]
    asked = [teller.proposer(framework) for teller in tellers]
    logs = in_step(part, "wrong", seed, ARPO(5, drop=True), list(zip(asked, counted, strict=True)))
    return [searched_by(*found) for found in zip(logs, counted, [one.asked for one in tellers], strict=True)]


def searched_by(log: Log, counted: Counted, questions: int) -> Search:
    """What its last prompt is, which the tables of the other cells show too."""
    last, taken = log.steps[-1], (len(counted.seen_texts), len(counted.seen_pictures))
    drawn = [step.picture for step in log.steps]
    return Search(last.phrases.prompt, drawn, *taken, questions, log.following.negative)


def without_selection(part: int, seed: int) -> list[Search]:
    """The same model; whatever it proposes is added as long as CLIP reads it, and nothing is taken out."""
    tellers = [Teller(NOISE, MIXED) for _ in range(PART)]
    asked = [teller.proposer("enhanced") for teller in tellers]
    current = starts(part, "wrong")
    drawn: list[list[Tensor]] = [[] for _ in range(PART)]
    due = list(range(PART))
    for last in (False,) * 5 + (True,):
        before = list(current)
        for i, picture in zip(due, drawings([current[i].prompt for i in due], seed), strict=True):
            drawn[i].append(picture)
            if not last:
                found = asked[i].propose(references(part)[1][i], picture, current[i])
                current[i] = filled_up(current[i], found)
        due = [i for i in due if current[i] != before[i]]
    return [
        Search(prompt.prompt, pictures, questions=teller.asked)
        for prompt, pictures, teller in zip(current, drawn, tellers, strict=True)
    ]


def filled_up(current: Phrases, found: Phrases) -> Phrases:
    for phrase in (found - current).each():
        current = current + phrase if scorer().fits([(current + phrase).prompt])[0] else current
    return current


SEARCHES: dict[str, Callable[[int, int], list[Search]]] = {
    "bank": partial(with_bank, ARPO(5)),
    "bank, dropping": partial(with_bank, ARPO(5, drop=True)),
    "bank, dropping, two windows": partial(with_bank, ARPO(5, drop=True, max_tokens=150)),
    "model": partial(with_model, "enhanced"),
    "model, without descriptions": partial(with_model, "vanilla"),
    "model, without selection": without_selection,
}


@torch.no_grad()
def costed(search: Callable[[int, int], list[Search]], seed: int, part: int) -> Figures:
    """What came back, what it took for each picture, and how many of its negative phrases are right.

    right: a drawing shows the phrase and the reference does not; clean: it says nothing true of that;
    chance_...: the same of all phrases of the lists that the negative ones come from
    """
    scenes, _ = references(part)
    found = search(part, seed)
    figures = judged(lambda *_: [one.prompt for one in found], "wrong", seed, part)
    figures = {name: figures[name] for name in ("recall", "precision", "feature", "found")}
    figures |= {
        "drawings": statistics.mean(len(one.drawn) for one in found),
        "texts": statistics.mean(one.texts for one in found),
        "pictures": statistics.mean(one.pictures for one in found),
        "questions": statistics.mean(one.questions for one in found),
        "negative": sum(len(one.negative) for one in found),
    }
    lists = [phrases.content + phrases.style for phrases in bank().lists]
    sums: dict[str, float] = {"right": 0, "chance_right": 0, "clean": 0, "chance_clean": 0}
    for i, one in enumerate(found):
        seen = scenes_of(files.load_reader().read(torch.stack(one.drawn).permute(0, 3, 1, 2)))
        for phrase in one.negative:
            texts = next(texts for texts in lists if phrase in texts)
            for name, of in (("right", is_right), ("clean", is_clean)):
                sums[name] += of(phrase, scenes, i, seen)
                sums[f"chance_{name}"] += statistics.mean(of(text, scenes, i, seen) for text in texts)
    return figures | sums


def is_right(phrase: str, scenes: Scenes, i: int, seen: Scenes) -> bool:
    """Whether one of the drawings shows it, and the reference, scene i, does not."""
    return not shows(scenes, i, phrase) and any(shows(seen, k, phrase) for k in range(len(seen)))


def is_clean(phrase: str, scenes: Scenes, i: int, seen: Scenes) -> bool:
    return not said(phrase, scenes, i) & truth(scenes, i)


def shows(scenes: Scenes, i: int, phrase: str) -> bool:
    """Whether a phrase of the bank is true of scene i as a whole, of one and the same thing."""
    told = said(phrase, scenes, i)
    kinds = {kind: value for kind, value in told}
    if "shape" not in kinds:
        return told <= truth(scenes, i)
    whole = [SIZES[scenes.size[i, k]] for k in range(scenes.count[i])]
    things = [
        {"size": size, "colour": colour, "shape": shape}
        for k, size in enumerate(whole)
        for colour, shape in [thing(scenes, i, k)]
    ]
    relation = kinds.pop("position", None)
    there = any(kinds.items() <= one.items() for one in things)
    return there and (relation is None or ("position", relation) in truth(scenes, i))


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
    facts = {
        "weights": world.weights(),
        "judges": world.judges(),
        "part": PART,
        "bank": [len(phrases) for phrases in bank().lists],
        "most": bank().most,
        "against": bank().against,
        "condition": str(CONDITION),
    }
    bench = Bench("arpo", facts)
    for part in range(PARTS):
        seed = part % SEEDS
        for start in STARTS:
            for name, way in WAYS.items():
                key = f"{start} {name} {seed} {part}"
                bench.cell(key, partial(judged, way, start, seed, part), quick=part == 0)
        for name, search in SEARCHES.items():
            bench.cell(f"cost {name} {seed} {part}", partial(costed, search, seed, part), quick=part == 0)
    return bench.run()


if __name__ == "__main__":
    sys.exit(main())
