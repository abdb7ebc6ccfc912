"""The tiny CLIP that ships, as open_clip loads it: offline, small, and right about held-out pictures.

It needs no host, but open_clip takes seconds to import, too long for the fast suite: so it is here, imported
by a fixture and not when tests are collected.
"""

from functools import cache

import pytest
import torch
from PIL import Image

from steadydiff.tinyworld import files, text
from steadydiff.tinyworld.clip import normalised
from tools.bench import clip as bench_clip

NAME = f"local-dir:{files.CLIP_FOLDER}"


@pytest.fixture
def open_clip():
    import open_clip

    return open_clip


@cache
def figures(decoded: bool) -> dict:
    return bench_clip.understanding(*bench_clip.held_out(128, decoded))


def test_open_clip_loads_it_from_four_files_of_at_most_4_mb(open_clip):
    shipped = {path.name: path.stat().st_size for path in files.CLIP_FOLDER.iterdir()}
    assert set(shipped) == {
        "open_clip_model.safetensors",
        "open_clip_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(shipped.values()) <= 4_000_000

    model, _, preprocess = open_clip.create_model_and_transforms(NAME)
    ours, (_, pictures) = files.load_clip(), bench_clip.held_out(2, decoded=False)
    images = [Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()) for x in pictures]
    prepared = torch.stack([preprocess(image) for image in images])
    torch.testing.assert_close(prepared, normalised(pictures), atol=0.02, rtol=0)  # 8 bits
    with torch.no_grad():
        seen = model.eval().encode_image(prepared, normalize=True)
    assert (seen * ours.picture_features(pictures)).sum(1).min() > 0.999


def test_its_tokenizer_is_the_diffusion_models_own(open_clip):
    texts = ["A Red, star!", "a drawing of a dragon", "red " * 60, ""]
    assert torch.equal(open_clip.get_tokenizer(NAME)(texts), text.tokenize(texts))


@pytest.mark.parametrize("decoded", [False, True], ids=["drawn", "decoded"])
def test_captions_find_their_pictures_among_64(decoded: bool):
    assert figures(decoded)["whole"] >= 0.9  # two groups; a tie is a miss


@pytest.mark.parametrize("decoded", [False, True], ids=["drawn", "decoded"])
def test_true_phrases_come_nearer_and_false_ones_move_away(decoded: bool):
    found = figures(decoded)
    assert min(found["shape"], found["colour"], found["position"], found["background"]) >= 0.95
    assert min(found["size"], found["style"]) >= 0.85
    assert found["true"] >= 0.85 and found["false"] >= 0.85


def test_loading_moves_no_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    files.load_clip()
    assert torch.equal(torch.rand(1), expected)


def test_a_tie_is_a_miss():
    own = torch.eye(64)
    assert bench_clip.retrieved(own, own).all()
    own[1] = own[0]
    assert bench_clip.retrieved(own, own).tolist() == [False, False] + [True] * 62
