"""The second output and low-rank additions: nothing changes at first, and files hold what was trained."""

import copy

import pytest
import torch
from torch import nn

from steadydiff.networks.lora import Lora
from steadydiff.networks.xi_head import TwoHeads, XiHead, apply_head, capture, last_layer, to_latent
from steadydiff.tinyworld.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=32, channel_mult=(1, 1), context=8)
INPUTS = torch.randn(2, 4, 4, 6), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 8)


@pytest.fixture
def network():
    unet = UNet(SMALL)
    for weight in unet.parameters():  # its last layers begin at zero
        nn.init.normal_(weight, std=0.1)
    return unet


@pytest.mark.slow
def test_an_untrained_head_and_untrained_additions_change_no_bit(network):
    plain = network(*INPUTS)
    for rank in (0, 4):
        model = TwoHeads(network, rank=rank)
        with model.attached():
            prediction, xi = model(*INPUTS)
        assert torch.equal(prediction, plain) and xi.shape == plain.shape and not xi.any()
    assert TwoHeads(network, xi=False)(*INPUTS)[1] is None


@pytest.mark.slow
def test_the_head_reads_what_the_last_layer_reads(network):
    """With the last layer's own weights it gives the last layer's answer."""
    model = TwoHeads(network)
    model.xi.load_state_dict(network.out[2].state_dict())
    prediction, xi = model(*INPUTS)
    torch.testing.assert_close(xi, prediction)
    with capture(network.out[2]) as recorded:
        network(*INPUTS)
    torch.testing.assert_close(
        apply_head(recorded[0].half(), model.xi.weight, model.xi.bias), prediction, atol=0.02, rtol=0
    )
    assert not network.out[2]._forward_pre_hooks


def test_what_is_registered_is_what_is_trained(network):
    names = {name.partition(".")[0] for name, _ in TwoHeads(network).named_parameters()}
    assert names == {"base", "xi"}
    model = TwoHeads(network, rank=4)
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"lora", "xi"}
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.slow
def test_a_copy_has_its_own_additions_and_the_same_network(network):
    model = TwoHeads(network, rank=4)
    twin = copy.deepcopy(model)
    assert twin.network is network and twin.lora is not model.lora
    assert copy.deepcopy(TwoHeads(network)).network is not network


@pytest.mark.slow
def test_additions_are_what_a_lora_file_says_and_end_with_their_context(network):
    model = TwoHeads(network, xi=False, rank=3)
    for weight in model.lora.parameters():
        nn.init.normal_(weight, std=0.1)
    plain = network(*INPUTS)
    with model.attached():
        changed = model(*INPUTS)[0]
    assert not torch.allclose(changed, plain) and torch.equal(network(*INPUTS), plain)
    stored = model.lora.tensors()
    by_hand = copy.deepcopy(network)
    for name in model.lora.names:
        key = "lora_unet_" + name.replace(".", "_")
        down, up = (stored[f"{key}.lora_{part}.weight"] for part in ("down", "up"))
        assert stored[f"{key}.alpha"] == len(down)
        weight = by_hand.get_submodule(name).weight
        weight.data += (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    torch.testing.assert_close(by_hand(*INPUTS), changed, atol=1e-4, rtol=1e-4)


def test_every_layer_with_weights_is_added_to(network):
    found = set(Lora(network, 2).names)
    layers = {name for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    assert found == layers and {"out.2", "input_blocks.2.0.op"} <= found


@pytest.mark.slow  # torch imports its compiler for it
def test_gradient_checkpoints_change_no_gradient(network):
    def gradients():
        model = TwoHeads(network, rank=2)
        torch.manual_seed(0)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.1)
        with model.attached():
            prediction, xi = model(*INPUTS)
            (prediction.square().mean() + xi.square().mean()).backward()
        return [weight.grad for weight in model.parameters()]

    plain = gradients()
    network.checkpointing = True
    for a, b in zip(plain, gradients(), strict=True):
        assert a.any() and torch.equal(a, b)


def test_networks_of_another_kind_have_no_last_layer_we_know():
    assert last_layer(nn.Sequential(nn.Linear(2, 2))) is None
    other = nn.Module()
    other.out = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Linear(3, 3)])
    assert last_layer(other) is None
    assert XiHead(nn.Conv2d(6, 4, 3)).weight.shape == (4, 6, 3, 3)


class Flux(nn.Module):
    """Known by its name; patches of 2 x 2 with channels first."""

    patch_size = 2

    def __init__(self):
        super().__init__()
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(6, 12)


def test_a_heads_tokens_become_a_latent_of_the_pictures_size():
    network, latent = Flux(), torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = latent.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 12)
    more = torch.cat([tokens, torch.ones(2, 3, 12)], 1)  # a reference picture's
    assert torch.equal(to_latent(network, more, (4, 6)), latent)
    assert torch.equal(to_latent(network, more, (3, 5)), latent[:, :, :3, :5])
    assert torch.equal(to_latent(network, latent, (4, 6)), latent)  # of a UNet
    assert last_layer(network) is network.final_layer.linear
    assert last_layer(type("Lumina", (Flux,), {})()) is None
    assert XiHead(network.final_layer.linear).weight.shape == (12, 6)


def test_what_is_trained_beside_a_network_in_half_precision_is_in_single(network):
    model = TwoHeads(network.half(), rank=2)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    whole = TwoHeads(network)
    assert all(weight.requires_grad for weight in whole.parameters())
