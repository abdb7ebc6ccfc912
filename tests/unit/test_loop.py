"""The training loop: resumable to the bit, and nothing lost when it is interrupted."""

import json

import pytest
import torch
from torch import nn

from steadydiff.training import loop


class _Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))


def _fit(path, steps: int) -> nn.Module:
    model = _Line()

    def loss(rng, seed):
        return (model.weight * torch.randn(2, generator=rng) + seed % 3).square().sum()

    return loop.fit(model, loss, loop.Plan(steps=steps, warmup=2, save_every=100), path)


def test_a_resumed_training_equals_an_unbroken_one_to_the_bit(tmp_path):
    whole = _fit(tmp_path / "whole.safetensors", 8)
    _fit(tmp_path / "broken.safetensors", 3)
    assert torch.equal(_fit(tmp_path / "broken.safetensors", 8).weight, whole.weight)
    assert torch.equal(loop.average(tmp_path / "broken.safetensors")["weight"], whole.weight)
    losses = loop.losses(tmp_path / "broken.safetensors")
    assert losses == loop.losses(tmp_path / "whole.safetensors") and len(losses) == 8


def test_an_interrupted_training_saves_where_it_stands(tmp_path):
    model = _Line()

    def loss(rng, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return model.weight.square().sum()

    path = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.fit(model, loss, loop.Plan(steps=9), path)
    assert torch.equal(loop._part(loop.load_file(path), "model.")["weight"], model.weight)


def test_figures_beside_the_loss_are_averaged_and_written_down(tmp_path):
    model, path = _Line(), tmp_path / "noted.safetensors"

    def loss(rng, seed):
        return {"loss": model.weight.square().sum(), "seed": torch.tensor(float(seed))}

    loop.fit(model, loss, loop.Plan(steps=3), path)
    [line] = path.with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 1.0 and json.loads(line)["step"] == 3


def test_the_average_follows_quickly_at_first_and_then_at_its_own_pace():
    model, average = _Line(), _Line()
    model.weight.data.fill_(1.0)
    average.weight.data.zero_()
    loop._follow(average, model, 0.75)
    assert average.weight.tolist() == [0.25, 0.25]


def test_the_average_of_a_model_has_its_batch_statistics(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))

    def loss(rng, seed):
        return model(torch.randn(8, 2, generator=rng) + 3).square().mean()

    average = loop.fit(model, loss, loop.Plan(steps=5), tmp_path / "state.safetensors")
    assert torch.equal(average[0].running_mean, model[0].running_mean) and average[0].running_mean.min() > 0.5
