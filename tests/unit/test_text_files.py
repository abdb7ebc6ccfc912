"""One reader for every text that people write."""

import json

import pytest

from steadydiff.arpo.language.keys import find_key
from steadydiff.arpo.phrase_bank import find_banks, read_bank
from steadydiff.errors import SettingsError
from steadydiff.files.text import read_text
from tools.train.captions import captions_of

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
