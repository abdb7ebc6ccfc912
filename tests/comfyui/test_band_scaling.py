"""Band Scaling in ComfyUI, against the split made by hand outside the guided model."""

import pytest
import torch

from tools.launch.inprocess import defaults_of

SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "uni_pc", "lcm")


@pytest.fixture
def banded(pack):
    """Return a model with our node on it, its widgets at their defaults unless given."""
    node = pack["SteadyDiffBandScaling"]
    return lambda model, **widgets: node.execute(model=model, **(defaults_of(node) | widgets))[0]


def split_by_hand(model, scaled, coarse, fine, flow):
    """Return a model whose guided estimate is scaled without our code, and split by blocks of four."""

    def change(args):
        denoised, x, sigma = args["denoised"], args["input"], args["sigma"]
        space = "flow" if flow else "ve"
        changes = [scaled(x, denoised, sigma, scale, space) - denoised for scale in (coarse, fine)]
        means = [torch.nn.functional.avg_pool2d(one, 2).repeat_interleave(2, 2) for one in changes]
        means = [one.repeat_interleave(2, 3) for one in means]
        return denoised + means[0] + (changes[1] - means[1])

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(change)
    return clone


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_equals_two_scales_split_by_hand(model, host, by_hand, banded, sample, distance, name):
    flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
    ours = sample(banded(model, coarse=1.03, fine=0.98), name, steps=4)
    assert distance(ours, sample(split_by_hand(model, by_hand, 1.03, 0.98, flow), name, steps=4)) < 1e-4
    assert distance(ours, sample(model, name, steps=4)) > 1e-3


@pytest.mark.parametrize("off", [{"coarse": 1.0}, {"start_percent": 0.4, "end_percent": 0.4}])
def test_off_changes_no_bit_in_any_sampler(model, host, banded, sample, off):
    for name in host.samplers.SAMPLER_NAMES:
        plain = sample(model, name, steps=3)
        assert torch.equal(sample(banded(model, **off), name, steps=3), plain), name


def test_equal_bands_are_epsilon_scaling(model, banded, patched, schedule, sample, sigmas_of, distance):
    ours = banded(model, coarse=1.02, fine=1.02, start_percent=0.2)
    assert (
        distance(sample(ours, steps=4), sample(patched(model, scale=1.02, start_percent=0.2), steps=4)) < 1e-5
    )
    curve = schedule(mode="linear", slope=0.004, sigmas=sigmas_of(model, 4))
    ours = banded(model, coarse_schedule=curve, fine_schedule=curve)
    assert distance(sample(ours, steps=4), sample(patched(model, schedule=curve), steps=4)) < 1e-5


def test_a_bands_schedule_for_something_else_is_warned_of(model, banded, schedule, sample, caplog):
    curve = schedule(mode="uniform", sigmas=torch.tensor([9.0, 3.0, 1.0, 0.0]))
    sample(banded(model, fine_schedule=curve), steps=3)
    assert "Band Scaling: fine: the schedule does not fit this run" in caplog.text


def test_velocity_is_refused_where_there_is_none(models, banded):
    with pytest.raises(ValueError, match="space 'velocity' needs a flow model"):
        banded(models["epsilon"], space="velocity")


def test_epsilon_scaling_and_bands_multiply_in_either_order(model, banded, patched, sample, distance):
    one = sample(patched(banded(model, coarse=1.02, fine=1.02), scale=1.01), steps=4)
    other = sample(banded(patched(model, scale=1.01), coarse=1.02, fine=1.02), steps=4)
    assert torch.equal(one, other)
    assert distance(one, sample(patched(model, scale=1.02 * 1.01), steps=4)) < 1e-5
