"""Training the anti-bias prompt: pairs, losses and weights by hand; exact and planted denoisers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from steadydiff.denoiser import Run
from steadydiff.errors import SettingsError
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.samplers import gaussian_denoiser, sample_euler
from steadydiff.training import losses
from steadydiff.training.antibias import (
    PLAN,
    AntiBiasBase,
    AntiBiasRecipe,
    PromptLoss,
    StepPairs,
    explained,
    fitted_gain,
    karras_levels,
    measure_bands,
    simulate,
    split_off,
    train_prompt,
)
from steadydiff.training.loop import fit

LEVELS = karras_levels(8, 0.05, 10.0)
STD = 0.6


def base_of(space="ve", bias=lambda denoised: denoised, size=(2, 4, 4), std=STD):
    """A model of data N(0.3, std²) that is exact but for a planted bias."""
    exact = gaussian_denoiser(0.3, std, space)
    levels = LEVELS if space == "ve" else tuple(i / 8 for i in range(8, -1, -1))

    def draw(n, rng):
        return 0.3 + std * torch.randn((n, *size), generator=rng), None

    return AntiBiasBase(space, (levels,), draw, lambda x, sigma, _: bias(exact(x, sigma)))


class Affine(nn.Module):
    """The smallest network that can undo a scale and a shift."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.gain * x + self.shift


def test_pairs_are_all_steps_but_the_last_and_every_schedule_has_its_share():
    pairs = StepPairs.of([(4.0, 2.0, 1.0, 0.0), (8.0, 4.0, 0.0)])
    assert pairs.sigma_next.tolist() == [1.0, 2.0, 4.0] and pairs.sigma.tolist() == [2.0, 4.0, 8.0]
    assert pairs.share.tolist() == pytest.approx([0.25, 0.5, 1.0])
    assert pairs.sigma_range == (1.0, 4.0)
    sigma, sigma_next = pairs.draw(400, torch.Generator().manual_seed(0))
    assert [(sigma_next == level).sum().item() for level in (1.0, 2.0, 4.0)] == [100, 100, 200]
    assert torch.equal(sigma, 2 * sigma_next)


def test_schedules_without_a_step_to_correct_are_refused():
    with pytest.raises(SettingsError, match="no schedule has two steps"):
        StepPairs.of([(1.0, 0.0)])


def test_karras_levels_are_the_papers():
    assert LEVELS[0] == pytest.approx(10) and LEVELS[7] == pytest.approx(0.05) and LEVELS[8] == 0
    assert karras_levels(3, 1.0, 128.0)[1] == pytest.approx(1.5**7)


def test_losses_by_hand():
    prompt, bias = torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]]), torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]]])
    assert losses.l2(prompt, bias).tolist() == [5.0, 0.0]
    assert losses.l1(prompt, bias).tolist() == [2.0, 0.0]
    weight = torch.tensor([1.0, 3.0])
    assert explained(prompt, bias, weight).item() == pytest.approx(1 - 10 / 40)


def test_contrastive_by_hand_and_lowest_at_the_mean_bias(monkeypatch):
    monkeypatch.setattr(losses, "GROUP", 2)
    bias = torch.tensor([[[0.0]], [[2.0]]])  # their squared distance 4 is the unit
    found = losses.contrastive(torch.tensor([[[1.0]], [[3.0]]]), bias)
    # nearer than 0 is: by -1 and 3, over 4; by -9 and 3, over 4
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(1)), math.log(1 + math.exp(-3))])
    monkeypatch.setattr(losses, "GROUP", 16)
    mean = 0.3 * torch.randn(20_000, 2, 4)
    bias = mean + torch.randn(mean.shape)
    sizes = (0.0, 0.8, 1.1, 1.4, 2.0)
    assert min(sizes, key=lambda size: losses.contrastive(size * mean, bias).mean()) == 1.1


def test_the_weight_is_the_signal_to_noise_ratio_up_to_its_cap():
    sigma = torch.tensor([0.1, 0.5, 2.0])
    assert losses.snr_weight(sigma, "ve", 5.0).tolist() == pytest.approx([5.0, 4.0, 0.25])
    assert losses.snr_weight(sigma[:2], "flow", math.inf).tolist() == pytest.approx([81.0, 1.0])


@pytest.mark.parametrize(("loss", "power"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("space", ["ve", "flow"])
def test_the_loss_is_the_papers_weight_on_its_own_bias(space, loss, power):
    """Equations 11 and 12: SNR(sigma')·d(v, Phi), with v and Phi in the units of the state."""
    rng, sigma, cap = torch.Generator().manual_seed(1), torch.tensor([0.05, 0.4, 0.9]), 5.0
    sigma = sigma if space == "flow" else torch.tensor([0.05, 2.0, 20.0])
    phi, prompt = torch.randn((2, 3, 2, 4, 4), generator=rng)
    alpha = 1 - sigma if space == "flow" else torch.ones(3)
    wanted = (alpha / sigma).square().clamp(max=cap) * (prompt - phi).abs().pow(power).mean((1, 2, 3))
    scale = torch.ones(3) if space == "flow" else (sigma**2 + 0.5**2).sqrt()
    scaled = [x / scale.view(-1, 1, 1, 1) for x in (prompt, phi)]
    weight = losses.prompt_weight(sigma, space, cap, 0.5, losses.DEGREES[loss])
    torch.testing.assert_close(weight * losses.LOSSES[loss](*scaled), wanted)


def test_high_noise_counts_as_in_the_paper():
    sigma = torch.tensor([0.1, 10.0])
    found = losses.prompt_weight(sigma, "ve", 5.0, 0.5)
    assert found.tolist() == pytest.approx([5 * (0.01 + 0.25), 0.01 * (100 + 0.25)])
    assert torch.equal(
        losses.prompt_weight(sigma, "ve", 5.0, 0.5, weight="vp"), losses.snr_weight(sigma, "ve", 5.0)
    )


def test_a_training_steps_loss_has_that_weight():
    """Of an untrained network, whose prompt is 0: the weighted bias itself."""
    base = base_of()
    loss = PromptLoss(PromptNetwork(TINY), base, AntiBiasRecipe(batch=256))
    x0, _ = base.draw(256, rng := torch.Generator().manual_seed(4))
    noise = torch.randn(x0.shape, generator=rng)
    sigma, sigma_next = loss.pairs.draw(256, rng)
    _, bias = simulate(base, x0, None, noise, sigma, sigma_next)
    wanted = losses.prompt_weight(sigma_next, "ve", 5.0) * bias.square().mean((1, 2, 3))
    found = loss(torch.Generator().manual_seed(4), 4)["loss"]
    torch.testing.assert_close(found, wanted.mean())


@pytest.mark.parametrize("levels", [3, 40])
def test_bands_are_the_levels_or_equal_shares_of_them(levels):
    pairs = StepPairs.of([karras_levels(levels + 2, 0.05, 10.0), karras_levels(levels + 2, 0.05, 10.0)])
    bands = pairs.bands(8)
    assert len(bands) == min(levels + 1, 8)
    assert torch.equal(torch.cat([b.sigma_next for b in bands]), pairs.sigma_next)
    assert all(a.sigma_range[1] < b.sigma_range[0] for a, b in zip(bands, bands[1:], strict=False))
    shares = [float(band.share[-1]) for band in bands]
    assert sum(shares) == pytest.approx(1) and max(shares) < 1.5 * min(shares)
    sigma, sigma_next = bands[1].draw(64, torch.Generator().manual_seed(0))
    assert sigma_next.min() >= bands[1].sigma_range[0] and sigma_next.max() <= bands[1].sigma_range[1]


def test_gains_by_hand():
    own = torch.full((16,), 2.0)
    assert fitted_gain(torch.full((16,), 1.0), own) == 0.5
    assert fitted_gain(torch.full((16,), 3.0), own) == 1.0
    assert fitted_gain(torch.full((16,), -1.0), own) == 0.0
    chance = torch.tensor([1.0, -0.8] * 8)  # its mean of .1 has an error of .23
    assert fitted_gain(chance, own) == 0.0
    assert fitted_gain(torch.zeros(16), torch.zeros(16)) == 0.0


class Known(nn.Module):
    """Answers along the planted error of `high`, at all levels, and much too strongly."""

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.size * 0.1 * x


def test_levels_with_nothing_to_learn_get_no_correction_and_the_others_their_gain(caplog):
    """The error is there from sigma 2 up, so steps that leave from there have it; none is below."""

    def high(x, sigma, _):
        return exact(x, sigma) - (sigma > 2).float().view(-1, 1, 1, 1) * 0.1 * x / (
            1 + sigma.view(-1, 1, 1, 1)
        )

    exact = gaussian_denoiser(0.3, STD, "ve")
    base = replace(base_of(), denoise=high)
    caplog.set_level("INFO", logger="steadydiff")
    bands = measure_bands(Known(), base, AntiBiasRecipe(), seed=1)
    assert [band.sigma for band in bands][0] == pytest.approx(LEVELS[7])
    assert all(low.sigma < high.sigma for low, high in zip(bands, bands[1:], strict=False))
    learnable = [above > 2 for above in LEVELS[6::-1]]
    gains = [band.gain for band in bands]
    assert [gain > 0 for gain in gains] == learnable and True in learnable and False in learnable
    assert caplog.text.count("explained") == len(bands) and "explains nothing" not in caplog.text


@pytest.mark.parametrize(("count", "held"), [(8, 2), (9, 2), (100, 12), (49_152, 1024)])
def test_samples_are_held_out_evenly_and_in_pairs(count, held):
    trained, kept = split_off(count)
    assert len(kept) == held and sorted([*trained.tolist(), *kept.tolist()]) == list(range(count))
    assert torch.equal(kept[1::2], kept[::2] + 1) and not (kept[::2] % 2).any()
    gaps = kept[::2].diff(prepend=torch.tensor([-2]))
    assert gaps.max() - gaps.min() <= 2


def test_what_is_explained_is_measured_on_samples_held_out():
    base, called = base_of(bias=lambda d: 0.9 * d), []
    draw = base.draw

    def kept(rows, rng):
        called.append(rows)
        return draw(len(rows), rng)

    batches = []
    base = replace(base, held_out=(40, kept), draw=None)
    measure_bands(Known(), base, AntiBiasRecipe(batch=16), 1, lambda: batches.append(1))
    assert len(batches) == len(called)
    per_band = len(called) // 7
    assert all(
        sorted(torch.cat(called[i : i + per_band]).tolist()) == list(range(40))
        for i in range(0, len(called), per_band)
    )


@pytest.mark.slow
def test_a_network_that_explains_nothing_says_so(caplog):
    bands = measure_bands(PromptNetwork(TINY), base_of(), AntiBiasRecipe(), seed=1)
    assert {(band.gain, band.explained) for band in bands} == {(0.0, 0.0)}
    assert "explains nothing of the model's bias" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "psi"},
        {"loss": "l3"},
        {"weight": "vq"},
        {"snr_cap": 0.0},
        {"batch": 24, "loss": "contrastive"},
        {"batch": 0},
    ],
    ids=str,
)
def test_recipes_without_sense_are_refused(wrong):
    with pytest.raises(SettingsError):
        AntiBiasRecipe(**wrong)


def simulated(base, n=16_000):
    rng = torch.Generator().manual_seed(3)
    x0, _ = base.draw(n, rng)
    sigma, sigma_next = StepPairs.of(base.schedules).draw(n, rng)
    noise = torch.randn(x0.shape, generator=rng)
    return (
        *simulate(base, x0, None, noise, sigma, sigma_next),
        losses.snr_weight(sigma_next, base.space, 5.0),
    )


@pytest.mark.parametrize("space", ["ve", "flow"])
def test_an_exact_denoiser_leaves_nothing_to_learn(space):
    """At each level the bias has mean 0 whatever the state: neither shift nor slope of it can be told."""
    for planted, holds in ((lambda d: d, True), (lambda d: 0.9 * d, False)):
        seen, bias, _ = simulated(base_of(space, planted, size=(2,)))
        slopes = []
        for s, b in zip(seen.chunk(8), bias.chunk(8), strict=True):  # draws are ordered by level
            centred = s - s.mean()
            error = b.std() / len(b) ** 0.5
            slopes += [b.mean().abs() / error, (b * centred).mean().abs() / (error * centred.std())]
        assert bool(max(slopes) < 5) is holds


@pytest.mark.slow
@pytest.mark.parametrize(("space", "target"), [("ve", "residual"), ("flow", "phi")])
def test_a_planted_bias_is_found_and_sampling_gets_nearer_the_data(space, target, tmp_path):
    """Scaled and shifted: most of what any function of the state could explain, and most of the distance."""
    base = base_of(space, lambda denoised: 0.9 * denoised - 0.1)
    network, recipe = Affine(), AntiBiasRecipe(target, batch=64)
    plan = replace(PLAN, steps=80, lr=0.03, warmup=1, ema=0.9)
    trained = fit(network, PromptLoss(network, base, recipe), plan, tmp_path / "state.safetensors")
    trained.requires_grad_(False)

    run = Run(space, base.schedules[0])
    model = PromptModel(trained, target, space)
    plain, corrected = (distance(base, AntiBiasPrompt(model, strength), run) for strength in (0.0, 1.0))
    assert corrected < 0.4 * plain


def distance(base, method, run):
    """Fréchet distance, exact for Gaussians: between samples and N(0.3, STD²), per element."""
    start = torch.randn((1000, 2), generator=torch.Generator().manual_seed(5)) * run.sigmas[0]
    denoise = method.wrap(lambda x, sigma: base.denoise(x, sigma, None), run)
    found = sample_euler(denoise, start, run.sigmas)
    return ((found.mean() - 0.3) ** 2 + (found.std() - STD) ** 2).item()


TINY = PromptConfig(2, 4, (1,), 1, ())


def trained(path, steps, recipe=None):
    torch.manual_seed(0)
    plan = replace(PLAN, steps=steps)
    return train_prompt(PromptNetwork(TINY), base_of(), recipe or AntiBiasRecipe(batch=2), plan, path)


@pytest.mark.slow
def test_resumed_training_equals_unbroken_training_to_the_bit(tmp_path):
    whole = trained(tmp_path / "whole.safetensors", 4).state_dict()
    trained(tmp_path / "broken.safetensors", 2)
    again = trained(tmp_path / "broken.safetensors", 4).state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert any(value.any() for name, value in whole.items() if name.startswith("out."))


def test_a_state_of_other_settings_is_refused_and_kept(tmp_path):
    path = tmp_path / "state.safetensors"
    trained(path, 1)
    kept = path.read_bytes()
    with pytest.raises(SettingsError, match="state of a training with other settings"):
        trained(path, 2, AntiBiasRecipe(batch=3))
    assert path.read_bytes() == kept


@pytest.mark.parametrize(
    ("changed", "network", "steps", "sentence"),
    [
        ({"batch": 3}, TINY, (8, 10), "(batch_size was 2, now 3)"),
        ({"loss": "l1", "snr_cap": 2.0}, TINY, (8, 10), "(loss was l2, now l1; snr_cap was 5.0, now 2.0)"),
        ({"weight": "vp"}, TINY, (8, 10), "(weight was ve, now vp)"),
        ({}, replace(TINY, channels=8), (8, 10), "(channels was 4, now 8)"),
        ({}, TINY, (8, 9, 10), "(steps sampled with was 8, 10, now 8-10)"),
    ],
    ids=str,
)
def test_the_refusal_of_a_state_says_which_settings_differ(tmp_path, changed, network, steps, sentence):
    def train(recipe, config, steps):
        base = replace(base_of(), schedules=tuple(karras_levels(n, 0.1, 10.0) for n in steps))
        train_prompt(PromptNetwork(config), base, recipe, replace(PLAN, steps=1), tmp_path / "a.safetensors")

    train(AntiBiasRecipe(batch=2), TINY, (8, 10))
    with pytest.raises(SettingsError) as told:
        train(replace(AntiBiasRecipe(batch=2), **changed), network, steps)
    assert sentence in str(told.value)
