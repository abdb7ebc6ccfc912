"""Models whose states hold louder noise than unit noise, and models whose states hold none.

An exact denoiser of Gaussian data stands for the network: a run with it drifts by nothing, so that whatever
is found must come from noise taken for other noise.
"""

import copy
import json

import pytest
import torch

from steadydiff.drift.measurement import Measurement
from steadydiff.errors import HostError
from steadydiff.hosts.patch import states_of
from steadydiff.samplers import gaussian_denoiser
from steadydiff.schedules import Schedule
from tools.launch.inprocess import defaults_of, load

LOUD, STD, STEPS, WIDE = 8.0, 0.5, 12, 32


@pytest.fixture
def exact(models, log):
    """A flow model with noise of this scale, as HiDream-O1 has it, and data of that scale; and the levels
    and deviations of the states it was asked at."""

    def exact(scale):
        model = models["flow"].clone()
        own = model.get_model_object("model_sampling")

        class Scaled(type(own)):
            def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
                return super().noise_scaling(sigma, scale * noise, latent_image, max_denoise)

        levels = copy.copy(own)
        levels.__class__ = Scaled
        model.add_object_patch("model_sampling", levels)
        prediction, called = gaussian_denoiser(0.0, scale * STD, "flow", scale), log()

        def network(apply_model, args):
            called.append((round(float(args["timestep"][0]), 5), float(args["input"].std())))
            return prediction(args["input"], args["timestep"])

        model.set_model_unet_function_wrapper(network)
        return model, called

    return exact


@pytest.fixture
def kinds(host):
    """The host's kinds of states."""
    return load("comfy.model_sampling")


@pytest.fixture
def call(pack, host, conds, sigmas_of):
    """Run one of our nodes on a model; returns its outputs."""

    def call(name, model, **widgets):
        node = pack[f"SteadyDiff{name}"]
        given = {
            "positive": conds["positive"],
            "negative": conds["negative"],
            "cfg": 1.0,
            "count": 8,
            "batch_size": 8,
            "sampler": host.samplers.sampler_object("euler"),
            "latent_image": {"samples": torch.zeros(1, 4, WIDE, WIDE)},
            "sigmas": sigmas_of(model, STEPS),
        }
        return node.execute(model=model, **(defaults_of(node) | given | widgets)).args

    return call


def test_an_exact_model_does_not_drift_and_needs_no_scaling(pack, host, conds, exact, call):
    found = []
    for scale in (1.0, LOUD):
        model, _ = exact(scale)
        measured = Measurement.from_json(call("Measure", model, refine=4)[2])
        assert measured.quotient == pytest.approx([1.0] * STEPS, abs=0.1)  # Euler's own error
        assert measured.variance_error == pytest.approx([0.0] * (STEPS + 1), abs=0.25)
        found += [measured.quotient, measured.variance_error]
        for method in ("norm", "variance"):
            node, sampler = pack["SteadyDiffCalibrate"], host.samplers.sampler_object("euler")
            ends = conds["positive"], conds["negative"]
            made = node.execute(model, *ends, sampler, measured.to_json(), method, 8).args[0]
            found.append(Schedule.from_json(made).values)
            assert found[-1] == pytest.approx([1.0] * STEPS, abs=0.25)
    # A model whose data and noise are eight times as loud does everything eight times as loud.
    for plain, loud in zip(found[:4], found[4:], strict=True):
        assert loud == pytest.approx(plain, abs=2e-3)


def test_diffier_shows_the_model_states_as_loud_as_the_samplers(pack, host, conds, exact, sigmas_of):
    finals, node = [], pack["SteadyDiffDiffIER"]
    for scale in (1.0, LOUD):
        model, called = exact(scale)
        settings = defaults_of(node) | {"start_percent": 0.0, "iterations": 3}
        guider = host.samplers.CFGGuider(node.execute(model=model, **settings)[0])
        guider.set_conds(conds["positive"], conds["negative"])
        guider.set_cfg(1.0)
        noise = torch.randn(1, 4, WIDE, WIDE, generator=torch.Generator().manual_seed(0))
        euler, sigmas = host.samplers.sampler_object("euler"), sigmas_of(model, STEPS)
        finals.append(guider.sample(noise, 0 * noise, euler, sigmas, seed=1, disable_pbar=True))
        levels = dict.fromkeys(level for level, _ in called)
        stds = [[std for level, std in called if level == one] for one in levels]
        called_again = [found for found in stds if len(found) > 1]
        assert len(called_again) > STEPS / 2
        for outer, *inner in called_again:
            assert inner == pytest.approx([outer] * len(inner), rel=0.5)
    torch.testing.assert_close(finals[1], LOUD * finals[0], rtol=1e-3, atol=1e-3)


def test_the_report_counts_errors_in_units_of_the_models_own_noise(exact, call):
    plain = json.loads(call("DiffIERReport", exact(LOUD)[0])[1])["without"]
    ratios = [(1 - sigma) * STD / sigma for sigma in plain["sigmas"][:-1]]
    gains = [ratio**2 / (1 + ratio**2) for ratio in ratios]
    # again = gain * denoised + gain / alpha * sigma * noise, and denoised varies by gain times the data.
    assert plain["before"] == pytest.approx([gain**2 * (2 - gain) for gain in gains], rel=0.2, abs=1e-4)


@pytest.mark.parametrize(
    "kind", ["IMG_TO_IMG", "IMG_TO_IMG_FLOW", "IMG_TO_IMG_VELOCITY", "V_PREDICTION_DDPM"]
)
def test_states_that_are_not_of_the_contract_are_refused_by_name(kinds, kind):
    own = getattr(kinds, kind, None)
    if own is None:
        pytest.skip("this host has no such kind")
    with pytest.raises(HostError, match=kind):
        states_of(type(kind, (kinds.ModelSamplingDiscrete, own), {})())


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("EPS", "ve"),
        ("V_PREDICTION", "ve"),
        ("EDM", "ve"),
        ("X0", "ve"),
        ("COSMOS_RFLOW", "ve"),
        ("CONST", "flow"),
    ],
)
def test_every_kind_of_the_host_is_known_by_its_states(kinds, kind, space):
    class Levels(kinds.ModelSamplingDiscrete, getattr(kinds, kind)):
        pass

    assert states_of(Levels()) == (space, 1.0)
