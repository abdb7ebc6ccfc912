"""The nine questions every method that wraps a denoiser must answer; a new method adds its row to CASES."""

from dataclasses import dataclass

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.drift.measurement import Measurement
from steadydiff.errors import SteadyDiffError
from steadydiff.methods import SAMPLING_METHODS
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.band_scaling import BandScaling
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.mdss import MDSS, XiModel
from steadydiff.methods.time_shift import TimeShift
from steadydiff.samplers import gaussian_denoiser, sample_euler
from steadydiff.schedules import Schedule

RUNS = {
    "ve": Run("ve", (14.6, 6.0, 2.0, 0.6, 0.03, 0.0), seed=7),
    "flow": Run("flow", (1.0, 0.9, 0.6, 0.3, 0.05, 0.0), seed=7),
    "zsnr": Run("ve", (4518.76, 40.39, 7.6, 0.8, 0.03, 0.0), seed=7),
}


def prompt_model(space, target="phi"):
    """A stand-in for a trained network: one that pulls large values in a little."""
    return PromptModel(lambda x: -0.1 * torch.tanh(x), target, space)


def xi_model(space):
    """A stand-in for a second output."""
    return XiModel(lambda x, sigma: 0.1 * torch.tanh(x), space)


@dataclass(frozen=True)
class Cases:
    """What to try a method with.

    neutral: settings that change nothing
    active:  settings that do, each with the runs it works on
    refused: settings and a run they cannot work on
    """

    neutral: tuple
    active: tuple
    refused: tuple


def measured(space):
    """A measurement whose norms no case happens to have already."""
    return Measurement(
        space=space, sigmas=(0.9, 0.0), count=2, shape=(1, 8), seed=0, reference="given",
        sampling_norm=(0.7,), training_norm=(0.7,), sampling_rms=(0.7,), training_rms=(0.7,),
        state_variance=(1.0, 1.0), expected_variance=(1.0, 1.0),
    )  # fmt: skip


CASES = {
    EpsilonScaling: Cases(
        neutral=(EpsilonScaling(1.0), EpsilonScaling(1.3, sigma_high=2.0, sigma_low=2.0)),
        active=(
            (EpsilonScaling(1.05), tuple(RUNS)),
            (EpsilonScaling(0.97, 0.003), tuple(RUNS)),
            (EpsilonScaling(1.1, sigma_high=0.9, sigma_low=0.1), tuple(RUNS)),
            (EpsilonScaling(schedule=Schedule("table", (1.2, 1.1, 1.0, 0.9, 1.01))), tuple(RUNS)),
            (EpsilonScaling(1.05, space="velocity"), ("flow",)),
        ),
        refused=(
            (EpsilonScaling(1.05, space="velocity"), RUNS["ve"]),
            (EpsilonScaling(schedule=Schedule("table", (1.2, 1.1))), RUNS["ve"]),
            (EpsilonScaling(1.0, -0.5), RUNS["flow"]),
        ),
    ),
    BandScaling: Cases(
        neutral=(
            BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.0)),
            BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.3, sigma_high=2.0, sigma_low=2.0)),
        ),
        active=(
            (BandScaling(EpsilonScaling(1.05), EpsilonScaling(0.97, 0.003)), tuple(RUNS)),
            (BandScaling(EpsilonScaling(1.05), EpsilonScaling(1.0)), tuple(RUNS)),
            (
                BandScaling(
                    EpsilonScaling(schedule=Schedule("table", (1.2, 1.1, 1.0, 0.9, 1.01))),
                    EpsilonScaling(1.1, sigma_high=0.9, sigma_low=0.1),
                ),
                tuple(RUNS),
            ),
            (BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.05, space="velocity")), ("flow",)),
        ),
        refused=(
            (BandScaling(EpsilonScaling(1.05), EpsilonScaling(1.05, space="velocity")), RUNS["ve"]),
            (BandScaling(EpsilonScaling(schedule=Schedule("table", (1.2, 1.1)))), RUNS["ve"]),
        ),
    ),
    TimeShift: Cases(
        neutral=(TimeShift(1.0), TimeShift(0.9, sigma_high=2.0, sigma_low=2.0)),
        active=(
            (TimeShift(0.95), tuple(RUNS)),
            (TimeShift(1.1, sigma_high=0.9, sigma_low=0.1), tuple(RUNS)),
        ),
        refused=(),
    ),
    DiffIER: Cases(
        neutral=(
            DiffIER(strength=0.0),
            DiffIER(iterations=0, sigma_high=9.0),
            DiffIER(sigma_high=2.0, sigma_low=2.0),
        ),
        active=(
            (DiffIER(), tuple(RUNS)),
            (DiffIER(iterations=3, threshold=0.01, sigma_high=float("inf")), tuple(RUNS)),
            (DiffIER(antithetic=True, sigma_high=0.9, sigma_low=0.1), tuple(RUNS)),
            (DiffIER("norm", measurement=measured("ve")), ("ve", "zsnr")),
            (DiffIER("norm", 0.1, iterations=9, threshold=1e-3, measurement=measured("flow")), ("flow",)),
            (DiffIER("previous", 0.1, sigma_high=float("inf")), tuple(RUNS)),
            (DiffIER("literal", 0.1), tuple(RUNS)),
        ),
        refused=(
            (DiffIER("norm"), RUNS["ve"]),
            (DiffIER("norm", measurement=measured("flow")), RUNS["ve"]),
        ),
    ),
    AntiBiasPrompt: Cases(
        neutral=(
            AntiBiasPrompt(prompt_model("ve"), 0.0),
            AntiBiasPrompt(prompt_model("flow"), sigma_high=2.0, sigma_low=2.0),
        ),
        active=(
            (AntiBiasPrompt(prompt_model("ve")), ("ve", "zsnr")),
            (AntiBiasPrompt(prompt_model("flow", "residual"), 0.5), ("flow",)),
            (AntiBiasPrompt(prompt_model("ve"), calls=(2,)), ("ve",)),
        ),
        refused=(
            (AntiBiasPrompt(prompt_model("ve")), RUNS["flow"]),
            (AntiBiasPrompt(prompt_model("flow")), RUNS["ve"]),
        ),
    ),
    MDSS: Cases(
        neutral=(MDSS(xi_model("ve"), 0.0), MDSS(xi_model("flow"), sigma_high=2.0, sigma_low=2.0)),
        active=(
            (MDSS(xi_model("ve")), ("ve", "zsnr")),
            (MDSS(xi_model("flow"), 0.5), ("flow",)),
            (MDSS(xi_model("ve"), sigma_high=0.9, sigma_low=0.1), ("ve",)),
        ),
        refused=((MDSS(xi_model("ve")), RUNS["flow"]), (MDSS(xi_model("flow")), RUNS["ve"])),
    ),
}

NEUTRAL = [(method, run) for cases in CASES.values() for method in cases.neutral for run in RUNS]
ACTIVE = [(method, run) for cases in CASES.values() for method, runs in cases.active for run in runs]
REFUSED = [pair for cases in CASES.values() for pair in cases.refused]


def in_turn(pairs):
    """Parametrize over methods and runs, the awkward shapes in turn: three runs meet all three."""
    cases = [(method, run, turn) for turn, (method, run) in enumerate(pairs)]
    return pytest.mark.parametrize(("method", "run_name", "turn"), cases)


every_active = in_turn(ACTIVE)


@pytest.fixture
def shape(shapes, turn):
    return shapes[turn % len(shapes)]


def denoiser(run):
    """A denoiser without batch or element symmetry: each position has its own mean."""
    plain = gaussian_denoiser(0.0, 0.6, run.space)

    def denoise(x, sigma):
        place = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).view(x.shape[1:])
        return plain(x - place, sigma) + place

    return denoise


def start(run, shape, dtype=torch.float32):
    seeded = torch.Generator().manual_seed(run.seed)
    return torch.randn(shape, generator=seeded).to(dtype) * run.sigmas[0]


def sampled(method, run, shape):
    return sample_euler(method.wrap(denoiser(run), run), start(run, shape), run.sigmas)


def levels(run, count):
    """One sigma per sample, all of the run's in turn."""
    return torch.tensor([run.sigmas[i % run.steps] for i in range(count)])


def test_every_method_is_asked():
    assert set(CASES) == set(SAMPLING_METHODS)


@in_turn(NEUTRAL)
def test_1_neutral_settings_change_no_bit(method, run_name, shape):
    run = RUNS[run_name]
    plain = sample_euler(denoiser(run), start(run, shape), run.sigmas)
    assert torch.equal(sampled(method, run, shape), plain)


@every_active
def test_1b_active_settings_do_change_something(method, run_name, shape):
    run = RUNS[run_name]
    plain = sample_euler(denoiser(run), start(run, shape), run.sigmas)
    assert not torch.equal(sampled(method, run, shape), plain)


@every_active
def test_2_shape_dtype_and_device_are_kept(method, run_name, shape):
    run = RUNS[run_name]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = start(run, shape, dtype)
        found = method.wrap(denoiser(run), run)(x, levels(run, len(x)))
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)


@every_active
def test_3_inputs_are_not_changed(method, run_name, shape):
    run = RUNS[run_name]
    answers = []

    def noted(x, sigma):
        denoised = denoiser(run)(x, sigma)
        answers.append((denoised, denoised.clone()))
        return denoised

    wrapped = method.wrap(noted, run)
    x, sigma = start(run, shape), levels(run, shape[0])
    kept = x.clone(), sigma.clone()
    wrapped(x, sigma)
    assert torch.equal(sigma, kept[1])
    # A method that rectifies the sampler's state says so and may write to x.
    if method.acts_on != "state":
        assert torch.equal(x, kept[0]) and all(torch.equal(*answer) for answer in answers)


@every_active
def test_4_the_runs_seed_decides_everything(method, run_name, shape):
    torch.manual_seed(1)
    first = sampled(method, RUNS[run_name], shape)
    torch.manual_seed(2)
    assert torch.equal(sampled(method, RUNS[run_name], shape), first)


@every_active
def test_5_the_order_in_the_batch_does_not_matter(method, run_name, shape):
    run = RUNS[run_name]
    x = start(run, (5, *shape[1:]))
    order, sigma = torch.tensor([3, 0, 4, 1, 2]), levels(run, 5)
    found = method.wrap(denoiser(run), run)(x.clone(), sigma)
    shuffled = method.wrap(denoiser(run), run)(x[order], sigma[order])
    torch.testing.assert_close(shuffled, found[order])
    for i in range(5):
        alone = method.wrap(denoiser(run), run)(x[i : i + 1].clone(), sigma[i : i + 1])
        torch.testing.assert_close(alone, found[i : i + 1])


@every_active
def test_6_a_second_run_equals_the_first(method, run_name, shape):
    run = RUNS[run_name]
    first = sampled(method, run, shape)
    assert torch.equal(sampled(method, run, shape), first)


@every_active
def test_7_interleaved_runs_do_not_meet(method, run_name, shape):
    """Two runs of one settings object, of different shapes, call by call in turn."""
    run = RUNS[run_name]
    calls = [(sigma, size) for sigma in run.sigmas[:-1] for size in (shape, (4, 2, 3))]
    together = {size: method.wrap(denoiser(run), run) for _, size in calls}
    for sigma, size in calls:
        alone = method.wrap(denoiser(run), run)
        x, at = start(run, size), torch.full((size[0],), sigma)
        # Methods with memory answer by their own past: only that past is replayed.
        for earlier in run.sigmas[: run.sigmas.index(sigma)]:
            alone(start(run, size), torch.full((size[0],), earlier))
        assert torch.equal(together[size](x.clone(), at), alone(x.clone(), at))


@every_active
def test_8_finite_at_the_first_and_the_last_sigma(method, run_name, shape):
    run = RUNS[run_name]
    wrapped = method.wrap(denoiser(run), run)
    for sigma in (run.sigmas[0], run.sigmas[-2], run.sigmas[-1]):
        x = start(run, shape)
        assert torch.isfinite(wrapped(x, torch.full((len(x),), sigma))).all()


@pytest.mark.parametrize(("method", "run"), REFUSED)
def test_9_what_cannot_work_is_refused_when_attached(method, run, ledger):
    with pytest.raises(SteadyDiffError):
        method.wrap(ledger(denoiser(run)), run)
    assert not ledger.calls
