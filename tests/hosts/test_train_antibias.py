"""`run.py train antibias --base CHECKPOINT --images FOLDER`: any checkpoint that ComfyUI loads."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from steadydiff.antibias_files import load_prompt
from tools.inprocess import load
from tools.train_antibias import main

SMALL = ["--steps", "2", "--batch", "2", "--channels", "4", "--mult", "1", "--blocks", "1"]
UNET = {
    **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1]},
    **{"channel_mult": [1], "context_dim": 768, "num_heads": 8, "transformer_depth": [1], "legacy": False},
    **{"transformer_depth_output": [1, 1], "transformer_depth_middle": 1, "use_spatial_transformer": True},
}


@pytest.fixture(scope="module")
def checkpoint(comfy, tmp_path_factory):
    """SD1's family with one level, a tiny autoencoder and a text encoder that knows nothing."""
    operations = load("comfy.ops").disable_weight_init
    unet = load("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel(**UNET, operations=operations)
    tensors = {f"model.diffusion_model.{k}": torch.randn(v.shape) / 50 for k, v in unet.state_dict().items()}
    vae = load("comfy.taesd.taesd").TAESD(latent_channels=4).state_dict()
    tensors |= {f"first_stage_model.{k}": torch.randn(v.shape) / 20 for k, v in vae.items()}
    clip = load("comfy.sd1_clip").SD1ClipModel(dtype=torch.float16).state_dict()
    tensors |= {f"cond_stage_model.{k.removeprefix('clip_l.')}": torch.zeros_like(v) for k, v in clip.items()}
    path = tmp_path_factory.mktemp("checkpoints") / "small_sd1.safetensors"
    save_file(tensors, path)
    return path


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
def train(checkpoint, tmp_path, images):
    def run(*more, base=checkpoint):
        out, work = tmp_path / "made.safetensors", tmp_path / "work"
        return main(
            ["--base", str(base), "--images", str(images), "--size", "64", "--out", str(out),
             "--work", str(work), "--sample-steps", "4,6", *SMALL, *more]
        ), out  # fmt: skip

    return run


def test_a_checkpoint_and_a_folder_become_a_file_for_this_model(train, checkpoint, tmp_path):
    code, out = train()
    assert code == 0
    network, card = load_prompt(out)
    assert network.config.channels == 4 and card.family == "SD15" and card.space == "ve"
    assert card.base == checkpoint.name and len(card.base_sha256) == 64
    [kept] = (tmp_path / "work").glob("latents-*.safetensors")
    written = kept.stat().st_mtime_ns
    assert train("--steps", "3")[0] == 0
    assert kept.stat().st_mtime_ns == written  # encoded once


def test_what_cannot_be_trained_on_is_said_in_a_sentence(train, checkpoint, images, tmp_path, capsys):
    def said(*more, **changes):
        code, out = train(*more, **changes)
        assert code == 1 and not out.exists()
        return capsys.readouterr().err

    assert "there is no checkpoint" in said(base=tmp_path / "none.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(checkpoint.read_bytes()[:1000])
    assert "ComfyUI cannot load torn.safetensors" in said(base=torn)
    (images / "notes.png").write_text("no picture")
    assert "notes.png cannot be read as a picture" in said()
    for file in [*images.glob("[3-9].png"), images / "notes.png"]:
        file.unlink()
    assert "3 samples are too few" in said()
    for file in images.glob("*.png"):
        file.unlink()
    assert "holds no pictures" in said()
