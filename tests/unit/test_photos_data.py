"""CIFAR-10's pictures are decoded once, and those of one source are not taken for those of another."""

import pytest
import torch
from PIL import Image

from steadydiff.errors import SettingsError
from steadydiff.tinyworld.photos.data import load_photos


def folder(path, shade):
    (path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32), (shade,) * 3).save(path / "train" / "cat" / "one.png")
    return path


def test_they_are_decoded_once(tmp_path):
    source, work = folder(tmp_path / "some", 9), tmp_path / "work"
    first, labels = load_photos(source, "train", work)
    (source / "train" / "cat" / "one.png").unlink()
    assert torch.equal(load_photos(source, "train", work)[0], first)
    assert first.shape == (1, 3, 32, 32) and (first == 9).all() and labels.tolist() == [3]


def test_another_source_needs_another_folder(tmp_path):
    work = tmp_path / "work"
    load_photos(folder(tmp_path / "some", 9), "train", work)
    with pytest.raises(SettingsError, match="are those of some, not of others; use another folder"):
        load_photos(folder(tmp_path / "others", 8), "train", work)
    with pytest.raises(SettingsError, match="nowhere is not there"):
        load_photos(tmp_path / "nowhere", "train", work)
