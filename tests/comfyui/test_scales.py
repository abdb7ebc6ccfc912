"""Which scale is in effect at which step, measured on the noise before and after our node."""

import math

import pytest
import torch


def close(found, expected):
    assert list(found.values()) == pytest.approx(list(expected), abs=2e-5)


def test_slope_counts_back_from_the_last_step(model, scales_in_effect):
    found = scales_in_effect(model, {"scale": 1.002, "slope": 0.003}, steps=4)
    first = 1.0 if max(found) == 1 else 1.011  # flow's first state holds nothing to correct
    close(found, [first, 1.008, 1.005, 1.002])


@pytest.mark.parametrize("kind", ["v", "edm", "cosmos"])
def test_every_kind_of_ve_model(kind, models, scales_in_effect):
    close(scales_in_effect(models[kind], {"scale": 1.01}, steps=4), [1.01] * 4)


def test_between_steps_the_scale_follows_log_sigma(models, schedule, scales_in_effect):
    table = schedule(mode="table", table="1.1 1.0 1.05")
    found = scales_in_effect(models["epsilon"], {"schedule": table}, sampler="dpm_2", steps=3)
    sigmas, scales = zip(*found.items(), strict=True)
    assert len(sigmas) == 5
    for i in (1, 3):  # the calls between steps
        share = math.log(sigmas[i - 1] / sigmas[i]) / math.log(sigmas[i - 1] / sigmas[i + 1])
        assert scales[i] == pytest.approx(scales[i - 1] + share * (scales[i + 1] - scales[i - 1]), abs=2e-5)
    close(dict(zip(sigmas[::2], scales[::2], strict=True)), [1.1, 1.0, 1.05])


def test_percentages_mean_the_model_that_is_sampled(models, host, patched, reference, sample, distance):
    """A shift node after ours moves what the percentages mean."""
    shift = host.advanced.ModelSamplingSD3()
    ours = shift.patch(patched(models["flow"], scale=1.02, start_percent=0.2, end_percent=0.6), 3.0)[0]
    plain = shift.patch(models["flow"], 3.0)[0]
    kind = plain.get_model_object("model_sampling")
    high, low = kind.percent_to_sigma(0.2), kind.percent_to_sigma(0.6)
    expected = reference(plain, lambda s: torch.where((s <= high) & (s >= low), 1.02, 1.0).view(-1, 1, 1, 1))
    assert distance(sample(ours, steps=8), sample(expected, steps=8)) < 1e-5


@pytest.mark.parametrize("shift", [1.0, 1.15, 3.0])
def test_a_step_on_the_bound_is_inside(shift, models, host, scales_in_effect):
    """The host computes percentages in double and sigmas in single precision."""
    model = host.advanced.ModelSamplingSD3().patch(models["flow"], shift)[0]
    for step in (2, 5, 8):
        bounds = {"scale": 1.01, "start_percent": step / 10, "end_percent": (step + 1) / 10}
        found = scales_in_effect(model, bounds, steps=10)
        close(found, [1.01 if i in (step, step + 1) else 1.0 for i in range(10)])


def test_velocity(models, scales_in_effect, host, patched, sample, distance):
    ours = patched(models["flow"], scale=1.01, space="velocity")
    core = host.eps.EpsilonScaling.execute(models["flow"], 1.01)[0]
    assert distance(sample(ours), sample(core)) < 1e-5
    assert distance(sample(ours), sample(patched(models["flow"], scale=1.01))) > 1e-3


def test_zero_terminal_snr(models, host, patched, scales_in_effect, sample):
    found = scales_in_effect(models["zsnr"], {"scale": 1.005}, steps=20)
    assert max(found) > 4500
    close(found, [1.0] + [1.005] * 19)


def test_zero_terminal_snr_gains_no_noise(models, host, patched, sample):
    """With the exact denoiser of pictures that vary around a fixed one, as those of one prompt do."""
    picture, spread = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), 0.5

    def ideal(apply_model, args):
        x, sigma = args["input"], args["timestep"].view(-1, 1, 1, 1)
        return picture + (x - picture) * spread**2 / (spread**2 + sigma**2)

    model = models["zsnr"].clone()
    model.set_model_unet_function_wrapper(ideal)
    core = host.eps.EpsilonScaling.execute(model, 1.005)[0]
    plain, ours, core = (sample(m, steps=20).std().item() for m in (model, patched(model), core))
    assert ours == pytest.approx(plain, rel=0.01)
    assert core > 1.05 * plain  # what the line above guards against


def test_models_it_cannot_work_on_are_refused(models, patched):
    with pytest.raises(ValueError, match="needs a flow model and this is none"):
        patched(models["epsilon"], space="velocity")
    for kind in ("cogvideo", "image_to_image"):
        with pytest.raises(Exception, match="a way SteadyDiff does not know") as found:
            patched(models[kind])
        assert type(found.value).__name__ == "HostError"


def test_a_model_changed_afterwards_is_refused_before_the_first_call(models, host, patched, sample):
    ours = patched(models["flow"], space="velocity")
    changed = host.advanced.ModelSamplingDiscrete().patch(ours, "eps", False)[0]
    changed.set_model_unet_function_wrapper(lambda *_: pytest.fail("the model was called"))
    with pytest.raises(ValueError, match="needs a flow model and this is none"):
        sample(changed, sigmas=torch.tensor([14.6, 1.0, 0.0]))
