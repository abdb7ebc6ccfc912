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


def recorded(model, run, methods=(), count=20, batches=2, real=None):
    """real: draws clean pictures [B, C, H, W] for each batch"""
    recorder = GapRecorder(run, range(run.steps))
    for _ in range(batches):
        denoise = recorder.around(model)
        for method in methods:
            denoise = method.wrap(denoise, run)
        recorder.sample(sample_euler, denoise, torch.randn(count, 2, 16, 16) * run.sigmas[0])
        if real is not None:
            recorder.pair(recorder.around(model), real(count))
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


MEANS, STD = (1.0, -1.0), 0.5


def real_pictures(count):
    """Of the first class, N(1, 0.5²); a picture of the second is N(-1, 0.5²)."""
    return MEANS[0] + STD * torch.randn(count, 2, 16, 16)


def both_classes(space):
    """E[x0 | x] where each element is of either class, half and half."""
    of_class = [gaussian_denoiser(mean, STD, space) for mean in MEANS]

    def denoise(x, sigma):
        level = sigma.view(-1, 1, 1, 1)
        alpha = 1 - level if space == "flow" else 1.0
        first = torch.sigmoid(2 * MEANS[0] * alpha * x / (alpha**2 * STD**2 + level**2))
        return torch.lerp(of_class[1](x, sigma), of_class[0](x, sigma), first)

    return denoise


@pytest.mark.parametrize("cfg", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("share", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("space", RUNS)
def test_the_optimal_weight_is_the_models_own_whatever_the_cfg(space, share, cfg):
    """A model whose condition goes `share` of the way from the unconditional to the true answer: 1 / share.

    The unconditional one is exact on a mixture of two Gaussians, the true one on one of them.
    """
    true, uncond, run = gaussian_denoiser(MEANS[0], STD, space), both_classes(space), RUNS[space]
    model = Guided(lambda x, s: torch.lerp(uncond(x, s), true(x, s), share), uncond, cfg)
    found = recorded(model, run, count=40, batches=2, real=real_pictures)
    for step in range(space == "flow", run.steps - 1):  # at the last step both know nearly all
        weight, error = found.weight[step], found.weight_error[step]
        assert weight == pytest.approx(1 / share, abs=min(4 * error, 0.15))
    best, others = found.loss_at(1 / share), [found.loss_at(1 / share + by) for by in (-0.5, 0.5)]
    assert best < min(others)
    assert others[0] - best == pytest.approx(others[1] - best, rel=0.2)


def test_L_of_w_is_the_loss_of_the_guided_noise():
    """L(w) against (e_w - z)² by hand, from the same pairs."""
    run, called = RUNS["ve"], []
    true, uncond = gaussian_denoiser(MEANS[0], STD), both_classes("ve")
    recorder = GapRecorder(run, range(run.steps))
    model = Guided(true, uncond, 1.0)

    def seen(x, sigma):
        called.append((x, sigma))
        return recorder.around(model)(x, sigma)

    clean = real_pictures(5)
    recorder.around(model)
    recorder.pair(seen, clean)
    recorder.sample(sample_euler, recorder.around(model), torch.randn(5, 2, 16, 16) * run.sigmas[0])
    found, loss = recorder.gap(), 0.0
    for x, sigma in called:
        guided = torch.lerp(uncond(x, sigma), true(x, sigma), 3.0)
        loss += ((clean - guided) / sigma.view(-1, 1, 1, 1)).square().mean().item() / run.steps
    assert found.loss_at(3.0) == pytest.approx(loss, rel=1e-4)


def test_no_weight_without_real_pictures_or_guidance():
    guided = Guided(gaussian_denoiser(1.0), gaussian_denoiser(-1.0), 3.0)
    for found in (
        recorded(guided, RUNS["ve"]),
        recorded(gaussian_denoiser(), RUNS["ve"], real=real_pictures),
    ):
        assert found.weight == found.weight_error == (None,) * 4
        with pytest.raises(SteadyDiffError, match="needs guidance and real pictures"):
            found.loss_at(1.0)


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


@pytest.mark.slow
def test_the_plot_shows_every_curve():
    exact = gaussian_denoiser(0.0, 0.5)
    model = Guided(exact, gaussian_denoiser(0.3, 0.9), 3.0)
    plain, ours = (recorded(model, RUNS["ve"], methods, real=real_pictures) for methods in ((), (DiffIER(),)))
    losses, sums, weights, curve = gap_figure(plain, ours, 3.0).axes
    assert [list(line.get_ydata()) for line in losses.lines] == [
        list(plain.after),
        list(ours.before),
        list(ours.after),
    ]
    assert [list(line.get_ydata()) for line in sums.lines] == [
        list(plain.accumulated),
        list(ours.accumulated),
    ]
    assert list(ours.weight) in [list(line.get_ydata()) for line in weights.lines]
    weight, loss = (list(values) for values in curve.lines[0].get_data())
    assert weight[0] == 0 and weight[-1] > 3
    assert loss == pytest.approx([ours.loss_at(w) for w in weight])
    assert "6 model calls" in losses.get_legend().get_texts()[-1].get_text()
    assert len(gap_figure(recorded(exact, RUNS["ve"]), recorded(exact, RUNS["ve"]), 1.0).axes) == 2
