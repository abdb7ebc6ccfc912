"""The tiny world: deterministic data, a closed vocabulary, exact formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from steadydiff.errors import SettingsError
from steadydiff.tinyworld import files, reader, sampling, scenes, text, train
from steadydiff.tinyworld.autoencoder import Autoencoder
from steadydiff.tinyworld.photos import train as photos
from steadydiff.tinyworld.unet import UNet


def one(**changes) -> scenes.Scenes:
    """A medium flat red circle in the middle of a white picture, with changes."""
    scene = scenes.Scenes(
        count=np.array([1]),
        shape=np.array([[0, 0]]),
        colour=np.array([[0, 0]]),
        size=np.array([[1, 0]]),
        position=np.array([4]),
        relation=np.array([0]),
        background=np.array([0]),
        style=np.array([0]),
        centre_px=np.full((1, 2, 2), 32.0),
        radius_px=np.full((1, 2), 13.0),
        angle=np.zeros((1, 2)),
        tint=np.zeros((1, 2, 3)),
    )
    return dataclasses.replace(scene, **{k: np.array(v) for k, v in changes.items()})


PINNED = [
    "a hatched drawing of a small purple circle above a medium yellow ring on a sunset background",
    "a hatched drawing of a large orange square left of a large purple circle on a grey background",
]


def test_scenes_repeat_by_seed_and_are_the_ones_the_models_were_trained_on():
    first, again, other = (scenes.sample_scenes(seed, 64) for seed in (5, 5, 6))
    assert all(
        np.array_equal(getattr(first, f.name), getattr(again, f.name)) for f in dataclasses.fields(first)
    )
    assert not np.array_equal(first.shape, other.shape)
    start = scenes.sample_scenes(train.LATENT_SEED, 256)
    assert [scenes.caption(start, i) for i in (0, 255)] == PINNED


def test_objects_are_visible_and_pairs_differ():
    many = scenes.sample_scenes(1, 4000)
    pair = many.count == 2
    assert (many.shape[pair, 0] != many.shape[pair, 1]).all()
    assert (many.colour[pair, 0] != many.colour[pair, 1]).all()
    night = many.background == list(scenes.BACKGROUNDS).index("night")
    dark = [list(scenes.COLOURS).index(c) for c in ("black", "brown")]
    seen = np.where(pair[:, None] | (np.arange(2) == 0), many.colour, -1)
    assert night.any() and not np.isin(seen[night], dark).any()


def test_rare_values_are_rare_and_common_ones_are_not():
    many = scenes.sample_scenes(2, 4000)
    share = np.bincount(many.shape[:, 0], minlength=len(scenes.SHAPES)) / len(many)
    assert 0.02 < share[scenes.SHAPES.index("flower")] < 0.05 < share[:9].min()


def test_a_flat_circle_is_its_colour_inside_and_the_background_outside():
    picture = scenes.render(one())[0]
    assert picture.shape == (3, 64, 64) and picture.dtype == torch.float32
    assert torch.allclose(picture[:, 32, 32] * 255, torch.tensor(scenes.COLOURS["red"]).float(), atol=0.01)
    assert picture[:, 2, 2].min() > 0.95
    empty = scenes.render(one(count=[0]))[0]
    covered = ((empty - picture)[1] / (empty[1] - picture[1, 32, 32])).sum().item()
    assert covered == pytest.approx(np.pi * (13 * 0.95) ** 2, rel=0.01)  # the disc's area in px


def test_each_style_paints_differently_and_the_first_object_lies_on_top():
    pictures = [scenes.render(one(style=[i])) for i in range(len(scenes.STYLES))]
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(pictures) for b in pictures[:i])
    both = scenes.render(one(count=[2], colour=[[0, 5]]))
    assert torch.equal(both[0, :, 32, 32], scenes.render(one())[0, :, 32, 32])


def test_captions_stay_inside_vocabulary_and_length():
    many = scenes.sample_scenes(3, 1000)
    rng = np.random.default_rng(0)
    texts = [scenes.caption(many, i) for i in range(1000)] + [
        scenes.caption(many, i, rng) for i in range(1000)
    ]
    tokens = text.tokenize(texts)
    assert (tokens != text.UNKNOWN).all() and (tokens[:, -1] == text.END).all()
    assert 50 <= len(text.WORDS) <= 70 and len(set(texts[1000:])) > 800


def test_tokenizer_ignores_case_and_punctuation_and_marks_the_unknown():
    assert torch.equal(text.tokenize(["A Red, star!"]), text.tokenize(["a red star"]))
    assert text.UNKNOWN in text.tokenize(["a red dragon"])
    tokenizer = text.WordTokenizer.from_pretrained("anywhere")
    assert tokenizer.decode(tokenizer("a red star")["input_ids"]) == "a red star"
    assert text.tokenize(["red " * 60])[0, -1] == text.END


def test_reader_answers_do_not_depend_on_which_object_is_named_first():
    left = one(count=[2], shape=[[0, 1]], colour=[[2, 3]], relation=[0])
    right = one(count=[2], shape=[[1, 0]], colour=[[3, 2]], size=[[0, 1]], relation=[1])
    for name, answer in reader.attributes(left).items():
        assert torch.equal(answer, reader.attributes(right)[name]), name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"first_shape": 5}, False),
        ({"second_colour": 5}, True),
        ({"pair": 1}, False),
        ({"style": 3}, True),
    ],
)
def test_found_asks_for_shape_and_colour_of_every_object(change, expected):
    asked = reader.attributes(one())
    read = {k: torch.zeros_like(v) if (v == reader.IGNORED).any() else v.clone() for k, v in asked.items()}
    assert reader.found(read | {k: torch.tensor([v]) for k, v in change.items()}, asked).item() is expected


@pytest.mark.slow
def test_normalised_autoencoder_decodes_as_before():
    torch.manual_seed(0)
    model, x = Autoencoder(), torch.rand(2, 3, 64, 64) * 2 - 1
    mean, logvar = model.encode(x)
    before, shift, scale = (
        model.decode(mean),
        torch.tensor([0.1, 0.2, -0.3, 0.5]),
        torch.tensor([2.0, 3.0, 0.5, 1.0]),
    )
    model.normalise(shift, scale)
    new_mean, new_logvar = model.encode(x)
    torch.testing.assert_close(new_mean, (mean - shift[:, None, None]) * scale[:, None, None])
    torch.testing.assert_close(new_logvar, logvar + 2 * scale.log()[:, None, None])
    torch.testing.assert_close(model.decode(new_mean), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["epsilon", "flow"])
def test_a_network_that_predicts_the_target_denoises_exactly(variant):
    """The trainer's noised input and the sampler's denoiser must be each other's inverse."""
    torch.manual_seed(0)
    x0, eps, u = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.tensor([0.01, 0.2, 0.5, 0.9, 0.999])
    seen, t, target = train.noised(variant, x0, eps, u)
    sigma, state = u, seen
    if variant == "epsilon":
        abar = sampling.alphas_cumprod()[t].float()
        sigma = ((1 - abar) / abar).sqrt()
        state = x0 + sigma.view(-1, 1, 1, 1) * eps

    def oracle(x, timestep, context):
        torch.testing.assert_close(x, seen, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(timestep.float(), t.float())
        return target

    context = torch.zeros(5, 24, 64)
    denoise = sampling.denoiser(variant, oracle, context, context, cfg=1)
    torch.testing.assert_close(denoise(state, sigma), x0, atol=2e-4, rtol=1e-3)


def test_noise_levels_start_and_end_where_hosts_do():
    assert sampling.sigmas("flow", 4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    levels = sampling.sigmas("epsilon", 20)
    assert len(levels) == 21 and levels[-1] == 0
    assert levels[0] == pytest.approx(14.6146, abs=1e-3) and levels[-2] == pytest.approx(0.0292, abs=1e-4)
    with pytest.raises(SettingsError, match="epsilon, flow"):
        sampling.sigmas("eps", 4)


@pytest.mark.slow
def test_guidance_is_linear_in_the_scale():
    torch.manual_seed(0)
    unet = UNet().eval()
    nn.init.normal_(unet.out[2].weight)
    context, uncond, x = torch.randn(2, 24, 64), torch.randn(2, 24, 64), torch.randn(2, 4, 8, 8)
    sigma = torch.tensor([3.0, 0.5])
    with torch.no_grad():
        cond, free, guided = (
            sampling.denoiser("epsilon", unet, a, uncond, cfg)(x, sigma)
            for a, cfg in ((context, 1), (uncond, 1), (context, 3))
        )
    torch.testing.assert_close(guided, free + 3 * (cond - free), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("variant", ["epsilon", "flow"])
def test_a_guided_call_shows_its_branches(variant):
    torch.manual_seed(0)
    unet = UNet().eval()
    nn.init.normal_(unet.out[2].weight)
    context, uncond, x = torch.randn(2, 24, 64), torch.randn(2, 24, 64), torch.randn(2, 4, 8, 8)
    sigma = torch.tensor([0.9, 0.5])
    with torch.no_grad():
        guided = sampling.denoiser(variant, unet, context, uncond, 3)
        found = guided(x, sigma)
        cond, free = guided.branches
        single = sampling.denoiser(variant, unet, context, uncond, 1)
        torch.testing.assert_close(single(x, sigma), cond, atol=1e-3, rtol=1e-3)
    assert single.branches is None
    torch.testing.assert_close(found, free + 3 * (cond - free), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("stage", "folder"), [("export", "FOLDER"), ("clip", "CLIP_FOLDER")])
def test_a_folder_that_cannot_be_written_is_told_before_the_first_stage(stage, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(files, folder, tmp_path / "file")
    monkeypatch.setitem(train.STAGES, "reader", lambda work: pytest.fail("a stage"))
    with pytest.raises(SystemExit, match="cannot be written to"):
        train.main(["reader", stage, "--work", str(tmp_path)])


def test_so_it_is_for_photos(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(photos.files, "FOLDER", tmp_path / "file")
    monkeypatch.setattr(photos, "train", lambda *_: pytest.fail("a stage"))
    with pytest.raises(SystemExit, match="cannot be written to"):
        photos.main(["--data", str(tmp_path), "--work", str(tmp_path)])
