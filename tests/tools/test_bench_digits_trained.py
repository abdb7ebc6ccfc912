"""The trained methods of `run.py bench digits_trained`, on made-up digits and networks."""

from functools import cache

import pytest
import torch

from steadydiff.methods.mdss import MDSS
from tools.bench import digits, digits_trained
from tools.bench.shared import digits_world


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few pictures, untrained networks, three steps."""

    @cache
    def parts():
        rng = torch.Generator().manual_seed(0)
        pictures = torch.rand((64, 1, 8, 8), generator=rng) * 2 - 1
        split = digits_world.Split(pictures, torch.arange(64) % 10)
        return {"training": split, "references": split, "held out": split}

    torch.manual_seed(0)
    networks = digits_world.Network(16, 1), digits_world.Judge()
    monkeypatch.setattr(digits, "parts", parts)
    monkeypatch.setattr(digits, "networks", lambda: networks)
    for name in ("held_out", "floor"):  # they remember what they were first given
        monkeypatch.setattr(digits, name, getattr(digits, name).__wrapped__)
    for name in ("fine_tuned", "prompts"):
        monkeypatch.setattr(digits_trained, name, getattr(digits_trained, name).__wrapped__)
    monkeypatch.setattr(digits, "COUNT", 64)
    monkeypatch.setattr(digits_trained, "STEPS", 3)
    monkeypatch.setattr(digits_trained, "LONG", 4)
    monkeypatch.setattr(digits_trained, "BATCH", 32)
    monkeypatch.setenv("STEADYDIFF_DIGITS_WORK", str(tmp_path))
    return networks[0]


def test_the_network_like_a_unet_is_the_same_function(small):
    x, t, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 3, 9, 10])
    assert torch.allclose(digits_trained.LikeUNet(small)(x, t, label), small(x, t, label), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("label", digits_trained.SETTINGS)
def test_every_setting_is_trained_and_sampled(label):
    figures = digits_trained.cell("ddpm", 3, label, 0)
    assert all(torch.isfinite(torch.tensor(value)) for value in figures.values())


@pytest.mark.slow
def test_a_second_output_is_taken_off_the_state():
    _, (method,) = digits_trained.trained("MDSS k 4", 0, head=True)
    assert isinstance(method, MDSS) and not method.is_off


@pytest.mark.slow
def test_a_measurement_gives_diffier_its_strength():
    assert abs(digits_trained.auto("heun", 0)["strength"]) > 0  # an untrained network's samples vary too much
