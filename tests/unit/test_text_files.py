"""One reader for every text that people write."""

import json
import sys

import pytest

from steadydiff.arpo.bank_files import find_banks, read_bank
from steadydiff.arpo.language.keys import find_key
from steadydiff.errors import SettingsError
from steadydiff.files.text import read_text
from tools.launch import arpo
from tools.train.captions import captions_of
from tools.train.comfyui_base import given_pictures

BOM = b"\xef\xbb\xbf"


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"# a comment\nred\n")
    assert read_text(tmp_path / "a.txt") == "# a comment\nred\n"
    [phrases] = read_bank(tmp_path)
    assert phrases.content == ("red",)
    assert captions_of([tmp_path / "a.png"]) == ["# a comment\nred"]
    keys = tmp_path / "steadydiff" / "keys.json"
    keys.parent.mkdir()
    keys.write_bytes(BOM + json.dumps({"NAME": {"key": "secret", "for": "http://here:1"}}).encode())
    folders = {"XDG_CONFIG_HOME": str(tmp_path), "APPDATA": str(tmp_path)}
    assert find_key("NAME", "http://here:1", folders) == "secret"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("über\ncafé".encode("cp1252"), "a.txt is not text in UTF-8: line 1 holds the byte 0xfc"),
        ("one\ncafé".encode("cp1252"), "a.txt is not text in UTF-8: line 2 holds the byte 0xe9"),
        ("café".encode("utf-16"), "a.txt is text in UTF-16; save it as UTF-8"),
        ("cafe".encode("utf-16-le"), "a.txt holds zero bytes.*UTF-16"),
        ("one\ncafé".encode("utf-16-be"), "a.txt holds zero bytes.*UTF-16"),
    ],
)
def test_another_encoding_is_told_with_file_and_line(tmp_path, data, said):
    (tmp_path / "a.txt").write_bytes(data)
    for read in (
        read_text,
        lambda file: captions_of([file.with_suffix(".png")]),
        lambda file: read_bank(tmp_path),
    ):
        with pytest.raises(SettingsError, match=said):
            read(tmp_path / "a.txt")


def test_what_systems_and_tools_leave_behind_is_not_read(tmp_path):
    (tmp_path / "a.txt").write_text("red")
    (tmp_path / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a-checkpoint.txt").write_text("green")
    [phrases] = read_bank(tmp_path)
    assert phrases.content == ("red",)
    assert ".ipynb_checkpoints" not in find_banks(tmp_path)
    (tmp_path / "a.png").touch()
    (tmp_path / "._a.png").touch()
    assert given_pictures(tmp_path) == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (BOM + b"{}", "has 0"),
        ("{}".encode("utf-16"), "graph.json is text in UTF-16"),
        (b'{"last_node_id": 3, "nodes": []}', "in API format"),
        (b"[1]", "in API format"),
        (None, "graph.json"),
    ],
    ids=["mark", "UTF-16", "the browser's form", "a list", "missing"],
)
def test_a_workflow_is_read_as_other_texts(data, said, tmp_path, monkeypatch, capsys):
    file = tmp_path / "graph.json"
    if data:
        file.write_bytes(data)
    monkeypatch.setattr(sys, "argv", ["arpo", "a.png", "--port", "1", "--workflow", str(file)])
    assert arpo.main() == 1
    assert said in capsys.readouterr().err
