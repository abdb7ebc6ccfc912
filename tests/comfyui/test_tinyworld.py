"""The tiny world as ComfyUI's own kinds: the numbers of its trainer, and stock nodes run on it."""

import pytest
import torch

from steadydiff.errors import SteadyDiffError
from steadydiff.samplers import sample_euler
from steadydiff.tinyworld import files, sampling
from steadydiff.tinyworld.reader import attributes, found
from steadydiff.tinyworld.scenes import caption, render, sample_scenes
from steadydiff.tinyworld.text import tokenize
from steadydiff.tinyworld.train import HELD_OUT, SCALE_FACTOR
from tools.launch.inprocess import load

PROMPT = "a hatched drawing of a small red star left of a large blue circle on a sky background"


@pytest.fixture(params=files.VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def world(pack, variant):
    """MODEL, CLIP and VAE of a variant, as the node returns them."""
    return pack["SteadyDiffTinyWorld"].execute(variant).args


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_they_are_the_hosts_own_kinds(host, world):
    model, clip, vae = world
    assert isinstance(model, host.patcher.ModelPatcher)
    assert isinstance(model.model, host.base.BaseModel)
    assert type(clip).__module__ == type(vae).__module__ == "comfy.sd"
    assert (
        model.cached_patcher_init[0](*model.cached_patcher_init[1]).model.model_type == model.model.model_type
    )


def test_network_text_and_autoencoder_equal_the_trainers(world, variant):
    model, clip, vae = world
    unet, text = files.load_diffusion(variant)
    autoencoder = files.load_autoencoder()
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 900.0]), torch.randn(2, 24, 64)
    torch.testing.assert_close(
        model.model.diffusion_model(x, t, context), unet(x, t, context), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(encode(clip, PROMPT)[0][0], text(tokenize([PROMPT])), atol=1e-4, rtol=1e-4)
    picture = render(sample_scenes(1, 2))
    latent = autoencoder.encode(picture * 2 - 1)[0]
    torch.testing.assert_close(vae.encode(picture.movedim(1, -1)), latent, atol=1e-3, rtol=1e-3)
    decoded = (autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(vae.decode(latent), decoded, atol=1e-3, rtol=1e-3)


def test_the_hosts_sampling_equals_the_host_free_one(host, world, variant):
    """KSampler's path at CFG 4 against our Euler loop on our own networks: one world, measured either way."""
    import comfy.sample

    model, clip, _ = world
    noise, steps = torch.randn(2, 4, 8, 8), 8
    scheduler = {"epsilon": "normal", "flow": "simple"}[variant]
    theirs = comfy.sample.sample(
        model,
        noise,
        steps,
        4.0,
        "euler",
        scheduler,
        encode(clip, PROMPT),
        encode(clip, ""),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=0,
    )
    unet, text = files.load_diffusion(variant)
    context, uncond = sampling.embed(text, [PROMPT] * 2)
    sigmas = sampling.sigmas(variant, steps)
    x = sampling.first_state(variant, noise, sigmas[0])
    ours = sample_euler(sampling.denoiser(variant, unet, context, uncond, 4.0), x, sigmas) / SCALE_FACTOR
    torch.testing.assert_close(theirs, ours, atol=0.02, rtol=0.01)


def test_stock_nodes_draw_what_is_asked(world, variant):
    import nodes as core

    model, clip, vae = world
    scenes = sample_scenes(HELD_OUT + 9, 12)
    read = []
    empty = core.CLIPTextEncode().encode(clip, "")[0]
    for i in range(len(scenes)):
        positive = core.CLIPTextEncode().encode(clip, caption(scenes, i))[0]
        latent = core.EmptyLatentImage().generate(64, 64, 1)[0]
        sampled = core.KSampler().sample(model, i, 12, 4.0, "euler", "simple", positive, empty, latent)[0]
        read.append(core.VAEDecode().decode(vae, sampled)[0].movedim(-1, 1))
    judged = found(files.load_reader().read(torch.cat(read)), attributes(scenes))
    assert judged.float().mean() > 0.5


def test_a_lora_reaches_unet_and_text_encoder(world):
    import comfy.sd

    model, clip, _ = world
    target = model.model.diffusion_model.middle_block[0].in_layers[2]
    up, down = torch.randn(target.weight.shape[0], 2, 1, 1), torch.randn(2, *target.weight.shape[1:])
    name = "lora_unet_mid_block_resnets_0_conv1"
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    lora = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(2.0),
        f"{text}.lora_up.weight": torch.randn(256, 2),
        f"{text}.lora_down.weight": torch.randn(2, 64),
        f"{text}.alpha": torch.tensor(2.0),
    }
    with_model, with_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    assert len(with_model.patches) == len(with_clip.patcher.patches) == 1
    assert not torch.allclose(encode(with_clip, PROMPT)[0][0], encode(clip, PROMPT)[0][0])


def test_emphasis_in_a_prompt_works_as_in_any_clip(world):
    clip = world[1]
    plain, strong = encode(clip, "a red star")[0][0], encode(clip, "a (red:1.5) star")[0][0]
    assert plain.shape == strong.shape == (1, 24, 64) and not torch.allclose(plain, strong)


def test_an_unknown_variant_is_refused(pack):
    with pytest.raises(Exception, match="choose one of epsilon, flow") as caught:
        pack["SteadyDiffTinyWorld"].execute("sdxl")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, SteadyDiffError)
    assert load("execution").full_type_name(type(caught.value)) == "steadydiff.SettingsError"
