"""MDSS's formulas against loops and the thesis as printed, and what its second output does to a run."""

import math

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.errors import SettingsError
from steadydiff.methods.mdss import (
    MDSS,
    Level,
    Sample,
    XiModel,
    clean,
    clean_estimate,
    network_target,
    rollout,
    scheduled_ratio,
    targets,
    training_levels,
)
from steadydiff.samplers import gaussian_denoiser, sample_euler


def cosine(steps):
    """Nichol and Dhariwal's schedule, betas at most 0.999; [0] is no noise at all, as the thesis counts."""
    f = lambda i: math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    return [1 - min(1 - f(i + 1) / f(i), 0.999) for i in range(steps)]


def alphas(name):
    if name == "cosine-4000":
        return torch.tensor(cosine(4000), dtype=torch.float64)
    low, high, root = {"linear-1000": (1e-4, 0.02, 1), "sd": (0.00085, 0.012, 2)}[name]
    return 1 - torch.linspace(low ** (1 / root), high ** (1 / root), 1000, dtype=torch.float64) ** root


class Schedule:
    """alpha_t, abar_t and beta_t by the thesis' own index: 0 for clean, 1 to T for the noise levels."""

    def __init__(self, name):
        a = alphas(name)
        self.a = torch.cat([torch.ones(1, dtype=a.dtype), a])
        self.abar, self.beta, self.steps = self.a.cumprod(0), 1 - self.a, len(a)

    def level(self, t):
        abar = self.abar[t]
        return Level(abar.sqrt(), (1 - abar).sqrt())

    def posterior(self, i):
        """Coefficients of one posterior mean, from i to i - 1; DDPM's equation 7."""
        a, abar, before = self.a[i], self.abar[i], self.abar[i - 1]
        return a.sqrt() * (1 - before) / (1 - abar), before.sqrt() * self.beta[i] / (1 - abar)


NAMES = ("linear-1000", "cosine-4000", "sd")


@pytest.fixture(params=NAMES)
def schedule(request):
    return Schedule(request.param)


def test_the_closed_form_is_the_step_by_step_loop_for_0_to_50_steps(schedule):
    """x_t = A_{t+1}·x_{t+1} + B_{t+1}·x0, one step more on top each time, for every t there is."""
    t = torch.arange(1, schedule.steps + 1)
    gamma, omega = torch.ones(len(t)).double(), torch.zeros(len(t)).double()
    for k in range(51):
        t, gamma, omega = t[: schedule.steps - k], gamma[: schedule.steps - k], omega[: schedule.steps - k]
        found = rollout(schedule.level(t + k), schedule.level(t), "posterior")
        torch.testing.assert_close(found, (gamma, omega), rtol=0, atol=1e-10)
        whole = found[0] * schedule.abar[t + k].sqrt() + found[1]
        torch.testing.assert_close(whole, schedule.abar[t].sqrt(), rtol=0, atol=1e-10)
        if k < 50:
            t, gamma, omega = (value[: schedule.steps - k - 1] for value in (t, gamma, omega))
            a, b = schedule.posterior(t + k + 1)
            gamma, omega = gamma * a, omega + gamma * b


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_equations_3_9_to_3_11_are_right_as_printed(schedule, k):
    a, abar, beta = schedule.a, schedule.abar, schedule.beta
    for t in (1, 20, 500, schedule.steps - k):
        gamma = math.prod(schedule.posterior(i + 1)[0] for i in range(t, t + k))
        omega = sum(
            math.prod(a[n + 1].sqrt() * (1 - abar[n]) for n in range(t, j + 1))
            * abar[j + 1].sqrt()
            * beta[j + 2]
            / math.prod(1 - abar[m] for m in range(t + 1, j + 3))
            for j in range(t, t + k - 1)
        )
        omega = omega + abar[t].sqrt() * beta[t + 1] / (1 - abar[t + 1])
        found = rollout(schedule.level(t + k), schedule.level(t), "posterior")
        torch.testing.assert_close(torch.stack(found), torch.stack([gamma, omega]), rtol=1e-9, atol=1e-12)


def test_typo_beta_under_the_root_in_algorithm_7_and_table_3_1():
    schedule, t = Schedule("cosine-4000"), 1
    abar, beta = schedule.abar, schedule.beta
    right = schedule.posterior(t + 1)[1]
    printed = (abar[t] * beta[t + 1]).sqrt() / (1 - abar[t + 1])
    assert right.item() == pytest.approx(0.51, abs=0.01) and printed.item() == pytest.approx(159, abs=1)
    gamma, omega = rollout(schedule.level(t + 1), schedule.level(t), "posterior")
    assert omega.item() == pytest.approx(right.item(), abs=1e-10)
    assert (gamma * abar[t + 1].sqrt() + printed - abar[t].sqrt()).abs() > 100


def test_typo_alpha_without_its_bar_in_algorithm_9_and_equation_a_1():
    schedule, t, k = Schedule("linear-1000"), 900, 4
    right = printed = 0.0
    for i in range(t + k, t, -1):
        a, b = schedule.posterior(i)
        right = a * right + b
        printed = a * printed + schedule.a[i - 1].sqrt() * schedule.beta[i] / (1 - schedule.abar[i])
    assert float(right) == pytest.approx(0.001, abs=5e-4) and float(printed) == pytest.approx(0.071, abs=1e-3)
    gamma, omega = rollout(schedule.level(t + k), schedule.level(t), "posterior")
    assert omega.item() == pytest.approx(float(right), abs=1e-10)
    assert (gamma * schedule.abar[t + k].sqrt() + printed - schedule.abar[t].sqrt()).abs() > 0.06


def test_typo_bars_and_step_index_in_the_ss_row_of_table_3_1(latents):
    """With bars the "step" goes all the way to x0; and eps of x_{t+1} is what the network says at t + 1."""
    schedule, t = Schedule("linear-1000"), 400
    x0, eps = latents((1, 1, 2, 2)), latents((1, 1, 2, 2))
    abar, noise = schedule.abar, lambda t: (1 - schedule.abar[t]).sqrt()
    top, now = abar[t + 1].sqrt() * x0 + noise(t + 1) * eps, abar[t].sqrt() * x0

    def step(x, eps, a):
        return (x - (1 - a) / noise(t + 1) * eps) / a.sqrt()

    right = step(top, eps, schedule.a[t + 1])  # equation 3.3, and 3.8 with the network's eps
    sample = targets(x0, eps, x0, (schedule.level(t + 1), *[schedule.level(t)] * 2), "posterior")
    torch.testing.assert_close(right, sample.seen)
    torch.testing.assert_close(right - now, noise(t) * sample.eps)
    torch.testing.assert_close(step(top, eps, abar[t + 1]), x0)
    assert not torch.allclose(step(top, eps, abar[t + 1]), right, rtol=0.1)
    at = [exact_eps(schedule, i)(top) for i in (t, t + 1)]
    assert not torch.allclose(step(top, at[0], schedule.a[t + 1]), step(top, at[1], schedule.a[t + 1]), 1e-5)


def exact_eps(schedule, t):
    """The noise an exact model of N(0, 4) data finds at t."""
    abar = schedule.abar[t]
    return lambda x: (1 - abar).sqrt() * x / (4 * abar + 1 - abar)


@pytest.mark.parametrize("k", [0, 1, 4, 20])
def test_targets_are_algorithm_7_line_by_line(schedule, k, latents):
    x0, eps, off = latents((3, 2, 3, 4)), latents((3, 2, 3, 4)), latents((3, 2, 3, 4))
    t = torch.tensor([1, 20, 500])
    abar, wide = schedule.abar, lambda value: value.view(-1, 1, 1, 1)
    top, eps_hat = t + k + 1, eps + 0.1 * off
    x_top = wide(abar[top].sqrt()) * x0 + wide((1 - abar[top]).sqrt()) * eps

    def step(eps):
        share = (1 - schedule.a[top]) / (1 - abar[top]).sqrt()
        return (x_top - wide(share) * eps) / wide(schedule.a[top].sqrt())

    seen, x = step(eps_hat), step(eps)
    for i in range(k, 0, -1):
        a, b = (wide(value) for value in schedule.posterior(t + i))
        seen, x = a * seen + b * x0, a * x + b * x0
    x0_hat = (x_top - wide((1 - abar[top]).sqrt()) * eps_hat) / wide(abar[top].sqrt())
    levels = schedule.level(top), schedule.level(t + k), schedule.level(t)
    found = targets(x0, eps, x0_hat, levels, "posterior")
    torch.testing.assert_close(found.seen, seen)
    torch.testing.assert_close(found.xi, seen - x, rtol=1e-6, atol=1e-12)
    eps_t = (x - wide(abar[t].sqrt()) * x0) / wide((1 - abar[t]).sqrt())
    torch.testing.assert_close(found.eps, eps_t)
    snr = [abar[i] / (1 - abar[i]) for i in (top, t)]
    torch.testing.assert_close(found.eps, wide((snr[0] / snr[1]).sqrt()) * eps)


@pytest.mark.parametrize("variant", ["ddim", "flow"])
def test_ddim_and_flow_carry_errors_as_their_samplers_do_and_keep_eps(variant, latents):
    """A sampler's step with x0 known goes along the line through x0; in its own units that is Euler's."""
    x0, eps, x0_hat = (latents((2, 3, 4)) for _ in range(3))
    sigma = torch.tensor([0.9, 0.6, 0.2]).double()
    space = "flow" if variant == "flow" else "ve"
    alpha, noise = training_levels(sigma, space)
    if space == "ve":
        torch.testing.assert_close(alpha**2 + noise**2, torch.ones(3).double())
    levels = tuple(Level(*pair) for pair in zip(alpha, noise, strict=True))
    found = targets(x0, eps, x0_hat, levels, variant)
    scale = [a + s if space == "flow" else 1 / a for a, s in levels]  # from network units to the sampler's
    x = scale[0] * (alpha[0] * x0 + noise[0] * eps)
    x = x0_hat + (x - x0_hat) * sigma[1] / sigma[0]
    x = x0 + (x - x0) * sigma[2] / sigma[1]
    torch.testing.assert_close(scale[2] * found.seen, x)
    torch.testing.assert_close(found.eps, eps)
    torch.testing.assert_close(found.seen - found.xi, alpha[2] * x0 + noise[2] * eps)


def test_a_perfect_model_has_no_error_to_carry(latents):
    x0, eps = latents((1, 2, 3)), latents((1, 2, 3))
    levels = tuple(Schedule("sd").level(t) for t in (305, 304, 300))
    for variant in ("posterior", "ddim"):
        found = targets(x0, eps, x0.clone(), levels, variant)
        assert not found.xi.any()
        torch.testing.assert_close(found.seen, levels[2].alpha * x0 + levels[2].sigma * found.eps)


def test_each_prediction_means_the_same_noise_or_velocity_at_the_state_seen(latents):
    x0, eps, xi = (latents((2, 1, 3)) for _ in range(3))
    alpha = torch.tensor([0.9, 0.2]).double()
    level = Level(alpha, (1 - alpha**2).sqrt())
    a, s = (value.view(-1, 1, 1) for value in level)
    sample = Sample(a * x0 + s * eps + xi, eps, xi)
    assert network_target(sample, x0, level, "eps") is eps
    v = network_target(sample, x0, level, "v")
    torch.testing.assert_close(a * v + s * sample.seen, eps)  # as hosts read v
    plain = Sample(sample.seen - xi, eps, torch.zeros_like(xi))
    torch.testing.assert_close(network_target(plain, x0, level, "v"), a * eps - s * x0)
    torch.testing.assert_close(network_target(sample, x0, level, "velocity"), eps - x0)


def test_an_answer_without_error_means_the_clean_sample(latents):
    x0, eps = latents((2, 1, 3)), latents((2, 1, 3))
    for prediction, space in (("eps", "ve"), ("v", "ve"), ("velocity", "flow")):
        level = training_levels(torch.tensor([0.9, 0.3]), space)
        a, s = (value.view(-1, 1, 1) for value in level)
        sample = Sample(a * x0 + s * eps, eps, torch.zeros_like(eps))
        answer = network_target(sample, x0, level, prediction)
        torch.testing.assert_close(clean_estimate(sample.seen, answer, level, prediction), x0)


def test_samples_keep_their_dtype(latents):
    x0 = latents((2, 1, 3), torch.float32)
    levels = tuple(
        Level(torch.full((2,), a).double(), torch.full((2,), 1 - a).double()) for a in (0.2, 0.3, 0.4)
    )
    found = targets(x0, x0, x0 + 1, levels, "flow")
    assert {value.dtype for value in found} == {torch.float32}
    assert network_target(found, x0, levels[2], "v").dtype == torch.float32


def test_the_scheduled_ratio_is_a_2():
    assert [scheduled_ratio(step, 100) for step in (0, 50, 79, 99)] == pytest.approx([0.1, 0.6, 0.89, 0.9])


# --- sampling ---------------------------------------------------------------------------------------------

RUN = Run("ve", (10.0, 4.0, 1.0, 0.25, 0.0))


def method(xi=torch.ones_like, space="ve", sigma_data=1.0, sigma_range=(0.0, math.inf), **settings):
    return MDSS(XiModel(lambda x, sigma: xi(x), space, sigma_data, sigma_range), **settings)


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_state_and_clean_estimate_move_together_and_the_networks_answer_stays(space, latents):
    run, x, sigma = Run(space, (0.9, 0.4, 0.0)), latents((2, 4, 3, 5)), torch.tensor([0.9, 0.4]).double()
    denoise = gaussian_denoiser(0.3, 0.6, space)
    before, d = x.clone(), denoise(x, sigma)
    cleaned = method(space=space, sigma_data=0.5, strength=0.5).wrap(denoise, run)
    found = cleaned(x, sigma)
    error = 0.5 * ((sigma**2 + 0.25).sqrt() if space == "ve" else torch.ones(2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(before - x, error.expand_as(x).double())
    torch.testing.assert_close((x - found), (before - d))
    for value, moved in zip(clean(before, d, error), (x, found), strict=True):
        torch.testing.assert_close(value, moved)


def test_the_second_output_is_asked_with_the_state_the_model_was_asked_with(latents):
    seen, called = [], []

    def denoise(x, sigma):
        called.append(x.clone())
        return gaussian_denoiser()(x, sigma)

    def xi(x):
        seen.append(x.clone())
        return 0.1 * x

    sample_euler(method(xi).wrap(denoise, RUN), latents((1, 2, 3)) * 10, RUN.sigmas)
    assert len(seen) == len(called) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen, called, strict=True))


def test_it_acts_only_at_levels_it_was_trained_at_and_asked_for(latents):
    x = latents((1, 2, 3))
    for settings, expected in (
        ({"sigma_range": (0.5, 5.0)}, [4.0, 1.0]),
        ({"sigma_range": (0.5, 5.0), "sigma_high": 1.0}, [1.0]),
        ({"sigma_low": 4.0}, [10.0, 4.0]),
    ):
        cleaned, found = method(**settings).wrap(gaussian_denoiser(), RUN), []
        for sigma in RUN.sigmas[:-1]:
            state = x.clone()
            cleaned(state, torch.tensor([sigma]))
            found += [sigma] if not torch.equal(state, x) else []
        assert found == expected and cleaned.applied == len(expected)
        assert str(cleaned) == f"cleaned the state after {len(expected)} of 4 model calls"


def test_a_step_taken_again_is_not_cleaned_twice(latents):
    cleaned, x, sigma = method().wrap(gaussian_denoiser(), RUN), latents((1, 2, 3)), torch.tensor([4.0])
    cleaned(x, sigma)
    once = x.clone()
    cleaned(x, sigma)
    assert torch.equal(x, once)


def test_an_untrained_second_output_changes_no_bit(latents):
    x = latents((2, 4, 5), torch.float32) * 10
    plain = sample_euler(gaussian_denoiser(), x, RUN.sigmas)
    assert torch.equal(
        sample_euler(method(torch.zeros_like).wrap(gaussian_denoiser(), RUN), x, RUN.sigmas), plain
    )


def test_a_known_error_in_the_states_is_taken_away(latents):
    """A model that is exact but sees states 0.3 too high: with xi = 0.3 the run ends where it should."""
    exact, x = gaussian_denoiser(0.0, 0.5), latents((4, 3, 5)) * 10
    off = lambda sigma: 0.3 * (sigma**2 + 1).sqrt().view(-1, 1, 1)  # noqa: E731

    def shifted(x, sigma):
        return exact(x - off(sigma), sigma) + off(sigma)

    def with_shift(x, sigma):
        x.add_(off(sigma))  # the run's own error, put into the state before each call
        return shifted(x, sigma)

    right = sample_euler(exact, x, RUN.sigmas)
    cleaned = method(lambda x: 0.3 * torch.ones_like(x)).wrap(with_shift, RUN)
    torch.testing.assert_close(sample_euler(cleaned, x.clone(), RUN.sigmas), right)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"strength": -0.1}, "strength is a number of 0 or more; got -0.1"),
        ({"strength": math.nan}, "strength is a number"),
        ({"sigma_high": 1.0, "sigma_low": 2.0}, "the high one first; got 1.0 and 2.0"),
        ({"space": "vp"}, "space is one of"),
    ],
    ids=str,
)
def test_settings_without_sense_are_refused(settings, sentence):
    with pytest.raises(SettingsError, match=sentence):
        method(**settings)


def test_a_head_of_the_other_space_is_refused():
    with pytest.raises(SettingsError, match="trained on a flow model and this is a ve one"):
        method(space="flow").wrap(gaussian_denoiser(), RUN)


@pytest.mark.parametrize(
    ("name", "k", "most"),
    [("linear-1000", 0, 1e-4), ("linear-1000", 4, 1e-3), ("linear-1000", 20, 0.015), ("sd", 4, 0.004)],
)
def test_even_a_perfect_model_s_errors_can_hardly_be_seen_in_the_state(name, k, most):
    """R² of xi given the state seen, data N(0, 1): what any second head can find, and no more."""
    schedule = Schedule(name)
    x0, eps = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for t in (1, 2, 5, 20, 60, 110, 200, 500, 900):
        top, above, now = (schedule.level(at) for at in (t + k + 1, t + k, t))
        x0_hat = top.alpha * (top.alpha * x0 + top.sigma * eps)  # the exact estimate, as alpha² + sigma² is 1
        sample = targets(x0[:, None], eps[:, None], x0_hat[:, None], (top, above, now), "posterior")
        found.append(torch.corrcoef(torch.stack([sample.seen[:, 0], sample.xi[:, 0]]))[0, 1].item() ** 2)
    assert max(found) < most
    assert k == 0 or max(found) > most / 10
