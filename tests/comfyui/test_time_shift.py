"""Time Shift in ComfyUI, against the same shift made by hand just outside the network."""

import pytest
import torch

from tools.launch.inprocess import defaults_of

SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "ddpm", "euler_cfg_pp", "lcm")


@pytest.fixture
def shifted(pack):
    """Return a model with our node on it, its widgets at their defaults unless given."""
    node = pack["SteadyDiffTimeShift"]
    return lambda model, **widgets: node.execute(model=model, **(defaults_of(node) | widgets))[0]


def by_hand(model, factor, flow):
    """Return a model whose network is called at another level, without our code."""

    def call(apply_model, args):
        x, sigma = args["input"], args["timestep"]
        share = 1 - sigma + factor * sigma if flow else torch.ones_like(sigma)
        return apply_model(x / share.view(-1, 1, 1, 1), factor * sigma / share, **args["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(call)
    return clone


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_equals_a_network_that_is_called_at_the_other_level(model, shifted, sample, distance, name):
    flow = float(model.get_model_object("model_sampling").sigma_max) == 1
    ours = sample(shifted(model, factor=0.9), name, steps=4)
    assert distance(ours, sample(by_hand(model, 0.9, flow), name, steps=4)) < 1e-4
    assert distance(ours, sample(model, name, steps=4)) > 1e-3


@pytest.mark.parametrize("off", [{"factor": 1.0}, {"start_percent": 0.4, "end_percent": 0.4}])
def test_off_changes_no_bit_in_any_sampler(model, host, shifted, sample, off):
    for name in host.samplers.SAMPLER_NAMES:
        plain = sample(model, name, steps=3)
        assert torch.equal(sample(shifted(model, **off), name, steps=3), plain), name


def test_levels_are_the_models_own(model, shifted, sample, distance):
    """One step: at a training level, so many lower is a factor known from the model's table."""
    sampling = model.get_model_object("model_sampling")
    ratio = [float(sampling.sigmas[place]) for place in (700, 680)]
    if float(sampling.sigma_max) == 1:
        ratio = [sigma / (1 - sigma) for sigma in ratio]
    sigmas = torch.tensor([float(sampling.sigmas[700]), 0.0])
    ours = sample(shifted(model, levels=20000 / len(sampling.sigmas)), sigmas=sigmas)
    assert distance(ours, sample(shifted(model, factor=ratio[1] / ratio[0]), sigmas=sigmas)) < 1e-4
    assert distance(ours, sample(model, sigmas=sigmas)) > 1e-4


def test_two_of_them_multiply(model, shifted, sample, distance):
    both = sample(shifted(shifted(model, factor=0.9), factor=0.8), steps=4)
    assert distance(both, sample(shifted(model, factor=0.72), steps=4)) < 1e-4


def test_epsilon_scaling_goes_around_it_in_either_order(model, shifted, patched, sample):
    one = sample(patched(shifted(model, factor=0.9), scale=1.02), steps=4)
    other = sample(shifted(patched(model, scale=1.02), factor=0.9), steps=4)
    assert torch.equal(one, other)


def test_diffier_calls_the_shifted_model(model, pack, shifted, sample, distance):
    diffier = pack["SteadyDiffDiffIER"]
    flow = float(model.get_model_object("model_sampling").sigma_max) == 1

    def after(model):
        return diffier.execute(model=model, **(defaults_of(diffier) | {"start_percent": 0.0}))[0]

    ours = sample(after(shifted(model, factor=0.9)), steps=4)
    assert distance(ours, sample(after(by_hand(model, 0.9, flow)), steps=4)) < 1e-4


def test_a_part_of_the_run_is_counted_as_the_host_counts(models, shifted, sample, distance):
    model = models["epsilon"]
    start = model.get_model_object("model_sampling").percent_to_sigma(0.5)
    called = []

    def note(apply_model, args):
        called.append(float(args["timestep"][0]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    def levels(model):
        called.clear()
        clone = model.clone()
        clone.set_model_unet_function_wrapper(note)
        sample(clone, steps=6, cfg=1.0)
        return list(called)

    plain, late = levels(model), levels(shifted(model, factor=0.9, start_percent=0.5))
    assert late == pytest.approx([level * (0.9 if level <= start else 1.0) for level in plain], rel=1e-6)
    assert plain[0] > start > plain[-1]
