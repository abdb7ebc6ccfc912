"""CFG++ samplers step along the unconditional estimate, so that must be scaled as well."""

import pytest
import torch

SCALE = 1.01


@pytest.fixture
def loop(host, by_hand):
    """Return a sampler that scales both estimates, guided and unconditional, by hand before each `step`."""

    def make(step, space):
        def sample_by_hand(model, x, sigmas, extra_args, callback=None, disable=None):
            seen = {}

            def note(args):
                seen["uncond"] = args["uncond_denoised"]
                return args["denoised"]

            options = {**extra_args["model_options"], "sampler_post_cfg_function": [note]}
            extra_args = {**extra_args, "model_options": {**options, "disable_cfg1_optimization": True}}
            for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
                denoised = by_hand(x, model(x, sigma[None], **extra_args), sigma[None], SCALE, space)
                uncond = by_hand(x, seen["uncond"], sigma[None], SCALE, space)
                x = step(x, denoised, uncond, sigma, sigma_next)
            return x

        return host.samplers.KSAMPLER(sample_by_hand)

    return make


def ve_step(x, denoised, uncond, sigma, sigma_next):
    return denoised + (x - uncond) / sigma * sigma_next


def flow_step(x, denoised, uncond, sigma, sigma_next):
    eps = (x - (1 - sigma) * uncond) / sigma
    return (1 - sigma_next) * denoised + sigma_next * eps


def unnamed_step(x, denoised, uncond, sigma, sigma_next):
    return x + (x - 2 * denoised + uncond) / sigma * (sigma_next - sigma)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize(("kind", "step"), [("epsilon", ve_step), ("flow", flow_step)])
def test_euler_equals_a_loop_with_both_branches_scaled(
    kind, step, cfg, models, patched, loop, sample, distance
):
    space = "flow" if kind == "flow" else "ve"
    ours = sample(patched(models[kind], scale=SCALE), "euler_cfg_pp", cfg=cfg, steps=4)
    assert distance(ours, sample(models[kind], loop(step, space), cfg=cfg, steps=4)) < 1e-5
    assert distance(ours, sample(models[kind], "euler_cfg_pp", cfg=cfg, steps=4)) > 1e-3


def test_so_does_such_a_sampler_without_the_name(models, host, patched, loop, sample, distance):
    unnamed = host.samplers.KSAMPLER(host.advanced_samplers.sample_euler_pp)
    ours = sample(patched(models["epsilon"], scale=SCALE), unnamed)
    assert distance(ours, sample(models["epsilon"], loop(unnamed_step, "ve"))) < 1e-5


def test_second_order_multistep_equals_a_loop(models, patched, loop, sample, distance):
    older = []

    def step(x, denoised, uncond, sigma, sigma_next):
        shrink, previous = sigma_next / sigma, older[-1] if older else None
        older.append((sigma, uncond))
        mix = -shrink * uncond
        if previous is not None and sigma_next > 0:
            ratio = (previous[0] / sigma).log() / (sigma / sigma_next).log()
            mix = mix + (1 - shrink) / (2 * ratio) * (denoised - previous[1])
        return denoised + mix + shrink * x

    ours = sample(patched(models["epsilon"], scale=SCALE), "dpmpp_2m_cfg_pp", steps=4)
    assert distance(ours, sample(models["epsilon"], loop(step, "ve"), steps=4)) < 1e-5


def test_two_nodes_scale_the_branches_twice(models, patched, sample, distance):
    twice = patched(patched(models["epsilon"], scale=1.01), scale=1.02)
    once = patched(models["epsilon"], scale=1.01 * 1.02)
    assert distance(sample(twice, "euler_cfg_pp"), sample(once, "euler_cfg_pp")) < 1e-5


def test_functions_of_other_packs_see_branches_that_agree(models, patched, sample):
    seen = []

    def other(args):
        guided = args["uncond_denoised"] + 3.0 * (args["cond_denoised"] - args["uncond_denoised"])
        seen.append(torch.allclose(guided, args["denoised"], atol=1e-4))
        return args["denoised"]

    model = models["epsilon"].clone()
    model.set_model_sampler_post_cfg_function(other)
    sample(patched(model, scale=1.2), "euler_cfg_pp", steps=3)
    assert seen == [True] * 3
    assert model.model_options["sampler_post_cfg_function"] == [other]
