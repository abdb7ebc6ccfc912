"""Measures against closed forms. Tolerances are about four standard errors at the sizes used."""

import math

import numpy as np
import pytest
import torch

from steadydiff.denoiser import add_noise
from steadydiff.errors import SettingsError, ShapeError
from steadydiff.metrics.deltas import (
    delta_code,
    delta_paper,
    marginal_error,
    marginal_variance,
    one_step,
    residual,
    single_step_error,
)
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.metrics.kid import kernel_distance
from steadydiff.metrics.norms import NormCurve, eps_norm, norm_quotient, predicted_norm, training_norm
from steadydiff.metrics.precision_recall import coverage, precision_recall, reaches
from steadydiff.metrics.running import RunningCovariance, RunningMoments
from steadydiff.metrics.spectrum import ring_sizes, spectrum
from steadydiff.samplers import gaussian_denoiser, sample_euler

SHAPE = (4, 8, 8)
COUNT = 2000  # of 256 elements: a variance is known to 0.2 %
STD = 0.6


def gathered(batches):
    running = RunningMoments()
    for batch in batches:
        running.add(batch)
    return running


def data(count=COUNT, std=STD):
    return torch.randn(count, *SHAPE) * std


def mixture(count=COUNT, centre=2.0, std=0.3):
    """Each element is near centre or near -centre."""
    side = torch.randint(0, 2, (count, *SHAPE)) * 2 - 1
    return side * centre + torch.randn(count, *SHAPE) * std


def mixture_denoiser(centre=2.0, std=0.3):
    """E[x0 | x] of the two-sided mixture, in space "ve"."""

    def denoise(x, sigma):
        total = std**2 + sigma.view(-1, 1, 1, 1) ** 2
        mean = centre * torch.tanh(x * centre / total)
        return mean + std**2 / total * (x - mean)

    return denoise


# --- running moments


@pytest.mark.parametrize("sizes", [(7, 1, 12), (20,), (1,) * 20])
def test_batches_add_up_to_the_whole(sizes, latents, shape):
    whole = latents((20, *shape[1:])) * 3 + 1e6  # a large mean, at which E[x²] - E[x]² would lose ten digits
    running = gathered(whole.split(list(sizes)))
    torch.testing.assert_close(running.mean, whole.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(running.variance, whole.var(0), rtol=1e-9, atol=0)
    assert running.pooled_variance == pytest.approx(np.var(whole.numpy()), rel=1e-9)
    torch.testing.assert_close(running.mean_square, whole.square().mean(0), rtol=1e-12, atol=0)


def test_two_halves_merge_and_inputs_are_single_precision():
    whole = torch.randn(30, 5)
    one, other = gathered([whole[:11]]), gathered([whole[11:]])
    one.merge(other)
    one.merge(RunningMoments())
    assert one.count == 30 and one.mean.dtype == torch.float64
    torch.testing.assert_close(one.variance, whole.double().var(0))


def test_covariance_equals_the_one_of_all_features():
    features = torch.randn(50, 6) @ torch.randn(6, 6) + 4
    running = RunningCovariance()
    for batch in features.split(7):
        running.add(batch)
    mean, covariance = moments(features)
    torch.testing.assert_close(running.mean, mean)
    torch.testing.assert_close(running.covariance, covariance)
    assert frechet_distance(running.mean, running.covariance, mean, covariance) == pytest.approx(0, abs=1e-9)


def test_too_few_samples_and_mixed_shapes_are_refused():
    with pytest.raises(SettingsError, match="at least 2 samples; got 1"):
        _ = gathered([torch.ones(1, 3)]).variance
    with pytest.raises(SettingsError, match="got 0"):
        _ = RunningMoments().pooled_variance
    with pytest.raises(ShapeError, match=r"\(4,\) after \(3,\)"):
        gathered([torch.ones(2, 3), torch.ones(2, 4)])


# --- norms


def test_norms_cover_all_elements_and_do_not_overflow(shape):
    eps = torch.full(shape, 200.0, dtype=torch.float16)
    expected = 200.0 * math.sqrt(eps[0].numel())
    torch.testing.assert_close(eps_norm(eps), torch.full(shape[:1], expected, dtype=torch.float64))


@pytest.mark.parametrize(("space", "sigma"), [("ve", 3.0), ("ve", 0.1), ("flow", 0.7), ("flow", 0.1)])
def test_training_norms_of_a_gaussian(space, sigma):
    """eps = sigma x / (alpha² s² + sigma²), x of variance alpha² s² + sigma²: RMS sigma / sqrt of that."""
    curve = NormCurve(1)
    for batch in data().split(500):
        denoise = gaussian_denoiser(0, STD, space)
        curve.add(0, training_norm(denoise, batch, torch.randn_like(batch), sigma, space))
    expected = sigma / math.sqrt(marginal_variance(STD**2, sigma, space)) * math.sqrt(256)
    assert curve.rms[0] == pytest.approx(expected, rel=4 / math.sqrt(2 * 256 * COUNT))
    # The mean of a chi variable with 256 degrees of freedom is its RMS times 1 - 1/(4·256).
    assert curve.mean[0] == pytest.approx(expected * (1 - 1 / 1024), rel=4 / math.sqrt(2 * 256 * COUNT))


def test_a_model_that_overpredicts_shows_as_a_quotient():
    x = torch.randn(3, *SHAPE) * 2
    denoised = gaussian_denoiser(0, STD)(x, torch.tensor([1.0]))
    too_much = x - 1.02 * (x - denoised)
    pair = [predicted_norm(x, d, 1.0).tolist() for d in (too_much, denoised)]
    assert norm_quotient(*pair) == pytest.approx([1.02] * 3)


def test_quotients_of_nothing_are_refused():
    with pytest.raises(SettingsError, match="got 2 and 1"):
        norm_quotient([1, 2], [1])
    with pytest.raises(SettingsError, match="no noise at all"):
        norm_quotient([1.0], [0.0])
    with pytest.raises(ShapeError, match="one number per sample"):
        NormCurve(2).add(0, torch.ones(2, 3))


# --- variance errors

SIGMA, NEXT = 3.0, 1.8


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_exact_states_have_no_error(space):
    clean, sigma = data(), 0.6
    states = add_noise(clean, torch.randn_like(clean), sigma, space)
    left = gathered(residual(states, clean, sigma, space).split(300))
    tolerance = 4 * sigma**2 * math.sqrt(2 / (256 * COUNT))
    assert delta_paper(left, sigma) == pytest.approx(0, abs=tolerance)
    assert delta_code(left, sigma) == pytest.approx(0, abs=1e-6)
    fresh = gathered(data().split(300))
    found = marginal_error(gathered(states.split(300)), fresh, sigma, space)
    assert found == pytest.approx(0, abs=8 * (STD**2 + sigma**2) * math.sqrt(2 / (256 * COUNT)))


def test_excess_noise_is_the_paired_error():
    """States with noise of 1.1 sigma: the paper's form gives 0.21 sigma², the authors' code 0.01 sigma²."""
    clean = data()
    left = gathered([residual(add_noise(clean, torch.randn_like(clean), 1.1 * SIGMA), clean, SIGMA)])
    assert delta_paper(left, SIGMA) == pytest.approx(0.21 * SIGMA**2, rel=0.06)
    assert delta_code(left, SIGMA) == pytest.approx(0.01 * SIGMA**2, rel=0.06)


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_a_ddim_step_on_a_gaussian(space):
    """x' - alpha' x0 is linear in x0 and eps, with coefficients that can be written down."""
    sigma, after = (SIGMA, NEXT) if space == "ve" else (0.7, 0.5)
    alpha, alpha_after = (1, 1) if space == "ve" else (1 - sigma, 1 - after)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    weight = alpha_after * gain + after * (1 - alpha * gain) / sigma  # x' = weight * x
    expected = (weight * alpha - alpha_after) ** 2 * STD**2 + (weight * sigma) ** 2 - after**2
    clean = data()
    x = add_noise(clean, torch.randn_like(clean), sigma, space)
    denoised = gaussian_denoiser(0, STD, space)(x, torch.tensor([sigma]))
    left = gathered([residual(one_step(x, denoised, sigma, after, space), clean, after, space)])
    assert single_step_error(left, after) == pytest.approx(expected, abs=0.01 * after**2)


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_an_ancestral_step_errs_as_equation_18_says(space):
    """With the true x0 it leaves no error; with an estimate off by e·noise its variance grows by (c·e)²."""
    sigma, after = (SIGMA, NEXT) if space == "ve" else (0.7, 0.5)
    alpha, alpha_after = (1, 1) if space == "ve" else (1 - sigma, 1 - after)
    clean, tolerance = data(), 4 * after**2 * math.sqrt(2 / (256 * COUNT))
    x = add_noise(clean, torch.randn_like(clean), sigma, space)
    for error in (0.0, 0.5):
        denoised = clean + error * torch.randn_like(clean)
        stepped = one_step(x, denoised, sigma, after, space, torch.randn_like(clean))
        found = single_step_error(gathered([residual(stepped, clean, after, space)]), after)
        # The weight of x0 in the posterior mean, sqrt(abar') beta / (1 - abar) in the paper's units.
        share = alpha_after * (1 - (alpha * after / (sigma * alpha_after)) ** 2)
        assert found == pytest.approx((share * error) ** 2, abs=tolerance + 0.01 * (share * error) ** 2)


@pytest.mark.slow
def test_a_fine_run_on_a_mixture_ends_with_the_right_marginals():
    """The sampler forgets the x0 it began with, so δ tends to 2 Var(x0); the marginal error does not."""
    clean = mixture(500)
    sigmas = [80 * (0.01 / 80) ** (i / 100) for i in range(101)]
    x = add_noise(clean, torch.randn_like(clean), sigmas[0])
    with torch.no_grad():
        final = sample_euler(mixture_denoiser(), x, sigmas)
    error = marginal_error(gathered([final]), gathered([mixture(500)]), sigmas[-1])
    variance = 2.0**2 + 0.3**2
    assert error == pytest.approx(0, abs=0.03 * variance)
    paired = delta_paper(gathered([residual(final, clean, sigmas[-1])]), sigmas[-1])
    assert paired == pytest.approx(2 * variance, rel=0.05)


# --- distances of feature sets


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.8), (0.0, 1.3)])
def test_kernel_distance_of_gaussians_is_unbiased(mean, std):
    """(xy + 1)³ = sum of C(3, j) x^j y^j, so the squared MMD is the sum of C(3, j) (E x^j - E y^j)²."""
    raw = [(0.0, mean), (1.0, mean**2 + std**2), (0.0, mean**3 + 3 * mean * std**2)]
    expected = sum(c * (p - q) ** 2 for c, (p, q) in zip((3, 3, 1), raw, strict=True))
    found = [kernel_distance(torch.randn(40, 1), torch.randn(60, 1) * std + mean) for _ in range(300)]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(300)
    assert min(found) < 0  # an unbiased estimate of 0 is below it at times


def test_kernel_distance_is_symmetric_and_goes_row_by_row(monkeypatch):
    a, b = torch.randn(20, 3), torch.randn(30, 3)
    whole = kernel_distance(a, b)
    assert kernel_distance(b, a) == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr("steadydiff.metrics.kid.ROWS", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_kernel_distance_by_hand():
    """Features of one number: pairs (0, 1) and (1, 2) have kernels 1 and 27; the cross ones 1, 1, 8, 27."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_precision_and_recall_by_hand():
    """Real points 0, 1, 3 reach 1, 1, 2; generated points 0.5, 10, 11 reach 9.5, 1, 1."""
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [10.0], [11.0]])
    assert reaches(real, 1).tolist() == [1, 1, 2] and reaches(generated, 1).tolist() == [9.5, 1, 1]
    assert precision_recall(real, generated, k=1) == pytest.approx((1 / 3, 1.0))


@pytest.mark.slow
def test_precision_and_recall_of_equal_narrow_and_far_sets():
    real, again = torch.randn(600, 2), torch.randn(600, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(real, again)
    assert precision > 0.9 and recall > 0.9
    precision, recall = precision_recall(real, again * 0.2)  # all of it plausible, most of it missing
    assert precision > 0.95 and recall < 0.3
    assert precision_recall(real, again + 100) == (0.0, 0.0)


def test_coverage_goes_row_by_row(monkeypatch):
    a, b = torch.randn(40, 3), torch.randn(50, 3)
    whole = precision_recall(a, b)
    monkeypatch.setattr("steadydiff.metrics.precision_recall.ROWS", 7)
    assert precision_recall(a, b) == whole
    assert coverage(a, a, 1) == 1.0


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="one feature size"):
        kernel_distance(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(SettingsError, match="at least 2 samples"):
        kernel_distance(torch.ones(1, 2), torch.ones(3, 2))
    with pytest.raises(ShapeError, match="one feature size"):
        precision_recall(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(SettingsError, match="got 3 and 3"):
        precision_recall(torch.ones(3, 2), torch.ones(5, 2))


# --- spectrum


@pytest.mark.parametrize("shape", [(3, 2, 9), (3, 4, 8, 6), (2, 4, 3, 5, 7)])
def test_the_spectrum_holds_all_energy(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sizes = ring_sizes(shape[1:])
    assert len(spectrum(x)) == shape[1]
    per_channel = (spectrum(x) * sizes).sum(1) / sizes.sum()
    others = (0, *range(2, len(shape)))
    torch.testing.assert_close(per_channel, x.double().square().mean(others))


def test_a_wave_is_in_the_ring_of_its_period():
    """Two periods across eight pixels: frequencies 2 and -2 of ring 2, which has 12 places; half the energy
    of a wave of height 1 is 1/2 · 64 = 32."""
    wave = torch.cos(2 * torch.arange(8) * torch.pi / 4).expand(8, 8)[None, None]
    assert int(ring_sizes((1, 8, 8))[2]) == 12
    expected = torch.zeros(1, 7).double()
    expected[0, 2] = 32 / 12
    torch.testing.assert_close(spectrum(wave), expected, atol=1e-9, rtol=0)


def test_white_noise_is_flat():
    noise = 0.5 * torch.randn(512, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(spectrum(noise), torch.full((2, 7), 0.25).double(), atol=0, rtol=0.15)
