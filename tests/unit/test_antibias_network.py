"""The anti-bias prompt network: the paper's sizes, any latents; an untrained one corrects nothing."""

import pytest
import torch
from torch import nn

from steadydiff.errors import SettingsError, ShapeError
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, _double, _halve, attention_at

TINY = PromptConfig(4, 4, (1, 2, 1), 1, (2,))


@pytest.fixture
def network():
    """A tiny network in which every weight counts."""
    made = PromptNetwork(TINY).double()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return made.requires_grad_(False)


@pytest.mark.parametrize(
    ("channels", "size", "millions"), [(32, 32, 3.25), (32, 64, 3.25), (64, 256, 12.61), (16, 32, 0.82)]
)
def test_parameter_counts_are_the_papers(channels, size, millions):
    """Its 3.2, 12.7 and 0.8 million, for pictures of three channels; methods.md 2.1 has the third digit."""
    with torch.device("meta"):
        network = PromptNetwork(PromptConfig(3, channels, attention_levels=attention_at(size, 3)))
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 2) == millions


def test_any_latents_keep_their_shape(network, shapes):
    for shape in (*((2, 4, *s[2:]) for s in shapes), (1, 4, 1, 1), (1, 4, 8, 8)):
        x = torch.randn(shape, dtype=torch.float64)
        assert network(x).shape == x.shape and not torch.equal(network(x), x)


def test_padding_touches_nothing_that_fits(network):
    x = torch.randn(1, 4, 8, 4, dtype=torch.float64)
    assert torch.equal(network(x), network._predict(x))
    edge = torch.cat([x, x[..., -1:], x[..., -1:]], -1)
    assert torch.equal(network(edge), network(torch.cat([edge, x[..., -1:]], -1))[..., :6])


def test_frames_and_samples_are_taken_one_by_one(network):
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    found = network(x)
    for i in range(2):
        for frame in range(3):
            torch.testing.assert_close(found[i : i + 1, :, frame], network(x[i : i + 1, :, frame]))


def test_an_untrained_network_corrects_nothing_and_still_learns():
    network = PromptNetwork(TINY)
    found = network(torch.randn(2, 4, 8, 8))
    assert not found.any()
    found.sum().backward()
    assert network.out.weight.grad.abs().sum() > 0


def test_the_filter_is_1331_and_keeps_what_is_constant():
    line = torch.arange(8.0).expand(1, 2, 8, 8)
    assert _halve(line)[0, 0, 1].tolist()[1:3] == [2.5, 4.5]
    spike = torch.zeros(1, 1, 8, 8)
    spike[..., 4, 4] = 8
    assert _halve(spike)[0, 0, 2].tolist() == [0, 3 / 8, 9 / 8, 0]
    assert _double(torch.ones(1, 2, 6, 6))[..., 2:-2, 2:-2].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 0}, {"channel_mult": ()}, {"blocks": 2.5}, {"attention_levels": (3,)}, {"channels": 10**9}],
    ids=str,
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(SettingsError):
        PromptConfig(**wrong)


def test_other_latents_are_refused(network):
    with pytest.raises(ShapeError, match=r"of 4 channels; got \(1, 16, 8, 8\)"):
        network(torch.zeros(1, 16, 8, 8))
