"""The photos as ComfyUI's own kinds: the numbers of their trainer, and stock nodes run on them."""

import pytest
import torch

from steadydiff.samplers import sample_euler
from steadydiff.tinyworld.photos import files, sampling
from steadydiff.tinyworld.photos.network import SIZE_PX
from steadydiff.tinyworld.text import tokenize

PROMPT = "a photo of a horse"


VARIANTS = {"epsilon": "photos", "flow": "photos flow"}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def world(pack, variant):
    """Return MODEL, CLIP and VAE as the node gives them."""
    return pack["SteadyDiffTinyWorld"].execute(VARIANTS[variant]).args


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_they_are_the_hosts_own_kinds(host, world):
    model, clip, vae = world
    assert isinstance(model, host.patcher.ModelPatcher)
    assert isinstance(model.model, host.base.BaseModel)
    assert type(clip).__module__ == type(vae).__module__ == "comfy.sd"
    assert type(model.cached_patcher_init[0](*model.cached_patcher_init[1]).model) is type(model.model)


def test_network_and_text_equal_the_trainers(world, variant):
    model, clip, _ = world
    unet, text = files.load(files.newest(variant))
    x, t, context = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 900.0]), torch.randn(2, 24, 64)
    torch.testing.assert_close(
        model.model.diffusion_model(x, t, context), unet(x, t, context), atol=1e-4, rtol=1e-4
    )
    tokens = tokenize([PROMPT], sampling.PhotoTokenizer())
    torch.testing.assert_close(encode(clip, PROMPT)[0][0], text(tokens), atol=1e-4, rtol=1e-4)


def test_the_noise_levels_are_the_trainers(world, variant):
    abar = sampling.alphas_cumprod()
    found = world[0].get_model_object("model_sampling").sigmas
    expected = ((1 - abar) / abar).sqrt() if variant == "epsilon" else torch.arange(1, 1001) / 1000
    torch.testing.assert_close(found, expected.float())


def test_the_hosts_sampling_equals_the_host_free_one(host, world, variant):
    import comfy.sample

    model, clip, _ = world
    noise, steps = torch.randn(2, 3, SIZE_PX, SIZE_PX), 8
    theirs = comfy.sample.sample(
        model,
        noise,
        steps,
        2.0,
        "euler",
        "normal" if variant == "epsilon" else "simple",
        encode(clip, PROMPT),
        encode(clip, ""),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=0,
    )
    unet, text = files.load(files.newest(variant))
    context, uncond = sampling.embed(text, [PROMPT] * 2)
    sigmas = sampling.sigmas(variant, steps)
    x = noise * ((1 + sigmas[0] ** 2) ** 0.5 if variant == "epsilon" else 1)
    cond, un = (sampling.clipped(sampling.denoiser(variant, unet, c, c, 1.0)) for c in (context, uncond))
    ours = sample_euler(lambda x, sigma: un(x, sigma) + 2 * (cond(x, sigma) - un(x, sigma)), x, sigmas)
    torch.testing.assert_close(theirs, ours, atol=0.02, rtol=0.01)


def test_stock_nodes_draw_pictures_of_32_pixels(world):
    import nodes as core

    model, clip, vae = world
    latent = core.EmptyLatentImage().generate(SIZE_PX, SIZE_PX, 2)[0]
    positive, negative = encode(clip, PROMPT), encode(clip, "")
    drawn = core.KSampler().sample(model, 1, 4, 1.0, "euler", "normal", positive, negative, latent)[0]
    pictures = core.VAEDecode().decode(vae, drawn)[0]
    assert pictures.shape == (2, SIZE_PX, SIZE_PX, 3)
    assert 0 <= pictures.min() < pictures.max() <= 1
    torch.testing.assert_close(vae.encode(pictures), pictures.movedim(-1, 1) * 2 - 1)


def test_without_the_weights_it_says_where_they_are(pack, monkeypatch, tmp_path, variant):
    import sys

    nodes = sys.modules[pack["SteadyDiffTinyWorld"].__module__].__package__
    used = sys.modules[f"{nodes}.shared.photos"].files
    monkeypatch.setattr(used, "FOLDER", tmp_path)
    with pytest.raises(Exception, match="get the folder models/photos from SteadyDiff's repository"):
        pack["SteadyDiffTinyWorld"].execute(VARIANTS[variant])


def test_other_sizes_are_drawn_too(world):
    model = world[0]
    x = torch.randn(1, 3, 27, 45)
    assert model.model.diffusion_model(x, torch.tensor([500.0]), torch.randn(1, 24, 64)).shape == x.shape
