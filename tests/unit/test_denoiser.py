"""The contract: conversions against hand-computed numbers, and the mock host against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.denoiser import (
    SPACES,
    Run,
    add_noise,
    check_same_shape,
    denoised_from_eps,
    derivative,
    eps_from_denoised,
    per_sample,
    signal_level,
)
from steadydiff.errors import SettingsError, ShapeError
from steadydiff.samplers import gaussian_denoiser, generate, sample_euler


@pytest.mark.parametrize(("space", "x"), [("ve", 2 + 0.25 * 4), ("flow", 0.75 * 2 + 0.25 * 4)])
def test_conversions_by_hand(space, x):
    x0, eps = torch.tensor([[2.0]]), torch.tensor([[4.0]])
    assert add_noise(x0, eps, 0.25, space).item() == x
    assert eps_from_denoised(torch.tensor([[x]]), x0, 0.25, space).item() == 4
    assert denoised_from_eps(torch.tensor([[x]]), eps, 0.25, space).item() == 2


@settings(max_examples=30, deadline=None)
@given(sigma=st.floats(1e-3, 0.99), space=st.sampled_from(SPACES), x0=st.floats(-9, 9), eps=st.floats(-9, 9))
def test_conversions_undo_each_other(sigma, space, x0, eps):
    x0, eps = torch.full((2, 3), x0).double(), torch.full((2, 3), eps).double()
    x = add_noise(x0, eps, sigma, space)
    torch.testing.assert_close(eps_from_denoised(x, x0, sigma, space), eps, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(denoised_from_eps(x, eps, sigma, space), x0, atol=1e-9, rtol=1e-9)


def test_derivative_is_noise_in_ve_and_velocity_in_flow(shape, latents):
    x0, eps = latents(shape), latents(shape)
    sigma = torch.linspace(0.2, 0.8, len(x0)).double()
    ve, flow = add_noise(x0, eps, sigma, "ve"), add_noise(x0, eps, sigma, "flow")
    torch.testing.assert_close(derivative(ve, x0, sigma), eps)
    torch.testing.assert_close(derivative(flow, x0, sigma), eps - x0)


def test_per_sample_multiplies_whole_samples(shape, latents):
    x = latents(shape)
    value = torch.arange(1.0, len(x) + 1).double()
    expected = torch.stack([value[i] * x[i] for i in range(len(x))])
    torch.testing.assert_close(per_sample(value, x) * x, expected)
    assert per_sample(2.5, x) == 2.5
    assert per_sample(torch.tensor(2.5), x).ndim == 0


@pytest.mark.parametrize("value", [torch.ones(5), torch.ones(2, 1)])
def test_per_sample_refuses_other_lengths(value):
    with pytest.raises(ShapeError, match="a batch of 2"):
        per_sample(value, torch.zeros(2, 4, 5, 7))


def test_same_shape_is_asked_for():
    with pytest.raises(ShapeError, match=r"\(2, 4\) and \(2, 5\)"):
        check_same_shape(torch.zeros(2, 4), torch.zeros(2, 5))


def test_signal_level():
    assert signal_level(3.0, "ve") == 1
    assert signal_level(0.25, "flow") == 0.75


def test_run_knows_its_steps():
    run = Run("ve", [14, 3, 0])
    assert run.sigmas == (14.0, 3.0, 0.0) and run.steps == 2 and run.seed is None
    assert Run("flow", ()).steps == 0


@pytest.mark.parametrize("sigma", [math.nan, math.inf, -1.0])
def test_run_refuses_what_is_no_noise_level(sigma):
    with pytest.raises(SettingsError, match="finite and not negative"):
        Run("ve", (1.0, sigma, 0.0))


def test_run_refuses_unknown_spaces():
    with pytest.raises(SettingsError, match="ve, flow; got 'vp'"):
        Run("vp", (1.0, 0.0))


@pytest.mark.parametrize("space", SPACES)
def test_gaussian_denoiser_is_the_regression_of_x0_on_x(space):
    mean, std, sigma = 0.7, 1.3, 0.6
    alpha = 1.0 if space == "ve" else 1 - sigma
    x = torch.tensor([[2.0]], dtype=torch.float64)
    # E[x0|x] = E[x0] + cov(x0, x) / var(x) · (x - E[x])
    expected = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (2 - alpha * mean)
    found = gaussian_denoiser(mean, std, space)(x, torch.tensor([sigma], dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_euler_on_a_gaussian_is_a_product():
    mean, std, sigmas = 0.5, 0.8, (14.0, 5.0, 1.0, 0.25, 0.0)
    x = torch.tensor([[3.0], [-8.0]], dtype=torch.float64)
    factor = math.prod(1 + (b - a) * a / (std**2 + a**2) for a, b in zip(sigmas, sigmas[1:], strict=False))
    found = sample_euler(gaussian_denoiser(mean, std), x, sigmas)
    torch.testing.assert_close(found, mean + (x - mean) * factor, rtol=1e-12, atol=1e-12)


def test_many_small_steps_reach_the_data(latents):
    """The sampled standard deviation approaches the data's as the flow's path is followed closely."""
    sigmas = tuple(1 - i / 400 for i in range(401))
    pictures = generate(gaussian_denoiser(0.3, 0.5, "flow"), Run("flow", sigmas, seed=1), (4, 4, 32, 32))
    assert pictures.mean().item() == pytest.approx(0.3, abs=0.02)
    assert pictures.std().item() == pytest.approx(0.5, rel=0.02)


def test_the_seed_decides_the_noise():
    denoise, shape = gaussian_denoiser(), (1, 2, 3)
    first, again, other = (generate(denoise, Run("ve", (5.0, 0.0), seed), shape) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
