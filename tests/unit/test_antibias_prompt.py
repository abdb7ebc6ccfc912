"""The anti-bias prompt's formulas against steps taken by hand, and what it does to a run."""

import math

import pytest
import torch

from steadydiff.denoiser import Run, add_noise
from steadydiff.errors import SettingsError
from steadydiff.methods.antibias_prompt import (
    AntiBiasPrompt,
    Band,
    PromptModel,
    band_gain,
    exposure_bias,
    exposure_bias_vp,
    input_scale,
    rectify,
    step_fraction,
)
from steadydiff.samplers import gaussian_denoiser, sample_euler

RUN = Run("ve", (10.0, 4.0, 1.0, 0.25, 0.0))


def shift(x):
    """A network whose answer is 1 everywhere."""
    return torch.ones_like(x)


def method(network=shift, target="phi", space="ve", sigma_range=(0.0, math.inf), bands=(), **settings):
    return AntiBiasPrompt(PromptModel(network, target, space, 1.0, sigma_range, bands), **settings)


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_the_bias_is_what_an_euler_step_leaves_wrong(space, latents):
    """x_t minus the step's result, with one noise in both: (1 - r)(x0 - D), whatever the denoiser."""
    x0, eps, sigma = latents((2, 4, 3, 5)), latents((2, 4, 3, 5)), torch.tensor([0.9, 0.3]).double()
    sigma_next = sigma * torch.tensor([0.4, 0.8])
    denoise = gaussian_denoiser(0.3, 0.6, space)
    x, truth = (add_noise(x0, eps, level, space) for level in (sigma, sigma_next))
    for i in range(2):
        levels = float(sigma[i]), float(sigma_next[i])
        step = sample_euler(denoise, x[i : i + 1], levels)
        found = exposure_bias(x0, denoise(x, sigma), sigma, sigma_next)[i : i + 1]
        torch.testing.assert_close(truth[i : i + 1] - step, found, rtol=1e-6, atol=1e-7)


def test_its_vp_form_is_what_a_ddim_step_leaves_wrong_and_the_same_in_input_units(latents):
    x0, eps, denoised = latents((1, 2, 3, 4)), latents((1, 2, 3, 4)), latents((1, 2, 3, 4))
    abar, abar_next = 0.3, 0.7
    x = abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
    eps_hat = (x - abar**0.5 * denoised) / (1 - abar) ** 0.5
    ddim = abar_next**0.5 * denoised + (1 - abar_next) ** 0.5 * eps_hat
    truth = abar_next**0.5 * x0 + (1 - abar_next) ** 0.5 * eps
    found = exposure_bias_vp(x0, denoised, abar, abar_next)
    torch.testing.assert_close(found, truth - ddim)
    sigma, sigma_next = ((1 / a - 1) ** 0.5 for a in (abar, abar_next))
    ve = exposure_bias(x0, denoised, sigma, sigma_next) / input_scale(sigma_next, "ve")
    torch.testing.assert_close(found, ve)


def test_the_network_is_shown_unit_variance_and_answers_in_it(latents):
    x, seen = latents((2, 4, 3, 5)), []

    def network(shown):
        seen.append(shown)
        return 2 * torch.ones_like(shown)

    scale = input_scale(torch.tensor([3.0, 0.0]).double(), "ve", 4.0)
    assert scale.tolist() == [5.0, 4.0] and input_scale(7.0, "flow") == 1
    found = rectify(x, network, scale, 0.5)
    torch.testing.assert_close(seen[0][0], x[0] / 5)
    torch.testing.assert_close(found - x, torch.ones_like(x) * scale.view(-1, 1, 1, 1))


def test_the_fraction_of_a_step_is_read_from_the_level_above():
    sigma = torch.tensor([10.0, 4.0, 4.0 * (1 + 1e-6), 2.0, 0.25, 12.0])
    found = step_fraction(sigma, RUN.sigmas)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.6, 0.6, 0.5, 0.75, 0.0]))


def test_the_fraction_of_a_rising_step_is_negative_and_read_from_the_level_below():
    sigma = torch.tensor([0.01, 0.05, 4.0, 4.0 * (1 - 1e-6), 5.0, 10.0])
    found = step_fraction(sigma, (0.01, 3.2, 4.0, 5.0))
    torch.testing.assert_close(found, torch.tensor([0.0, -1.0, -0.25, -0.25, -0.25, -1.0]))


def states(settings, run=RUN, denoise=None):
    """The states at which the model is asked, in a run that starts at 0."""
    called = []

    def note(x, sigma):
        called.append(x.clone())
        return (denoise or (lambda x, sigma: x))(x, sigma)  # this one leaves every state where it is

    sample_euler(settings.wrap(note, run), torch.zeros(1, 1, 2), run.sigmas)
    return [x.flatten()[0].item() for x in called]


def test_it_acts_before_every_call_but_the_first():
    scales = [math.hypot(sigma, 1.0) for sigma in RUN.sigmas[1:-1]]
    expected = [0.0, *torch.tensor(scales).cumsum(0).tolist()]
    assert states(method()) == pytest.approx(expected)
    assert states(method(strength=0.5)) == pytest.approx([value / 2 for value in expected])


def test_a_residual_is_multiplied_by_the_steps_fraction():
    parts = [0.6 * math.hypot(4, 1), 0.75 * math.hypot(1, 1), 0.75 * math.hypot(0.25, 1)]
    assert states(method(target="residual")) == pytest.approx([0.0, *torch.tensor(parts).cumsum(0).tolist()])


@pytest.mark.parametrize(
    "bounds",
    [{"sigma_high": 1.0, "sigma_low": 0.5}, {"sigma_range": (0.5, 1.0)}, {"calls": (2,)}],
    ids=str,
)
def test_it_acts_only_where_it_may(bounds):
    once = 2**0.5
    assert states(method(**bounds)) == pytest.approx([0.0, 0.0, once, once])


def test_gains_are_those_of_the_level_and_a_gain_of_0_asks_no_network():
    bands = (Band(0.2, 0.5), Band(1.0, 0.0), Band(3.0, 1.0))
    sigma = torch.tensor([0.1, 0.2, 0.99, 1.0, 2.9, 3.0, 50.0])
    assert band_gain(sigma, bands).tolist() == [0.5, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0]
    assert band_gain(sigma, ()).tolist() == [1.0] * 7
    called = []

    def network(x):
        called.append(x)
        return torch.ones_like(x)

    one = method(network, "phi", "ve", (0.0, math.inf), bands)
    first, last = math.hypot(4, 1), 0.5 * math.hypot(0.25, 1)
    assert states(one) == pytest.approx([0.0, first, first, first + last]) and len(called) == 2
    nothing = method(network, "phi", "ve", (0.0, math.inf), (Band(0.0, 0.0),))
    wrapped = nothing.wrap(lambda x, sigma: x, RUN)
    x = torch.full((1, 1, 2), -0.0)
    for level in RUN.sigmas[:-1]:
        wrapped(x, torch.tensor([level]))
    assert torch.equal(x.signbit(), torch.ones(1, 1, 2, dtype=torch.bool))
    assert len(called) == 2 and wrapped.applied == 0


def test_the_state_is_written_in_place_and_counted():
    wrapped = method().wrap(lambda x, sigma: x, RUN)
    x = torch.zeros(1, 1, 2)
    wrapped(x, torch.tensor([10.0]))
    assert not x.any()
    assert wrapped(x, torch.tensor([4.0])) is x and x.all()
    assert wrapped.applied == 1


def test_neutral_settings_are_the_denoiser_itself():
    def denoise(x, sigma):
        return x

    for neutral in (method(strength=0), method(sigma_high=2.0, sigma_low=2.0)):
        assert neutral.wrap(denoise, RUN) is denoise


def test_a_network_of_zeros_changes_no_bit():
    start = torch.randn(2, 4, 3, 5) * 10
    plain = sample_euler(gaussian_denoiser(), start, RUN.sigmas)
    zeros = method(torch.zeros_like).wrap(gaussian_denoiser(), RUN)
    assert torch.equal(sample_euler(zeros, start.clone(), RUN.sigmas), plain)


@pytest.mark.parametrize(
    "wrong", [{"strength": -1}, {"strength": math.nan}, {"sigma_high": 1, "sigma_low": 2}]
)
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(SettingsError):
        method(**wrong)


def test_models_of_another_space_or_meaning_are_refused():
    with pytest.raises(SettingsError, match="trained on a flow model and this is a ve one"):
        method(space="flow").wrap(gaussian_denoiser(), RUN)
    with pytest.raises(SettingsError, match="target is one of phi, residual; got 'psi'"):
        method(target="psi")
