"""Samplers taken step by step: the same run, whichever way it is made."""

import math

import pytest
import torch

from steadydiff.denoiser import Run, derivative
from steadydiff.drift.stepping import (
    ModelCall,
    draws_noise,
    even_noise,
    fixed_rng,
    next_call,
    step_calls,
)
from steadydiff.errors import SettingsError
from steadydiff.noise import Motion
from steadydiff.samplers import gaussian_denoiser, sample_euler

RUN = Run("ve", (10.0, 4.0, 1.0, 0.2, 0.0))


def at(x, sigma):
    return torch.full((len(x),), sigma, dtype=torch.float32)


def heun(denoise, x, sigmas):
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        slope = derivative(x, denoise(x, at(x, a)), a)
        if b:
            there = x + slope * (b - a)
            slope = (slope + derivative(there, denoise(there, at(x, b)), b)) / 2
        x = x + slope * (b - a)
    return x


def two_step(denoise, x, sigmas):
    """A multistep solver: each slope is extrapolated from the one before."""
    before = None
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        slope = derivative(x, denoise(x, at(x, a)), a)
        x = x + (slope if before is None else 1.5 * slope - 0.5 * before) * (b - a)
        before = slope
    return x


def ancestral(denoise, x, sigmas):
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        clean = denoise(x, at(x, a))
        x = clean + b * 0.8 * derivative(x, clean, a) + b * 0.6 * torch.randn_like(x)
    return x


def midpoint(denoise, x, sigmas):
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        middle = math.sqrt(a * b) if b else a / 2
        there = x + derivative(x, denoise(x, at(x, a)), a) * (middle - a)
        x = x + derivative(there, denoise(there, at(x, middle)), middle) * (b - a)
    return x


def own_levels(denoise, x, sigmas):
    return sample_euler(denoise, x, (sigmas[0], sigmas[0] / 3, 0.0))


SAMPLERS = {
    sample_euler: (0, 1, 2, 3),
    heun: (0, 2, 4, 6),
    two_step: (0, 1, 2, 3),
    ancestral: (0, 1, 2, 3),
    midpoint: (0, 2, 4, 6),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", ["ve", "flow"])
def test_the_calls_that_begin_steps(sampler, space, shape):
    run = RUN if space == "ve" else Run("flow", (1.0, 0.8, 0.5, 0.2, 0.0))
    assert step_calls(sampler, torch.randn(shape), run) == SAMPLERS[sampler]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_taken_call_by_call_is_the_run(sampler, shape):
    x, denoise, predictions = torch.randn(shape) * 10, gaussian_denoiser(0.2, 0.7), []
    found = next_call(sampler, x, RUN.sigmas, predictions)
    while isinstance(found, ModelCall):
        predictions.append(denoise(*found))
        found = next_call(sampler, x, RUN.sigmas, predictions)
    torch.manual_seed(0)
    torch.testing.assert_close(found, sampler(denoise, x, RUN.sigmas), rtol=0, atol=0)


def test_the_worlds_random_numbers_are_left_alone():
    torch.manual_seed(4)
    expected = torch.randn(3)
    torch.manual_seed(4)
    next_call(ancestral, torch.randn(0, 2), RUN.sigmas, [])
    step_calls(ancestral, torch.ones(1, 2), RUN)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("sigmas", [(1.0,), (1.0, 1.0, 0.0), (0.5, 1.0), ()])
def test_runs_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(SettingsError, match="sigmas fall from step to step"):
        step_calls(sample_euler, torch.ones(1, 2), Run("ve", sigmas))


def test_a_first_level_moved_off_pure_noise_is_the_first_step():
    def nudged(denoise, x, sigmas):
        return sample_euler(denoise, x, (0.9999, *sigmas[1:]))

    run = Run("flow", (1.0, 0.9985, 0.5, 0.0))
    assert step_calls(nudged, torch.ones(1, 2), run) == (0, 1, 2)


def test_samplers_with_levels_of_their_own_are_refused():
    with pytest.raises(SettingsError, match="cannot be taken step by step; choose one that does"):
        step_calls(own_levels, torch.ones(1, 2), RUN)


def wasted(denoise, x, sigmas):
    """As older samplers do: noise is drawn, and taken times 0."""
    return sample_euler(denoise, x + 0 * torch.randn_like(x), sigmas)


def by_motion(denoise, x, sigmas):
    noise = Motion(x)
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        x = denoise(x, at(x, a)) + b * noise(a, b)
    return x


@pytest.mark.parametrize("first", [torch.zeros, torch.ones])
def test_whether_noise_is_drawn_is_seen_in_the_result(first):
    found = {
        sampler: draws_noise(sampler, first(2, 4, 3, 3), RUN) for sampler in (*SAMPLERS, wasted, by_motion)
    }
    assert [sampler for sampler, drawn in found.items() if drawn] == [ancestral, by_motion]


def test_even_noise_has_its_energy_in_every_sample_and_ends_with_its_block():
    x = torch.zeros(3, 4, 5, 5).double()
    with fixed_rng(x), even_noise(x):
        drawn = (
            torch.randn_like(x),
            torch.randn(x.shape),
            torch.randn(4, 5, 5),
            torch.normal(x, 1.0),
            torch.randn(7),
        )
    for noise in drawn[:4]:
        energy = noise.square().mean((-3, -2, -1))
        torch.testing.assert_close(energy, torch.ones_like(energy))
    with fixed_rng(x):
        plain = torch.randn_like(x), torch.randn(x.shape)
    assert not torch.equal(plain[0], drawn[0])
    scale = plain[1].square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(plain[1] / scale, drawn[1])
