"""The examples in docs/ run, and print what the page says they print."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = [
    (page.name, *found) for page in PAGES for found in EXAMPLE.findall(page.read_text(encoding="utf-8"))
]


def test_there_are_examples():
    assert "epsilon_scaling.md" in {page for page, _, _ in EXAMPLES}


@pytest.mark.parametrize(("page", "code", "printed"), EXAMPLES, ids=[page for page, _, _ in EXAMPLES])
def test_examples_print_what_the_page_says(page, code, printed, tmp_path, capsys):
    (tmp_path / f"{page}.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / f"{page}.py"))
    assert capsys.readouterr().out == printed


def test_the_webui_page_says_what_adetailer_needs():
    text = (ROOT / "docs" / "webui.md").read_text(encoding="utf-8")
    script = next((ROOT / "scripts").glob("*.py")).stem
    assert f"add `{script}` to its setting *Script names to apply to ADetailer*" in " ".join(text.split())


@pytest.mark.parametrize(
    "file", sorted((ROOT / "workflows" / "api").glob("*.json")), ids=lambda file: file.stem
)
def test_no_graph_looks_like_an_order_to_a_server(file):
    """Tools take a graph with a node called "prompt" for the envelope of another one."""
    assert not {"prompt", "client_id", "extra_data"} & json.loads(file.read_text(encoding="utf-8")).keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_and_picture_that_is_linked_exists(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_paper_that_nodes_and_pages_name_can_be_cited():
    sources = [*PAGES, *(ROOT / "nodes").glob("*.py")]
    named = {
        number
        for file in sources
        for number in re.findall(r"arXiv[: ](\d{4}\.\d{5})", file.read_text("utf-8"))
    }
    cited = (ROOT / "docs" / "citations.md").read_text(encoding="utf-8")
    assert len(named) > 4 and {number for number in named if f"arXiv:{number}" not in cited} == set()
