"""Captions of pictures: where they may stand, and what is said of those that are missing."""

from pathlib import Path

import pytest

from steadydiff.errors import SettingsError
from tools.train.captions import all_captions, captions_of

PICTURES = [Path("pictures") / f"{name}.png" for name in "abcdef"]


def test_captions_stand_beside_their_pictures_or_in_a_folder_of_their_own(tmp_path):
    pictures = [tmp_path / picture.name for picture in PICTURES[:3]]
    (tmp_path / "a.txt").write_text(" a red star\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("", encoding="utf-8")
    assert captions_of(pictures) == ["a red star", "", None]
    assert captions_of(PICTURES[:3], tmp_path) == ["a red star", "", None]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "train/a.png", "text": "a star, red"}\n\n{"file_name": "b.png", "text": ""}',
        ),
        ("metadata.csv", 'text,file_name,size\n"a star, red",a.png,3\n,b.png,4\n'),
    ],
)
def test_one_file_holds_them_by_file_name(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert captions_of(PICTURES[:3], tmp_path / name) == ["a star, red", "", None]


def test_missing_captions_are_counted_and_the_first_ones_named(tmp_path):
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"5 of 6 pictures have no caption \(b.png, c.png, d.png, ...\)"):
        all_captions(PICTURES, tmp_path)
    assert all_captions(PICTURES[:1], tmp_path) == [""]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "list.jsonl",
            '{"file": "a.png"}',
            "cannot be read as rows of file_name and text .KeyError: .file_name",
        ),
        ("list.jsonl", "a.png: a star", "cannot be read as rows"),
        ("list.jsonl", "[1]", "cannot be read as rows"),
        ("list.csv", "file_name,text\na.png\n", "cannot be read as rows"),
        ("list.xml", "", "is a folder, or a file of .jsonl or .csv; got"),
        ("none.csv", None, "cannot be read as rows .* .FileNotFoundError"),
    ],
)
def test_files_that_hold_no_captions_are_refused(name, text, sentence, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=sentence):
        captions_of(PICTURES, tmp_path / name)
