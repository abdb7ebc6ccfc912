"""The real pictures that ship: as small, square, captioned and licensed as is said of them."""

import json
import re

import pytest
import torch
from PIL import Image

from steadydiff.errors import SettingsError
from steadydiff.picture_files import pictures_in
from steadydiff.references import FOLDER, shipped_references

LICENCES = ("public domain", "CC0-1.0")


def test_32_small_square_pictures_without_metadata():
    files = pictures_in(FOLDER)
    assert len(files) == 32
    for file in files:
        with Image.open(file) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (256, 256))
            assert not picture.getexif() and not {"exif", "icc_profile", "comment"} & set(picture.info)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 1_500_000


def test_each_has_a_caption_and_a_licence():
    names = [file.name for file in pictures_in(FOLDER)]
    captions = json.loads((FOLDER / "captions.json").read_text(encoding="utf-8"))
    assert list(captions) == names
    assert len(set(captions.values())) == 32
    assert all(re.fullmatch(r"[A-Z][^.]{15,90}\.", caption) for caption in captions.values())
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (FOLDER / "LICENCES.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == names
    for _, title, author, package, path, licence, words, link in rows:
        assert title and author and path and len(words) > 20
        assert re.match(r"(Debian|PyPI|npm) \S+ \d", package)
        assert licence in LICENCES
        assert link.startswith("http")


@pytest.mark.slow
def test_they_are_read_as_tensors_with_their_captions():
    found, first = shipped_references(), shipped_references(16)
    assert found.pictures.shape == (32, 256, 256, 3)
    assert found.pictures.dtype == torch.float32
    assert 0 <= found.pictures.min() < 0.05 and 0.95 < found.pictures.max() <= 1
    assert len(found.captions) == 32 and found.captions[1].startswith("The face of a ginger tabby cat")
    assert found.source == "32 shipped pictures"
    assert first.captions == found.captions[:16]
    assert torch.equal(first.pictures, found.pictures[:16])


def test_without_the_folder_it_says_where_to_get_it(tmp_path):
    with pytest.raises(SettingsError, match="get the folder models/references from SteadyDiff's repository"):
        shipped_references(folder=tmp_path / "none")


def test_they_are_in_the_registrys_archive():
    left_out = (FOLDER.parents[1] / ".comfyignore").read_text(encoding="utf-8").split("\n")
    assert not any("models/references/".startswith(line) for line in left_out if line and line[0] != "#")
