"""An empty latent says what one of its samples stands for; our samplers draw the size that core's draw."""

import inspect
import sys

import pytest
import torch

from tools.launch.inprocess import defaults_of, load


@pytest.fixture
def coarse(models):
    """A model with 16 pixels to a latent, as Flux 2 and Wan 2.2 5B have."""

    class Format(type(models["epsilon"].model.latent_format)):
        spacial_downscale_ratio = 16

    model = models["epsilon"].clone()
    model.add_object_patch("latent_format", Format())
    return model


@pytest.fixture
def empty(host):
    return load("nodes").EmptyLatentImage().generate(128, 128, 1)[0]


def test_core_draws_it_in_the_models_size(host, coarse, conds, empty):
    if "downscale_ratio_spacial" not in empty:
        pytest.skip("this host's empty latents do not say it")
    drawn = (
        load("nodes")
        .KSampler()
        .sample(coarse, 1, 2, 1.0, "euler", "normal", conds["positive"], conds["negative"], empty)
    )
    assert drawn[0]["samples"].shape[-2:] == (8, 8)


@pytest.mark.parametrize("name", ["Measure", "DiffIERReport"])
def test_so_do_our_nodes(name, pack, host, coarse, conds, empty, sigmas_of):
    seen = []

    def note(apply_model, args):
        seen.append(args["input"].shape[-2:])
        return apply_model(args["input"], args["timestep"], **args["c"])

    coarse.set_model_unet_function_wrapper(note)
    node = pack[f"SteadyDiff{name}"]
    more = {"count": 2, "batch_size": 2, "cfg": 2.0}
    node.execute(
        model=coarse,
        positive=conds["positive"],
        negative=conds["negative"],
        latent_image=empty,
        sampler=host.samplers.sampler_object("euler"),
        sigmas=sigmas_of(coarse, 2),
        **(defaults_of(node) | more),
    )
    assert set(seen) == {torch.Size([8, 8])}


def test_an_empty_video_has_the_frames_that_core_would_draw(host, pack, models):
    fix = load("comfy.sample").fix_empty_latent_channels
    if "downscale_ratio_temporal" not in inspect.signature(fix).parameters:
        pytest.skip("this host's empty latents do not say it")

    class Video(type(models["epsilon"].model.latent_format)):
        latent_dimensions, temporal_downscale_ratio = 3, 8

    model = models["epsilon"].clone()
    model.add_object_patch("latent_format", Video())
    empty = {"samples": torch.zeros(1, 4, 6, 4, 4), "downscale_ratio_temporal": 4}
    nodes = pack["SteadyDiffMeasure"].__module__.rpartition(".")[0]
    fitted = sys.modules[f"{nodes}.shared.host"].fitted_latent(model, empty)
    assert fitted.shape == fix(model, empty["samples"], None, 4).shape == (1, 4, 3, 4, 4)
