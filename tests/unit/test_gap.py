"""The gap: exact on Gaussian data, before and after a correction, with its calls counted."""

import math

import pytest
import torch

from steadydiff.denoiser import Guided, Run
from steadydiff.drift.gap import GapRecorder
from steadydiff.errors import SteadyDiffError
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.plots import gap_figure
from steadydiff.samplers import gaussian_denoiser, sample_euler

RUNS = {
    "ve": Run("ve", (14.6, 3.0, 1.0, 0.3, 0.0), 1),
    "flow": Run("flow", (1.0, 0.9, 0.6, 0.2, 0.0), 1),
}


def recorded(model, run, methods=(), count=20, batches=2):
    recorder = GapRecorder(run, range(run.steps))
    for _ in range(batches):
        denoise = recorder.around(model)
        for method in methods:
            denoise = method.wrap(denoise, run)
        recorder.sample(sample_euler, denoise, torch.randn(count, 2, 16, 16) * run.sigmas[0])
    return recorder.gap()


@pytest.mark.parametrize("space", RUNS)
def test_a_perfect_model_errs_by_what_cannot_be_known(space):
    """On data N(0, 1), at an estimate D: (1 - a)² D² (alpha/sigma)² + a², a = alpha * gain."""
    run, seen = RUNS[space], []
    exact = gaussian_denoiser(0.0, 1.0, space)

    def model(x, sigma):
        denoised = exact(x, sigma)
        seen.append(denoised.square().mean().item())
        return denoised

    found = recorded(model, run, batches=1)
    for step, sigma in enumerate(run.sigmas[:-1]):
        alpha = 1 - sigma if space == "flow" else 1.0
        back = alpha**2 / (alpha**2 + sigma**2)
        expected = (1 - back) ** 2 * seen[3 * step] * (alpha / sigma) ** 2 + back**2
        assert found.before[step] == pytest.approx(expected, rel=0.03, abs=1e-6)
    assert found.after == found.before
    assert (found.calls, found.extra, found.count) == (4, 0, 20)
    assert found.weight == (None,) * 4
    assert found.accumulated == pytest.approx([sum(found.after[: i + 1]) for i in range(4)])


@pytest.mark.parametrize("space", RUNS)
def test_a_correction_that_repairs_is_seen_to(space):
    run, exact = RUNS[space], gaussian_denoiser(0.0, 0.5, space)
    method = DiffIER(antithetic=True)
    plain, ours = (
        recorded(lambda x, s: exact(x, s) + 0.4, run, methods)
        for methods in ((), (method, EpsilonScaling(1.0)))
    )
    assert (plain.calls, plain.extra, ours.calls, ours.extra) == (4, 0, 8, 4)
    assert ours.after[:2] == ours.before[:2]
    changed = [abs(a - b) / b for a, b in zip(ours.after[2:], ours.before[2:], strict=True)]
    assert min(changed) > 1e-3
    assert ours.count == 40


def test_the_optimal_weight_of_a_model_that_goes_half_way():
    """Conditional data N(1, 0.5²); the model's condition goes half the way from N(-1, 0.5²), so w* is 2."""
    true, uncond = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(-1.0, 0.5)
    half = Guided(lambda x, s: torch.lerp(uncond(x, s), true(x, s), 0.5), uncond, 2.0)
    run = Run("ve", (14.6, 6.0, 3.0, 1.0, 0.0), 1)
    found = recorded(half, run, count=60, batches=1)
    # At the last steps the estimate is a sample of the data; before, it is smoother than one.
    assert found.weight[-1] == pytest.approx(2.0, abs=0.2)
    assert all(weight is not None and math.isfinite(weight) for weight in found.weight)


def test_batches_make_no_difference_to_a_sample():
    run, exact = RUNS["ve"], gaussian_denoiser(0.2, 0.7)
    x = torch.randn(6, 2, 8) * 14.6
    recorders = [GapRecorder(run, range(run.steps)) for _ in range(2)]
    for recorder, size in zip(recorders, (6, 2), strict=True):
        for part in x.split(size):
            recorder.sample(sample_euler, recorder.around(exact), part)
    one, other = (recorder.gap() for recorder in recorders)
    assert one.before == pytest.approx(other.before, rel=1e-5)


def test_nan_is_a_sentence():
    with pytest.raises(SteadyDiffError, match="answer at step 1 holds NaN"):
        recorded(lambda x, s: x * math.nan, RUNS["ve"])


def test_the_plot_shows_every_curve():
    exact = gaussian_denoiser(0.0, 0.5)
    model = Guided(exact, gaussian_denoiser(0.3, 0.9), 3.0)
    plain, ours = (recorded(model, RUNS["ve"], methods) for methods in ((), (DiffIER(),)))
    losses, sums, weights = gap_figure(plain, ours, 3.0).axes
    assert [list(line.get_ydata()) for line in losses.lines] == [
        list(plain.after), list(ours.before), list(ours.after),
    ]  # fmt: skip
    assert [list(line.get_ydata()) for line in sums.lines] == [
        list(plain.accumulated),
        list(ours.accumulated),
    ]
    assert list(ours.weight) in [list(line.get_ydata()) for line in weights.lines]
    assert "6 model calls" in losses.get_legend().get_texts()[-1].get_text()
    assert len(gap_figure(recorded(exact, RUNS["ve"]), recorded(exact, RUNS["ve"]), 1.0).axes) == 2
