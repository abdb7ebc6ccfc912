"""The templates: readable when they open, small, named in words, with thumbnails that show something."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.launch.templates import TEMPLATES

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
FILES = [pytest.param(FOLDER / f"{name}.json", id=name) for name in TEMPLATES]
TITLE = 30  # px above a node's place


def test_there_are_no_others():
    assert {path.name for path in FOLDER.glob("*.*")} == {
        f"{name}.{kind}" for name in TEMPLATES for kind in ("json", "jpg")
    }


@pytest.fixture
def nodes(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["nodes"]


@pytest.mark.parametrize("nodes", FILES, indirect=True)
def test_a_template_opens_at_a_zoom_at_which_texts_are_drawn(nodes):
    """ComfyUI's page leaves a quarter free around all nodes; here in a window of 1600 x 950."""
    boxes = np.array([box(node) for node in nodes])
    width, height = boxes[:, 2:].max(0) - boxes[:, :2].min(0)
    assert 0.75 * min(1600 / width, 950 / height) >= 0.75


def box(node):
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y if node["flags"].get("collapsed") else y + height


@pytest.mark.parametrize("nodes", FILES, indirect=True)
def test_a_template_is_small_and_its_nodes_are_named_and_apart(nodes):
    assert len(nodes) <= 11
    assert all(node.get("title") for node in nodes)
    boxes = [box(node) for node in nodes]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_name_is_words_in_their_order_on_every_system(name):
    assert re.fullmatch(r"([1-9] )?[A-Z][\w ,()-]+", name) and name.isascii()
    assert list(TEMPLATES) == sorted(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_thumbnail_is_square_and_shows_something(name):
    """Its halves are less alike than two pictures whose difference nobody sees."""
    picture = Image.open(FOLDER / f"{name}.jpg")
    assert picture.size == (512, 512)
    pixels = np.asarray(picture, dtype=float)
    error = np.mean((pixels[:, :256] - pixels[:, 256:]) ** 2)
    assert 10 * np.log10(255**2 / error) < 30


def test_the_note_of_arpo_names_the_size_too_which_is_the_demo_models():
    [note] = [text for name, (text, _) in TEMPLATES.items() if "ARPO" in name]
    shipped = (FOLDER / "5 Prompt of a picture (ARPO).json").read_text(encoding="utf-8")
    assert "*Size* 512 (SDXL 1024)" in note and json.dumps(note, ensure_ascii=False) in shipped


def test_scales_are_compared_with_off():
    """Compare holds the others against the first."""
    told = [node["inputs"].get("scales") for _, graph in TEMPLATES.values() for node in graph.values()]
    assert {scales.split(",")[0] for scales in told if scales} == {"1"}
