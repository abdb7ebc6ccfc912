"""The nine questions every method that wraps a denoiser must answer, with what `cases/` has of each."""

from importlib import import_module

import pytest
import torch

from steadydiff.errors import SteadyDiffError
from steadydiff.methods import SAMPLING_METHODS
from steadydiff.samplers import gaussian_denoiser, sample_euler
from tests.contract.cases import RUNS

CASES = [
    import_module(f"tests.contract.cases.{method.__module__.rpartition('.')[2]}").CASES
    for method in SAMPLING_METHODS
]

NEUTRAL = [(method, run) for cases in CASES for method in cases.neutral for run in RUNS]
ACTIVE = [(method, run) for cases in CASES for method, runs in cases.active for run in runs]
REFUSED = [pair for cases in CASES for pair in cases.refused]


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
    predictions = []

    def noted(x, sigma):
        denoised = denoiser(run)(x, sigma)
        predictions.append((denoised, denoised.clone()))
        return denoised

    wrapped = method.wrap(noted, run)
    x, sigma = start(run, shape), levels(run, shape[0])
    kept = x.clone(), sigma.clone()
    wrapped(x, sigma)
    assert torch.equal(sigma, kept[1])
    # A method that rectifies the sampler's state says so and may write to x.
    if method.acts_on != "state":
        assert torch.equal(x, kept[0]) and all(torch.equal(*prediction) for prediction in predictions)


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
