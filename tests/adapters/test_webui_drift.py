"""Calibration inside a WebUI's run, without a WebUI: it finds what the core finds by its own sampler."""

from types import SimpleNamespace

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.drift.calibration import calibrate, fit_linear
from steadydiff.drift.recorder import Recorder, noise_for, refine, unit_noise
from steadydiff.drift.steady import steady
from steadydiff.drift.stepping import step_calls
from steadydiff.errors import HostError, SettingsError
from steadydiff.hosts.webui.attach import WebuiHost
from steadydiff.hosts.webui.drift import DriftRequest, calibrate_next
from steadydiff.samplers import gaussian_denoiser, sample_euler

SIGMAS = (10.0, 4.0, 1.5, 0.5, 0.0)
RUN = Run("ve", SIGMAS)
SEED, REFINE = 3, 4


def drifting(x, sigma):
    """A model that predicts too much noise, the more the noisier."""
    clean = gaussian_denoiser(0.3, 0.8)(x, sigma)
    level = sigma.view(-1, 1, 1, 1).to(x)
    return x - (x - clean) * (1 + 0.02 * level / (1 + level))


class Rng:
    """The noise of the user's pictures, which calibration leaves alone."""

    def next(self):
        raise AssertionError("this noise is the user's")


class Denoiser(torch.nn.Module):
    """What calibration uses of a CFGDenoiser."""

    def __init__(self):
        super().__init__()
        sd_model = SimpleNamespace(alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
        self.inner_model = SimpleNamespace(inner_model=sd_model)
        self.steps, self.total_steps, self.step = RUN.steps, 2 * RUN.steps, 0
        self.p, self.called_at, self.called = SimpleNamespace(rng=Rng()), [], []

    def forward(self, x, sigma, cond_scale):
        assert cond_scale == 3.0
        self.called_at.append((float(sigma[0]), self.step))
        self.called.append(len(x))
        self.step += 1
        return self.combine_denoised(drifting(x, sigma), sigma)

    def combine_denoised(self, x_out, *others):
        return x_out

    combine_denoised_for_edit_model = combine_denoised


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return sample_euler(lambda x, sigma: model(x, sigma, **extra_args), x, sigmas.tolist())


def run(method, function=euler, model=None, refine=REFINE, **levels):
    sampler, found, model = SimpleNamespace(func=function), [], model or Denoiser()
    order = DriftRequest(method, refine, SEED, "Karras", "a model")
    calibrate_next(sampler, WebuiHost(), order, lambda *results: found.append(results))
    x = torch.zeros((2, 2, 4, 4), dtype=torch.float64)
    clean = sampler.func(model, x, extra_args={"cond_scale": 3.0}, callback=None, disable=False, **levels)
    assert sampler.func is function and vars(model.p.rng) == {}
    schedule, measurement, said = found[0]
    return clean, schedule, measurement, said, model


def by_the_core():
    noise = unit_noise((2, 4, 4), (SEED, SEED + 1)).double()
    first = noise * SIGMAS[0]
    clean = sample_euler(drifting, first, refine(SIGMAS, REFINE))
    recorder = Recorder(RUN, step_calls(sample_euler, first, RUN))
    recorded = recorder.around(drifting)
    recorder.sample(sample_euler, recorded, first)
    recorder.train(recorded, clean, noise_for(clean, (SEED, SEED + 1)))
    found = calibrate(sample_euler, drifting, first, RUN, torch.tensor(recorder.training_norms))
    return clean, steady(found.scales, found.errors, SIGMAS)


@pytest.mark.parametrize("method", ("norm", "linear"))
def test_the_schedule_is_the_cores(method):
    clean, schedule, measurement, *_ = run(method, sigmas=torch.tensor(SIGMAS))
    expected_clean, scales = by_the_core()
    torch.testing.assert_close(clean, expected_clean, rtol=1e-6, atol=1e-6)
    if method == "linear":
        k, b = fit_linear(scales)
        scales = tuple(k * t + b for t in range(RUN.steps - 1, -1, -1))
    assert schedule.values == pytest.approx(scales, rel=1e-5) and max(schedule.values) > 1.001
    made_for = schedule.made_for
    assert (made_for.sampler, made_for.scheduler, made_for.cfg) == ("euler", "Karras", 3.0)
    assert (made_for.model, measurement.count) == ("a model", 2)


def test_prompts_that_change_are_asked_at_their_own_steps():
    *_, model = run("norm", sigmas=torch.tensor(SIGMAS))
    for sigma, step in model.called_at:
        expected = min(sum(one > sigma * 1.0001 for one in SIGMAS[:-1]), RUN.steps - 1)
        assert step == 2 * expected


def lcm(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """The hosts', which adds noise of the pictures' shape in place."""
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = model(x, sigma * x.new_ones(len(x)), **extra_args)
        if following > 0:
            x += following * model.p.rng.next()
    return x


def sde(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
    """DPM++ SDE's way with noise: a part of a step, and then the whole."""
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        if following == 0:
            return denoised
        half = (sigma + following) / 2
        there = denoised + half / 2 * (noise_sampler(sigma, half) + (x - denoised) / sigma)
        denoised = model(there, half * x.new_ones(len(x)), **extra_args)
        x = denoised + following / 2**0.5 * (noise_sampler(sigma, following) + (x - denoised) / sigma)
    return x


@pytest.mark.slow
def test_a_sampler_that_adds_its_noise_in_place_is_calibrated():
    def plainly(model, x, sigmas, **more):
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            x = model(x, sigma * x.new_ones(len(x)), **more["extra_args"])
            x = x + following * model.p.rng.next() if following > 0 else x
        return x

    clean, schedule, *_ = run("norm", lcm, sigmas=torch.tensor(SIGMAS))
    expected, same, *_ = run("norm", plainly, sigmas=torch.tensor(SIGMAS))
    torch.testing.assert_close(clean, expected)
    assert schedule.values == pytest.approx(same.values) and max(schedule.values) > 1.001


@pytest.mark.slow
def test_a_hosts_noise_that_ends_at_its_own_levels_does_not_end_the_finer_run():
    def tree(sigma, following):  # torchsde's, asked outside its ends
        if following < SIGMAS[-2]:
            raise RecursionError
        return torch.zeros(2, 2, 4, 4)

    schedule = run("norm", sde, sigmas=torch.tensor(SIGMAS), noise_sampler=tree)[1]
    again = run("norm", sde, sigmas=torch.tensor(SIGMAS), noise_sampler=tree)[1]
    assert schedule.values == again.values and max(schedule.values) > 1.001


def test_what_the_host_would_take_for_a_cancelled_run_is_told():
    def endless(model, x, sigmas, extra_args=None, callback=None, disable=None):
        raise RecursionError

    with pytest.raises(HostError, match="the sampler endless .* choose another"):
        run("norm", endless, sigmas=torch.tensor(SIGMAS))


def test_samplers_without_levels_of_their_own_are_refused():
    def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None):
        raise AssertionError

    with pytest.raises(SettingsError, match="sampler ddim"):
        run("norm", ddim, timesteps=torch.tensor([1, 400, 800]))


@pytest.mark.slow
def test_a_sampler_that_draws_noise_gets_32_samples_in_batches_of_the_run():
    clean, _, measurement, said, model = run("norm", lcm, sigmas=torch.tensor(SIGMAS))
    assert clean.shape == (2, 2, 4, 4) and measurement.count == 32
    assert model.called and set(model.called) == {2}
    assert said[0].startswith("Found on 32 samples")
    assert "few-step error only, not the model's own bias" in said[-1]
    assert run("norm", sigmas=torch.tensor(SIGMAS))[2].count == 2


def tired(by_memory):
    """Return a model with another extension that shrinks an answer the more, the more calls it has seen since
    the noise was last as high; or that knows the noise levels instead."""
    model, seen, levels = Denoiser(), [], torch.tensor(SIGMAS[:-1])

    def guided(x_out, sigma):
        level = float(sigma[0])
        if seen and level > seen[-1]:
            seen.clear()
        seen.append(level)
        calls = len(seen) if by_memory else int((levels - level).abs().argmin()) + 1
        return x_out * 0.95**calls

    model.combine_denoised = guided
    return model


@pytest.mark.slow
@pytest.mark.parametrize("function", (euler, lcm))
@pytest.mark.parametrize("method", ("norm", "variance"))
def test_each_answer_meets_what_the_step_before_has_left_with_others(method, function):
    by_memory, by_level = (
        run(method, function, tired(memory), refine=1, sigmas=torch.tensor(SIGMAS))
        for memory in (True, False)
    )
    assert by_memory[2] == by_level[2]
    assert by_memory[1] == by_level[1] and len(set(by_memory[1].values)) > 1
