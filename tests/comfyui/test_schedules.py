"""SteadyDiffSchedule in real runs: its curves are what they are named after, and misfits are told."""

import json

import pytest
import torch


def test_snr_equals_the_hosts_tsr(model, host, patched, schedule, sample, sigmas_of, distance):
    curve = schedule(mode="snr", tsr_k=0.9, tsr_sigma=1.5, sigmas=sigmas_of(model, 5), model=model)
    core = host.eps.TemporalScoreRescaling.execute(model, 0.9, 1.5)[0]
    assert distance(sample(patched(model, schedule=curve), steps=5), sample(core, steps=5)) < 1e-5


def test_dcw_equals_dcw(model, host, patched, schedule, sample, sigmas_of, distance):
    def sample_dcw(model, x, sigmas, extra_args, callback=None, disable=None):
        for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
            denoised = model(x, sigma[None], **extra_args)
            x = denoised + (x - denoised) * sigma_next / sigma
            x = x + 0.02 * (x - denoised)
        return x

    by_hand = host.samplers.KSAMPLER(sample_dcw)
    curve = schedule(mode="dcw", dcw_lambda=0.02, sigmas=sigmas_of(model, 5))
    ours = sample(patched(model, schedule=curve), steps=5)
    assert distance(ours, sample(model, by_hand, steps=5)) < 1e-5
    assert distance(ours, sample(model, steps=5)) > 1e-3


@pytest.mark.drawn
def test_the_node_returns_a_schedule_a_plot_and_text(pack, sigmas_of, models):
    sigmas = sigmas_of(models["epsilon"], 4)
    made, plot, text = (
        pack["SteadyDiffSchedule"]
        .execute(mode="linear", steps=20, sigmas=sigmas, model=models["epsilon"], scale=1.0, slope=0.25)
        .args
    )
    assert made == text
    content = json.loads(text)
    assert (content["format"], content["version"], content["mode"]) == ("steadydiff.schedule", 1, "linear")
    assert content["values"] == [1.75, 1.5, 1.25, 1.0]
    assert content["made_for"] == {"steps": 4, "model": "BaseModel", "sigmas": sigmas.tolist()}
    assert plot.dtype == torch.float32
    assert plot.ndim == 4 and plot.shape[0] == 1 and plot.shape[-1] == 3
    assert 0 <= plot.min() < 0.3 and 0.9 < plot.max() <= 1


def test_text_goes_back_into_the_table(schedule):
    text = schedule(mode="linear", steps=3, slope=0.001)
    assert json.loads(schedule(mode="table", table=text)) == json.loads(text)


@pytest.mark.parametrize(
    ("widgets", "said"),
    [
        ({"mode": "snr"}, "mode snr needs the run's noise levels; connect BasicScheduler"),
        ({"mode": "dcw"}, "mode dcw needs the run's noise levels"),
        ({"mode": "snr", "sigmas": torch.tensor([1.0, 0.0])}, "connect model"),
        ({"mode": "linear", "sigmas": torch.tensor([])}, "sigmas holds no step"),
        ({"mode": "table", "table": "1.0 1.1", "sigmas": torch.tensor([2.0, 1.0, 0.5, 0.0])}, "2 scales"),
        ({"mode": "linear", "scale": 0.5, "slope": -0.05}, "the scale of step 1 is a finite number above 0"),
    ],
)
def test_what_is_missing_is_named(widgets, said, schedule):
    with pytest.raises(ValueError, match=said):
        schedule(**widgets)


def test_another_length_is_refused_before_the_first_call(model, patched, schedule, sample):
    ours = patched(model, schedule=schedule(mode="linear", steps=5))
    ours.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model was called"))
    with pytest.raises(ValueError, match="the schedule has 5 steps, the run has 3"):
        sample(ours, steps=3)


def warnings_of(caplog):
    ours = [record for record in caplog.records if record.name == "steadydiff"]
    return [record.getMessage() for record in ours if record.levelname == "WARNING"]


def test_a_schedule_for_something_else_warns_once(model, patched, schedule, sample, caplog):
    made = json.loads(schedule(mode="uniform", steps=3))
    made["made_for"] |= {"sampler": "dpmpp_2m", "cfg": 7.0, "model": "SDXL", "sigmas": [9.0, 3.0, 1.0, 0.0]}
    ours = patched(model, schedule=made)
    sample(ours, "euler")
    [warning] = warnings_of(caplog)
    for difference in (
        "sampler euler, made for dpmpp_2m",
        "cfg 3.0, made for 7.0",
        "model BaseModel, made for SDXL",
    ):
        assert difference in warning
    assert "made for 9 to 0 in 3 steps" in warning


def test_the_node_that_samples_says_whether_a_schedule_fits(model, patched, schedule, sample, said):
    made = json.loads(schedule(mode="uniform", steps=3))
    for cfg in (7.0, 3.0):
        made["made_for"] |= {"cfg": cfg}
        sample(patched(model, schedule=made), "euler", cfg=3.0)
    sample(patched(model, scale=1.01), "euler")
    wrong = "Epsilon Scaling: the schedule does not fit this run: cfg 3.0, made for 7.0"
    assert said == [("7", wrong), ("7", "Epsilon Scaling: made for a run like this")]


def test_a_schedule_for_this_run_does_not_warn(model, patched, schedule, sample, sigmas_of, caplog):
    made = json.loads(schedule(mode="uniform", sigmas=sigmas_of(model, 5), model=model))
    made["made_for"] |= {"sampler": "uni_pc", "cfg": 3.0}
    sample(patched(model, schedule=made), "uni_pc", sigmas=sigmas_of(model, 5)[2:])
    assert warnings_of(caplog) == []


def test_half_a_run_of_as_many_steps_finds_its_scales_by_level(
    model, patched, schedule, sigmas_of, scales_in_effect
):
    """KSampler's denoise .5: as many steps as the schedule has, over the lower levels."""
    own = sigmas_of(model, 5)
    values = [1.05, 1.04, 1.03, 1.02, 1.01]
    made = json.loads(schedule(mode="uniform", sigmas=own, model=model)) | {"mode": "table", "values": values}
    half = sigmas_of(model, 10)[-6:]
    found = scales_in_effect(model, {"schedule": json.dumps(made)}, sigmas=half)
    at_own = [
        scale
        for sigma, scale in sorted(found.items())
        for one in own.tolist()
        if abs(sigma - one) < 1e-3 * one
    ]
    assert at_own == pytest.approx([1.01, 1.02, 1.03][: len(at_own)], abs=2e-4) and len(at_own) >= 2
    assert all(1.0099 < scale < 1.0351 for scale in found.values())
