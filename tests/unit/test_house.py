"""The house's rules: who may import whom, and that adapters know the contract and no method."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "steadydiff"


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports():
    """Every import within the core: (the file, the module it names), relative ones resolved."""
    for file in CORE.rglob("*.py"):
        package = module_of(file) if file.name == "__init__.py" else module_of(file)[:-1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                yield file, ".".join((*base, *(node.module or "").split(".")))


@pytest.mark.slow
def test_nothing_of_the_core_imports_the_tiny_world_but_itself():
    outside = [(file, name) for file, name in imports() if "tinyworld" not in file.parts]
    assert len(outside) > 100
    assert [one for one in outside if one[1].startswith("steadydiff.tinyworld")] == []


@pytest.mark.slow
def test_methods_know_no_adapter_and_no_training():
    of_methods = [name for file, name in imports() if file.parent == CORE / "methods"]
    assert of_methods
    assert [n for n in of_methods if n.startswith(("steadydiff.hosts", "steadydiff.training"))] == []


def test_adapters_ask_no_method_for_its_class():
    known = re.compile(r"isinstance\([^)]*(EpsilonScaling|DiffIER|AntiBiasPrompt|MDSS|BandScaling|TimeShift)")
    files = [*(CORE / "hosts").rglob("*.py"), *(ROOT / "extension").rglob("*.py")]
    assert len(files) > 30
    assert [file for file in files if known.search(file.read_text(encoding="utf-8"))] == []


def test_no_tool_reaches_into_a_nodes_file():
    named = re.compile(r"}\.nodes\.(?!shared)")
    files = list((ROOT / "tools").rglob("*.py"))
    assert named.search('import_module(f"{PACK}.nodes.{module}")')
    assert [file for file in files if named.search(file.read_text(encoding="utf-8"))] == []


def test_no_input_is_given_a_field_that_the_oldest_comfyui_lacks():
    """Its number and choice widgets take no `extra_dict`; `schema(advanced=...)` sets it afterwards."""
    assert not [file for file in (ROOT / "nodes").rglob("*.py") if "extra_dict=" in file.read_text("utf-8")]
