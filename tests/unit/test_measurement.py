"""Measuring whole runs of exact and of wrong denoisers, and the JSON that carries the result."""

import json
import math
from dataclasses import replace

import pytest
import torch

from steadydiff.denoiser import Run, denoised_from_eps, eps_from_denoised
from steadydiff.drift.measurement import Measurement
from steadydiff.drift.recorder import Recorder, check_reference, noise_for, refine, step_noise, unit_noise
from steadydiff.drift.stepping import step_calls
from steadydiff.errors import SettingsError, ShapeError, SteadyDiffError
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.metrics.deltas import per_vp, predicted_step_error
from steadydiff.samplers import gaussian_denoiser, sample_euler
from steadydiff.schedules import MadeFor

STD, SHAPE, COUNT = 0.6, (4, 8, 8), 24


def run_of(space, steps=8):
    high, low = (14.6, 0.05) if space == "ve" else (0.98, 0.05)
    return Run(space, (*(high * (low / high) ** (i / (steps - 1)) for i in range(steps)), 0.0), 3)


def overpredicting(factor, space, std=STD):
    """The exact denoiser of N(0, std²), its noise multiplied."""
    exact = gaussian_denoiser(0, std, space)

    def denoise(x, sigma):
        eps = factor * eps_from_denoised(x, exact(x, sigma), sigma.to(x), space)
        return denoised_from_eps(x, eps, sigma.to(x), space)

    return denoise


def marginal_std(sigma, space, std=STD):
    alpha = 1 if space == "ve" else 1 - sigma
    return math.sqrt((alpha * std) ** 2 + sigma**2)


def measured(denoise, run, method=None, count=COUNT, batch=8, **facts):
    first = unit_noise(SHAPE, range(count)).double() * marginal_std(run.sigmas[0], run.space)
    clean = unit_noise(SHAPE, range(500, 500 + count)).double() * STD
    recorder = Recorder(run, step_calls(sample_euler, first, run))
    recorded = recorder.around(denoise)
    corrected = method.wrap(recorded, run) if method else recorded
    for at in range(0, count, batch):
        recorder.sample(sample_euler, corrected, first[at : at + batch])
        samples = clean[at : at + batch]
        recorder.train(corrected, samples, noise_for(samples, range(at, at + len(samples))))
    return recorder.measurement(0, "given", **facts)


@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("factor", [1.0, 1.03])
def test_norms_in_training_and_sampling_have_their_closed_forms(space, factor):
    run, length = run_of(space), math.sqrt(256)
    found = measured(overpredicting(factor, space), run)
    std = marginal_std(run.sigmas[0], space)
    for i, (sigma, after) in enumerate(zip(run.sigmas, run.sigmas[1:], strict=False)):
        total = marginal_std(sigma, space)
        assert found.training_norm[i] == pytest.approx(factor * sigma / total * length, rel=1e-6)
        assert found.sampling_norm[i] == pytest.approx(factor * sigma / total**2 * std * length, rel=1e-5)
        assert found.quotient[i] == pytest.approx(std / total, rel=1e-5)
        # One Euler step of a state: x + (after - sigma) (x - x0) / sigma.
        alpha = 1 if space == "ve" else 1 - sigma
        gain = (1 - sigma * factor * sigma / total**2) / alpha
        std *= 1 + (after - sigma) * (1 - gain) / sigma
    assert found.sampling_rms == pytest.approx(found.sampling_norm)  # every sample has the same energy here


def test_variances_have_their_closed_forms():
    """24 samples of 256 elements: variances are known to 2 %, and those of one run err together."""
    run = run_of("ve", 40)
    found = measured(gaussian_denoiser(0, STD), run, batch=24)
    for sigma, expected in zip(run.sigmas, found.expected_variance, strict=True):
        assert expected == pytest.approx(STD**2 + sigma**2, rel=0.05)
    assert found.variance_error[0] == pytest.approx(0, abs=0.05)
    assert found.variance_error[-1] < -0.05  # Euler's steps on a Gaussian lose variance
    assert found.state_variance[0] == pytest.approx(STD**2 + 14.6**2, rel=0.05)


def test_what_is_heard_is_the_model_before_its_correction():
    """A correction changes the states, not what is asked of the model: training norms stay the same."""
    run = run_of("ve")
    plain = measured(overpredicting(1.03, "ve"), run)
    corrected = measured(overpredicting(1.03, "ve"), run, EpsilonScaling(1.03))
    assert corrected.training_norm == plain.training_norm
    assert corrected.sampling_norm[0] == plain.sampling_norm[0]
    assert corrected.sampling_norm[1] > plain.sampling_norm[1]
    assert corrected.summary()["mean_norm_drift"] < plain.summary()["mean_norm_drift"]


def test_batches_of_any_size_give_one_result():
    run = run_of("flow")
    whole = measured(overpredicting(1.02, "flow"), run, batch=24)
    parts = measured(overpredicting(1.02, "flow"), run, batch=7)
    for name in ("sampling_norm", "training_rms", "state_variance", "expected_variance"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert torch.tensor(parts.training_norms).allclose(torch.tensor(whole.training_norms))


@pytest.mark.slow
def test_norms_are_kept_sample_by_sample():
    run = run_of("ve")
    found = measured(overpredicting(1.03, "ve"), run)
    rows = torch.tensor(found.training_norms).double()
    assert rows.shape == (COUNT, run.steps)
    assert rows.square().mean(0).sqrt().tolist() == pytest.approx(found.training_rms)
    assert Measurement.from_json(found.to_json()) == found
    recorder = Recorder(run, range(run.steps))
    clean = torch.randn(300, 1, 2, 2)
    recorder.train(recorder.around(gaussian_denoiser()), clean, torch.randn(300, 1, 2, 2))
    assert len(recorder.training_norms) == 256


@pytest.mark.slow
def test_memory_is_that_of_moments_only():
    """Nothing of a batch is held on to once it is taken in."""
    import gc
    import weakref

    run = run_of("ve")
    recorder = Recorder(run, range(run.steps))
    alive = []

    def denoise(x, sigma):
        alive.append(weakref.ref(x))
        return gaussian_denoiser(0, STD)(x, sigma)

    recorder.sample(sample_euler, recorder.around(denoise), torch.randn(4, *SHAPE))
    gc.collect()
    assert len(alive) == run.steps and not any(ref() is not None for ref in alive)


# --- noise


def test_noise_has_unit_energy_and_its_own_seed(shape):
    noise = unit_noise(shape[1:], [5, 6, 7])
    torch.testing.assert_close(noise.square().flatten(1).mean(1), torch.ones(3))
    assert torch.equal(unit_noise(shape[1:], [6])[0], noise[1])
    plain = torch.randn(shape[1:], generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(noise[0] / noise[0].std(), plain / plain.std())


def test_training_noise_is_free_of_its_sample(shape):
    clean = torch.randn(4, *shape[1:]).double()
    clean[3] = 0
    noise = noise_for(clean, range(4))
    torch.testing.assert_close((noise * clean).flatten(1).sum(1), torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(noise.square().flatten(1).mean(1), torch.ones(4).double())
    assert not torch.allclose(noise_for(clean, range(4, 8)), noise)


def test_training_noise_is_not_that_of_sampling():
    first, again = unit_noise(SHAPE, range(8)), noise_for(torch.ones(8, *SHAPE), range(8))
    alike = (first * again).flatten(1).mean(1).abs()
    assert alike.max() < 5 / math.sqrt(256)


# --- finer runs


def test_finer_runs_pass_through_the_coarse_ones_levels():
    sigmas = (10.0, 2.0, 0.5, 0.0)
    fine = refine(sigmas, 4)
    assert fine[::4] == sigmas and len(fine) == 13 and refine(sigmas, 1) == sigmas
    assert all(a > b for a, b in zip(fine, fine[1:], strict=False))
    assert fine[1] / fine[0] == pytest.approx(fine[2] / fine[1])
    assert fine[8:] == pytest.approx((0.5, 0.375, 0.25, 0.125, 0.0))
    with pytest.raises(SettingsError, match="at least 1; got 0"):
        refine(sigmas, 0)


# --- bad input


def test_nan_from_the_model_is_named():
    run = run_of("ve")

    def broken(x, sigma):
        return x / 0 * 0 if sigma[0] < 1 else x * 0

    with pytest.raises(SteadyDiffError, match=r"the model's answer at step 5, sigma 0.5\d+, holds NaN"):
        measured(broken, run)


def test_a_single_sample_has_no_variance():
    with pytest.raises(SettingsError, match="at least 2 samples; got 1"):
        measured(gaussian_denoiser(0, STD), run_of("ve"), count=1)


def test_references_of_another_shape_are_refused():
    check_reference(torch.zeros(2, 4, 8, 8), (4, 8, 8))
    with pytest.raises(ShapeError, match=r"\[4, 8, 8\] here; got \[16, 8, 8\]"):
        check_reference(torch.zeros(2, 16, 8, 8), (4, 8, 8))


# --- JSON


def test_it_survives_its_json():
    facts = MadeFor(sampler="euler", steps=8, cfg=4.0, sigmas=run_of("ve").sigmas)
    found = measured(gaussian_denoiser(0, STD), run_of("ve"), label="scale 1.01", made_for=facts)
    text = found.to_json()
    assert Measurement.from_json(text) == found
    assert len(found.clean_spectrum) == 4 and found.clean_spectrum[0][3] == pytest.approx(STD**2, rel=0.5)
    data = json.loads(text)
    assert (data["format"], data["version"]) == ("steadydiff.measurement", 1)
    assert Measurement.from_json({**data, "later": 1, "made_for": {**data["made_for"], "later": 2}}) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1; got format 'steadydiff.measurement', version 2"),
        ({"sigmas": [3.0, 1.0]}, "a measurement of 1 steps has 1 finite values of sampling_norm; got 8"),
        ({"curves": {}}, "damaged"),
        ({"curves": None}, "damaged"),
        ({"space": "vp"}, "damaged: space is one of ve, flow"),
        ({"sigmas": "none"}, "damaged"),
        ({"clean_spectrum": [[1.0] * 7]}, "has 4 rows of 7 values"),
        ({"clean_spectrum": [[1.0] * 3] * 4}, "has 4 rows of 7 values"),
        ({"clean_spectrum": [[-1.0] * 7] * 4}, "finite values, none negative"),
        ({"clean_spectrum": 3}, "damaged"),
        ({"training_norms": [[1.0] * 8]}, "training_norms of this measurement has 24 rows of 8 values"),
        ({"training_norms": [[-1.0] * 8] * 24}, "training_norms holds finite values, none negative"),
    ],
)
def test_damaged_json_is_refused(change, message):
    data = json.loads(measured(gaussian_denoiser(0, STD), run_of("ve")).to_json())
    with pytest.raises(SettingsError, match=message):
        Measurement.from_json(json.dumps({**data, **change}))


def test_what_is_no_json_is_refused():
    for text in ("{", "[]", "3"):
        with pytest.raises(SettingsError, match="a measurement is"):
            Measurement.from_json(text)


def test_infinite_values_are_refused():
    found = measured(gaussian_denoiser(0, STD), run_of("ve"))
    with pytest.raises(SettingsError, match="finite values of training_norm"):
        replace(found, training_norm=(math.inf,) * 8)


def test_a_correction_that_asks_more_than_once_is_heard_once_a_step():
    """DiffIER's calls in between are not the sampler's: the norms are those of the sampler's own states."""
    run, seen = Run("ve", (9.0, 3.0, 1.0, 0.0), 1), []
    model = gaussian_denoiser(0.0, 0.7)
    recorder = Recorder(run, range(run.steps))
    corrected = DiffIER(iterations=2, sigma_high=math.inf).wrap(recorder.around(model), run)

    def noted(x, sigma):
        seen.append(eps_from_denoised(x, model(x, sigma), sigma).flatten(1).norm(dim=1).mean().item())
        return corrected(x, sigma)

    recorder.sample(sample_euler, noted, torch.randn(8, 4, 6, 6) * 9)
    clean = torch.randn(8, 4, 6, 6)
    recorder.train(corrected, clean, torch.randn_like(clean))
    found = recorder.measurement(1, "given")
    assert found.sampling_norm == pytest.approx(seen, rel=1e-5)
    assert found.count == 8


# --- the paper's curves, and bands


def paper_of(denoise, run, clean, sampler=sample_euler):
    """A measurement with the paper's curves, in one batch."""
    count = len(clean)
    recorder = Recorder(run, range(run.steps))
    recorded, noise = recorder.around(denoise), noise_for(clean, range(count))
    first = unit_noise(clean.shape[1:], range(count)).double() * run.sigmas[0]
    recorder.sample(sampler, recorded, first)
    recorder.train(recorded, clean, noise, step_noise(clean, range(count)))
    recorder.pair(sampler, recorded, clean, noise)
    return recorder.measurement(0, "given")


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ve", "flow"])
def test_the_papers_curves_of_an_exact_gaussian_denoiser(space):
    """e is the posterior's spread; Δ holds its square and, other than equation 18, its correlation
    with the noise: c² e² + 2 a b c e², for a step x' = c D + b x + fresh noise from x = a x0 + sigma eps."""
    run, clean = run_of(space, 5), unit_noise(SHAPE, range(700, 700 + 200)).double() * STD
    found = paper_of(gaussian_denoiser(0, STD, space), run, clean)
    for step, (sigma, after) in enumerate(zip(run.sigmas, run.sigmas[1:], strict=False)):
        a, a_after = (1, 1) if space == "ve" else (1 - sigma, 1 - after)
        e = math.sqrt(STD**2 * sigma**2 / (a**2 * STD**2 + sigma**2))
        assert found.estimate_error[step] == pytest.approx(e, rel=1e-6)  # chance was taken out
        r = a * after / (sigma * a_after)
        c, b = a_after * (1 - r**2), r * after / sigma
        expected, error = c**2 * e**2 + 2 * a * b * c * e**2, found.standard_errors["step_delta"][step]
        assert found.step_delta[step] == pytest.approx(expected, rel=1e-5, abs=5 * error + 0.01 * after**2)
        assert predicted_step_error(e, sigma, after, space) == pytest.approx((c * e) ** 2)
        assert found.step_delta[step] > predicted_step_error(e, sigma, after, space) - 1e-6 - 0.01 * after**2


def test_delta_of_a_run_that_keeps_its_sample_is_the_excess_of_its_noise():
    """Where the estimate is the sample itself, the states keep it and their noise, and δ is 0; a model that
    predicts a share too little of the noise leaves that share in them, step by step."""
    run, clean = run_of("ve", 5), unit_noise(SHAPE, range(8)).double()
    exact = paper_of(lambda x, sigma: clean, run, clean)
    assert exact.delta == pytest.approx([0] * 6, abs=1e-4 * run.sigmas[0] ** 2)  # about the noise's mean
    assert exact.estimate_error == pytest.approx([0] * 5)
    weak = paper_of(lambda x, sigma: x - 0.95 * (x - clean), run, clean)
    growth = 1.0
    for step, (sigma, after) in enumerate(zip(run.sigmas, run.sigmas[1:], strict=False)):
        growth *= 1 + 0.95 * (after - sigma) / sigma
        noise = run.sigmas[0] * growth
        assert weak.delta[step + 1] == pytest.approx(noise**2 - after**2, rel=1e-3)
    assert per_vp(3.0) == 0.1 and per_vp(0.5, "flow") == 2


def test_the_papers_curves_are_measured_on_demand_and_survive_json():
    run = run_of("ve", 4)
    assert measured(gaussian_denoiser(0, STD), run).delta == ()
    found = paper_of(gaussian_denoiser(0, STD), run, unit_noise(SHAPE, range(6)).double())
    assert Measurement.from_json(found.to_json()) == found
    assert [len(found.delta), len(found.step_delta), len(found.estimate_error)] == [5, 4, 4]
    names = {"sampling_norm", "training_norm", "quotient", "variance_error"}
    assert set(found.standard_errors) == names | {"delta", "step_delta", "estimate_error"}
    with pytest.raises(SettingsError, match="has 5 finite values of delta; got 2"):
        replace(found, delta=(1.0, 2.0))
    with pytest.raises(SettingsError, match="4 finite values of quotient; got 1"):
        replace(found, standard_errors={"quotient": [1.0]})


def of_two_kinds(seed, count=12):
    """A measurement on samples of differing contrast, which a Gaussian denoiser does not know."""
    run, chance = run_of("ve", 5), torch.Generator().manual_seed(seed)
    seeds = range(1000 * seed, 1000 * seed + count)
    contrast = torch.rand(count, 1, 1, 1, generator=chance).double() + 0.3

    def denoise(x, sigma):
        level, size = sigma.double().view(-1, 1, 1, 1), contrast[: len(x)]
        return x * size**2 / (size**2 + level**2)

    recorder = Recorder(run, range(run.steps))
    recorded, clean = (
        recorder.around(denoise),
        contrast * torch.randn(count, *SHAPE, generator=chance).double(),
    )
    recorder.sample(sample_euler, recorded, unit_noise(SHAPE, seeds).double() * run.sigmas[0])
    recorder.train(recorded, clean, noise_for(clean, seeds))
    return recorder.measurement(seeds[0], "given")


@pytest.mark.slow
def test_bands_are_what_other_samples_show():
    found = [of_two_kinds(seed) for seed in range(40)]
    curves = {"sampling_norm", "training_norm", "quotient", "variance_error"}
    for name in curves:
        values = torch.tensor([getattr(one, name) for one in found]).double()
        bands = torch.tensor([one.standard_errors[name] for one in found]).double()
        spread, told = values.std(0), bands.square().mean(0).sqrt()
        worth_it = spread > 1e-4 * values.mean(0).abs().clamp(min=1)
        assert ((told / spread)[worth_it] - 1).abs().max() < 0.5, name
