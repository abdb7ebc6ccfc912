"""Chinese in ComfyUI: each text of our nodes has its counterpart, figures alike, and no other is left."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def english(pack):
    """The texts of our nodes as a file of locales/ would hold them."""
    return {node_id: texts(node.GET_SCHEMA()) for node_id, node in pack.items()}


def texts(schema):
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {one.id: {"name": one.id, "tooltip": one.tooltip} for one in schema.inputs},
        "outputs": {
            # One without a name is called by its type, for which the host has its own Chinese.
            str(i): {"name": one.display_name, "tooltip": one.tooltip}
            if one.display_name
            else {"tooltip": one.tooltip}
            for i, one in enumerate(schema.outputs)
        },
    }


def flat(tree, path=()):
    """Return the texts of a tree by their paths."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: text for name, branch in tree.items() for key, text in flat(branch, (*path, name)).items()}


def figures(text):
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def test_every_text_is_translated_and_no_other(english):
    assert set(flat(CHINESE)) ^ set(flat(english)) == set()


def test_tooltips_give_the_same_figures(english):
    ours, theirs = flat(english), flat(CHINESE)
    others = {
        path: (figures(text), figures(theirs[path]))
        for path, text in ours.items()
        if path[-1] in ("tooltip", "description") and figures(text) != figures(theirs[path])
    }
    assert others == {}


def test_tooltips_explain_the_same_options(pack):
    silent = [
        (node_id, one.id, option)
        for node_id, node in pack.items()
        for one in node.GET_SCHEMA().inputs
        for option in getattr(one, "options", None) or []
        if f"{option}:" in one.tooltip and f"{option}：" not in CHINESE[node_id]["inputs"][one.id]["tooltip"]
    ]
    assert silent == []
