"""Draws the templates' thumbnails, workflows/NAME.jpg, with the models that ship, by the host's interpreter.

    python -m tools.launch.thumbnails [first letter of a name ...]

A card of the template browser is square and small, so every picture is two by two tiles with a word each, or
one curve. Where a template takes a checkpoint, the tiny world draws with few noisy steps, at which
corrections show most.
"""

import io
import sys
from shutil import copytree, ignore_patterns

from PIL import Image, ImageDraw, ImageFont

from tools.launch.draw_workflow import WORKFLOWS
from tools.launch.drawings import draw_into
from tools.launch.environment import ROOT
from tools.launch.find_comfyui import ensure_host
from tools.launch.server import running
from tools.launch.templates import FOLDER, TEMPLATES, Graph, offline, placed

SIDE = 512
NOISY = {"sampler_name": "euler_ancestral", "steps": 12, "cfg": 4.0}
SHAPE = {
    "latent": {"batch_size": 2},
    "positive": {"text": "a shaded drawing of a large green star at the center on a cream background"},
    "negative": {"text": ""},
}
PHOTOGRAPHS = "photographs"
"""A folder of those that ship: the tiny world's kind of pictures hides what Auto Correct does."""
FEW = {"steps": 10, "cfg": 4.0}
STAR = {**SHAPE, "positive": {"text": "a flat drawing of a large red star at the center on a sky background"}}
Tiles = list[tuple[str, str, int, int]]
"""A word on each of four tiles, the node and its output that it comes from, and which picture of a batch."""

PAIR: Tiles = [("without", "compare", 0, 0), ("with", "compare", 1, 0)]
PAIR += [("", "compare", 0, 1), ("", "compare", 1, 1)]
CHANGED: Tiles = [("corrected", "compare", 1, 0), ("difference x8", "compare", 2, 0)]
CHANGED += [("", "compare", 1, 1), ("", "compare", 2, 1)]
DIFFERENCE, STRONGER = ("compare", 2), "difference x"
"""The node's output that shows 8 times the difference, and the word that says how much more is drawn."""
SHOWN: dict[str, tuple[dict[str, dict], Tiles | str]] = {
    "1": ({**SHAPE, "correct": {"scale": 1.04}, "compare": NOISY}, CHANGED),
    "2": ({"latent": {"batch_size": 2}}, [("drift", *PAIR[0][1:]), ("corrected", *PAIR[1][1:]), *PAIR[2:]]),
    "3": (
        {**STAR, "compare": {**FEW, "scales": "0.9, 1.1"}, "second": {**FEW, "scales": "1, 1.2"}},
        [("0.9", "compare", 0, 0), ("1", "second", 0, 0)]
        + [("1.1", "compare", 1, 0), ("1.2", "second", 1, 0)],
    ),
    "4": (
        {
            "model": {"variant": "photos"},
            "positive": {"text": "a photo of a horse"},
            "negative": {"text": ""},
            "latent": {"width": 32, "height": 32, "batch_size": 2},
            "folder": {"folder": PHOTOGRAPHS},
            "compare": {"sampler_name": "ddpm", "cfg": 1.0},
        },
        [("without", *PAIR[0][1:]), ("Auto Correct", *PAIR[1][1:]), *PAIR[2:]],
    ),
    "5": (
        {},
        [("picture", "picture", 0, 0), ("first prompt", "arpo", 2, 0)]
        + [("picture", "picture", 0, 0), ("found prompt", "arpo", 1, 0)],
    ),
    "6": ({**SHAPE, "compare": FEW}, CHANGED),
    "7": (
        {"latent": {"batch_size": 2}, "compare": {"steps": 4}},
        [("Anti-Bias", *CHANGED[0][1:]), ("difference x32", *CHANGED[1][1:]), *CHANGED[2:]],
    ),
    "8": ({}, "loss"),
    "9": ({}, "plot"),
    "R": ({}, PAIR),
}


def main(wanted: list[str]) -> None:
    with running(ensure_host(sys.executable)) as server:
        draw_into(server.base / "input" / FOLDER)
        copytree(
            ROOT / "models" / "references",
            server.base / "input" / PHOTOGRAPHS,
            ignore=ignore_patterns("*.json", "*.md"),
        )
        for name in TEMPLATES:
            if wanted and name[0] not in wanted:
                continue
            changes, shown = SHOWN[name[0]]
            graph = prepared(name, changes, shown)
            outputs = server.client.run(graph)

            def pictures(key, outputs=outputs):
                found = outputs[key]["images"]
                return [Image.open(io.BytesIO(server.client.image(one))).convert("RGB") for one in found]

            made = curve(pictures(shown)[0]) if isinstance(shown, str) else tiles(shown, pictures)
            made.save(WORKFLOWS / f"{name}.jpg", quality=88)
            print(f"workflows/{name}.jpg")


def prepared(name: str, changes: dict[str, dict], shown: Tiles | str) -> Graph:
    """A template's graph on a model that ships, without what it bypasses, its pictures kept."""
    graph = offline(placed(name))
    passed = {key: one["inputs"]["model"] for key, one in graph.items() if one["_meta"]["mode"]}
    graph = {
        key: {**one, "inputs": {name: passed_on(value, passed) for name, value in one["inputs"].items()}}
        for key, one in graph.items()
        if key not in passed
    }
    if "second" in changes:
        graph["second"] = {**graph["compare"], "inputs": dict(graph["compare"]["inputs"])}
    for key in changes.keys() & graph.keys():
        graph[key]["inputs"] |= changes[key]
    for _, key, slot, _ in [] if isinstance(shown, str) else shown:
        graph[f"{key}_{slot}"] = {"class_type": "PreviewImage", "inputs": {"images": [key, slot]}}
    return graph


def passed_on(value, passed: dict[str, list]):
    """Where an input comes from, past nodes that are bypassed."""
    while isinstance(value, list) and value[0] in passed:
        value = passed[value[0]]
    return value


def tiles(shown: Tiles, pictures) -> Image.Image:
    made, half = Image.new("RGB", (SIDE, SIDE)), SIDE // 2
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(34)
    more = next((int(word.split(STRONGER)[1]) // 8 for word, *_ in shown if STRONGER in word), 1)
    for i, (word, key, slot, index) in enumerate(shown):
        left, top = i % 2 * half, i // 2 * half
        tile = pictures(f"{key}_{slot}")[index].resize((half, half), Image.Resampling.NEAREST)
        if (key, slot) == DIFFERENCE:
            tile = tile.point(lambda value: round(128 + more * (value - 128)))
        made.paste(tile, (left, top))
        if word:
            width = draw.textlength(word, font)
            draw.rectangle((left, top, left + width + 16, top + 44), "white")
            draw.text((left + 8, top + 22), word, "black", font, anchor="lm")
    return made


def curve(plot: Image.Image) -> Image.Image:
    """The upper square of a plot, or all of it on white."""
    if plot.height > plot.width:
        return plot.crop((0, 0, plot.width, plot.width)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    plot.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    made = Image.new("RGB", (SIDE, SIDE), "white")
    made.paste(plot, (0, (SIDE - plot.height) // 2))
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
