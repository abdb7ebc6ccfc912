"""The file of an anti-bias model: what is written is read, and anything else is refused with a sentence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from steadydiff.errors import CheckpointError
from steadydiff.files.antibias import KIND, VERSION, AntiBiasCard, load_prompt, save_prompt
from steadydiff.files.checkpoints import HEADER_KEY
from steadydiff.methods.antibias_prompt import Band
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork

CARD = AntiBiasCard(
    target="residual",
    space="ve",
    sigma_range=(0.03, 14.0),
    base="a model",
    base_sha256="ab",
    family="SD15",
    latent_format="SD15",
    training={"steps": 3},
    licence="MIT",
)


@pytest.fixture
def path(tmp_path):
    network = PromptNetwork(PromptConfig(4, 4, (1, 1), 1, ()))
    for weight in network.parameters():
        nn.init.normal_(weight)
    save_prompt(tmp_path / "made.safetensors", network, CARD)
    return tmp_path / "made.safetensors"


def header_of(path):
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(json.loads(file.read(size))["__metadata__"][HEADER_KEY])


def with_header(path, header, change=lambda tensors: tensors):
    save_file(change(load_file(path)), path, {HEADER_KEY: json.dumps(header)})


def test_what_is_written_is_read(path):
    network, card = load_prompt(path)
    assert card == CARD and network.config == PromptConfig(4, 4, (1, 1), 1, ())
    stored = load_file(path)
    assert all(torch.equal(value, stored[name].float()) for name, value in network.state_dict().items())
    assert not any(weight.requires_grad for weight in network.parameters())
    assert card.model(network).sigma_range == (0.03, 14.0)


@pytest.mark.slow
def test_bands_are_kept_and_files_without_them_are_as_before(path):
    card = load_prompt(path)[1]
    assert card.bands == card.model(None).bands == ()
    bands = (Band(0.03, 0.0, -0.01), Band(2.0, 0.7, 0.02))
    save_prompt(path, load_prompt(path)[0], replace(CARD, bands=bands))
    assert load_prompt(path)[1].bands == load_prompt(path)[1].model(None).bands == bands
    header = header_of(path)
    del header["card"]["bands"]  # as earlier versions wrote it
    with_header(path, header)
    assert load_prompt(path)[1] == CARD


def test_loading_moves_no_random_numbers(path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_prompt(path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("card", {"target": "psi"}, "target 'psi'"),
        ("card", {"space": "vp"}, "got 'vp'"),
        ("card", {"sigma_range": [1, "x"]}, "does not know"),
        ("card", {"sigma_range": 4}, "does not know"),
        ("card", {"sigma_data": 0}, "does not know"),
        ("card", {"licence": {}}, "does not know"),
        ("card", {"novelty": 1}, "novelty"),
        ("card", {"bands": [{"sigma": 0.1, "gain": 1.5}]}, "gain of 0 to 1"),
        ("card", {"bands": [{"sigma": 0.1, "gain": 1.0, "novelty": 1}]}, "novelty"),
        ("card", {"bands": [{"sigma": 1.0, "gain": 1.0}, {"sigma": 0.1, "gain": 1.0}]}, "not in order"),
        ("card", {"bands": 3}, "does not know"),
        ("card", {"bands": [{"sigma": 0.1, "gain": "x"}]}, "does not know"),
        ("network", {"novelty": 1}, "novelty"),
        ("network", {"channels": 10**9}, "up to 4096 channels"),
        ("network", {"channels": 4096, "blocks": 2}, "its weights are not those"),
        ("network", {"channels": 8}, "its weights are not those"),
        ("network", {"channel_mult": 3}, "does not know"),
    ],
    ids=str,
)
def test_headers_of_something_else_are_refused(path, part, change, sentence):
    header = header_of(path)
    header[part] |= change
    with_header(path, header)
    with pytest.raises(CheckpointError, match=sentence):
        load_prompt(path)


def test_damaged_and_foreign_files_are_refused(path):
    whole, header = path.read_bytes(), header_of(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_prompt(path)
    path.write_bytes(whole)
    with_header(path, header | {"version": VERSION + 1})
    with pytest.raises(CheckpointError, match=f"'{KIND}' version {VERSION + 1}"):
        load_prompt(path)
    save_file(load_file(path), path, {HEADER_KEY: "[" * 100_000})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_prompt(path)
    with_header(path, [header])
    with pytest.raises(CheckpointError, match="no SteadyDiff header"):
        load_prompt(path)
    with pytest.raises(CheckpointError, match="is not there"):
        load_prompt(path.with_name("other.safetensors"))


@pytest.mark.slow
def test_weights_that_are_no_numbers_or_no_network_are_refused(path):
    def spoil(tensors):
        tensors["out.bias"][0] = torch.nan
        return tensors

    header = header_of(path)
    with_header(path, header, lambda tensors: {k: v for k, v in tensors.items() if k != "out.bias"})
    with pytest.raises(CheckpointError, match="its weights are not those"):
        load_prompt(path)
    save_prompt(path, PromptNetwork(PromptConfig(4, 4, (1, 1), 1, ())), CARD)
    with_header(path, header, spoil)
    with pytest.raises(CheckpointError, match="not finite numbers"):
        load_prompt(path)
    save_prompt(path, PromptNetwork(PromptConfig(4, 4, (1, 1), 1, ())), CARD)
    with_header(path, header, lambda tensors: {k: v.to(torch.int32) for k, v in tensors.items()})
    with pytest.raises(CheckpointError, match="not finite numbers"):
        load_prompt(path)
