"""How good the tiny CLIP is: captions find their pictures, true phrases come nearer, false ones move away.

512 held-out drawings, as they are and as the shipped autoencoder gives them back. Shares:

whole        whole captions that are nearer to their own picture than to each of the other 63 of their group;
             a tie is a miss
shortened    the same for captions that leave things out, as people do
ceiling      what that could be at best: a shortened caption that fits k of the 64, word for word, counts 1/k
shape ...    whole captions that are nearer to their picture than with this one fact altered
true         phrases appended to a growing prompt that bring it nearer to the picture
false        phrases with other facts in their place that move it away
"""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from steadydiff.tinyworld import files
from steadydiff.tinyworld import scenes as world
from steadydiff.tinyworld.scenes import Scenes, caption, render, sample_scenes, with_article
from steadydiff.tinyworld.train import HELD_OUT
from tools.bench.shared.frame import Bench

GROUP = 64
FACTS = {
    "shape": world.SHAPES,
    "colour": tuple(world.COLOURS),
    "size": world.SIZES,
    "position": world.POSITIONS,
    "relation": world.RELATIONS,
    "background": tuple(world.BACKGROUNDS),
    "style": world.STYLES,
}


@torch.no_grad()
def held_out(n: int, decoded: bool) -> tuple[Scenes, Tensor]:
    scenes = sample_scenes(HELD_OUT + 4, n)
    pictures = render(scenes)
    if decoded:
        model = files.load_autoencoder()
        parts = [model.decode(model.encode(x * 2 - 1)[0]) for x in pictures.split(GROUP)]
        pictures = (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
    return scenes, pictures


def understanding(scenes: Scenes, pictures: Tensor) -> dict[str, float]:
    """All figures of this bench but speed and size."""
    clip, rng, every = files.load_clip(), np.random.default_rng(0), range(len(scenes))
    seen = clip.picture_features(pictures)

    def similarity(texts: list[str]) -> Tensor:
        return (clip.text_features(texts) * seen).sum(-1)

    whole, short = ([caption(scenes, i, r) for i in every] for r in (None, rng))
    result = {
        "whole": share(retrieved(clip.text_features(whole), seen)),
        "shortened": share(retrieved(clip.text_features(short), seen)),
        "ceiling": ceiling(scenes, short),
    }
    own = similarity(whole)
    for fact in FACTS:
        other = altered(scenes, fact, rng)
        texts = [caption(other, i) for i in every]
        told = torch.tensor([a != b for a, b in zip(texts, whole, strict=True)])
        result[fact] = share((own > similarity(texts))[told])
    return result | growth(scenes, similarity, rng)


def retrieved(texts: Tensor, pictures: Tensor) -> Tensor:
    """True [N] where a text is nearer to its own picture than to each other one of its group."""
    similarity = texts.unflatten(0, (-1, GROUP)) @ pictures.unflatten(0, (-1, GROUP)).mT
    own = similarity.diagonal(dim1=1, dim2=2)
    others = similarity.masked_fill(torch.eye(GROUP, dtype=torch.bool), -torch.inf).amax(2)
    return (own > others).flatten()


def ceiling(scenes: Scenes, texts: list[str]) -> float:
    """Mean of 1 / k; a scene's captions come in 16 forms, each of four attributes said or left out."""

    def in_form(i: int, said: tuple[float, ...]) -> str:
        return caption(scenes, i, cast(np.random.Generator, SimpleNamespace(random=iter(said).__next__)))

    forms = [{in_form(i, said) for said in product((0.0, 1.0), repeat=4)} for i in range(len(scenes))]
    fits = [sum(text in form for form in forms[i - i % GROUP :][:GROUP]) for i, text in enumerate(texts)]
    return float(np.mean(1 / np.array(fits)))


def altered(scenes: Scenes, fact: str, rng: np.random.Generator) -> Scenes:
    """The scenes with another value of one fact; of a pair, the first object's."""
    values = getattr(scenes, fact).copy()
    first = values[:, 0] if values.ndim == 2 else values
    first[:] = (first + rng.integers(1, len(FACTS[fact]), len(first))) % len(FACTS[fact])
    return dataclasses.replace(scenes, **{fact: values})


def growth(scenes: Scenes, similarity: Callable, rng: np.random.Generator) -> dict[str, float]:
    """Grow a prompt for each scene from its first object, by the other phrases in random order."""
    false, gains = scenes, {"true": [], "false": []}
    for fact in FACTS:
        false = altered(false, fact, rng)
    said = {name: [phrases(s, i) for i in range(len(s))] for name, s in (("true", scenes), ("false", false))}
    orders = [1 + rng.permutation(3) for _ in said["true"]]
    prompts = [words[0] for words in said["true"]]
    for turn in range(3):
        before = similarity(prompts)
        for name in ("false", "true"):
            grown = [f"{p}, {said[name][i][orders[i][turn]]}" for i, p in enumerate(prompts)]
            gains[name].append(similarity(grown) - before)
        prompts = grown  # the true ones
    return {"true": share(torch.cat(gains["true"]) > 0), "false": share(torch.cat(gains["false"]) < 0)}


def phrases(scenes: Scenes, i: int) -> list[str]:
    """The first object, the second one or the place, the background and the style of scene i."""

    def value(fact: str) -> str:
        return FACTS[fact][getattr(scenes, fact)[i]]

    def thing(k: int) -> str:
        return with_article(f"{FACTS['colour'][scenes.colour[i, k]]} {FACTS['shape'][scenes.shape[i, k]]}")

    pair = scenes.count[i] == 2
    place = f"{thing(0)} {value('relation')} {thing(1)}" if pair else f"at the {value('position')}"
    background = f"on {with_article(value('background'))} background"
    return [thing(0), place, background, f"{value('style')} drawing"]


def cost() -> dict[str, float]:
    """Milliseconds of one core in batches of 64, best of five, and the size of all files."""
    clip, (scenes, pictures) = files.load_clip(), held_out(GROUP, decoded=False)
    texts = [caption(scenes, i) for i in range(GROUP)]
    torch.set_num_threads(1)
    result = {
        "ms_per_picture": best(lambda: clip.picture_features(pictures)),
        "ms_per_caption": best(lambda: clip.text_features(texts)),
    }
    return result | {"megabytes": sum(p.stat().st_size for p in files.CLIP_FOLDER.iterdir()) / 1e6}


def best(work: Callable) -> float:
    def once() -> float:
        begun = time.process_time()
        work()
        return (time.process_time() - begun) * 1000 / GROUP

    return min(once() for _ in range(5))


def share(right: Tensor) -> float:
    return float(right.float().mean())


def main() -> int:
    weights = (files.CLIP_FOLDER / "open_clip_model.safetensors").read_bytes()
    bench = Bench("clip", {"weights": hashlib.sha256(weights).hexdigest()[:12], "pictures": 512})
    n = 128 if bench.quick else 512
    for name, decoded in (("drawings", False), ("autoencoded", True)):
        bench.cell(name, lambda d=decoded: {**understanding(*held_out(n, d))})
    bench.cell("cost", lambda: {**cost()})
    return bench.run()


if __name__ == "__main__":
    sys.exit(main())
