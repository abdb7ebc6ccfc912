"""Calibration: denoisers of known error have a known λ, which must come out."""

# Over 400 lines: its parts, the walk among them, are tried through calibrating alone.

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.denoiser import Run, denoised_from_eps, derivative, eps_from_denoised
from steadydiff.drift.calibration import (
    LEAST,
    MOST,
    TRIALS,
    Calibration,
    as_method,
    calibrate,
    calibrate_variance,
    fit_linear,
    remarks,
    samples_needed,
)
from steadydiff.drift.recorder import Recorder, noise_for, refine, unit_noise
from steadydiff.drift.steady import REACH, innovation_error, real_variance, steady
from steadydiff.drift.stepping import fixed_rng
from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.metrics.spectrum import spectrum
from steadydiff.samplers import (
    gaussian_denoiser,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_euler,
    sample_heun,
)
from steadydiff.schedules import Schedule

STD, SHAPE, BATCH = 0.6, (4, 8, 8), 8


def run_of(space, steps=40):
    high, low = (14.6, 0.05) if space == "ve" else (0.98, 0.05)
    return Run(space, (*(high * (low / high) ** (i / (steps - 1)) for i in range(steps)), 0.0), 3)


def overpredicting(factor, space):
    exact = gaussian_denoiser(0, STD, space)

    def denoise(x, sigma):
        eps = factor * eps_from_denoised(x, exact(x, sigma), sigma.to(x), space)
        return denoised_from_eps(x, eps, sigma.to(x), space)

    return denoise


def marginal_std(sigma, space):
    return math.sqrt((1 if space == "ve" else 1 - sigma) ** 2 * STD**2 + sigma**2)


def training_rms(factor, run):
    levels = [(sigma, marginal_std(sigma, run.space)) for sigma in run.sigmas[:-1]]
    return [factor * sigma / std * math.sqrt(256) for sigma, std in levels]


def best_scales(factor, run):
    """The λ at which one Euler step takes N(0, v) to exactly the variance of the next level."""
    scales = []
    for sigma, after in zip(run.sigmas, run.sigmas[1:-1], strict=False):
        alpha = 1 if run.space == "ve" else 1 - sigma
        alpha_after = 1 if run.space == "ve" else 1 - after
        # x' = alpha' x0 + sigma' eps with eps = e x and x0 = (1 - sigma e) x / alpha, solved for e.
        target = marginal_std(after, run.space) / marginal_std(sigma, run.space)
        needed = (alpha_after / alpha - target) / (alpha_after * sigma / alpha - after)
        scales.append(factor * sigma / marginal_std(sigma, run.space) ** 2 / needed)
    return scales


def first(run):
    return unit_noise(SHAPE, range(BATCH)).double() * marginal_std(run.sigmas[0], run.space)


def heun(denoise, x, sigmas):
    for a, b in zip(sigmas, sigmas[1:], strict=False):
        at = [torch.full((len(x),), s, dtype=torch.float32) for s in (a, b)]
        slope = derivative(x, denoise(x, at[0]), a)
        if b:
            there = x + slope * (b - a)
            slope = (slope + derivative(there, denoise(there, at[1]), b)) / 2
        x = x + slope * (b - a)
    return x


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("factor", [1.02, 1.005, 0.99])
def test_the_known_scale_is_recovered(space, factor):
    run = run_of(space)
    found = calibrate(sample_euler, overpredicting(factor, space), first(run), run, training_rms(factor, run))
    assert len(found.scales) == run.steps and found.scales[-1] == 1
    for scale, best in zip(found.scales, best_scales(factor, run), strict=False):
        assert scale - 1 == pytest.approx(best - 1, rel=0.05, abs=1e-4)
    assert found.reached == pytest.approx(found.target, rel=5e-4)


@pytest.mark.slow
def test_it_is_recovered_from_a_measurement_of_few_samples():
    """The whole way: own clean samples, norms of 8 + 8 samples, sequential solution, and the run it makes."""
    run, factor = run_of("ve"), 1.02
    denoise = overpredicting(factor, "ve")
    recorder = Recorder(run, range(run.steps))
    recorded = recorder.around(denoise)
    clean = unit_noise(SHAPE, range(100, 100 + BATCH)).double() * STD
    recorder.sample(sample_euler, recorded, first(run))
    recorder.train(recorded, clean, noise_for(clean, range(BATCH)))
    target = recorder.measurement(0, "given").training_rms
    found = calibrate(sample_euler, denoise, first(run), run, target)
    for scale, best in zip(found.scales, best_scales(factor, run), strict=False):
        assert scale - 1 == pytest.approx(best - 1, rel=0.05)
    # As the method applies it, the norms are met.
    again = Recorder(run, range(run.steps))
    method = EpsilonScaling(schedule=Schedule("table", found.scales))
    again.sample(sample_euler, method.wrap(again.around(denoise), run), first(run))
    again.train(again.around(denoise), clean, noise_for(clean, range(BATCH)))
    assert again.measurement(0, "given").quotient == pytest.approx([1] * run.steps, abs=1e-4)


def test_nothing_is_corrected_where_nothing_is_wrong():
    """An exact denoiser of one point: every state is x0 + sigma·eps, and every norm is right."""
    run = run_of("ve", 10)
    mean = torch.randn(SHAPE).double()
    x = mean + run.sigmas[0] * unit_noise(SHAPE, range(BATCH)).double()
    found = calibrate(sample_euler, lambda x, sigma: mean.expand_as(x), x, run, [math.sqrt(256)] * 10)
    assert found.scales == pytest.approx([1] * 10, abs=1e-6)
    assert found.calls == 10  # one trial a step was enough


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "calls"), [(sample_euler, 20), (heun, 39)])
def test_the_cost_is_bounded(sampler, calls, ledger):
    """Norms that jump about cannot be met; the number of model calls stays within three runs."""
    run = run_of("ve", 20)
    target = [norm * (1.02 if step % 2 else 0.98) for step, norm in enumerate(training_rms(1, run))]
    progress = []
    denoise = ledger(overpredicting(1.02, "ve"))
    found = calibrate(sampler, denoise, first(run), run, target, lambda: progress.append(1))
    assert found.calls == len(ledger.calls) == len(progress) <= TRIALS * calls <= 3 * calls
    assert all(0.8 <= scale <= 1.25 for scale in found.scales)


@pytest.mark.slow
def test_later_steps_see_what_earlier_ones_repaired():
    """Only the first half errs: what it leaves behind is repaired there, and the second half needs no more
    than the exact denoiser does."""
    run = run_of("ve")
    middle = run.sigmas[20]
    wrong, right = overpredicting(1.03, "ve"), overpredicting(1.0, "ve")
    found = calibrate(
        sample_euler,
        lambda x, sigma: (wrong if sigma[0] > middle else right)(x, sigma),
        first(run),
        run,
        [
            norm * (1.03 if sigma > middle else 1)
            for norm, sigma in zip(training_rms(1, run), run.sigmas, strict=False)
        ],
    )
    best = best_scales(1.03, run)[:20] + best_scales(1.0, run)[20:]
    assert found.scales[:-1] == pytest.approx(best, abs=1e-3)


@pytest.mark.slow
def test_a_solver_of_two_stages_meets_the_norms():
    run = run_of("ve", 12)
    found = calibrate(heun, overpredicting(1.02, "ve"), first(run), run, training_rms(1.02, run))
    assert found.reached == pytest.approx(found.target, rel=2e-3)
    assert 1.005 < sum(found.scales) / 12 < 1.035


def test_steps_without_signal_keep_a_scale_of_one():
    run = Run("flow", (1.0, 0.8, 0.5, 0.2, 0.0))
    denoise = overpredicting(1.02, "flow")
    exact = gaussian_denoiser(0, STD, "flow")

    def safe(x, sigma):
        return exact(x, sigma) if sigma[0] == 1 else denoise(x, sigma)

    found = calibrate(sample_euler, safe, unit_noise(SHAPE, range(4)), run, training_rms(1.02, run))
    assert found.scales[0] == 1 and found.scales[1] != 1


def test_strides_too_long_for_a_scale_to_act_in_full_keep_one():
    run = Run("flow", (0.999, 0.95, 0.5, 0.2, 0.0))
    denoise, x = overpredicting(1.02, "flow"), unit_noise(SHAPE, range(4)) * 0.999
    found = calibrate(sample_euler, denoise, x, run, training_rms(1.02, run))
    assert found.scales[0] == 1 and found.scales[1] != 1 and found.errors[0] == 0


def test_what_cannot_be_calibrated_is_refused():
    run = run_of("ve", 5)
    with pytest.raises(SettingsError, match="each of 5 steps is wanted; got 3"):
        calibrate(sample_euler, gaussian_denoiser(), first(run), run, [1, 2, 3])
    with pytest.raises(SteadyDiffError, match="at step 1, sigma 14.6, holds NaN"):
        calibrate(sample_euler, lambda x, sigma: x * math.nan, first(run), run, [1.0] * 5)
    with pytest.raises(SteadyDiffError, match="no noise at all"):
        calibrate(sample_euler, lambda x, sigma: x, first(run), run, [1.0] * 5)


# --- matching the states


def white(std=STD):
    return torch.full((4, len(spectrum(torch.zeros(1, *SHAPE))[0])), std**2).double()


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("factor", [1.02, 1.005, 0.99])
def test_the_scale_that_keeps_the_variance_is_found(space, factor, ledger):
    run = run_of(space, 20)
    denoise = ledger(overpredicting(factor, space))
    found = calibrate_variance(sample_euler, denoise, first(run), run, white())
    for scale, best in zip(found.scales, best_scales(factor, run), strict=False):
        assert scale - 1 == pytest.approx(best - 1, rel=0.01, abs=2e-5)
    assert found.reached == pytest.approx(found.target, rel=1e-4)
    assert found.calls == len(ledger.calls) == run.steps


@pytest.mark.slow
def test_grain_is_no_substitute_for_contrast():
    """A denoiser that loses half of the coarsest ring's contrast and nothing else: more noise would bring the
    energy back where it is not missing, and is hardly taken."""
    run = run_of("ve", 10)
    clean = white()
    clean[:, 0] = 4.0
    # All other rings start, and by an exact denoiser with λ near 1 stay, as they should be.
    found = calibrate_variance(sample_euler, gaussian_denoiser(0, STD), first(run), run, clean)
    alone = calibrate_variance(sample_euler, gaussian_denoiser(0, STD), first(run), run, white())
    total = [math.sqrt(256 * (STD**2 + (4 - STD**2) / 64 + sigma**2)) for sigma in run.sigmas[:-1]]
    assert found.target == pytest.approx(total)
    for scale, best in zip(found.scales, alone.scales, strict=True):
        assert scale == pytest.approx(best, abs=4e-3)


@pytest.mark.parametrize(("std", "bound"), [(3.0, MOST), (0.2, LEAST)])
def test_scales_at_a_bound_are_named_by_the_variance_too(std, bound):
    run = run_of("ve", 6)
    found = calibrate_variance(sample_euler, gaussian_denoiser(0, STD), first(run), run, white(std))
    assert found.scales[4] == pytest.approx(bound, abs=1e-5)
    assert 5 in found.at_bounds and 6 not in found.at_bounds
    assert "At a bound" in " ".join(remarks(found, 64, False))


@pytest.mark.slow
def test_solvers_of_two_stages_are_asked_twice_at_most(ledger):
    run = run_of("ve", 12)
    denoise = ledger(overpredicting(1.02, "ve"))
    found = calibrate_variance(heun, denoise, first(run), run, white())
    assert found.reached == pytest.approx(found.target, rel=2e-3)
    assert found.calls == len(ledger.calls) <= 3 * run.steps


# --- the paper's form


def test_a_line_is_found_again():
    scales = [0.002 * t + 1.004 for t in range(9, -1, -1)]
    assert fit_linear([*scales[:-1], 1.0]) == pytest.approx((0.002, 1.004))
    assert fit_linear([*scales[:-1], 1.0], slope=False) == pytest.approx((0.0, 1.004 + 0.002 * 5.5))


def test_the_last_quarter_is_not_fitted():
    """As in the paper, t in (5, T) of 20: an outlier there would turn the fit to the wrong side."""
    scales = [1.002] * 15 + [0.95] * 5
    assert fit_linear(scales, slope=False) == pytest.approx((0.0, 1.002))
    assert fit_linear(scales) == pytest.approx((0.0, 1.002))


def test_least_squares_by_hand():
    """Steps t = 3, 2, 1 of values 3, 1, 2 and the last, which does not count: k = 1/2, b = 1."""
    assert fit_linear([3, 1, 2, 99]) == pytest.approx((0.5, 1.0))
    assert fit_linear([1.5, 1.0]) == pytest.approx((0.0, 1.5))
    with pytest.raises(SettingsError, match="at least 2 steps; got 1"):
        fit_linear([1.0])


# --- chance


def test_what_follows_from_the_step_before_is_no_chance():
    """Before off by -1, 0, 1; after half of it and -.1, .2, -.1 more: the error of the mean of these."""
    before = torch.tensor([-1.0, 0.0, 1.0]).double()
    after = 5 + 0.5 * before + torch.tensor([-0.1, 0.2, -0.1]).double()
    assert innovation_error(before + 3, after) == pytest.approx(math.sqrt(0.06 / 2 / 3))
    assert innovation_error(before, -before) == pytest.approx(math.sqrt(1 / 3))  # nothing is kept of it
    assert innovation_error(before, before) == 0
    assert innovation_error(0 * before, before) == pytest.approx(math.sqrt(1 / 3))
    assert innovation_error(before[:1], after[:1]) == 0


def test_the_variance_behind_values_of_known_error():
    values = torch.tensor([3.0, -1.0, 2.0]).double()
    assert real_variance(values, torch.full((3,), 1.5).double()) == pytest.approx(14 / 3 - 1.5)
    assert real_variance(values, torch.full((3,), 9.0).double()) == 0
    # Unequal: v = (9 - 0) w + (1 - 4) u over w + u, w = 1 / v, u = 1 / (v + 4), solved for v = 5.5.
    found = real_variance(torch.tensor([3.0, 1.0]).double(), torch.tensor([0.0, 4.0]).double())
    w, u = 1 / found, 1 / (found + 4)
    assert found == pytest.approx((9 * w - 3 * u) / (w + u))


LEVELS = (8.0, 2.0, 0.5, 0.0)


def test_scales_of_no_error_stay_and_chance_becomes_one():
    scales = (1.02, 0.98, 1.0)
    assert steady(scales, (0.0, 0.0, 0.0), LEVELS) == scales
    assert steady(scales, (0.5, 0.5, 0.0), LEVELS) == (1.0, 1.0, 1.0)
    assert steady((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), LEVELS) == (1.0, 1.0, 1.0)


def test_one_scale_is_shrunk_by_its_error():
    """James and Stein: .02 known to .01 is real by a variance of .0003, three quarters of .0004."""
    found = steady((1.02, 1.0), (0.01, 0.0), (5.0, 1.0, 0.0))
    assert found == pytest.approx((1.015, 1.0))


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_two_scales_are_the_mean_of_a_gaussian_process(space):
    """By hand: v K (v K + s)⁻¹ y of two levels, with the last step left out."""
    sigmas = (4.0, 1.0, 0.5, 0.0) if space == "ve" else (0.8, 0.5, 0.3, 0.0)  # noise over signal 4 and 1
    a, b, s, t = 0.03, 0.01, 0.0001, 0.0002
    v = real_variance(*(torch.tensor(pair, dtype=torch.float64) for pair in ([a, b], [s, t])))
    k = v * math.exp(-math.log(4) / REACH)
    root = (v + s) * (v + t) - k * k
    weights = ((v + t) * a - k * b) / root, ((v + s) * b - k * a) / root
    expected = (1 + v * weights[0] + k * weights[1], 1 + k * weights[0] + v * weights[1], 1.0)
    found = steady((1 + a, 1 + b, 1.0), (s**0.5, t**0.5, 0.0), sigmas, space)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 1 < found[1] < found[0] < 1.03


def test_steps_at_which_nothing_was_sought_stay_one():
    found = steady((1.0, 1.03, 1.03, 1.0), (0.0, 0.004, 0.004, 0.0), (1.0, 0.9, 0.4, 0.1, 0.0), "flow")
    assert found[0] == found[3] == 1 and all(1.02 < scale < 1.03 for scale in found[1:3])


def test_a_step_in_pure_noise_that_has_an_effect_stands_alone():
    """Flow's first step under a solver of two stages: λ acts at the second."""
    found = steady((1.02, 1.02, 1.0), (0.01, 0.01, 0.0), (1.0, 0.5, 0.1, 0.0), "flow")
    assert found == pytest.approx((1.015, 1.015, 1.0))


def two_points(x, sigma):
    """The exact denoiser of ±.6 with a spread of .2, whose norms differ from sample to sample; 2 % too much
    noise."""
    level = sigma.double().view(-1, 1, 1, 1)
    wide = 0.2**2 + level**2
    clean = (0.2**2 * x + level**2 * 0.6 * torch.tanh(0.6 * x / wide)) / wide
    return x - 1.02 * (x - clean)


def scales_by_chance(sampler, seed, count=8):
    """Calibrate on samples of this seed, and with other noise in the sampler."""
    run, seeds = run_of("ve", 12), range(1000 * seed, 1000 * seed + count)
    chance = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (count, 2, 8, 8), generator=chance).double() * 2 - 1
    clean = 0.6 * signs + 0.2 * torch.randn(signs.shape, generator=chance)
    noise, target = noise_for(clean, seeds), []
    for sigma in run.sigmas[:-1]:
        x = clean + sigma * noise
        eps = (x - two_points(x, torch.full((count,), sigma))) / sigma
        target.append(eps.flatten(1).norm(dim=1))

    def lucky(denoise, x, sigmas):
        torch.randn(1 + 17 * seed)
        return sampler(denoise, x, sigmas)

    first = unit_noise((2, 8, 8), seeds).double() * run.sigmas[0]
    return calibrate(lucky, two_points, first, run, torch.stack(target, 1))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [sample_euler, sample_ddpm])
def test_the_standard_error_is_what_other_samples_show(sampler):
    found = [scales_by_chance(sampler, seed) for seed in range(16)]
    scales = torch.tensor([one.scales for one in found]).double()[:, :-1]
    errors = torch.tensor([one.errors for one in found]).double()[:, :-1]
    assert found[0].errors[-1] == 0
    ratio = errors.square().mean() / scales.var(0).mean()
    assert 0.5 < ratio < 2
    steadied = [steady(one.scales, one.errors, run_of("ve", 12).sigmas)[:-1] for one in found]
    off = [
        (torch.tensor(kind).double() - scales.mean(0)).square().mean() for kind in (steadied, scales.tolist())
    ]
    assert off[0] < off[1]


def test_noise_that_a_sampler_draws_has_its_energy():
    """Data of one point: states of exactly that energy, so that nothing is left to correct."""
    run, mean = run_of("ve", 8), torch.randn(SHAPE).double()
    x = mean + run.sigmas[0] * unit_noise(SHAPE, range(BATCH)).double()

    def fresh(denoise, x, sigmas):
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            x = denoise(x, torch.full((len(x),), sigma)) + after * torch.randn_like(x)
        return x

    found = calibrate(fresh, lambda x, sigma: mean.expand_as(x), x, run, [math.sqrt(256)] * 8)
    assert found.reached == pytest.approx([math.sqrt(256)] * 8, rel=1e-6)
    assert max(found.errors) < 1e-6


def test_what_is_to_be_known_of_a_calibration_is_said():
    found = Calibration((LEAST, 1.01, MOST, 1.0), (1.0,) * 4, (1.0,) * 4, 9, (0.003, 0.001, 0.002, 0.0))
    assert found.at_bounds == (1, 3)
    said = " ".join(remarks(found, 16, True))
    for part in (
        "16 samples with 9",
        "0.002 on average, 0.003 at most",
        "(0.8 or 1.25): step 1, 3",
        "32 samples",
    ):
        assert part in said
    exact = Calibration((1.01, 1.0), (1.0,) * 2, (1.0,) * 2, 9, (0.0, 0.0))
    assert remarks(exact, 8, False) == ["Found on 8 samples with 9 rounds of model calls."]
    assert "few-step error only, not the model's own bias" in remarks(exact, 8, False, own=True)[-1]
    assert "shipped pictures, which show also what differs" in remarks(exact, 8, False, shipped=True)[-1]
    assert (samples_needed(8, True), samples_needed(8, False), samples_needed(64, True)) == (32, 8, 64)


# --- a planted scale


def uniform_of(factor, space, sampler, steps, std, own=False):
    """The uniform λ found for the exact denoiser of N(0, std²) whose noise is multiplied by a factor."""
    high, low = (14.6, 0.05) if space == "ve" else (1.0, 0.04)
    run = Run(space, (*(high * (low / high) ** (i / (steps - 1)) for i in range(steps)), 0.0))
    exact, seeds = gaussian_denoiser(0, std, space), range(32 if sampler is sample_ddpm else 8)

    def denoise(x, sigma):
        clean = exact(x, sigma)
        if space == "flow" and sigma[0] == 1:  # pure noise, of which the estimate has no part
            return clean
        eps = factor * eps_from_denoised(x, clean, sigma.to(x), space)
        return denoised_from_eps(x, eps, sigma.to(x), space)

    def sample(denoise, x, sigmas):
        return sampler(denoise, x, sigmas, space) if sampler is sample_ddpm else sampler(denoise, x, sigmas)

    first = unit_noise(SHAPE, seeds).double() * run.sigmas[0]
    clean = unit_noise(SHAPE, range(900, 900 + len(seeds))).double() * std
    if own:
        with fixed_rng(first):
            clean = sample(denoise, first, refine(run.sigmas, 4))
    recorder = Recorder(run, range(run.steps))
    recorder.train(recorder.around(denoise), clean, noise_for(clean, seeds))
    found = calibrate(sample, denoise, first, run, torch.tensor(recorder.training_norms))
    return as_method("uniform", steady(found.scales, found.errors, run.sigmas, space))[1][0]


PLANTED = (sample_euler, sample_heun, sample_dpmpp_2m, sample_ddpm)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("sampler", PLANTED)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(steps=st.integers(20, 32), std=st.floats(0.4, 1.2))
def test_a_planted_scale_comes_out_with_real_references(sampler, space, steps, std):
    """Beside the scale that few steps need of an exact model; .02 to a quarter."""
    exact, wrong = (uniform_of(factor, space, sampler, steps, std) for factor in (1.0, 1.02))
    assert 0.015 < wrong - exact < 0.025


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("sampler", PLANTED[:3])
def test_with_its_own_samples_as_reference_it_does_not(sampler, space):
    exact, wrong = (uniform_of(factor, space, sampler, 24, 0.6, own=True) for factor in (1.0, 1.02))
    assert wrong - exact < 0.005
