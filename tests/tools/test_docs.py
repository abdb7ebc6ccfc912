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
