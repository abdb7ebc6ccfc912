"""The Chinese texts for ComfyUI's frontend: as it reads them, and as the English help pages are built."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
NODES = sorted(page.stem for page in DOCS.glob("*.md"))


def strings(tree):
    return (
        [text for branch in tree.values() for text in strings(branch)] if isinstance(tree, dict) else [tree]
    )


def test_nodes_have_names_and_pages():
    assert sorted(CHINESE) == NODES
    assert sorted(page.parent.name for page in DOCS.glob("*/*.md")) == NODES
    assert {page.name for page in DOCS.glob("*/*.md")} == {"zh.md"}


def test_texts_hold_nothing_that_the_frontend_would_fill_in():
    """vue-i18n reads {name}, @:key and one | other as orders."""
    assert [text for text in strings(CHINESE) if not text.strip() or set("{}@|") & set(text)] == []


@pytest.fixture(params=NODES)
def pages(request):
    """A node's page in English and in Chinese."""
    files = DOCS / f"{request.param}.md", DOCS / request.param / "zh.md"
    return [file.read_text(encoding="utf-8") for file in files]


def outline(page):
    """The kinds of a page's headings, rows, list entries and blocks, in order."""
    return re.findall(r"^(?:#+|\||[*-] |```|    )", page, re.MULTILINE)


def figures(page):
    return sorted(re.findall(r"\d+(?:\.\d+)?", page))


def test_pages_are_built_alike(pages):
    english, chinese = pages
    assert outline(chinese) == outline(english)
    assert figures(chinese) == figures(english)
    assert re.findall("<!--.*-->", chinese, re.DOTALL) == re.findall("<!--.*-->", english, re.DOTALL)


def cells(page):
    """The first cells of a page's table of inputs."""
    table = re.search(r"^\| (?:input|输入) \|.*\n\|-.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    return re.findall(r"^\| (.+?) \|", table[1], re.MULTILINE) if table else []


@pytest.mark.parametrize("node", NODES)
def test_a_page_calls_the_inputs_as_the_node_does(node):
    page = (DOCS / node / "zh.md").read_text(encoding="utf-8")
    names = {name: one["name"] for name, one in CHINESE[node]["inputs"].items()}
    english = cells((DOCS / f"{node}.md").read_text(encoding="utf-8"))
    for ours, theirs in zip(cells(page), english, strict=True):
        told = [name for name in re.findall(r"\w+", theirs) if name in names]
        assert re.findall(r"`(\w+)`", ours) == told
        assert all(f"{names[name]} `{name}`" in ours for name in told)
    assert page.startswith(f"# {CHINESE[node]['display_name']}\n")


def test_pages_call_nodes_by_their_names():
    """In English and in Chinese, each in its own language."""
    pages = [DOCS.glob("*.md"), DOCS.glob("*/zh.md")]
    texts = [[page.read_text(encoding="utf-8") for page in kind] for kind in pages]
    for kind in texts:
        names = {text.splitlines()[0].removeprefix("# ") for text in kind}
        told = {name for text in kind for name in re.findall(r"\*([^*\n]+ \(SteadyDiff\))\*", text)}
        assert told - names == set()
