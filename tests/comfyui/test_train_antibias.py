"""`run.py train antibias --base CHECKPOINT --images FOLDER`: any checkpoint that ComfyUI loads."""

import pytest
from PIL import Image

from steadydiff.files.antibias import load_prompt
from tools.train.antibias import main

SMALL = ["--steps", "2", "--batch", "2", "--channels", "4", "--mult", "1", "--blocks", "1"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (80, 64 + 8 * i), (20 * i, 90, 200)).save(folder / f"{i}.png")
        if i % 2:
            (folder / f"{i}.txt").write_text(f"picture {i}", encoding="utf-8")
    return folder


@pytest.fixture
def train(small_sd1, tmp_path, images):
    def run(*more, base=small_sd1):
        out, work = tmp_path / "made.safetensors", tmp_path / "work"
        return main(
            [
                "--base",
                str(base),
                "--images",
                str(images),
                "--size",
                "64",
                "--out",
                str(out),
                "--work",
                str(work),
                "--sample-steps",
                "4,6",
                *SMALL,
                *more,
            ]
        ), out

    return run


def test_a_checkpoint_and_a_folder_become_a_file_for_this_model(train, small_sd1, tmp_path):
    code, out = train()
    assert code == 0
    network, card = load_prompt(out)
    assert network.config.channels == 4 and card.family == "SD15" and card.space == "ve"
    assert card.base == small_sd1.name and len(card.base_sha256) == 64
    [kept] = (tmp_path / "work").glob("latents-*.safetensors")
    written = kept.stat().st_mtime_ns
    assert train("--steps", "3")[0] == 0
    assert kept.stat().st_mtime_ns == written  # encoded once


def test_what_cannot_be_trained_on_is_said_in_a_sentence(train, small_sd1, images, tmp_path, capsys):
    def said(*more, **changes):
        code, out = train(*more, **changes)
        assert code == 1 and not out.exists()
        return capsys.readouterr().err

    assert "there is no checkpoint" in said(base=tmp_path / "none.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(small_sd1.read_bytes()[:1000])
    assert "ComfyUI cannot load torn.safetensors" in said(base=torn)
    (images / "notes.png").write_text("no picture")
    assert "notes.png cannot be read as a picture" in said()
    for file in [*images.glob("[3-9].png"), images / "notes.png"]:
        file.unlink()
    assert "3 samples are too few" in said()
    for file in images.glob("*.png"):
        file.unlink()
    assert "holds no pictures" in said()
