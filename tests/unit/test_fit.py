"""The rule that chooses a correction: exact signs on Gaussian data, and known answers on planted errors."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from steadydiff.denoiser import Run
from steadydiff.drift import signs
from steadydiff.drift.correction import PLAIN, Correction, first_tries, moved
from steadydiff.drift.fit import FitSettings, Problem, Signs, _Trials, fit, vary_too_little, why_off
from steadydiff.errors import SettingsError, ShapeError, SteadyDiffError
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.time_shift import TimeShift
from steadydiff.samplers import gaussian_denoiser, sample_ddpm, sample_euler, sample_heun

STD = 0.5
SHAPE = (4, 8, 8)


def levels(steps):
    return (*torch.logspace(1.5, -2, steps).tolist(), 0.0)


def normal(count, seed, std=STD):
    return std * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def planted(scale):
    """The exact denoiser of N(0, STD²), whose noise is `scale` times too large: lambda = scale mends it."""
    exact = gaussian_denoiser(0.0, STD)
    return lambda x, sigma: x - scale * (x - exact(x, sigma))


def problem(sampler=sample_euler, steps=20, denoise=None, **more):
    model, run = denoise or gaussian_denoiser(0.0, STD), Run("ve", levels(steps), 1)
    x = normal(64, 1, math.hypot(run.sigmas[0], STD))
    exact = gaussian_denoiser(0.0, STD)
    return Problem(sampler, model, x, run, exact, normal(64, 2), exact, **more)


@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize("spread", [0.8, 1.0, 1.2])
def test_the_log_error_is_that_of_the_algebra(space, spread):
    """eps - eps' = g alpha eps - (1 - g alpha) ... for the exact denoiser, whose noise is linear in both."""
    pictures, sigma = normal(8, 0, spread * STD).repeat(1, 16, 4, 4), 0.4
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(5))
    found = signs.log_errors(gaussian_denoiser(0.0, STD, space), pictures, [noise], [sigma], space)
    alpha = 1.0 if space == "ve" else 1 - sigma
    share = sigma**2 / (alpha**2 * STD**2 + sigma**2)  # of x that is noise
    expected = math.log((1 - share) ** 2 + (share * alpha * spread * STD / sigma) ** 2)
    assert found.mean().item() == pytest.approx(expected, abs=0.03)


def test_samples_that_spread_too_little_are_judged_too_easy_and_the_others_too_hard():
    noise = [torch.randn(64, *SHAPE)]
    real = signs.log_errors(gaussian_denoiser(0.0, STD), normal(64, 1), noise, [0.5])
    for spread, sign in ((0.8, -1), (1.2, 1)):
        own = signs.log_errors(gaussian_denoiser(0.0, STD), normal(64, 2, spread * STD), noise, [0.5])
        j, error = signs.judge_gap(own, real)
        assert sign * j > 5 * error


def test_the_judges_error_is_the_standard_error_of_a_difference_of_means():
    own, real = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    assert signs.judge_gap(own, real) == pytest.approx((1.0, math.sqrt(2 / 2 + 3 / 3)))


def test_wasserstein_of_shifted_and_of_unequal_sets():
    a = torch.tensor([0.0, 1.0, 5.0])
    assert signs.wasserstein(a, a) == 0
    assert signs.wasserstein(a, a + 0.7) == pytest.approx(0.7)
    assert signs.wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([0.5])) == pytest.approx(0.5)


def test_variances_are_compared_within_the_references_range():
    real = normal(32, 3)
    wild = real.clone()
    wild[0] = 1000.0
    ratio = signs.log_variance_ratio(signs.spreads(0.5 * real, real), signs.spreads(real, real))
    assert ratio == pytest.approx(math.log(0.25))
    assert signs.log_variance_ratio(signs.spreads(wild, real), signs.spreads(real, real)) < math.log(3)


def test_pooled_pictures_keep_their_means_and_videos_lose_time():
    pictures = torch.randn(3, 2, 8, 8)
    assert signs.pooled(pictures).shape == (3, 2 * signs.POOLED**2)
    torch.testing.assert_close(signs.pooled(pictures).mean(1), pictures.mean((1, 2, 3)))
    torch.testing.assert_close(
        signs.pooled(pictures[:, :, None].repeat(1, 1, 5, 1, 1)), signs.pooled(pictures)
    )
    with pytest.raises(ShapeError, match="pictures have the shape"):
        signs.pooled(torch.zeros(3, 2))


def test_the_bootstrap_finds_the_error_of_a_mean_and_keeps_pairs():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    drawn = signs.bootstrap(lambda a: float(a.mean()), values, times=300)
    assert drawn.std().item() == pytest.approx(values.std().item() / 20, rel=0.15)
    paired = signs.bootstrap(lambda a, b: float((a - b).mean()), values, values + 1)
    assert paired.std() < 1e-6


@pytest.mark.parametrize(("space", "expected"), [("ve", 3.0), ("flow", 0.75)])
def test_a_ratio_of_noise_to_signal_is_a_level_of_either_space(space, expected):
    assert signs.level_of(3.0, space) == expected


@pytest.mark.slow
def test_the_criterion_is_1_for_plain_and_least_at_the_planted_lambda():
    trials = _Trials(problem(denoise=planted(1.04), steps=40), FitSettings(), {}, lambda _: None)
    scores = {scale: trials.score(Correction(scale=scale)) for scale in (1.0001, 1.02, 1.04, 1.06)}
    assert scores[1.0001] == pytest.approx(1, abs=0.02)
    assert min(scores, key=lambda scale: scores[scale]) == 1.04


@pytest.mark.slow
def test_few_ancestral_steps_get_a_lower_noise_level():
    """DDPM's ten steps reach 65 % of the spread; c .7 nearly all of it."""
    short, thorough = (fit(problem(sample_ddpm, 10), FitSettings(thorough=t)) for t in (False, True))
    assert short.correction == Correction(factor=0.8)
    assert thorough.correction in (Correction(factor=0.8), Correction(factor=0.7))
    assert short.before == thorough.before
    assert short.before.j < -2 * short.before.j_error
    assert abs(thorough.after.v) < abs(short.after.v) < abs(short.before.v)
    assert "nearer to the real pictures" in short.reason


@pytest.mark.slow
def test_a_model_that_leaves_too_much_noise_gets_less_of_it():
    found = fit(problem(denoise=planted(0.96)))
    assert found.before.v > 0
    assert found.correction in (Correction(1.08, True, 1.1), Correction(factor=1.05))
    assert abs(found.after.v) < found.before.v


def test_what_is_right_is_left_off_and_told_why():
    found = fit(problem(sample_heun, 60))
    assert found.correction == PLAIN
    assert found.reason.startswith("left off: the model's error on its samples is that on real pictures")
    assert found.runs == 1


@pytest.mark.parametrize(
    ("signs", "told"),
    [
        (Signs(1.0, 0.1, -0.5, 0.1), "do not agree"),  # as on pictures it was trained on
        (Signs(-0.1, 0.1, -0.1, 0.1), "is that on real"),
        (Signs(-1.0, 0.1, -0.5, 0.1), ""),
        (Signs(-1.0, 0.1, 0.5, 0.1), ""),  # guidance: too easy and yet too varied
        (Signs(-0.1, 0.1, -0.5, 0.1), ""),  # one clear sign is enough
        (Signs(-1.0, 0.1, 0.1, 0.1), ""),
    ],
)
def test_unclear_signs_and_those_of_memorised_pictures_leave_it_off(signs, told):
    assert told in why_off(signs, 2.0) if told else why_off(signs, 2.0) == ""


def test_the_clear_sign_says_which_way():
    assert vary_too_little(Signs(-1.0, 0.1, -0.5, 0.1), 2.0)
    assert not vary_too_little(Signs(-1.0, 0.1, 0.5, 0.1), 2.0)
    assert vary_too_little(Signs(-1.0, 0.1, 0.1, 0.1), 2.0)
    guided, hard = (first_tries(False, False, False, easy) for easy in (True, False))
    assert [str(one) for one in guided] == ["lambda 1.08 in the later half, c 1.1", "c 0.8"]
    assert [str(one) for one in hard] == ["lambda 1.08 in the later half, c 1.1", "c 1.05"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [16, 64])
def test_of_ten_models_with_nothing_to_cure_one_is_corrected(count):
    """Ten kinds of pictures and their exact denoiser: chance in two signs of two standard errors."""
    drawn = torch.Generator().manual_seed(7)
    means = F.interpolate(torch.randn(10, 1, 3, 3, generator=drawn), 8, mode="bilinear").flatten(1) / 2

    def pictures():
        own = means[torch.randint(10, (count,), generator=drawn)]
        return (own + 0.2 * torch.randn(own.shape, generator=drawn)).view(-1, 1, 8, 8)

    def exact(x, sigma):
        flat, variance = x.flatten(1), 0.2**2 + float(sigma[0]) ** 2
        chance = (-torch.cdist(flat, means).square() / (2 * variance)).softmax(1)
        return (flat + float(sigma[0]) ** 2 / variance * (chance @ means - flat)).view_as(x)

    run = Run("ve", levels(30), 1)
    chosen = 0
    for _ in range(50):
        x = run.sigmas[0] * torch.randn(count, 1, 8, 8, generator=drawn)
        found = fit(Problem(sample_heun, exact, x, run, exact, pictures(), exact))
        chosen += found.correction != PLAIN
    assert chosen <= 8


def test_pictures_the_model_was_trained_on_are_left_off():
    """A model that knows its references by heart finds its own samples, which vary too little, too hard."""
    own = problem(sample_ddpm, 10)
    memory = own.references

    def remembers(x, sigma):
        level = sigma.view(-1, 1, 1, 1)
        by = -torch.cdist(x.flatten(1), memory.flatten(1)).square() / 2 / level.view(-1, 1) ** 2
        return (by.softmax(1) @ memory.flatten(1)).view(x.shape)

    told = fit(replace(own, judge=remembers, judge_references=remembers))
    assert (told.correction, told.runs) == (PLAIN, 1)
    assert "as where it was trained on the real pictures" in told.reason


def test_the_energy_distance_is_that_of_the_definition():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    assert signs.energy_distance(a, b) == pytest.approx(2 * (0 + 3 + 1 + 2) / 4 - 2 / 4 - 6 / 4)
    assert signs.energy_distance(a, a) == 0
    far, near = (signs.energy_distance(a + by, a) for by in (4.0, 2.0))
    assert far > near > 0


def test_nearness_is_of_as_many_pictures_and_symmetric():
    a = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert signs.nearness(2 * a, a) == pytest.approx(math.log(2))
    assert signs.nearness(a / 2, a) == pytest.approx(math.log(2))
    assert signs.nearness(torch.cat([a, a + 0.1]), a) == 0


def of_a_class(mean, **more):
    """Like `problem`, of data N(±1, STD²), whose prompt asks for +1; the references lie around `mean`."""
    own, asked = problem(steps=4), gaussian_denoiser(1.0, STD)
    return replace(
        own, denoise=asked, judge=asked, judge_references=asked, references=mean + normal(64, 2), **more
    )


def test_pictures_of_what_the_prompt_does_not_ask_for_are_refused_before_anything_is_sampled():
    without = gaussian_denoiser(0.0, math.hypot(1, STD))
    with pytest.raises(SettingsError, match=r"error on them is \d+ % larger than without it"):
        fit(of_a_class(-1.0, sampler=None, unprompted=without))
    found = fit(of_a_class(1.0, unprompted=without))
    assert found == replace(fit(of_a_class(1.0)), calls=found.calls)
    fit(of_a_class(-1.0))


def test_the_prompts_harm_is_that_of_pairs_and_as_sure_as_j():
    prompted, rise = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[1.0, 2.0, 0.0]])
    assert signs.prompt_harm(prompted, prompted - rise) == pytest.approx((1.0, math.sqrt(7 / 3)))
    assert signs.prompt_harm(rise, 9 * rise) == pytest.approx((-8.0, math.sqrt(64 / 3)))


@pytest.mark.slow
def test_calls_are_counted():
    found = fit(problem(sample_ddpm, 10))
    assert found.runs == 3
    assert found.calls == 3 * 10 + 4 * len(signs.RATIOS)  # the references are judged, too
    again = fit(problem(sample_ddpm, 10, unprompted=gaussian_denoiser(0.0, STD)))
    assert again.calls == found.calls + len(signs.RATIOS)


@pytest.mark.slow
def test_a_stopped_fit_goes_on_where_it_was():
    done, whole = {}, fit(problem(sample_ddpm, 10), FitSettings(thorough=True))

    def stop(name):
        if name.startswith("c "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(problem(sample_ddpm, 10), FitSettings(thorough=True), done, stop)
    assert len(done) == 3
    told = []
    assert fit(problem(sample_ddpm, 10), FitSettings(thorough=True), done, told.append) == whole
    assert "plain" not in told


@pytest.mark.slow
def test_nothing_is_drawn_from_the_hosts_random_stream():
    before = torch.get_rng_state()
    fit(problem(sample_ddpm, 10))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_samplers_own_noise_and_diffier_are_tried_where_allowed():
    assert first_tries(True, False, False) == first_tries(True, True, True)[:2]
    names = [str(one) for one in first_tries(True, True, True)]
    assert names == ["c 0.93", "c 0.8", "s_noise 1.03", "DiffIER 0.3"]
    tried, sampler = [], sample_ddpm

    def noisy(factor):
        tried.append(factor)
        return sampler

    fit(problem(sampler, 10, noisy=noisy), FitSettings(diffier=True))
    assert tried == [1.03]


def test_a_correction_knows_its_methods_and_its_neighbours():
    run = Run("ve", (4.0, 3.0, 2.0, 1.0, 0.0))
    assert PLAIN.methods(run) == ()
    all_of = Correction(1.04, True, 0.9, 0.3).methods(run)
    assert all_of == (TimeShift(0.9), DiffIER(strength=0.3), EpsilonScaling(1.04, sigma_high=2.0))
    assert moved(Correction(factor=0.9), 2).factor == 0.8
    assert moved(Correction(factor=0.8), 2).factor == 0.7
    assert moved(Correction(1.04, True), 0.5) == Correction(1.02, True)
    assert moved(PLAIN, 2) == PLAIN


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(SettingsError, match="runs is at least 3"):
        FitSettings(runs=2)
    with pytest.raises(SettingsError, match="keep is a share"):
        FitSettings(keep=1.0)
    own = problem()
    few = Problem(
        own.sampler, own.denoise, own.x[:4], own.run, own.judge, own.references, own.judge_references
    )
    with pytest.raises(ShapeError, match="at least 8 samples and real pictures are needed; got 4 and 64"):
        fit(few)
    broken = problem(denoise=lambda x, sigma: x * math.nan)
    with pytest.raises(SteadyDiffError, match="the pictures of 'plain' hold NaN"):
        fit(broken)
