"""Time Shift against exact answers: Gaussian data, on which the shifted estimate has a closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadydiff.denoiser import Guided, Run
from steadydiff.errors import SettingsError
from steadydiff.methods.time_shift import TimeShift, levels_factor, shift_level, shift_state
from steadydiff.samplers import gaussian_denoiser, sample_ddpm

RUN = Run("ve", (80.0, 20.0, 6.0, 2.0, 0.7, 0.2, 0.0))
FLOW = Run("flow", (1.0, 0.8, 0.5, 0.2, 0.0))
factors = st.floats(0.5, 1.5)


def level(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.slow
@given(factors, st.floats(0.01, 50.0))
def test_the_estimate_is_that_of_the_shifted_level(factor, sigma):
    """For data N(m, s²): m + s² (x - m) / (s² + (c sigma)²)."""
    x, mean, std = torch.randn(2, 3, dtype=torch.float64), 0.3, 0.6
    shifted = TimeShift(factor).wrap(gaussian_denoiser(mean, std), Run("ve", (50.0, 0.0)))
    expected = mean + std**2 * (x - mean) / (std**2 + (factor * sigma) ** 2)
    torch.testing.assert_close(shifted(x, level(sigma, sigma)), expected)


@pytest.mark.slow
@given(factors, st.floats(0.01, 0.99))
def test_flow_and_ve_agree_where_they_describe_one_state(factor, sigma):
    """A flow state over its alpha is a ve state at sigma / alpha; the clean estimates must be one."""
    state, alpha = torch.randn(2, 3, dtype=torch.float64), 1 - sigma
    at = level(sigma, sigma)
    ve, flow = (TimeShift(factor).wrap(gaussian_denoiser(0.3, 0.6, run.space), run) for run in (RUN, FLOW))
    torch.testing.assert_close(flow(state, at), ve(state / alpha, at / alpha))


@pytest.mark.slow
@given(factors, st.floats(0.01, 0.99))
def test_the_ratio_of_noise_to_signal_is_multiplied(factor, sigma):
    shifted = shift_level(level(sigma), factor, "flow")
    torch.testing.assert_close(shifted / (1 - shifted), factor * level(sigma) / (1 - level(sigma)))


def training_table(space, count=1000):
    """Linear betas, as sigma / alpha; or a flow's levels, shifted by 3."""
    if space == "ve":
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, count, dtype=torch.float64), 0)
        return ((1 - kept) / kept).sqrt()
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    return 3 * t / (1 + 2 * t)


@pytest.mark.parametrize("k", [1, 21, -5])
@pytest.mark.parametrize("space", ["ve", "flow"])
def test_levels_call_the_network_so_many_training_levels_lower(space, k):
    table, called = training_table(space), []
    shifted = TimeShift(levels=k, table=tuple(table.tolist())).wrap(
        lambda x, sigma: called.append(sigma) or x, Run(space, (float(table[900]), 0.0))
    )
    places = torch.tensor([30, 200, 500, 900])
    shifted(torch.randn(4, 3, dtype=torch.float64), table[places])
    torch.testing.assert_close(called[0], table[places - k])


def test_levels_end_at_the_lowest_and_mean_thousandths():
    table, fine = training_table("ve"), training_table("flow", 10000)
    down = levels_factor(table[[0, 3, 20]], 10, table, "ve") * table[[0, 3, 20]]
    torch.testing.assert_close(down, table[[0, 0, 10]])
    low, high = levels_factor(level(1e-4, 1e4), 10, table, "ve")
    assert low == high == 1  # outside of the training
    ends = table[[0, -1]] * level(1 - 1e-7, 1 + 1e-7)  # what a sampler's exp(log(sigma)) makes of them
    torch.testing.assert_close(levels_factor(ends, 10, table, "ve") * ends, table[[0, -11]])
    sigma = fine[[5000]]
    torch.testing.assert_close(
        shift_level(sigma, levels_factor(sigma, 7, fine, "flow"), "flow"), fine[[4930]]
    )


def test_levels_0_change_no_bit_and_levels_need_their_table():
    model = gaussian_denoiser(0.0, 0.5)
    assert TimeShift(1.0, levels=0.0).wrap(model, RUN) is model
    with pytest.raises(SettingsError, match="levels needs the sigmas of the model's training levels"):
        TimeShift(levels=4.0)
    table = tuple(training_table("ve").tolist())
    assert str(TimeShift(levels=4.0, table=table)) == "levels 4"
    assert TimeShift(levels=4.0, table=table).summary(RUN) == "4 training levels lower at 6 of 6 steps"


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_factor_1_changes_no_bit(space):
    x, sigma = torch.randn(64, 3), torch.rand(64)
    ones = torch.ones(64)
    assert torch.equal(shift_level(sigma, ones, space), sigma)
    assert torch.equal(shift_state(x, sigma, ones, space), x)


def test_pure_noise_of_a_flow_run_stays_at_its_level():
    assert shift_level(level(1.0), 0.9, "flow") == 1
    x = torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(shift_state(x, level(1.0), 0.9, "flow"), x / 0.9)


def test_outside_its_window_the_model_is_called_as_it_was():
    calls = []

    def denoise(x, sigma):
        calls.append((x, sigma))
        return x

    wrapped = TimeShift(0.9, sigma_high=2.0, sigma_low=0.7).wrap(denoise, RUN)
    sigmas = torch.tensor(RUN.sigmas[:-1])
    wrapped(torch.zeros(len(sigmas), 1), sigmas)
    factor = torch.where((sigmas <= 2.0) & (sigmas >= 0.7), 0.9, 1.0)
    assert torch.equal(calls[0][1], sigmas * factor)


def test_a_window_from_the_first_step_takes_in_calls_above_it():
    wrapped = TimeShift(0.9, sigma_high=80.0).wrap(lambda x, sigma: sigma, RUN)
    assert wrapped(torch.zeros(1, 1), torch.tensor([85.0])) == pytest.approx(76.5)


def test_it_shows_the_branches_of_what_it_wraps():
    guided = Guided(gaussian_denoiser(1.0), gaussian_denoiser(0.0), 3.0)
    wrapped = TimeShift(0.9).wrap(guided, RUN)
    found = wrapped(torch.zeros(1, 2), torch.tensor([2.0]))
    cond, uncond = wrapped.branches
    assert wrapped.cfg == 3.0
    torch.testing.assert_close(found, torch.lerp(uncond, cond, 3.0))


def test_few_ancestral_steps_spread_too_little_and_a_factor_below_1_mends_it():
    """The cause it is for: DDPM's step leaves out the variance of x0 given x."""
    torch.manual_seed(0)
    std, sigmas = 0.5, tuple(torch.logspace(2, -2, 10).tolist()) + (0.0,)
    noise, spread = torch.randn(4096, 4) * math.hypot(sigmas[0], std), {}
    for factor in (1.0, 0.7):
        torch.manual_seed(1)
        denoise = TimeShift(factor).wrap(gaussian_denoiser(0.0, std), Run("ve", sigmas))
        spread[factor] = sample_ddpm(denoise, noise, sigmas).std().item() / std
    assert spread[1.0] < 0.7
    assert abs(spread[0.7] - 1) < 0.1


def test_what_it_does_is_told():
    assert TimeShift(0.95).summary(RUN) == "noise level times 0.95 at 6 of 6 steps"
    half = TimeShift(0.95, sigma_high=2.0)
    assert half.summary(RUN) == "noise level times 0.95 at 3 of 6 steps"
    assert TimeShift(1.0).summary(RUN) == "left all 6 steps as they were"


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_is_no_ratio_is_refused(factor):
    with pytest.raises(SettingsError, match="factor is a finite number above 0"):
        TimeShift(factor)
