"""The weights that ship: what the manifest says, small enough, and as good as their card claims."""

import hashlib
import json

import pytest
import torch

from steadydiff.tinyworld import files
from steadydiff.tinyworld.photos import files as photos
from steadydiff.tinyworld.reader import attributes
from steadydiff.tinyworld.scenes import render, sample_scenes
from steadydiff.tinyworld.train import HELD_OUT, SCALE_FACTOR

MODELS = files.FOLDER.parent


@pytest.mark.slow
def test_files_are_the_manifests_and_small():
    manifest = json.loads((MODELS / "manifest.json").read_text(encoding="utf-8"))
    there = {p.relative_to(MODELS).as_posix(): p.read_bytes() for p in MODELS.rglob("*.safetensors")}
    assert {k: hashlib.sha256(v).hexdigest() for k, v in there.items()} == {
        k: v["sha256"] for k, v in manifest.items()
    }
    antibias, mdss = ([len(v) for k, v in there.items() if f"/{kind}_" in k] for kind in ("antibias", "mdss"))
    assert antibias and max(antibias) <= 2_000_000
    assert len(mdss) == 3 and sum(mdss) <= 8_000_000
    photos = [len(v) for k, v in there.items() if k.startswith("photos/")]
    assert photos and max(photos) <= 12_000_000
    assert sum(map(len, there.values())) - sum(antibias) - sum(mdss) - sum(photos) <= 16_000_000


@pytest.mark.slow
def test_both_variants_load_and_differ():
    (epsilon, _), (flow, _) = files.load_diffusion("epsilon"), files.load_diffusion("flow")
    assert not torch.equal(epsilon.out[2].weight, flow.out[2].weight)


@pytest.mark.slow
def test_the_reader_reads_held_out_drawings():
    scenes = sample_scenes(HELD_OUT + 5, 256)
    read, asked = files.load_reader().read(render(scenes)), attributes(scenes)
    for name in ("first_shape", "first_colour"):
        assert (read[name] == asked[name]).float().mean() >= 0.97, name


@pytest.mark.slow
def test_the_autoencoder_keeps_held_out_drawings_and_gives_unit_latents():
    model, pictures = files.load_autoencoder(), render(sample_scenes(HELD_OUT + 6, 16))
    with torch.no_grad():
        latents = model.encode(pictures * 2 - 1)[0]
        decoded = model.decode(latents).clamp(-1, 1) / 2 + 0.5
    psnr = -10 * (decoded - pictures).square().mean((1, 2, 3)).log10()
    assert psnr.mean() >= 24
    assert (latents * SCALE_FACTOR).std((0, 2, 3)).sub(1).abs().max() < 0.25


def test_loading_the_judge_moves_no_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    files.load_reader()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("variant", photos.VARIANTS)
def test_the_photos_longest_training_is_found(variant):
    names = photos.names(variant)
    steps = {name: photos.header(name)["steps"] for name in names}
    assert names == [f"{variant}_{number}" for number in sorted(steps.values())]
    assert photos.newest(variant) == names[-1]
