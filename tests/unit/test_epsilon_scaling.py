"""Epsilon Scaling: the formula by hand, its safe rule, and whole runs with exact answers.

Over 400 lines, as one paper has one test file.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.denoiser import Run, denoised_from_eps, derivative, eps_from_denoised
from steadydiff.errors import SettingsError, ShapeError
from steadydiff.methods.epsilon_scaling import (
    MOST_LEVELS,
    EpsilonScaling,
    scale_at,
    scale_epsilon,
    scale_table,
)
from steadydiff.samplers import gaussian_denoiser, generate, sample_euler
from steadydiff.schedules import MadeFor, Schedule, dcw_schedule

FORMS = ("ve", "flow", "velocity")
SIGMAS = {
    "ve": (14.6, 8.0, 3.0, 1.0, 0.3, 0.03, 0.0),
    "flow": (1.0, 0.95, 0.8, 0.5, 0.2, 0.05, 0.0),
}
# ComfyUI's zero-terminal-SNR schedule over SD1's betas, 20 steps of its "simple" scheduler, the first ten.
ZSNR = (4518.76, 40.39, 18.13, 11.05, 7.62, 5.62, 4.33, 3.44, 2.8, 2.31, 0.0)


def run_of(space, seed=5):
    return Run(space, SIGMAS[space], seed)


def scale_in_effect(method, run, sigma, denoise=None):
    """Read λ off the wrapped denoiser's answer at one sigma, from the noise before and after."""
    space = run.space
    x = torch.full((1, 2), 3.0, dtype=torch.float64)
    at = torch.tensor([sigma], dtype=torch.float32)
    denoise = denoise or gaussian_denoiser(0.3, 0.5, space)
    before, after = denoise(x, at), method.wrap(denoise, run)(x, at)
    if method.form(space) == "velocity":
        return ((x - before) / (x - after))[0, 0].item()
    eps = [eps_from_denoised(x, clean, at.double(), space) for clean in (before, after)]
    return (eps[0] / eps[1])[0, 0].item()


# --- the formula


@pytest.mark.parametrize(("space", "expected"), [("ve", 1.2), ("flow", 0.8 + 0.8), ("velocity", 1.2)])
def test_formula_by_hand(space, expected):
    x, denoised = torch.tensor([[2.0]]).double(), torch.tensor([[1.0]]).double()
    assert scale_epsilon(x, denoised, 1.25, sigma=0.5, space=space).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.5, 1.5),
    sigma=st.floats(1e-3, 0.999),
    space=st.sampled_from(["ve", "flow"]),
    as_tensor=st.booleans(),
)
def test_the_implied_noise_is_divided_and_nothing_else(scale, sigma, space, as_tensor):
    x, denoised = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    if as_tensor:
        scale, sigma = torch.full((2,), scale).double(), torch.full((2,), sigma).double()
    column = scale.view(2, 1, 1) if as_tensor else scale
    eps = eps_from_denoised(x, denoised, sigma, space) / column
    expected = denoised_from_eps(x, eps, sigma, space)
    found = scale_epsilon(x, denoised, scale, sigma=sigma, space=space)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_velocity_is_divided_in_velocity_form(shape, latents):
    x, denoised = latents(shape), latents(shape)
    found = scale_epsilon(x, denoised, 1.3, sigma=0.4, space="velocity")
    velocity = derivative(x, denoised, 0.4)
    torch.testing.assert_close(derivative(x, found, 0.4), velocity / 1.3)


@pytest.mark.parametrize("space", FORMS)
def test_each_sample_has_its_own_scale_and_sigma(space, shape, latents):
    shape = (3, *shape[1:])
    x, denoised = latents(shape), latents(shape)
    scales, sigmas = torch.tensor([0.9, 1.0, 1.1]).double(), torch.tensor([0.2, 0.5, 0.9]).double()
    found = scale_epsilon(x, denoised, scales, sigma=sigmas, space=space)
    for i in range(3):
        one = scale_epsilon(
            x[i : i + 1], denoised[i : i + 1], scales[i].item(), sigma=sigmas[i].item(), space=space
        )
        torch.testing.assert_close(found[i : i + 1], one)


@pytest.mark.parametrize("space", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scale_one_changes_no_bit(space, dtype, shape, latents):
    x, denoised = latents(shape, dtype) * 1e3, latents(shape, dtype)
    assert scale_epsilon(x, denoised, 1.0, sigma=0.3, space=space) is denoised
    ones, sigma = torch.ones(len(x)), torch.full((len(x),), 0.3)
    assert torch.equal(scale_epsilon(x, denoised, ones, sigma=sigma, space=space), denoised)


@pytest.mark.parametrize("space", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_and_inputs_are_kept(space, dtype, shape, latents):
    x, denoised = latents(shape, dtype), latents(shape, dtype)
    copies = x.clone(), denoised.clone()
    found = scale_epsilon(x, denoised, torch.full((len(x),), 1.2), sigma=0.3, space=space)
    assert found.dtype == dtype and found.shape == x.shape
    assert torch.equal(x, copies[0]) and torch.equal(denoised, copies[1])


class Sealed(torch.Tensor):
    """A tensor that refuses to be looked into, which on a GPU would make the host wait."""

    LOOKS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in cls.LOOKS:
            raise AssertionError(f"{func.__name__} reads a value back")
        return super().__torch_function__(func, types, args, kwargs)


def test_a_sealed_tensor_can_tell():
    for look in (bool, float, int, torch.Tensor.item, torch.Tensor.tolist, lambda t: math.exp(t)):
        with pytest.raises(AssertionError, match="reads a value back"):
            look(torch.ones(()).as_subclass(Sealed))


@pytest.mark.parametrize("space", FORMS)
def test_no_value_is_read_back_from_the_device(space, latents):
    x, values = (latents(size).as_subclass(Sealed) for size in ((2, 4, 3, 5), (2,)))
    assert isinstance(scale_epsilon(x, x, values, sigma=values, space=space), Sealed)
    assert isinstance(scale_epsilon(x, x, 1.1, sigma=values, space=space), Sealed)
    for method in (EpsilonScaling(1.1), EpsilonScaling(1.1, 0.01, sigma_high=9.0, sigma_low=0.1)):
        wrapped = method.wrap(lambda x, sigma: x, run_of("ve" if space == "ve" else "flow"))
        assert wrapped(
            torch.ones(2, 4, device="meta"), torch.ones(2, device="meta")
        ).is_meta  # nothing to read


@pytest.mark.slow
def test_levels_are_remembered_on_a_cpu_without_a_trace(latents):
    """In and out of inference mode, with gradients; and of a thousand levels none is kept that is wrong."""
    run, x = run_of("flow"), latents((2, 4))
    wrapped = EpsilonScaling(1.1, 0.01).wrap(lambda x, sigma: 0.5 * x, run)
    levels = [torch.rand(2, dtype=torch.float64) for _ in range(3)] * 2
    with torch.inference_mode():
        first = [wrapped(x, sigma) for sigma in levels]
    fresh = [EpsilonScaling(1.1, 0.01).wrap(lambda x, sigma: 0.5 * x, run)(x, sigma) for sigma in levels]
    assert all(map(torch.equal, first, fresh))
    leaf = x.clone().requires_grad_()
    wrapped(leaf, levels[0]).sum().backward()
    assert leaf.grad is not None
    for sigma in torch.rand(MOST_LEVELS + 1, 1):
        wrapped(x, sigma)
    assert torch.equal(wrapped(x, levels[1]), fresh[1])
    assert wrapped(x.float(), levels[1]).dtype == torch.float32


@pytest.mark.parametrize(
    ("space", "sigma", "acts"),
    [
        ("ve", 14.6, True),
        ("ve", 120.0, True),
        ("ve", 2254.2, True),
        ("ve", 20291.0, True),
        ("flow", 0.999, True),
        ("flow", 0.9999, True),
        ("flow", 1.0, False),
        ("velocity", 1.0, True),
    ],
)
def test_the_correction_is_left_out_where_there_is_no_signal(space, sigma, acts, latents):
    x, denoised = latents((2, 4)) * max(sigma, 1), latents((2, 4))
    levels = torch.full((2,), sigma).double()
    for scale in (1.005, torch.full((2,), 1.005).double()):
        for at in (sigma, levels):
            found = scale_epsilon(x, denoised, scale, sigma=at, space=space)
            assert torch.isfinite(found).all()
            assert torch.equal(found, denoised) is not acts


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(scale):
    x = torch.zeros(1, 2)
    with pytest.raises(SettingsError, match="scale is a finite number above 0"):
        scale_epsilon(x, x, scale)
    with pytest.raises(SettingsError, match="scale is a finite number above 0"):
        EpsilonScaling(scale)


def test_impossible_calls_are_refused():
    x = torch.zeros(1, 2)
    with pytest.raises(SettingsError, match="without sigma"):
        scale_epsilon(x, x, 1.1, space="flow")
    with pytest.raises(SettingsError, match="ve, flow, velocity; got 'vp'"):
        scale_epsilon(x, x, 1.1, space="vp")
    with pytest.raises(ShapeError):
        scale_epsilon(x, torch.zeros(2, 1), 1.1)


# --- the settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slope": math.nan}, "slope is a finite number"),
        ({"space": "flow"}, "auto, epsilon, velocity; got 'flow'"),
        ({"sigma_high": 1.0, "sigma_low": 2.0}, "the high one first; got 1.0 and 2.0"),
        ({"sigma_low": -1.0}, "got inf and -1.0"),
        ({"sigma_high": math.nan}, "got nan"),
    ],
)
def test_settings_are_validated_when_built(settings, message):
    with pytest.raises(SettingsError, match=message):
        EpsilonScaling(**settings)


@pytest.mark.parametrize(
    "method",
    [
        EpsilonScaling(1.0),
        EpsilonScaling(1.2, sigma_high=3.0, sigma_low=3.0),
        EpsilonScaling(schedule=Schedule("table", (1.0,) * 6)),
        EpsilonScaling(schedule=Schedule("table", (1.5,)), sigma_high=0.0),
    ],
    ids=["scale", "window", "schedule", "window over schedule"],
)
@pytest.mark.parametrize("space", ["ve", "flow"])
def test_neutral_settings_return_the_denoiser_itself(method, space):
    denoise = gaussian_denoiser()
    assert method.wrap(denoise, run_of(space)) is denoise


def test_runs_without_steps_are_left_alone():
    denoise = gaussian_denoiser()
    assert EpsilonScaling().wrap(denoise, Run("ve", ())) is denoise
    assert EpsilonScaling(schedule=Schedule("table", (1.5,))).wrap(denoise, Run("ve", (1.0,))) is denoise


def test_velocity_is_refused_without_a_velocity(ledger):
    with pytest.raises(SettingsError, match="needs a flow model"):
        EpsilonScaling(space="velocity").wrap(ledger(gaussian_denoiser()), run_of("ve"))
    assert not ledger.calls


def test_schedules_of_another_length_are_refused_before_the_first_call(ledger):
    method = EpsilonScaling(schedule=Schedule("table", (1.1, 1.2)))
    with pytest.raises(SettingsError, match="the schedule has 2 steps, the run has 6"):
        method.wrap(ledger(gaussian_denoiser()), run_of("ve"))
    assert not ledger.calls


def test_what_is_scaled_follows_the_model_and_the_schedule():
    dcw = Schedule("dcw", dcw_schedule(SIGMAS["flow"], 0.005))
    assert EpsilonScaling().form("ve") == "ve" and EpsilonScaling().form("flow") == "flow"
    assert EpsilonScaling(space="velocity").form("flow") == "velocity"
    assert EpsilonScaling(schedule=dcw).form("flow") == "velocity"
    assert EpsilonScaling(schedule=dcw, space="epsilon").form("flow") == "flow"
    assert EpsilonScaling(schedule=dcw).form("ve") == "ve"


# --- whole runs


@pytest.mark.parametrize("slope", [0.0, 0.003, -0.002])
def test_a_ve_run_on_a_gaussian_has_its_closed_form(slope):
    """x - mean shrinks at each Euler step by 1 + (next - sigma)·sigma / (λ·(std² + sigma²))."""
    mean, std, sigmas = 0.5, 0.8, SIGMAS["ve"]
    x = torch.tensor([[3.0], [-8.0]], dtype=torch.float64)
    factor = 1.0
    for i, (a, b) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        factor *= 1 + (b - a) * a / ((1.02 + slope * (5 - i)) * (std**2 + a**2))
    wrapped = EpsilonScaling(1.02, slope).wrap(gaussian_denoiser(mean, std), run_of("ve"))
    found = sample_euler(wrapped, x, sigmas)
    torch.testing.assert_close(found, mean + (x - mean) * factor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("space", ["epsilon", "velocity"])
def test_a_flow_run_equals_a_loop_written_out(space):
    sigmas, scales = SIGMAS["flow"], (1.05, 1.04, 1.03, 1.02, 1.01, 0.98)
    denoise, x = gaussian_denoiser(0.3, 0.5, "flow"), torch.randn(2, 4, dtype=torch.float64)
    method = EpsilonScaling(schedule=Schedule("table", scales), space=space)
    found = sample_euler(method.wrap(denoise, run_of("flow")), x, sigmas)
    for scale, a, b in zip(scales, sigmas, sigmas[1:], strict=False):
        clean = denoise(x, torch.tensor([a]).double())
        if space == "velocity":
            x = x + (b - a) * (x - clean) / a / scale
        else:
            eps = (x - (1 - a) * clean) / a
            scaled = eps / scale if a < 1 else eps
            clean = (x - a * scaled) / (1 - a) if a < 1 else clean
            x = (1 - b) * clean + b * scaled
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("space", FORMS)
@pytest.mark.parametrize("sigma", [0.3, 0.41, 0.8])
def test_two_in_a_chain_multiply(space, sigma, latents):
    run = run_of("ve" if space == "ve" else "flow")
    setting = "velocity" if space == "velocity" else "auto"
    denoise, x = gaussian_denoiser(0.3, 0.5, run.space), latents((2, 3, 4))
    first, second = (EpsilonScaling(scale, space=setting) for scale in (1.1, 0.97))
    product = EpsilonScaling(1.1 * 0.97, space=setting)
    at = torch.full((2,), sigma).double()
    chained = second.wrap(first.wrap(denoise, run), run)(x, at)
    torch.testing.assert_close(chained, product.wrap(denoise, run)(x, at), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", ["ve", "flow"])
@pytest.mark.parametrize(
    "method",
    [
        EpsilonScaling(1.01, 0.002),
        EpsilonScaling(1.2, sigma_high=0.8, sigma_low=0.2),
        EpsilonScaling(1.01, 0.002, sigma_high=0.95),
        EpsilonScaling(1.2, sigma_low=0.9),
        EpsilonScaling(schedule=Schedule("table", (1.3, 1.0, 0.9, 1.1, 1.0, 1.2))),
    ],
    ids=["linear", "window", "linear in a window", "begin", "table"],
)
def test_the_scale_in_effect_is_the_one_reported(space, method):
    run = run_of(space)
    reported = method.effective_scales(run)
    assert len(reported) == run.steps
    for scale, sigma in zip(reported, run.sigmas[:-1], strict=True):
        if sigma == 1 and space == "flow":
            assert scale == 1  # nothing to read λ from, and left out
        else:
            assert scale_in_effect(method, run, sigma) == pytest.approx(scale, abs=2e-6)


def test_a_switched_off_method_reports_ones():
    assert EpsilonScaling(1.2, sigma_high=1.0, sigma_low=1.0).effective_scales(run_of("ve")) == (1.0,) * 6


def test_window_edges_are_inside_whatever_the_float():
    """Bounds in double precision, steps in single: a step on a bound counts, its neighbours do not."""
    run = Run("ve", tuple(torch.tensor([9.0, 10 / 3, 1.1, 0.7, 0.0]).tolist()))
    for nudge in (1 - 1e-7, 1, 1 + 1e-7):
        method = EpsilonScaling(1.2, sigma_high=10 / 3 * nudge, sigma_low=1.1 * nudge)
        assert method.effective_scales(run) == (1.0, 1.2, 1.2, 1.0)
        in_effect = [scale_in_effect(method, run, sigma) for sigma in run.sigmas[:-1]]
        assert in_effect == pytest.approx([1.0, 1.2, 1.2, 1.0], abs=1e-6)


def test_a_window_that_holds_the_first_step_holds_it_where_it_is_churned():
    method = EpsilonScaling(1.2, sigma_high=14.6, sigma_low=1.0)
    assert scale_in_effect(method, run_of("ve"), 18.0) == pytest.approx(1.2)


def test_between_steps_the_scale_is_interpolated_in_log_sigma():
    method = EpsilonScaling(schedule=Schedule("table", (1.3, 1.2, 1.1, 1.0, 0.9, 0.8)))
    run = run_of("ve")
    for high, low, above, below in ((14.6, 8.0, 1.3, 1.2), (0.3, 0.03, 0.9, 0.8)):
        middle = math.sqrt(high * low)
        assert scale_in_effect(method, run, middle) == pytest.approx((above + below) / 2, abs=1e-5)
    assert scale_in_effect(method, run, 0.001) == pytest.approx(0.8, abs=1e-5)  # the last step is constant
    assert scale_in_effect(method, run, 20.0) == pytest.approx(1.3, abs=1e-5)  # and so is what lies above


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    logs=st.lists(st.floats(-4, 7), min_size=2, max_size=8, unique_by=lambda v: round(v, 2)),
    values=st.lists(st.floats(0.5, 1.5), min_size=8, max_size=8),
    probe=st.floats(-6, 9),
)
def test_the_lookup_is_linear_interpolation(logs, values, probe):
    logs = sorted(logs, reverse=True)
    values = tuple(values[: len(logs)])
    table = scale_table(values, tuple(math.exp(v) for v in logs))
    i = max((i for i, at in enumerate(logs) if at >= probe), default=None)
    if i is None:
        expected = values[0]
    elif i == len(logs) - 1:
        expected = values[-1]
    else:
        share = (probe - logs[i + 1]) / (logs[i] - logs[i + 1])
        expected = values[i + 1] + share * (values[i] - values[i + 1])
    found = scale_at(torch.tensor([math.exp(probe)]), table).item()
    slack = 4e-6 * 1 / min((a - b for a, b in zip(logs, logs[1:], strict=False)))
    assert found == pytest.approx(expected, abs=1e-5 + slack)


def test_the_lookup_holds_at_its_ends_and_at_repeated_sigmas():
    table = scale_table((1.3, 1.2, 1.1, 1.0), (2.0, 1.0, 1.0, 0.0))
    found = scale_at(torch.tensor([math.inf, 2.0, 1.0, 0.5, 0.0]), table)
    assert found.tolist() == pytest.approx([1.3, 1.3, 1.2, 1.2, 1.2])


def test_a_part_of_a_run_uses_its_part_of_the_schedule():
    schedule = Schedule("table", (1.3, 1.2, 1.1, 1.0, 0.9, 0.8), MadeFor(sigmas=SIGMAS["ve"]))
    method, part = EpsilonScaling(schedule=schedule), Run("ve", SIGMAS["ve"][2:5])
    assert method.effective_scales(part) == (1.1, 1.0)
    assert scale_in_effect(method, part, 1.0) == pytest.approx(1.0)


def test_split_runs_join_to_the_whole():
    scales, sigmas = (1.03, 1.02, 1.01, 1.0, 0.99, 0.98), SIGMAS["ve"]
    method = EpsilonScaling(schedule=Schedule("table", scales, MadeFor(sigmas=sigmas)))
    denoise, x = gaussian_denoiser(0.3, 0.5), torch.randn(2, 3).double() * sigmas[0]
    whole = sample_euler(method.wrap(denoise, run_of("ve")), x, sigmas)
    for part in (sigmas[:3], sigmas[2:]):
        x = sample_euler(method.wrap(denoise, Run("ve", part)), x, part)
    torch.testing.assert_close(x, whole, rtol=1e-9, atol=1e-9)


def test_an_inverted_run_meets_the_same_scales_on_its_way_up():
    method = EpsilonScaling(schedule=Schedule("table", (1.3, 1.2, 1.1, 1.0, 0.9, 0.8)))
    up = Run("ve", tuple(reversed(SIGMAS["ve"])))
    for sigma, scale in zip(SIGMAS["ve"], (1.3, 1.2, 1.1, 1.0, 0.9, 0.8), strict=False):
        assert scale_in_effect(method, up, sigma) == pytest.approx(scale, abs=2e-6)


def test_zero_terminal_snr_gains_no_noise_from_its_first_step():
    run = Run("ve", ZSNR, seed=2)
    method = EpsilonScaling(1.005)
    assert method.effective_scales(run) == (pytest.approx(1, abs=1e-5), *(1.005,) * 9)
    assert method.summary(run) == "lambda 1.005 at 9 of 10 steps"
    for sigma in ZSNR[1:-1]:
        assert scale_in_effect(method, run, sigma) == pytest.approx(1.005, abs=1e-6)

    def after_first_step(*methods):
        return generate(gaussian_denoiser(), Run("ve", ZSNR[:2], seed=2), (2, 4, 16, 16), methods)

    class Everywhere:
        """The correction however long the stride."""

        def wrap(self, denoise, run):
            return lambda x, sigma: scale_epsilon(x, denoise(x, sigma), 1.005)

    plain = after_first_step()
    assert after_first_step(method).std() == pytest.approx(plain.std().item(), rel=1e-3)
    assert after_first_step(Everywhere()).std() > 1.4 * plain.std()


@pytest.mark.parametrize("scale", [1.05, 0.97])
def test_noise_falls_as_sigma_to_the_inverse_scale_however_many_steps(scale):
    """Around a single picture, where all of x - mean is noise."""
    for steps in (150, 300):
        sigmas = tuple(14.6 * (0.03 / 14.6) ** (i / steps) for i in range(steps + 1))
        wrapped = EpsilonScaling(scale).wrap(gaussian_denoiser(0.0, 0.0), Run("ve", sigmas))
        left = sample_euler(wrapped, torch.full((1, 1), 14.6).double(), sigmas).item()
        assert left == pytest.approx(14.6 * (0.03 / 14.6) ** (1 / scale), rel=0.02)


@pytest.mark.parametrize("space", FORMS)
def test_scaling_the_guided_noise_is_scaling_both_branches(space, latents):
    x, cond, uncond = (latents((2, 3, 4)) for _ in range(3))

    def scaled(clean):
        return scale_epsilon(x, clean, 1.2, sigma=0.4, space=space)

    guided = scaled(uncond) + 7 * (scaled(cond) - scaled(uncond))
    torch.testing.assert_close(scaled(uncond + 7 * (cond - uncond)), guided)


def test_flow_runs_start_in_pure_noise_without_harm():
    plain, scaled = (
        generate(gaussian_denoiser(0.3, 0.5, "flow"), run_of("flow"), (2, 4, 8, 8), methods)
        for methods in ([], [EpsilonScaling()])
    )
    assert torch.isfinite(scaled).all() and not torch.equal(scaled, plain)
    assert scaled.std().item() == pytest.approx(plain.std().item(), rel=0.05)
