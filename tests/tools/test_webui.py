"""The launcher of real WebUIs without one: which checkouts it takes, and what it copies of them."""

import os

import pytest

from tools.launch import webui
from tools.launch.console import Stop


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like A1111's, the only one that is named."""
    for kind in webui.KINDS:
        monkeypatch.delenv(kind.variable, raising=False)
    made = tmp_path / "a1111"
    for name in (
        "modules/processing.py",
        "models/big.safetensors",
        ".git/config",
        "extensions/x/scripts/x.py",
    ):
        (made / name).parent.mkdir(parents=True)
        (made / name).write_text("")
    monkeypatch.setenv("A1111_ROOT", str(made))
    return made


def test_only_named_checkouts_are_taken(checkout, monkeypatch):
    assert [kind.name for kind in webui.named()] == ["A1111"]
    monkeypatch.setenv("FORGE_ROOT", str(checkout / "models"))
    with pytest.raises(Stop, match="FORGE_ROOT names no checkout of Forge"):
        webui.named()


def test_a_copy_leaves_out_what_is_the_users_and_is_kept_while_the_checkout_is_the_same(checkout, tmp_path):
    root = tmp_path / "root"
    webui.refresh(checkout, root)
    assert {path.name for path in root.iterdir()} == {"modules", "repositories", "steadydiff-copied.txt"}
    compiled = root / "modules" / "processing.pyc"
    compiled.touch()
    webui.refresh(checkout, root)
    assert compiled.is_file()
    os.utime(checkout / "modules" / "processing.py", (1, 1))
    webui.refresh(checkout, root)
    assert not compiled.is_file()


def test_the_pack_is_copied_as_a_clone_has_it(tmp_path):
    for name in (".venv/x", "output/x", "scripts/__pycache__/x.pyc", "scripts/steadydiff_script.py"):
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pack" / name).touch()
    webui.copy(tmp_path / "pack", tmp_path / "clone", webui.NOT_OF_A_CLONE)
    assert [path.name for path in (tmp_path / "clone").iterdir()] == ["scripts"]
