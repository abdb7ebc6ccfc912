"""Longer trainings on data with a known answer: how much of a planted bias a real network finds and undoes.

They need no ComfyUI, only time, so they are not in the fast suite.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from steadydiff.denoiser import Run, per_sample, signal_level
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel, exposure_bias, input_scale
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from steadydiff.samplers import gaussian_denoiser, sample_euler
from steadydiff.training.antibias import (
    PLAN,
    AntiBiasBase,
    AntiBiasRecipe,
    PromptLoss,
    explained,
    karras_levels,
    measure_bands,
)
from steadydiff.training.loop import fit
from steadydiff.training.losses import prompt_weight

LEVELS = {"ve": karras_levels(10, 0.05, 10.0), "flow": tuple(i / 10 for i in range(10, -1, -1))}
SIZE = (1, 8, 8)


@pytest.fixture(autouse=True)
def inference():
    """Not in inference mode, as the host suite is: this trains."""


def coarse(x):
    """The part of a picture that 4 x 4 blocks hold."""
    return F.interpolate(F.avg_pool2d(x, 4), scale_factor=4.0)


def mixture_denoiser(space):
    """Exact for pixels that are -1 or 1 with equal chance, give or take 0.2."""
    low, high = (gaussian_denoiser(mean, 0.2, space) for mean in (-1.0, 1.0))

    def denoise(x, sigma):
        level = per_sample(sigma, x)
        alpha = signal_level(level, space)
        variance = (alpha * 0.2) ** 2 + level**2
        chance = torch.sigmoid(2 * alpha * x / variance)
        return chance * high(x, sigma) + (1 - chance) * low(x, sigma)

    return denoise


def gaussian(n, rng):
    return 0.6 * torch.randn((n, *SIZE), generator=rng)


def blocks(n, rng):
    """Pixels of spread 0.3 on blocks of spread 0.6."""
    return 0.3 * torch.randn((n, *SIZE), generator=rng) + 0.6 * F.interpolate(
        torch.randn((n, 1, 2, 2), generator=rng), scale_factor=4.0
    )


def block_denoiser(space):
    """Exact for `blocks`: each band by itself, the mean of 16 pixels having a sixteenth of their noise."""

    def denoise(x, sigma):
        level = per_sample(sigma, x)
        alpha = signal_level(level, space)
        bands = ((coarse(x), 0.6**2 + 0.3**2 / 16, 16), (x - coarse(x), 0.3**2, 1))
        return sum(alpha * v / (alpha**2 * v + level**2 / count) * band for band, v, count in bands)

    return denoise


def mixture(n, rng):
    return (
        (torch.rand((n, *SIZE), generator=rng) < 0.5) * 2.0 - 1 + 0.2 * torch.randn((n, *SIZE), generator=rng)
    )


CASES = {
    "scaled and shifted": ("ve", gaussian, gaussian_denoiser(0, 0.6, "ve"), lambda d: 0.85 * d + 0.1),
    "band-limited": ("flow", blocks, block_denoiser("flow"), lambda d: d - 0.3 * coarse(d)),
    "mixture, scaled": ("ve", mixture, mixture_denoiser("ve"), lambda d: 0.85 * d),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_finds_most_of_a_planted_bias_and_brings_samples_nearer_the_data(case, tmp_path):
    space, draw, exact, plant = CASES[case]
    base = AntiBiasBase(
        space, (LEVELS[space],), lambda n, rng: (draw(n, rng), None), lambda x, s, _: plant(exact(x, s))
    )
    torch.manual_seed(0)
    recipe = AntiBiasRecipe(batch=32)
    network = PromptNetwork(PromptConfig(1, 8, (1,), 1, ()))
    plan = replace(PLAN, steps=200, lr=5e-3, decay=0.5, ema=0.98)
    trained = fit(network, PromptLoss(network, base, recipe), plan, tmp_path / "state.safetensors")
    trained.requires_grad_(False)

    with torch.no_grad():
        found, possible = (shares(predict, base, exact) for predict in (trained, None))
    assert found > 0.8 * possible > 0

    run = Run(space, LEVELS[space])
    method = AntiBiasPrompt(PromptModel(trained, recipe.target, space))
    truth = draw(1000, torch.Generator().manual_seed(9))
    plain, corrected = (
        distance(sample_euler(denoise, start(run), run.sigmas), truth)
        for denoise in (called(base), method.wrap(called(base), run))
    )
    assert corrected < 0.5 * plain


def smooth(x):
    """The sum of 3 x 3 neighbours over 3, on a torus: of unit variance for white noise."""
    return 3 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 1)


def test_the_default_recipe_finds_half_of_what_high_noise_hides_and_leaves_the_rest_alone(tmp_path):
    """An error that depends on the state, above sigma 2 only; 2 % of a step's bias there can be known."""
    levels, exact = karras_levels(10, 0.05, 20.0), gaussian_denoiser(0.0, 0.5, "ve")

    def planted(x, sigma, _):
        error = 0.115 * torch.tanh(smooth(x / per_sample((sigma**2 + 1) ** 0.5, x)))
        return exact(x, sigma) + per_sample((sigma > 2).float(), x) * error

    def draw(n, rng):
        return 0.5 * torch.randn((n, *SIZE), generator=rng), None

    base, recipe = AntiBiasBase("ve", (levels,), draw, planted), AntiBiasRecipe()
    torch.manual_seed(0)
    network = PromptNetwork(PromptConfig(1, 8, (1,), 1, ()))
    plan = replace(PLAN, steps=1000)
    trained = fit(network, PromptLoss(network, base, recipe), plan, tmp_path / "state.safetensors")
    bands = measure_bands(trained, base, recipe, seed=1)

    rng, loss, found, possible = torch.Generator().manual_seed(2), PromptLoss(trained, base, recipe), [], []
    for band, pairs in zip(bands, loss.pairs.bands(len(levels)), strict=True):
        hidden = float(pairs.sigma[0]) > 2
        assert hidden or band.gain == 0
        if hidden:
            x0, _ = draw(1024, rng)
            with torch.no_grad():
                prompt, bias, _ = loss.predictions(x0, None, pairs, rng)
            found.append(explained(band.gain * prompt, bias, torch.ones(1024)).item())
            possible.append(known_share(base, exact, pairs, rng))
    assert len(found) == 5 and 0.018 < sum(possible) / 5 < 0.022
    assert sum(found) > 0.5 * sum(possible)


def known_share(base, exact, pairs, rng):
    """Share of the bias after these steps that one could know who knows the planted error."""
    x0, _ = base.draw(4096, rng)
    sigma, sigma_next = pairs.draw(len(x0), rng)
    x = x0 + per_sample(sigma, x0) * torch.randn(x0.shape, generator=rng)
    planted = base.denoise(x, sigma, None)
    known, bias = (exposure_bias(clean, planted, sigma, sigma_next) for clean in (exact(x, sigma), x0))
    return explained(known, bias, torch.ones(len(x0))).item()


def shares(network, base, exact):
    """Share of the bias a network explains on fresh samples; None: one that knows all that can be known."""
    loss, rng = PromptLoss(torch.nn.Linear(1, 1), base, AntiBiasRecipe()), torch.Generator().manual_seed(7)
    if network is not None:
        loss.network = network
        return torch.stack([loss(rng, 0)["explained"] for _ in range(16)]).mean().item()
    x0, _ = base.draw(1024, rng)
    sigma, sigma_next = loss.pairs.draw(len(x0), rng)
    noise = torch.randn(x0.shape, generator=rng)
    x = per_sample(signal_level(sigma, base.space), x0) * x0 + per_sample(sigma, x0) * noise
    scale = per_sample(input_scale(sigma_next, base.space), x0)
    planted = base.denoise(x, sigma, None)
    known = exposure_bias(exact(x, sigma), planted, sigma, sigma_next) / scale
    bias = exposure_bias(x0, planted, sigma, sigma_next) / scale
    weight = prompt_weight(sigma_next, base.space, 5.0)
    return explained(known, bias, weight).item()


def called(base):
    return lambda x, sigma: base.denoise(x, sigma, None)


def start(run):
    return torch.randn((1000, *SIZE), generator=torch.Generator().manual_seed(5)) * run.sigmas[0]


def distance(found, truth):
    """Fréchet's, of Gaussians without correlation: means, and spreads in the coarse and the fine band."""
    total = (found.mean() - truth.mean()) ** 2
    for band in (coarse, lambda x: x - coarse(x)):
        total = total + (band(found).std() - band(truth).std()) ** 2
    return total.item()


def test_it_costs_less_than_two_per_cent_of_a_guided_call_of_sd15():
    """1606.5 GFLOP for two branches of 64x64, counted alike on ComfyUI's network of 859.5 M parameters."""
    with torch.device("meta"):
        network, x = (
            PromptNetwork(PromptConfig(attention_levels=attention_at(64, 3))),
            torch.empty(1, 4, 64, 64),
        )
    with FlopCounterMode(display=False) as counter:
        network(x)
    assert 10.6e9 < counter.get_total_flops() < 0.01 * 1606.5e9
