"""Models that draw a film and its sound together: the host packs both latents into one row, [B, 1, N]."""

import pytest
import torch

from steadydiff.methods.band_scaling import haar_split, split_parts
from tools.launch.inprocess import defaults_of, load

SHAPES = ((1, 4, 8, 8), (1, 4, 4, 6))


@pytest.fixture
def nested(host):
    """Return the host's own nested latent of two tensors."""
    try:
        kind = load("comfy.nested_tensor").NestedTensor
    except ImportError:
        pytest.skip("this host knows no nested latents")
    return lambda *tensors: kind(tensors)


@pytest.fixture
def film(models):
    """A model whose network answers for each of the two by itself."""
    utils, model = load("comfy.utils"), models["epsilon"].clone()

    def each(apply_model, args):
        parts = utils.unpack_latents(args["input"], SHAPES)
        return utils.pack_latents([apply_model(part, args["timestep"], **args["c"]) for part in parts])[0]

    model.set_model_unet_function_wrapper(each)
    return model


@pytest.fixture
def noises():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.fixture
def both(nested, noises, sample):
    """Sample film and sound together."""

    def run(model, **more):
        zeros = nested(*(torch.zeros(shape) for shape in SHAPES))
        return sample(model, noise=nested(*noises), latent=zeros, **more).unbind()

    return run


@pytest.mark.parametrize(
    ("node", "widgets"),
    [("EpsilonScaling", {"scale": 1.05}), ("BandScaling", {"coarse": 1.05, "fine": 0.97})],
)
def test_each_is_corrected_as_if_it_were_alone(
    node, widgets, pack, film, models, noises, both, sample, distance
):
    node = pack[f"SteadyDiff{node}"]
    ours = both(node.execute(model=film, **(defaults_of(node) | widgets))[0])
    alone = node.execute(model=models["epsilon"], **(defaults_of(node) | widgets))[0]
    for found, noise, plain in zip(ours, noises, both(film), strict=True):
        assert distance(found, sample(alone, noise=noise)) < 1e-4
        assert distance(found, plain) > 1e-3


@pytest.mark.parametrize("node", ["TimeShift", "DiffIER", "EpsilonScaling"])
def test_the_others_work_and_off_is_off(node, pack, film, both):
    made = pack[f"SteadyDiff{node}"]
    off = {"TimeShift": {"factor": 1.0}, "DiffIER": {"strength": 0.0}, "EpsilonScaling": {"scale": 1.0}}
    assert all(one.isfinite().all() for one in both(made.execute(model=film, **defaults_of(made))[0]))
    left = both(made.execute(model=film, **(defaults_of(made) | off[node]))[0])
    assert all(torch.equal(*pair) for pair in zip(left, both(film), strict=True))


@pytest.mark.parametrize("node", ["Measure", "DiffIERReport"])
def test_measuring_refuses_them_in_a_sentence(node, pack, film, nested, conds, host, sigmas_of):
    node = pack[f"SteadyDiff{node}"]
    with pytest.raises(Exception, match="draws latents of 2 kinds together, such as a film and its sound"):
        node.execute(
            model=film,
            positive=conds["positive"],
            negative=conds["negative"],
            sigmas=sigmas_of(film, 2),
            latent_image={"samples": nested(*(torch.zeros(shape) for shape in SHAPES))},
            sampler=host.samplers.sampler_object("euler"),
            **defaults_of(node),
        )


def test_a_split_never_crosses_from_one_to_the_other(noises):
    packed = torch.cat([noise.reshape(1, 1, -1) for noise in noises], dim=-1)
    found = split_parts(packed, [shape[1:] for shape in SHAPES])[0]
    assert torch.equal(found, torch.cat([haar_split(one)[0].reshape(1, 1, -1) for one in noises], dim=-1))
