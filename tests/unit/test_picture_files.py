"""One reader for every picture that people give, and its users: the trainers, run.py arpo, the photos."""

import io
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from steadydiff.errors import SettingsError
from steadydiff.picture_files import pixels, read_picture
from steadydiff.tinyworld.photos.data import load_photos
from tools.launch import arpo
from tools.train import comfyui_base as host_base

SIDE = 32


def photo(file):
    """What the trainer of the photos reads of a file, [H, W, 3]; its data are a folder of classes."""
    folder = file.parent / "data" / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "one.png").write_bytes(file.read_bytes())
    pictures, _ = load_photos(file.parent / "data", "train", file.parent / "work")
    return pictures[0].permute(1, 2, 0) / 255


READERS = {
    "core": lambda file: pixels(read_picture(file, file.name)) / 255,
    "sent": lambda file: pixels(read_picture(file.read_bytes(), file.name)) / 255,
    "trainers": lambda file: host_base.fitted(file, SIDE),
    "arpo": lambda file: arpo.read_reference(str(file))[1],
    "photos": photo,
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@readers
@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_gray_of_16_bits_is_as_bright_as_it_is(read, ending, tmp_path):
    file = tmp_path / f"gray.{ending}"
    levels = np.full((SIDE, SIDE), 32768, np.uint16)
    levels[0, 0] = 65535
    Image.fromarray(levels).save(file)
    seen = read(file)
    assert seen.shape == (SIDE, SIDE, 3)
    assert seen[1:].mean() == pytest.approx(0.5, abs=1 / 255) and (seen[0, 0] == 1).all()


@readers
def test_a_picture_stands_as_its_camera_was_held(read, tmp_path):
    file, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stored = np.zeros((SIDE, SIDE, 3), np.uint8)
    stored[: SIDE // 2] = 255  # what lies at the top is at the right when it is upright
    Image.fromarray(stored).save(file, exif=exif)
    seen = read(file)
    assert (seen[:, SIDE // 2 :] == 1).all() and (seen[:, : SIDE // 2] == 0).all()


def damaged():
    """Files that are no pictures, by what is wrong with them."""
    noise = torch.randint(0, 256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    Image.fromarray(noise.byte().numpy()).save(file, "PNG")
    whole = file.getvalue()
    header = b"IHDR" + (14_000).to_bytes(4) * 2 + whole[24:29]
    return {
        "cut off": whole[: len(whole) // 2],
        "cut off in its head": whole[:20],
        "text": b"no picture",
        "empty": b"",
        "huge": whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:],
    }


@readers
@pytest.mark.parametrize("data", damaged().values(), ids=damaged())
def test_what_is_no_picture_is_told_in_a_sentence(read, data, tmp_path):
    file = tmp_path / "one.png"
    file.write_bytes(data)
    with pytest.raises(SettingsError, match=r"one.png cannot be read as a picture \(.*PNG, JPEG") as told:
        read(file)
    assert "BytesIO" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("scene:²", "is no drawing of the tiny world"),
        ("scene:1000", "is no drawing of the tiny world"),
        ("a\0.png", "cannot be read as a picture"),
    ],
)
def test_the_command_says_which_picture_it_cannot_read(name, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["arpo", name])
    assert arpo.main() == 1
    assert f"{name} {told}" in capsys.readouterr().err
