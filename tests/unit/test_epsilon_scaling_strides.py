"""Epsilon Scaling where one step is long: no cliff, ordinary runs as they were, and the authors' own models.

Results of exact Gaussian models, whose pictures' standard deviation is known.
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.denoiser import Run
from steadydiff.methods.epsilon_scaling import EpsilonScaling, scale_epsilon
from steadydiff.metrics.deltas import one_step
from steadydiff.samplers import gaussian_denoiser, sample_ddpm, sample_euler


def levels(abar, steps):
    """Noise levels at some of a model's timesteps, noisiest first, and 0."""
    abar = abar[torch.linspace(0, len(abar) - 1, steps).round().long()]
    return (*((1 - abar) / abar).sqrt().flip(0).tolist(), 0.0)


def cosine(steps):
    """Nichol and Dhariwal's schedule of 1000 steps, betas up to 0.999: it begins at sigma 20,291."""
    curve = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(curve)]
    return levels(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0), steps)


def zero_snr(steps):
    """SD1's schedule moved to end without signal, as ComfyUI has it: from sigma 4518."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0).sqrt()
    abar = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    abar[-1] = 4.8973451890853435e-08
    return levels(abar, steps)


def karras(steps, high, low):
    ramp = (high ** (1 / 7) + i / (steps - 1) * (low ** (1 / 7) - high ** (1 / 7)) for i in range(steps))
    return (*(root**7 for root in ramp), 0.0)


def shifted(steps, shift):
    even = (1 - i / steps for i in range(steps + 1))
    return tuple(shift * t / (1 + (shift - 1) * t) for t in even)


ORDINARY = {
    "one step": Run("ve", (14.6, 0.0)),
    **{f"sd {n}": Run("ve", karras(n, 14.6, 0.03)) for n in (4, 20, 1000)},
    **{f"edm {n}": Run("ve", karras(n, 80.0, 0.002)) for n in (4, 18)},
    "video": Run("ve", karras(20, 700.0, 0.002)),
    "zero snr, 1000 steps": Run("ve", zero_snr(1000)),
    **{f"flow {n}, shift {s}": Run("flow", shifted(n, s)) for n in (2, 4, 20) for s in (1, 3, 12)},
}


@pytest.mark.slow
@pytest.mark.parametrize("run", ORDINARY.values(), ids=ORDINARY.keys())
@pytest.mark.parametrize("scale", [0.8, 0.99, 1.005, 1.02, 1.25])
def test_ordinary_runs_are_scaled_in_full_bit_for_bit(run, scale):
    denoise, method = gaussian_denoiser(0.3, 0.5, run.space), EpsilonScaling(scale)
    wrapped = method.wrap(denoise, run)
    for sigma, told in zip(run.sigmas, method.effective_scales(run), strict=False):
        at = torch.full((2,), sigma)
        for x in (torch.randn(2, 4).to(dtype) for dtype in (torch.float32, torch.bfloat16)):
            expected = scale_epsilon(x, denoise(x, at), scale, sigma=at, space=run.space)
            assert torch.equal(wrapped(x, at), expected)
        assert told == (1 if run.space == "flow" and sigma == 1 else scale)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    first=st.floats(0, 1),
    following=st.sampled_from([0.0, 1.0, 12.0, 40.0, 640.0]),
    space=st.sampled_from(["ve", "flow"]),
    scale=st.sampled_from([0.97, 0.99, 1.005, 1.02]),
)
def test_there_is_no_cliff_in_the_first_level(first, following, space, scale):
    """A first level a thousandth higher moves the next state by a twentieth of 1 - 1/λ of its size at most,
    and what a stride gains or loses is sixteen times 1 - 1/λ of it at most."""

    def after(ratio, method):
        sigmas = [r if space == "ve" else r / (1 + r) for r in (ratio, following)]
        run, denoise = Run(space, tuple(sigmas)), gaussian_denoiser(0.0, 1.0, space)
        noise = ratio if space == "ve" else sigmas[0]
        x = torch.full((1, 1), noise, dtype=torch.float64)
        return sample_euler(method.wrap(denoise, run), x, run.sigmas).item() / (
            math.hypot(following, 1) * (1 if space == "ve" else 1 - sigmas[1])
        )

    ratio = (following + 1) * (1e5 / (following + 1)) ** first
    method, off = EpsilonScaling(scale), EpsilonScaling(1.0)
    here, there = (after(r, method) - after(r, off) for r in (ratio, ratio * 1.001))
    weight = abs(1 - 1 / scale)
    assert abs(here - there) < 0.001 * 50 * weight + 2e-6
    assert abs(here) <= 16.1 * weight


@pytest.mark.parametrize("first", [3990.0, 4010.0])
def test_nothing_happens_at_a_ratio_of_4000(first):
    run = Run("ve", (first, *zero_snr(20)[1:]))
    found = [
        sample_euler(m.wrap(gaussian_denoiser(), run), torch.full((1, 1), first).double(), run.sigmas).item()
        for m in (EpsilonScaling(1.0), EpsilonScaling(1.005))
    ]
    assert found[1] == pytest.approx(1.023 * found[0], rel=2e-3)


@pytest.mark.parametrize("scale", [0.99, 1.002, 1.005, 1.02])
def test_the_first_step_of_zero_terminal_snr_is_as_good_as_left_alone(scale):
    sigmas = zero_snr(20)
    run, x = Run("ve", sigmas), torch.full((1, 1), sigmas[0]).double()
    alone = EpsilonScaling(scale, sigma_high=sigmas[1])
    found, kept = (
        sample_euler(m.wrap(gaussian_denoiser(), run), x, sigmas) for m in (EpsilonScaling(scale), alone)
    )
    assert found.item() == pytest.approx(kept.item(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "scale"),
    [(20, 1.017), (20, 1.011), (20, 1.008), (20, 1.006), (50, 1.007), (100, 1.017), (100, 1.005)],
)
@pytest.mark.parametrize("std", [0.3, 0.5])
def test_cosine_models_come_out_as_the_authors_have_them(std, steps, scale):
    """They divide the noise and clip the clean estimate to -1..1, step by step of DDPM."""
    run, model = Run("ve", cosine(steps)), gaussian_denoiser(0.0, std)
    assert run.sigmas[0] == pytest.approx(20291, abs=1)
    x = torch.randn(60_000, 1) * run.sigmas[0]
    ours = sample_ddpm(EpsilonScaling(scale).wrap(model, run), x, run.sigmas)
    theirs = x
    for sigma, after in pairwise(run.sigmas):
        clean = model(theirs, torch.tensor([sigma]))
        clipped = (theirs - (theirs - clean) / scale).clamp(-1, 1)
        theirs = one_step(theirs, clipped, sigma, after, "ve", torch.randn_like(theirs))
    assert abs(ours.std().item() - theirs.std().item()) < 0.03


def test_cosine_runs_of_many_steps_are_scaled_in_part_at_the_first():
    run = Run("ve", cosine(1000))
    first, *rest = EpsilonScaling(1.006).effective_scales(run)
    assert first == pytest.approx(1.00045, abs=2e-5)
    assert rest == [1.006] * 999


def test_a_call_above_or_between_the_levels_has_a_stride_of_its_own():
    """Stages of solvers; their stride goes to the next lower level, and churn is as the first."""
    run = Run("ve", (4518.76, 40.39, 10.0, 0.0))
    wrapped = EpsilonScaling(1.005).wrap(lambda x, sigma: torch.zeros_like(x), run)

    def weight(sigma):
        return wrapped(torch.ones(1, 1).double(), torch.tensor([sigma])).item() / (1 - 1 / 1.005)

    assert weight(400.0) == pytest.approx(1, rel=1e-6)
    assert weight(1500.0) == pytest.approx((16 / (1459.61 / math.hypot(40.39, 1))) ** 4, rel=1e-3)
    assert weight(40.39) == weight(10.0) == pytest.approx(1, rel=1e-6)
    assert 0 < weight(9000.0) == weight(4518.77) == weight(4518.76) < 1e-3


def test_a_sampler_that_chooses_its_own_steps_is_scaled_in_full_below_pure_noise():
    x, denoise, run = torch.randn(1, 4), gaussian_denoiser(0.3, 0.5, "flow"), Run("flow", shifted(4, 3))
    wrapped = EpsilonScaling(1.02).wrap(denoise, run)
    for ratio in (10.0, 300.0, 3900.0, 1e4):
        at = torch.tensor([ratio / (1 + ratio)])
        expected = scale_epsilon(x, denoise(x, at), 1.02, sigma=at, space="flow")
        assert torch.equal(wrapped(x, at), expected) is (ratio < 4000)


def test_the_first_float_below_one_in_flow_does_no_harm_in_half_precision():
    sigma = torch.nextafter(torch.ones(2), torch.zeros(2))
    run = Run("flow", (sigma[0].item(), 0.95, 0.0))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.randn(2, 4).to(dtype) * 4
        found = EpsilonScaling(1.02).wrap(lambda x, sigma: 0.1 * x, run)(x, sigma)
        torch.testing.assert_close(found, 0.1 * x, rtol=1e-2, atol=1e-3)
