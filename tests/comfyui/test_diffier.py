"""DiffIER in the host: off is off in every sampler, on is the core's, and its calls are as announced.

Over 400 lines, as one paper has one test file.
"""

import copy
import json
import math

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.drift.measurement import Measurement
from steadydiff.hosts.comfy.session import inner_options
from steadydiff.methods.diffier import DiffIER
from tools.launch.inprocess import defaults_of, load

NEUTRAL = ({"strength": 0.0}, {"iterations": 0}, {"start_percent": 0.4, "end_percent": 0.4})


@pytest.fixture
def diffier(pack):
    """Return a model with our node on it, at its defaults but for the whole run, unless given."""
    node = pack["SteadyDiffDiffIER"]
    defaults = defaults_of(node)
    return lambda model, **widgets: node.execute(
        model=model, **(defaults | {"start_percent": 0.0} | widgets)
    )[0]


@pytest.fixture
def counted(model, log):
    """A patched clone and the list of its calls: the time step of each."""
    calls, clone = log(), model.clone()

    def around(apply_model, args):
        calls.append(args["timestep"][0].item())
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(around)
    return clone, calls


def test_neutral_settings_change_no_bit_and_others_do(sampler, model, diffier, sample, distance):
    plain = sample(model, sampler)
    for widgets in NEUTRAL:
        assert torch.equal(sample(diffier(model, **widgets), sampler), plain)
    found = sample(diffier(model, strength=0.2), sampler)
    assert found.isfinite().all() and distance(found, plain) > 1e-3
    assert torch.equal(sample(diffier(model, strength=0.2), sampler), found)


def test_a_run_is_the_cores_run(model, host, conds, diffier, sample, sigmas_of, distance):
    """By hand: the host's own guided model between the core's DiffIER and Euler steps."""
    sigmas, steps = sigmas_of(model, 4), []
    flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
    widgets = {"strength": 0.3, "divide_by_cfg": False, "iterations": 2, "antithetic": True}
    settings = DiffIER(sigma_high=float("inf"), **widgets)

    def euler(model, x, sigmas, extra_args, callback=None, disable=None):
        run = Run("flow" if flow else "ve", tuple(sigmas.tolist()), 7)
        denoise = settings.wrap(lambda x, sigma: model(x, sigma, **extra_args), run)
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            x = x + (x - denoise(x, sigma.expand(len(x)))) / sigma * (following - sigma)
            steps.append(x)
        return x

    expected = sample(model, host.samplers.KSAMPLER(euler), sigmas=sigmas)
    assert distance(sample(diffier(model, **widgets), sigmas=sigmas), expected) < 1e-5
    divided = diffier(model, **(widgets | {"strength": 0.9, "divide_by_cfg": True}))
    assert distance(sample(divided, sigmas=sigmas, cfg=3.0), expected) < 1e-5
    assert len(steps) == 4


@pytest.mark.parametrize(
    ("widgets", "active", "each"),
    [
        ({}, 1.0, 1),
        ({"start_percent": 0.5}, 0.5, 1),
        ({"start_percent": 0.5, "iterations": 3}, 0.5, 3),
        ({"iterations": 2, "antithetic": True, "end_percent": 0.5}, 0.5, 4),
        ({"mode": "norm"}, 1.0, 0),
        ({"mode": "previous"}, 1.0, 0),
        ({"mode": "literal"}, 1.0, 0),
    ],
)
def test_calls_are_exactly_those_announced(
    widgets, active, each, counted, models, host, diffier, sample, caplog
):
    model, calls = counted
    flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
    with caplog.at_level("INFO", "steadydiff"):
        sample(diffier(model, **widgets), steps=10, cfg=3.0)
    acting = int(10 * active)
    if active == 0.5:  # a step on the bound is inside, and the host counts percentages in its own way
        acting = int(caplog.messages[-1].split(" at ")[1].split(" ")[0])
        assert 4 <= acting <= 6
    elif flow:
        acting -= 1  # its first state holds no signal
    assert (
        len(calls) == 10 + each * acting
    )  # one call of the network per guided call: both branches in a batch
    mode = widgets.get("mode", "renoise")
    extra = f", {each * acting} of them extra" if each else ""
    assert caplog.messages[-1] == (
        f"SteadyDiff: DiffIER {mode} at {acting} of 10 steps; {10 + each * acting} model calls{extra}"
    )


@pytest.fixture
def guiders(host, conds):
    positive, third, negative = conds["positive"], conds["third"], conds["negative"]
    custom = host.custom_sampler
    dual = custom.DualCFGGuider
    return {
        "dual_cfg": lambda m: dual.execute(m, positive, third, negative, 2.0, 3.0, "regular")[0],
        "dual_nested": lambda m: dual.execute(m, positive, third, negative, 2.0, 3.0, "nested")[0],
        "dual_model": lambda m: custom.DualModelGuider.execute(m, positive, 3.0, m, negative)[0],
        "perp_neg": lambda m: host.perpneg.PerpNegGuider.execute(m, positive, negative, third, 3.0, 1.0)[0],
        "basic": lambda m: custom.BasicGuider.execute(m, positive)[0],
    }


@pytest.mark.parametrize("mode", ["renoise", "norm"])
@pytest.mark.parametrize("name", ["dual_cfg", "dual_nested", "dual_model", "perp_neg", "basic"])
def test_guiders(name, mode, model, guiders, diffier, sample, distance):
    plain = sample(model, guider=guiders[name])
    found = sample(diffier(model, mode=mode, strength=0.2), guider=guiders[name])
    assert found.isfinite().all()
    if (name, mode) == ("basic", "norm"):
        assert torch.equal(found, plain)
    else:
        assert distance(found, plain) > 1e-4


def test_norm_without_guidance_changes_no_bit(model, diffier, sample):
    ours = sample(diffier(model, mode="norm", strength=1.0), cfg=1.0)
    assert torch.equal(ours, sample(model, cfg=1.0))


def test_norm_is_the_host_s_epsilon_norms_by_hand(models, diffier, sample, distance):
    def rescale(args):
        x = args["input"]
        shrink = (x - args["cond_denoised"]).norm() / (x - args["denoised"]).norm()
        return x - (x - args["denoised"]) * shrink

    by_hand = models["epsilon"].clone()
    by_hand.set_model_sampler_post_cfg_function(rescale)
    ours = sample(diffier(models["epsilon"], mode="norm", strength=1.0), cfg=8.0)
    assert distance(ours, sample(by_hand, cfg=8.0)) < 1e-5


def test_norm_with_a_measurement(pack, model, host, conds, sigmas_of, diffier, sample, distance):
    sigmas = sigmas_of(model, 5)
    ends = {"positive": conds["positive"], "negative": conds["negative"]}
    measurement = pack["SteadyDiffMeasure"].execute(
        model=model,
        **ends,
        sampler=host.samplers.sampler_object("euler"),
        sigmas=sigmas,
        cfg=2.0,
        seed=5,
        latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        count=2,
        batch_size=2,
        refine=1,
    )[2]
    ours = diffier(model, mode="norm", strength=1.0, measurement=measurement)
    assert distance(sample(ours, steps=5), sample(model, steps=5)) > 1e-4


def test_auto_takes_its_strength_from_the_measured_variance(model, diffier, sample):
    """A measurement whose final states vary 30 % too little, by hand: -log 0.7."""
    curves = dict.fromkeys(("sampling_norm", "training_norm", "sampling_rms", "training_rms"), (1.0,) * 4)
    states = {"state_variance": (1.0,) * 4 + (0.7,), "expected_variance": (1.0,) * 5}
    measured = Measurement("ve", (8.0, 4.0, 2.0, 1.0, 0.0), 9, (4, 8, 8), 0, "given", **curves, **states)
    auto = diffier(model, values="auto", strength=0.0, measurement=measured.to_json())
    assert torch.equal(sample(auto), sample(diffier(model, strength=-math.log(0.7))))
    with pytest.raises(ValueError, match="values auto takes its strength from a measurement"):
        diffier(model, values="auto")


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "euler_cfg_pp"])
@pytest.mark.parametrize(
    "widgets", [{}, {"mode": "norm"}, {"mode": "previous"}, {"iterations": 2, "antithetic": True}]
)
def test_a_batch_of_three_equals_three_of_one(name, widgets, model, diffier, sample, distance):
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = diffier(model, strength=0.2, **widgets)
    apart = torch.cat([sample(ours, name, noise=single) for single in noise.split(1)])
    assert distance(sample(ours, name, noise=noise), apart) < 1e-4


def test_the_hosts_random_stream_is_its_own(model, diffier, sample):
    def after(model, name):
        torch.manual_seed(3)
        sample(model, name)
        return torch.rand(1)

    assert torch.equal(after(diffier(model), "euler"), after(model, "euler"))


def test_seeds_decide(model, diffier, sample, distance):
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    ours = diffier(model)
    first = sample(ours, noise=noise, seed=1)
    assert torch.equal(sample(ours, noise=noise, seed=1), first)
    assert distance(sample(ours, noise=noise, seed=2), first) > 1e-4


def test_noise_masks_keep_what_is_masked(model, diffier, sample, distance):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    run = {"mask": mask, "latent": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
    ours, plain = sample(diffier(model, strength=0.2), **run), sample(model, **run)
    assert torch.allclose(ours[..., 4:], run["latent"][..., 4:], atol=1e-5)
    assert distance(ours[..., :4], plain[..., :4]) > 1e-3


def test_the_given_part_of_a_video_is_shown_clean(model, diffier, sample, monkeypatch, log):
    """As LTX-Video, Wan 2.2 and others have it: no noise where a frame is given, in no call."""
    monkeypatch.setattr(
        model.model, "scale_latent_inpaint", lambda latent_image, **more: latent_image, raising=False
    )
    mask, latent, seen = torch.zeros(1, 1, 8, 8), torch.full((1, 4, 8, 8), 2.0), log()
    mask[..., :4] = 1
    watched = model.clone()

    def watch(executor, x, timestep, model_options, seed):
        seen.append(x[..., 4:])
        return executor(x, timestep, model_options, seed)

    ours = diffier(watched)
    ours.add_wrapper_with_key("predict_noise", "zz_innermost", watch)
    sample(ours, mask=mask, latent=latent)
    given = model.model.process_latent_in(latent)[..., 4:]
    assert len(seen) > 3 and max((x - given).abs().max() for x in seen) < 1e-5


def test_the_given_part_is_noised_by_the_mask_as_it_is_now(model, diffier, sample, monkeypatch, log):
    """Hosts from 0.33 on hand a model the mask as well, in every call of the sampler's and so of ours."""
    masks, usual = log(), model.model.scale_latent_inpaint

    def noised(denoise_mask=None, **more):
        masks.append(denoise_mask)
        return usual(**more)

    monkeypatch.setattr(model.model, "scale_latent_inpaint", noised, raising=False)
    mask, halved = torch.zeros(1, 1, 8, 8), model.clone()
    mask[..., :4] = 1
    halved.set_model_denoise_mask_function(lambda sigma, mask, extra_options: mask / 2)
    sample(diffier(halved), mask=mask)
    ours = [one for one in masks if one is not None]
    assert len(ours) >= 1 and all(torch.equal(one, mask.expand_as(one) / 2) for one in ours)


def test_video_latents(models, diffier, sample):
    model = models["epsilon"].clone()

    def frames_as_rows(apply_model, args):
        x = args["input"]
        flat = x.reshape(*x.shape[:2], -1, x.shape[-1])
        return apply_model(flat, args["timestep"], **args["c"]).reshape(x.shape)

    model.set_model_unet_function_wrapper(frames_as_rows)
    noise = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(4))
    found = sample(diffier(model), noise=noise)
    assert found.shape == noise.shape and found.isfinite().all()


@pytest.mark.parametrize("kind", ["v", "zsnr", "edm", "cosmos"])
def test_other_kinds_of_model(kind, models, diffier, sample, distance):
    found = sample(diffier(models[kind], strength=0.2))
    assert found.isfinite().all() and distance(found, sample(models[kind])) > 1e-4


# --- composition


@pytest.mark.parametrize("first", ["diffier", "scaling"])
def test_epsilon_scaling_lies_outside_whatever_the_order(
    first, model, diffier, patched, by_hand, sample, distance
):
    """Scaled by hand outside our node on the result; calls in between see the model unscaled."""
    scale, widgets = 1.02, {"strength": 0.2}
    if first == "diffier":
        both = patched(diffier(model, **widgets), scale=scale)
    else:
        both = diffier(patched(model, scale=scale), **widgets)
    outside = model.clone()
    flow = "CONST" in str(type(model.get_model_object("model_sampling")).__mro__)

    def scale_result(executor, x, timestep, model_options, seed):
        denoised = executor(x, timestep, model_options, seed)
        return by_hand(x, denoised, timestep, scale, "flow" if flow else "ve")

    outside.add_wrapper_with_key("predict_noise", "by_hand", scale_result)
    assert distance(sample(both), sample(diffier(outside, **widgets))) < 1e-5


def test_a_second_node_is_refused(model, diffier):
    with pytest.raises(ValueError, match="DiffIER is on this model already"):
        diffier(diffier(model))


@pytest.fixture
def forwards(model, monkeypatch):
    """The calls that reach the network itself, below all wrappers; one per guided call."""
    network, seen = model.model.diffusion_model, []
    forward = network._forward

    def counted(*args, **kwargs):
        seen.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "_forward", counted)
    return seen


@pytest.mark.parametrize("order", ["cache first", "cache last"])
@pytest.mark.parametrize("cache", ["EasyCacheNode", "LazyCacheNode"])
def test_caches_neither_answer_nor_hear_the_calls_in_between(
    cache, order, model, forwards, host, diffier, sample
):
    """A threshold so high that the cache answers every call it may: ours get through to the network."""
    node = getattr(load("comfy_extras.nodes_easycache"), cache)

    def cached(model):
        return node.execute(model, 1e9, 0.0, 1.0, False)[0]

    sample(cached(model), steps=8)
    alone = len(forwards)
    assert alone < 6  # so the cache does answer
    forwards.clear()
    sample(cached(diffier(model)) if order == "cache last" else diffier(cached(model)), steps=8)
    active = 7 if isinstance(model.get_model_object("model_sampling"), host.sampling.CONST) else 8
    if (cache, order) == ("LazyCacheNode", "cache first"):  # it lies outside us and answers in our place
        active = alone - 8 + active
    assert len(forwards) == alone + active


def test_options_for_inner_calls_leave_the_runs_own_alone():
    class Holder:
        end_t = 0.3

    holder = Holder()
    options = {"sampler_post_cfg_function": [1, 2, 3], "transformer_options": {"easycache": holder, "a": 1}}
    kept = copy.copy(options)
    inner = inner_options(options, 2)
    assert inner["sampler_post_cfg_function"] == [1, 2]
    assert inner["transformer_options"]["easycache"].end_t == float("inf") and holder.end_t == 0.3
    assert options == kept and options["transformer_options"]["easycache"] is holder
    assert inner_options({}, 0) == {}


def test_cfg_pp_steps_along_the_branch_of_the_samplers_own_call(models, diffier, sample, distance):
    """The branch that the sampler picks up is of its own state, not of one of ours."""
    seen = []

    def unconditional(args):
        seen.append(args["input"])
        return args["denoised"]

    def step(model, x, sigmas, extra_args, callback=None, disable=None):
        options = {**extra_args["model_options"], "sampler_post_cfg_function": [unconditional]}
        for sigma in sigmas[:-1]:
            seen.clear()
            model(x, sigma.expand(len(x)), **{**extra_args, "model_options": options})
            assert len(seen) == 1 and torch.equal(seen[0], x)
        return x

    sample(diffier(models["epsilon"]), load("comfy.samplers").KSAMPLER(step))


# --- traces


def test_cancel_is_heard_between_the_calls_and_leaves_no_trace(counted, host, diffier, sample):
    model, calls = counted
    ours = diffier(model, iterations=5)
    plain = sample(model)
    calls.clear()
    cancelled = ours.clone()

    def stop(args):
        if len(calls) == 3:
            host.management.interrupt_current_processing(True)
        return args["denoised"]

    cancelled.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(host.management.InterruptProcessingException):
        sample(cancelled)
    assert len(calls) == 3
    assert torch.equal(sample(model), plain)


def test_a_patched_model_leaves_others_alone(model, diffier, sample):
    plain, ours = sample(model), diffier(model)
    first = sample(ours)
    assert torch.equal(sample(model), plain)
    assert torch.equal(sample(ours), first)
    assert "steadydiff" not in ours.model_options


def test_the_papers_values_are_one_click(model, diffier, sample, caplog):
    with caplog.at_level("INFO", "steadydiff"):
        ours = diffier(model, values="paper", strength=0.9)
    assert (
        "(renoise, strength 0.1, iterations 10, threshold 0.001, 0 to 100 % of the run)"
        in caplog.messages[-1]
    )
    assert sample(ours).isfinite().all()


# --- the report


@pytest.fixture
def report(pack, host, conds, sigmas_of):
    """Run the report node; returns its plot and its report."""

    def report(model, sampler="euler", steps=4, **widgets):
        settings = {"cfg": 3.0, "seed": 5, "count": 3, "batch_size": 2} | widgets
        ends = {"positive": conds["positive"], "negative": conds["negative"]}
        plot, text = (
            pack["SteadyDiffDiffIERReport"]
            .execute(
                model=model,
                **ends,
                sampler=host.samplers.sampler_object(sampler),
                sigmas=sigmas_of(model, steps),
                latent_image={"samples": torch.zeros(1, 4, 8, 8)},
                **settings,
            )
            .args
        )
        return plot, json.loads(text)

    return report


@pytest.mark.drawn
def test_the_report_shows_what_was_found_repaired_and_asked(model, diffier, report):
    pictures = {"samples": torch.randn(5, 4, 8, 8)}
    method = diffier(model, start_percent=0.5, antithetic=True, strength=0.2)
    plot, told = report(method, reference=pictures)
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() < plot.max() <= 1
    plain, ours, summary = told["without"], told["corrected"], told["summary"]
    assert (plain["calls"], plain["extra"], plain["count"]) == (4, 0, 3)
    assert ours["calls"] == 4 + ours["extra"] and ours["extra"] in (2, 4, 6)
    assert summary["model_calls_corrected"] == ours["calls"]
    assert plain["before"] == plain["after"]
    assert ours["before"][0] == ours["after"][0] == pytest.approx(plain["after"][0], rel=1e-5, abs=1e-7)
    assert ours["before"][-1] != ours["after"][-1]
    assert summary["error_corrected"] == pytest.approx(sum(ours["after"]))
    assert summary["error_without"] == pytest.approx(sum(plain["after"]))
    assert all(isinstance(weight, float) for weight in ours["weight"][1:])
    assert all(isinstance(error, float) for error in ours["weight_error"][1:])
    assert ours["weight"] == plain["weight"]
    assert isinstance(summary["guidance_weight_of_least_error"], float)


def test_the_weight_is_the_models_and_not_the_cfg(model, report):
    """The same pictures: the same weight at every cfg; without pictures none."""
    pictures = {"samples": torch.randn(5, 4, 8, 8)}
    low, high = (report(model, cfg=cfg, reference=pictures)[1]["without"]["weight"] for cfg in (2.0, 8.0))
    assert low[1:] == pytest.approx(high[1:], rel=1e-3)
    told = report(model)[1]
    assert set(told["without"]["weight"]) == {None}
    assert told["summary"]["guidance_weight_of_least_error"] is None


def test_pictures_of_another_size_are_refused(model, report):
    with pytest.raises(ValueError, match="reference latents have the model's own shape"):
        report(model, reference={"samples": torch.zeros(2, 4, 4, 4)})


def test_the_report_without_guidance_or_correction(model, report):
    plot, told = report(model, cfg=1.0)
    assert told["corrected"] == told["without"]
    assert set(told["without"]["weight"]) == {None}


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "euler_cfg_pp", "euler_ancestral"])
def test_the_report_takes_other_samplers(name, model, diffier, patched, report):
    _, told = report(patched(diffier(model, strength=0.2), scale=1.01), name)
    assert told["corrected"]["extra"] > 0 and told["without"]["extra"] == 0
    assert len(told["corrected"]["after"]) == 4


def test_batches_make_no_difference_to_the_report(model, diffier, report):
    one, other = (report(diffier(model, strength=0.2), batch_size=size)[1]["corrected"] for size in (3, 1))
    assert one["after"] == pytest.approx(other["after"], rel=1e-3, abs=1e-6)


def test_reporting_leaves_no_trace(model, diffier, report, sample):
    ours = diffier(model)
    before, wrappers = sample(ours), str(ours.model_options)
    report(ours)
    assert torch.equal(sample(ours), before) and str(ours.model_options) == wrappers
