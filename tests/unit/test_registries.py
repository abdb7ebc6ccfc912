"""A method is a row of SAMPLING_METHODS: whatever lists methods by hand knows each of them."""

import ast
from pathlib import Path

import pytest

from steadydiff.methods import SAMPLING_METHODS

ROOT = Path(__file__).resolve().parents[2]
STEMS = {method.title: Path(method.__module__.replace(".", "/")).name for method in SAMPLING_METHODS}
DOCUMENTED_WITH = {"Band Scaling": "epsilon_scaling"}  # no paper of its own
WITHOUT_A_PANEL = {"Band Scaling"}  # two scalings at once would fill a page


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def literal(file, name):
    """The value that a module gives to a name, read without importing it: benches import a host."""
    for node in ast.parse(text(*file.split("/"))).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{file} has no {name}")


def test_every_method_has_a_title_of_its_own():
    assert len(STEMS) == len(SAMPLING_METHODS) > 4
    assert all(title[0].isupper() for title in STEMS)


@pytest.mark.parametrize("title", STEMS)
def test_every_method_has_its_node_help_page_and_document(title):
    node = text("nodes", f"{STEMS[title]}.py")
    ids = [f"SteadyDiff{title.replace(' ', '').replace('-', '')}"]
    assert f'node_id="{ids[0]}"' in node
    assert text("web", "docs", f"{ids[0]}.md") and text("web", "docs", ids[0], "zh.md")
    assert title in text("docs", f"{DOCUMENTED_WITH.get(title, STEMS[title])}.md")
    assert title in text("docs", "which.md")


@pytest.mark.slow
@pytest.mark.parametrize("title", STEMS)
def test_every_method_is_tested_and_tried_with_all_others(title):
    assert (ROOT / "tests" / "unit" / f"test_{STEMS[title]}.py").is_file()
    assert title in literal("tools/bench/shared/tries.py", "METHODS")


def test_inputs_that_two_faces_show_stand_apart_and_make_a_panel():
    """A method without one, whose node alone shows its inputs, declares them there."""
    panels = text("extension", "steadydiff_webui", "panels", "__init__.py")
    shared = {stem for stem in STEMS.values() if (ROOT / "steadydiff" / "inputs" / f"{stem}.py").is_file()}
    assert {stem for stem in STEMS.values() if f"{stem}.PANEL" in panels} == shared > {"time_shift"}
