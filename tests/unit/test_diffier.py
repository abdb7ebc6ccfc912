"""DiffIER: its formulas by hand, whole runs with exact answers, and what it costs.

Over 400 lines, as one paper has one test file.
"""

import math

import pytest
import torch

from steadydiff.denoiser import Guided, Run, add_noise, denoised_from_eps, eps_from_denoised
from steadydiff.drift.measurement import Measurement
from steadydiff.drift.recorder import Recorder
from steadydiff.drift.stepping import step_calls
from steadydiff.errors import SettingsError
from steadydiff.methods.diffier import (
    PAPER,
    DiffIER,
    carry_error,
    norm_factor,
    optimal_weight,
    residual_loss,
    strength_from,
    values_of,
)
from steadydiff.methods.epsilon_scaling import scale_epsilon
from steadydiff.noise import PerSampleNoise
from steadydiff.samplers import gaussian_denoiser, generate, sample_ddpm, sample_euler, sample_heun

SPACES = ("ve", "flow")
SIGMAS = {
    "ve": (14.6, 8.0, 3.0, 1.0, 0.3, 0.03, 0.0),
    "flow": (1.0, 0.95, 0.8, 0.5, 0.2, 0.05, 0.0),
}
ALL = {"sigma_high": math.inf}
ZSNR = (4518.76, 40.39, 7.6, 0.8, 0.03, 0.0)


def run_of(space, seed=5):
    return Run(space, SIGMAS[space], seed)


def at(sigma, x):
    return torch.full((len(x),), sigma, dtype=x.dtype)


def gain(sigma, std, space):
    """Of the ideal denoiser, and what is left of a clean estimate after noising and denoising it again."""
    alpha = 1 - sigma if space == "flow" else 1.0
    g = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return g, alpha * g


# --- the formulas


@pytest.mark.parametrize("space", SPACES)
def test_carrying_the_error_is_a_step_of_descent_in_the_noise(space, shape, latents):
    x, denoised, prediction, z = (latents(shape) for _ in range(4))
    sigma, strength = torch.full((len(x),), 0.3).double(), 0.7
    again = add_noise(denoised, z, sigma, space)
    eps = eps_from_denoised(x, denoised, sigma, space)
    error = eps_from_denoised(again, prediction, sigma, space) - z
    expected = denoised_from_eps(x, eps - strength * error, sigma, space)
    torch.testing.assert_close(carry_error(denoised, prediction, strength), expected)
    loss = error.flatten(1).square().mean(1)
    torch.testing.assert_close(residual_loss(denoised, prediction, sigma, space), loss)
    assert carry_error(denoised, prediction, 0.0).equal(denoised)


def test_a_loss_at_sigma_zero_is_finite():
    assert residual_loss(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2)).isfinite().all()
    assert residual_loss(torch.ones(2, 3), torch.ones(2, 3), 0.0).tolist() == [0, 0]


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("threshold", [0.0, 0.02])
def test_the_norms_closed_form_is_its_iteration(steps, threshold, latents):
    e = latents((6, 40)) * torch.tensor([0.2, 0.7, 0.99, 1.0, 1.3, 4.0]).double().view(-1, 1)
    rms, target = e.square().mean(1).sqrt(), torch.ones(6).double()
    goal = e * (target / rms).view(-1, 1)
    found = e * norm_factor(rms, target, 0.3, steps, threshold).view(-1, 1)
    for _ in range(steps):
        far = (e - goal).square().mean(1, keepdim=True) > threshold
        e = torch.where(far | (threshold == 0), e + 0.3 * (goal - e), e)
    torch.testing.assert_close(found, e)


def test_full_strength_reaches_the_norm_at_once_and_no_iteration_leaves_it():
    rms, target = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([1.0, 1.0, 1.0])
    torch.testing.assert_close(rms * norm_factor(rms, target, 1.0, 1), target)
    assert norm_factor(rms, target, 0.5, 0).tolist() == [1, 1, 1]
    assert norm_factor(rms, target, 1.0, 3, 1e-3)[1] == 1


def test_the_papers_example_of_a_norm_ten_per_cent_off():
    """From 1.10 eleven iterations at the paper's step, from 1.03 none (docs/diffier.md)."""
    for rms, steps in ((1.10, 11), (1.03, 0)):
        found = norm_factor(torch.tensor([rms], dtype=torch.float64), torch.ones(1), 0.1, 100, 1e-3)
        ratio = 1 / rms
        assert found.item() == pytest.approx(ratio + 0.9**steps * (1 - ratio), rel=1e-9)


def test_the_optimal_weight_minimises_the_loss(latents):
    clean, cond, uncond = (latents((3, 4, 5)) for _ in range(3))
    over, under = optimal_weight(clean, cond, uncond)
    best = 1 + (over / under).view(-1, 1, 1)

    def loss(weight):
        return residual_loss(clean, uncond + weight * (cond - uncond), 0.5)

    for off in (-1e-3, 1e-3):
        assert (loss(best + off) > loss(best)).all()


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5)])
def test_the_optimal_weight_undoes_a_planted_error_of_the_condition(share, expected, latents):
    """True data N(1, 0.5²), unconditionally N(-1, 0.5²); the model goes only a `share` of the way."""
    true, uncond = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(-1.0, 0.5)
    sigma = torch.full((2000,), 1.5).double()
    clean = 1.0 + 0.5 * latents((2000, 50))
    again = add_noise(clean, latents((2000, 50)), sigma)
    base = uncond(again, sigma)
    over, under = optimal_weight(clean, base + share * (true(again, sigma) - base), base)
    assert 1 + (over.sum() / under.sum()).item() == pytest.approx(expected, abs=0.01)


# --- the strength that a measurement asks for

MEANS, STD = (1.0, -1.0), 0.4


def two_valued(scale):
    """The exact denoiser of elements that are N(1, 0.4²) or N(-1, 0.4²), with `scale` times its noise."""

    def denoise(x, sigma):
        level = sigma.view(-1, 1, 1, 1) ** 2
        mean = torch.tanh(x / (STD**2 + level))
        exact = mean + STD**2 / (STD**2 + level) * (x - mean)
        return x - scale * (x - exact)

    return denoise


def measured_run(sampler, model, steps, method=None):
    """The measurement of a run against real pictures, with a method or none."""
    drawn = torch.Generator().manual_seed(3)
    run = Run("ve", (*torch.logspace(1.2, -1.5, steps).tolist(), 0.0), 1)
    sides = torch.randint(2, (256, 1, 8, 8), generator=drawn) * 2.0 - 1
    real = sides + STD * torch.randn(sides.shape, generator=drawn)
    recorder = Recorder(run, step_calls(sampler, real, run))
    denoise = recorder.around(model)
    x = torch.randn(256, 1, 8, 8, generator=drawn) * math.hypot(run.sigmas[0], 1, STD)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recorder.sample(sampler, denoise if method is None else method.wrap(denoise, run), x)
    recorder.train(recorder.around(model), real, torch.randn(real.shape, generator=drawn))
    return recorder.measurement(0, "real")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "scale", "steps", "sign"),
    [(sample_ddpm, 1.0, 8, 1), (sample_euler, 1.03, 30, 1), (sample_euler, 0.96, 30, -1)],
)
def test_the_measured_variance_error_chooses_sign_and_strength(sampler, scale, steps, sign):
    """Few ancestral steps and noise taken for too loud spread too little, noise left in too much."""
    model = two_valued(scale)
    plain = measured_run(sampler, model, steps)
    strength = strength_from(plain)
    assert sign * strength > 0.01
    assert strength == pytest.approx(-math.log(1 + plain.variance_error[-1])) or abs(strength) == 0.5
    corrected = measured_run(sampler, model, steps, DiffIER(strength=strength))
    assert abs(corrected.variance_error[-1]) < abs(plain.variance_error[-1])


@pytest.mark.slow
def test_an_unclear_variance_error_asks_for_nothing_and_a_huge_one_for_the_bound():
    assert strength_from(measured_run(sample_heun, two_valued(1.0), 60)) == 0
    with_error = {"standard_errors": {"variance_error": (0.0,) * 7}}
    wide, narrow = (
        Measurement(
            "ve",
            SIGMAS["ve"],
            9,
            (1, 8),
            0,
            "real",
            *((1.0,) * 6,) * 4,
            (size,) * 7,
            (1.0,) * 7,
            **with_error,
        )
        for size in (9.0, 0.0)
    )
    assert (strength_from(wide), strength_from(narrow)) == (-0.5, 0.5)


def test_values_choose_between_what_is_set_the_papers_and_the_measured():
    own, measured = {"strength": 0.3}, measured_run(sample_ddpm, two_valued(1.0), 8)
    assert values_of("as set", own, "norm", None) is own
    assert values_of("paper", own, "renoise", None) == PAPER
    assert values_of("auto", own, "renoise", measured) == {"strength": strength_from(measured)}
    with pytest.raises(SettingsError, match="values auto takes its strength from a measurement"):
        values_of("auto", own, "renoise", None)
    with pytest.raises(SettingsError, match="values auto goes with mode renoise"):
        values_of("auto", own, "norm", measured)


# --- exact answers: one call


def corrected(method, space, sigma, x, denoise, seed=5):
    return method.wrap(denoise, Run(space, (sigma, 0.0), seed))(x, at(sigma, x))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("iterations", [1, 3])
def test_mean_and_noise_on_an_exact_gaussian_are_the_closed_form(space, iterations, latents):
    sigma, std, strength = 0.6, 0.8, 0.5
    x = latents((1, 1)).expand(1, 200_000) * 1.7
    denoise = gaussian_denoiser(0.0, std, space)
    g, back = gain(sigma, std, space)
    found = corrected(DiffIER(strength=strength, iterations=iterations), space, sigma, x, denoise)
    grow = 1 + strength * (1 - back)
    variance = (strength * g * sigma) ** 2 * sum(grow ** (2 * k) for k in range(iterations))
    mean = grow**iterations * denoise(x, at(sigma, x))[0, 0]
    assert found.mean().item() == pytest.approx(mean.item(), abs=4 * math.sqrt(variance / 200_000))
    assert found.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("space", SPACES)
def test_the_antithetic_pair_is_epsilon_scaling_with_the_matched_scale(space, shape, latents):
    """lambda = 1 / (1 - f s² / (s² + sigma²)), in flow s times alpha; no noise is added."""
    sigma, std, strength = 0.6, 0.8, 0.5
    x, denoise = latents(shape), gaussian_denoiser(0.0, std, space)
    _, back = gain(sigma, std, space)
    found = corrected(DiffIER(strength=strength, antithetic=True), space, sigma, x, denoise)
    scale = 1 / (1 - strength * back)
    if space == "ve":
        assert back == pytest.approx(std**2 / (std**2 + sigma**2))
    expected = scale_epsilon(x, denoise(x, at(sigma, x)), scale, sigma=sigma, space=space)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("space", SPACES)
def test_an_error_far_beyond_that_of_knowing_nothing_is_not_believed(space, latents):
    """Each sample by itself; the first errs by 0.5 in its noise, the second by 200."""
    x, sigma = latents((2, 4, 5)), 0.5
    off = torch.tensor([0.5, 200.0]).double().view(2, 1, 1) * (1.0 if space == "flow" else 0.5)
    predictions = iter([x * 0, x * 0 - off])
    found = corrected(DiffIER(strength=0.4), space, sigma, x, lambda x, s: next(predictions))
    reach = 1.0 if space == "flow" else 0.5  # sigma / alpha
    expected = 0.4 * reach * torch.tensor([0.5, 2.0]).double().view(2, 1, 1)
    torch.testing.assert_close(found, expected.expand_as(x))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("iterations", [1, 2])
def test_a_planted_error_shrinks_by_the_derived_factor(space, iterations, latents):
    """b <- (1 + f (1 - a)) b - f b0, a = alpha * gain: after one iteration (1 - f a) b0."""
    sigma, std, strength, planted = 0.6, 0.8, 0.5, 0.3
    exact = gaussian_denoiser(0.0, std, space)
    method = DiffIER(strength=strength, iterations=iterations, antithetic=True)
    x = latents((2, 4, 5))
    wrong = corrected(method, space, sigma, x, lambda x, s: exact(x, s) + planted)
    right = corrected(method, space, sigma, x, exact)
    _, back = gain(sigma, std, space)
    left = planted
    for _ in range(iterations):
        left = (1 + strength * (1 - back)) * left - strength * planted
    assert left < planted
    torch.testing.assert_close(wrong - right, torch.full_like(x, left))


def test_previous_pulls_to_the_prediction_before(latents):
    first, second = latents((2, 4, 5)), latents((2, 4, 5))
    denoise, run = gaussian_denoiser(0.3, 0.5), run_of("ve")
    wrapped = DiffIER("previous", 0.1, iterations=2, **ALL).wrap(denoise, run)
    plain = denoise(first, at(3.0, first))
    assert torch.equal(wrapped(first, at(3.0, first)), plain)
    before = eps_from_denoised(first, plain, 3.0)
    eps = torch.lerp(eps_from_denoised(second, denoise(second, at(1.0, second)), 1.0), before, 1 - 0.81)
    torch.testing.assert_close(wrapped(second, at(1.0, second)), denoised_from_eps(second, eps, 1.0))
    third = wrapped(first, at(0.3, first))
    eps = torch.lerp(eps_from_denoised(first, denoise(first, at(0.3, first)), 0.3), eps, 1 - 0.81)
    torch.testing.assert_close(third, denoised_from_eps(first, eps, 0.3))


@pytest.mark.parametrize("space", SPACES)
def test_literal_shrinks_the_prediction_and_adds_noise(space, latents):
    """As printed, with the sign of descent: 0.9^n e, and noise of variance f² (1 - c^2n) / (1 - c²)."""
    x, sigma = latents((1, 1)).expand(1, 200_000), 0.5
    method = DiffIER("literal", 0.1, iterations=30)
    found = corrected(method, space, sigma, x, gaussian_denoiser(0.0, 0.8, space))
    eps = eps_from_denoised(x, found, sigma, space)
    before = eps_from_denoised(x, gaussian_denoiser(0.0, 0.8, space)(x, at(sigma, x)), sigma, space)
    variance = 0.01 * (1 - 0.81**30) / (1 - 0.81)
    assert eps.var().item() == pytest.approx(variance, rel=0.02)
    assert eps.mean().item() == pytest.approx(
        0.9**30 * before[0, 0].item(), abs=4 * math.sqrt(variance / 2e5)
    )


@pytest.mark.parametrize(
    ("cfg", "divide", "expected"), [(4.0, True, 0.125), (4.0, False, 0.5), (0.5, True, 0.5)]
)
def test_strength_is_divided_by_the_guidance_weight(cfg, divide, expected, latents):
    model, x = branches(cfg=cfg), latents((2, 3, 4, 5))
    ours, other = (
        corrected(DiffIER(strength=strength, divide_by_cfg=on), "ve", 0.6, x, model)
        for strength, on in ((0.5, divide), (expected, False))
    )
    assert torch.equal(ours, other)


# --- exact answers: whole runs


def spread(method, steps=20):
    sigmas = tuple(math.exp(math.log(14.6) + i / (steps - 1) * math.log(0.03 / 14.6)) for i in range(steps))
    run = Run("ve", (*sigmas, 0.0), 1)
    return generate(gaussian_denoiser(), run, (400, 4, 8, 8), [method]).std().item()


@pytest.mark.slow
def test_a_perfect_model_is_over_dispersed_and_the_docs_say_so():
    plain, ours = spread(DiffIER(strength=0.0)), spread(DiffIER(**ALL))
    assert plain < 1 < ours
    assert 1.1 < ours / plain < 1.5


@pytest.mark.slow
def test_a_negative_strength_narrows_what_a_positive_one_widens():
    plain, wide, narrow = (spread(DiffIER(**{**ALL, "strength": f})) for f in (0.0, 0.3, -0.3))
    assert narrow < plain < wide


def truth_and_model(space):
    return gaussian_denoiser(0.4, 0.7, space), lambda x, s: gaussian_denoiser(0.4, 0.7, space)(x, s) + 0.1


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "shape", [(600, 2, 16), (300, 4, 4, 4), (100, 2, 3, 4, 4)], ids=["speech", "pictures", "video"]
)
def test_unconditional_sampling_of_any_kind_of_latent_gets_nearer_the_truth(space, shape):
    true, model = truth_and_model(space)
    run = run_of(space)
    plain = generate(model, run, shape).mean() - 0.4
    ours = generate(model, run, shape, [DiffIER(**ALL)]).mean() - 0.4
    assert abs(ours) < 0.8 * abs(plain)
    assert abs(generate(true, run, shape).mean() - 0.4) < 0.05


@pytest.mark.parametrize("space", SPACES)
def test_image_to_image_as_in_super_resolution_gets_nearer_the_truth(space, latents):
    """From noised pictures, over the later part of the run."""
    _, model = truth_and_model(space)
    run = Run(space, SIGMAS[space][3:], 2)
    start = add_noise(0.4 + 0.7 * latents((400, 4, 4, 4)), latents((400, 4, 4, 4)), run.sigmas[0], space)
    plain, ours = (
        sample_euler(denoise, start, run.sigmas).mean() - 0.4
        for denoise in (model, DiffIER(**ALL).wrap(model, run))
    )
    assert abs(ours) < 0.9 * abs(plain)


# --- what it costs


@pytest.mark.parametrize(
    ("settings", "per_step"),
    [({}, 1), ({"iterations": 3}, 3), ({"antithetic": True}, 2), ({"iterations": 2, "antithetic": True}, 4)],
)
@pytest.mark.parametrize(("part", "active"), [({}, 3), (ALL, 6), ({"sigma_high": 1.0, "sigma_low": 0.3}, 2)])
def test_calls_are_exactly_what_is_announced(settings, per_step, part, active, ledger):
    run, method = run_of("ve"), DiffIER(**settings, **part)
    wrapped = method.wrap(ledger(gaussian_denoiser()), run)
    sample_euler(wrapped, torch.randn(2, 4, 5, 7) * 14.6, run.sigmas)
    assert len(ledger.calls) == 6 + per_step * active
    assert (method.extra_calls, method.active_steps(run)) == (per_step, active)
    assert (wrapped.calls, wrapped.extra) == (6, per_step * active)


@pytest.mark.parametrize("mode", ["previous", "literal"])
def test_the_other_modes_make_no_call(mode, ledger):
    run = run_of("ve")
    generate(ledger(gaussian_denoiser()), run, (2, 4, 5), [DiffIER(mode, **ALL)])
    assert len(ledger.calls) == run.steps


@pytest.mark.parametrize("run", [run_of("flow"), Run("ve", ZSNR)], ids=["flow", "zsnr"])
@pytest.mark.parametrize("mode", ["renoise", "previous", "literal"])
def test_a_state_that_is_all_noise_is_left_alone_and_costs_nothing(run, mode, ledger):
    wrapped = DiffIER(mode, **ALL).wrap(ledger(gaussian_denoiser(0.0, 0.6, run.space)), run)
    x = torch.randn(2, 4, 5) * run.sigmas[0]
    plain = gaussian_denoiser(0.0, 0.6, run.space)(x, at(run.sigmas[0], x))
    assert torch.equal(wrapped(x, at(run.sigmas[0], x)), plain)
    assert len(ledger.calls) == 1
    assert DiffIER(mode, **ALL).active_steps(run) == run.steps - 1


def test_a_threshold_ends_each_sample_by_itself(latents):
    """A model that answers 0 leaves D (1 + f)^n; where D is small, so are the changes of the loss."""
    x = torch.tensor([[[0.01]], [[1.0]]]).double()
    calls = []

    def denoise(x, sigma):
        calls.append(len(x))
        return x.clone() if len(calls) == 1 else torch.zeros_like(x)

    method = DiffIER(strength=0.5, iterations=5, threshold=1e-4)
    found = corrected(method, "ve", 10.0, x, denoise)
    assert found.flatten().tolist() == pytest.approx([0.01 * 1.5**2, 1.5**5])
    assert len(calls) == 6


def test_a_threshold_ends_the_calls_when_all_samples_have_ended(ledger):
    method = DiffIER(strength=0.1, iterations=50, threshold=1.0)
    corrected(method, "ve", 1.0, torch.ones(2, 3, 4), ledger(gaussian_denoiser()))
    assert len(ledger.calls) == 3


def test_whole_runs_without_a_threshold_read_nothing_back_after_the_first_call(latents):
    class Sealed(torch.Tensor):
        """A tensor that refuses to be looked into, which on a GPU would make the host wait."""

        LOOKS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero")

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in cls.LOOKS:
                raise AssertionError(f"{func.__name__} reads a value back")
            return super().__torch_function__(func, types, args, kwargs)

    x, sigma = latents((2, 4, 3, 5)), torch.tensor([2.0, 3.0]).double()
    for method in (DiffIER(iterations=2, antithetic=True, **ALL), DiffIER("literal", **ALL)):
        wrapped = method.wrap(lambda x, sigma: x * 0.5, run_of("ve"))
        wrapped(x, sigma)
        assert isinstance(wrapped(x.as_subclass(Sealed), sigma.as_subclass(Sealed)), Sealed)
    called = []
    in_part = DiffIER().wrap(lambda x, sigma: called.append(sigma) or x * 0.5, run_of("ve"))
    with pytest.raises(AssertionError, match="__bool__ reads"):  # so the line above could have failed
        in_part(x.as_subclass(Sealed), sigma.as_subclass(Sealed))
    assert not called  # once the model is at work, reading waits for it


# --- the noise


def test_noise_belongs_to_the_sample_and_to_no_other_stream(shape, latents):
    x = latents((4, *shape[1:]))
    state = torch.random.get_rng_state()

    def draw(x, seed=1, which=(3, 0), purpose="diffier"):
        noise = PerSampleNoise(seed, purpose)
        noise.see(x)
        return noise.draw(x, *which)

    first = draw(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.dtype == x.dtype and torch.equal(draw(x), first)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(draw(x[order]), first[order])
    assert torch.equal(draw(x[1:2] * 3 + 1e-9), first[1:2])
    others = [draw(x, seed=2), draw(x, which=(4, 0)), draw(x, which=(3, 1)), draw(x, purpose="gap")]
    different = [*others, first[order]]
    assert all(not torch.isclose(other, first).any(1).all() for other in different)
    assert abs(torch.corrcoef(torch.stack([n.flatten() for n in different[:4]]))[0, 1:]).max() < 0.3


def test_the_first_states_decide():
    noise = PerSampleNoise(None, "test")
    x = torch.randn(2, 4, 5)
    noise.see(x)
    first = noise.draw(x, 1)
    noise.see(x.flip(0))
    assert torch.equal(noise.draw(x, 1), first)
    noise.see(x[:1])  # a batch of another size is another batch
    assert torch.equal(noise.draw(x[:1], 1), first[:1])


# --- norm


def branches(space="ve", cfg=6.0, dtype=torch.float64):
    place = torch.linspace(-1, 1, 60, dtype=dtype).view(3, 4, 5)
    cond, uncond = gaussian_denoiser(0.0, 0.4, space), gaussian_denoiser(0.0, 0.9, space)
    return Guided(lambda x, s: cond(x - place, s) + place, uncond, cfg)


def rms(x, denoised, sigma, space):
    return eps_from_denoised(x, denoised, sigma, space).flatten(1).square().mean(1).sqrt()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("strength", "iterations"), [(1.0, 1), (0.1, 11)])
def test_norm_brings_the_guided_noise_to_the_conditional_norm(space, strength, iterations, latents):
    x, sigma, model = latents((2, 3, 4, 5)), 0.6, branches(space)
    found = corrected(DiffIER("norm", strength, iterations=iterations), space, sigma, x, model)
    before = rms(x, model(x, at(sigma, x)), sigma, space)
    target = rms(x, model.branches[0], sigma, space)
    expected = target + (1 - strength) ** iterations * (before - target)
    torch.testing.assert_close(rms(x, found, sigma, space), expected)
    assert (before / target > 1.05).all()
    direction = torch.nn.functional.cosine_similarity(
        eps_from_denoised(x, found, sigma, space).flatten(1),
        eps_from_denoised(x, model(x, at(sigma, x)), sigma, space).flatten(1),
    )
    torch.testing.assert_close(direction, torch.ones_like(direction))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_norm_changes_no_bit_without_guidance(dtype, latents):
    x, model = latents((2, 3, 4, 5), dtype), branches(cfg=1.0, dtype=dtype)
    assert torch.equal(corrected(DiffIER("norm", 1.0), "ve", 0.6, x, model), model(x, at(0.6, x)))


def test_norm_leaves_a_call_without_branches_alone(latents):
    x, model = latents((2, 3, 4, 5)), branches()

    class Single(Guided):
        def __call__(self, x, sigma):
            denoised = super().__call__(x, sigma)
            self.branches = None
            return denoised

    single = Single(model._cond, model._uncond, 6.0)
    assert torch.equal(corrected(DiffIER("norm", 1.0), "ve", 0.6, x, single), model(x, at(0.6, x)))


def measured(space="ve", rms=(1.0, 0.9, 0.5)):
    count, sigmas = 60, (9.0, 3.0, 0.6, 0.0) if space == "ve" else (0.9, 0.6, 0.2, 0.0)
    norms = tuple(value * math.sqrt(count) for value in rms)
    return Measurement(
        space=space,
        sigmas=sigmas,
        count=4,
        shape=(3, 4, 5),
        seed=1,
        reference="given",
        sampling_norm=norms,
        training_norm=norms,
        sampling_rms=norms,
        training_rms=norms,
        state_variance=(1.0,) * 4,
        expected_variance=(1.0,) * 4,
    )


def test_norm_takes_its_target_from_a_measurement(latents):
    x = latents((2, 2, 4, 4))  # of another size than was measured: the norm per element counts
    method = DiffIER("norm", 1.0, measurement=measured())
    for sigma, expected in ((9.0, 1.0), (0.6, 0.5), (0.1, 0.5), (math.sqrt(27), 0.95)):
        found = corrected(method, "ve", sigma, x, gaussian_denoiser())
        assert rms(x, found, sigma, "ve").tolist() == pytest.approx([expected] * 2, rel=1e-4)


# --- half precision, settings, refusals


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("mode", ["renoise", "norm", "previous", "literal"])
def test_half_precision_holds_at_guidance_30(mode, space, dtype, latents):
    run, model, exact = run_of(space), branches(space, 30.0, dtype), branches(space, 30.0)
    method = DiffIER(mode, 0.5, iterations=2, antithetic=True, **ALL)
    x = latents((2, 3, 4, 5), dtype) * run.sigmas[0]
    found = sample_euler(method.wrap(model, run), x, run.sigmas)
    assert found.dtype == dtype and found.isfinite().all()
    half, wide = method.wrap(model, run), method.wrap(exact, run)
    for sigma in (run.sigmas[1], run.sigmas[4]):
        x = latents((2, 3, 4, 5), dtype) * (1 + sigma)
        level = torch.full((2,), sigma)
        expected = wide(x.double(), level)
        off = (half(x, level).double() - expected).abs().mean() / expected.abs().mean()
        assert off < (0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.parametrize(
    "neutral", [{"strength": 0.0}, {"iterations": 0}, {"sigma_high": 2.0, "sigma_low": 2.0}]
)
@pytest.mark.parametrize("mode", ["renoise", "norm", "previous", "literal"])
def test_neutral_settings_return_the_denoiser_itself(mode, neutral):
    denoise = gaussian_denoiser()
    method = DiffIER(mode, **neutral)
    assert method.wrap(denoise, run_of("ve")) is denoise
    assert method.active_steps(run_of("ve")) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "guess"}, "mode is one of renoise, norm, previous, literal; got 'guess'"),
        ({"mode": "norm", "strength": -0.1}, "from 0 to 1, negative only in mode renoise; got -0.1"),
        ({"strength": -1.1}, "from -1 to 1; got -1.1"),
        ({"strength": 1.1}, "from -1 to 1; got 1.1"),
        ({"strength": math.nan}, "from -1 to 1; got nan"),
        ({"iterations": -1}, "whole number, 0 is off; got -1"),
        ({"iterations": 1.5}, "whole number, 0 is off; got 1.5"),
        ({"threshold": math.inf}, "threshold is a finite number, 0 for none; got inf"),
        ({"threshold": math.nan}, "threshold is a finite number"),
        ({"sigma_high": 1.0, "sigma_low": 2.0}, "the high one first; got 1.0 and 2.0"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(SettingsError, match=message):
        DiffIER(**settings)


def test_norm_without_anything_to_compare_with_is_refused():
    with pytest.raises(SettingsError, match="make it with steadydiff.Guided, or give a measurement"):
        DiffIER("norm").wrap(gaussian_denoiser(), run_of("ve"))
    with pytest.raises(SettingsError, match="is of a flow model, this one is of space ve"):
        DiffIER("norm", measurement=measured("flow")).wrap(gaussian_denoiser(), run_of("ve"))


def test_it_says_what_it_does():
    assert str(DiffIER()) == "renoise, strength 0.5 / cfg, iterations 1, threshold 0"
    assert str(DiffIER(antithetic=True)).endswith(", antithetic")
