"""The bench of DiffIER: equal numbers of calls, and peers and a restart that are what they are called."""

import pytest
import torch

from steadydiff.denoiser import Guided
from steadydiff.methods.diffier import DiffIER
from steadydiff.samplers import gaussian_denoiser
from tools.bench import diffier as bench
from tools.bench.shared import guidance
from tools.bench.shared.world import Condition


@pytest.mark.parametrize("variant", ["epsilon", "flow"])
@pytest.mark.parametrize("calls", bench.CALLS[:2])
def test_no_way_spends_more_calls_than_the_others(variant, calls):
    for method in (bench.DEFAULT, *bench.SWEEP.values()):
        steps = bench.steps_for(method, variant, calls)
        spent = bench.calls_of(method, variant, steps)
        assert spent <= calls < bench.calls_of(method, variant, steps + 1)
    assert bench.calls_of(bench.DEFAULT, variant, 20) == 30
    assert bench.steps_for(DiffIER(strength=0.5, sigma_high=float("inf")), "epsilon", 40) == 20


@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("steps", [16, 26])
def test_a_restart_spends_its_calls_and_ends_at_the_data(space, steps):
    variant, called = {"ve": "epsilon", "flow": "flow"}[space], []
    exact = gaussian_denoiser(0.0, 1.0, space)

    def denoise(x, sigma):
        called.append(float(sigma[0]))
        return exact(x, sigma)

    sigmas = Condition(variant, "euler", steps, 1.0).run.sigmas
    x = torch.randn(200, 4, 8, 8) * (1 + sigmas[0] ** 2 if space == "ve" else 1.0) ** 0.5
    found = bench.sample_restart(space, denoise, x, sigmas)
    assert len(called) == steps + bench.RESTART_STEPS
    assert sum(a < b for a, b in zip(called, called[1:], strict=False)) == 1
    assert found.std().item() == pytest.approx(1.0, abs=0.12)


def test_a_hosts_functions_get_the_branches_in_the_hosts_order():
    order = []

    def node(model):
        model.set_model_sampler_pre_cfg_function(lambda args: order.append("pre") or args["conds_out"])
        model.set_model_sampler_post_cfg_function(lambda args: order.append("post") or args["denoised"])

    model = Guided(gaussian_denoiser(1.0), gaussian_denoiser(-1.0), 3.0)
    x, sigma = torch.randn(2, 4, 5, 5), torch.full((2,), 0.7)
    found = guidance.as_host(node)(model, None)(x, sigma)
    assert order == ["pre", "post"]
    torch.testing.assert_close(found, model(x, sigma))

    def halved(model):
        model.set_model_sampler_cfg_function(lambda args: (args["cond"] + args["uncond"]) / 2)

    middle = (model.branches[0] + model.branches[1]) / 2
    torch.testing.assert_close(guidance.as_host(halved)(model, None)(x, sigma), middle)
