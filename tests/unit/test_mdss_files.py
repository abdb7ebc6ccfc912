"""MDSS's files: what is written is read, widened checkpoints lose nothing, and bad files get a sentence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steadydiff.errors import CheckpointError, SettingsError
from steadydiff.files.checkpoints import HEADER_KEY
from steadydiff.files.mdss import KIND, VERSION, Head, MdssCard, convert, load_head, save_mdss
from tools.train.convert import main

CARD = MdssCard(
    form="checkpoint",
    space="ve",
    sigma_range=(0.03, 14.0),
    family="SD15",
    latent_format="SD15",
    variant="posterior",
    k=4,
    training={"steps": 3},
    licence="MIT",
)
UNET = "model.diffusion_model."


def checkpoint(rows=4, channels=4):
    return {
        f"{UNET}input_blocks.0.0.weight": torch.randn(8, channels, 3, 3).half(),
        f"{UNET}out.2.weight": torch.randn(rows, 8, 3, 3).half(),
        f"{UNET}out.2.bias": torch.randn(rows).half(),
        "cond_stage_model.some.weight": torch.randint(0, 9, (3,)),
    }


@pytest.fixture
def path(tmp_path):
    head = Head(torch.randn(4, 8, 3, 3).half(), torch.randn(4).half())
    save_mdss(tmp_path / "made.safetensors", checkpoint(), head, CARD)
    return tmp_path / "made.safetensors"


def rewritten(path, change_header=lambda header: header, change=lambda tensors: tensors):
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(json.loads(file.read(size))["__metadata__"][HEADER_KEY])
    save_file(change(load_file(path)), path, {HEADER_KEY: json.dumps(change_header(header))})


def test_what_is_written_is_read_and_the_rest_is_a_plain_checkpoint(path):
    head, card = load_head(path)
    stored = load_file(path)
    assert card == CARD
    assert torch.equal(head.weight, stored["steadydiff.xi.weight"].float())
    assert torch.equal(head.bias, stored["steadydiff.xi.bias"].float())
    plain = {name for name in stored if not name.startswith("steadydiff.")}
    assert plain == set(checkpoint()) and stored[f"{UNET}out.2.weight"].shape[0] == 4


def test_a_file_without_a_head_says_so(tmp_path):
    save_mdss(
        tmp_path / "lora.safetensors", {"lora_unet_x.alpha": torch.ones(())}, None, replace(CARD, form="lora")
    )
    head, card = load_head(tmp_path / "lora.safetensors")
    assert head is None and card.form == "lora"


def test_a_transformers_head_is_a_matrix(tmp_path):
    head, path = Head(torch.randn(64, 8), torch.zeros(64)), tmp_path / "lora.safetensors"
    save_mdss(path, {}, head, replace(CARD, form="lora"))
    assert torch.equal(load_head(path)[0].weight, head.weight)


@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", ""])
def test_a_widened_checkpoint_is_split_without_loss(tmp_path, prefix):
    wide = {name.replace(UNET, prefix): value for name, value in checkpoint(rows=8).items()}
    save_file(wide, tmp_path / "wide.safetensors", {"modelspec.title": "made elsewhere"})
    convert(tmp_path / "wide.safetensors", tmp_path / "a.safetensors", CARD)
    found = load_file(tmp_path / "a.safetensors")
    for part in ("weight", "bias"):
        found[f"{prefix}out.2.{part}"] = torch.cat(
            [found[f"{prefix}out.2.{part}"], found.pop(f"steadydiff.xi.{part}")]
        )
    assert set(found) == set(wide)
    for name, value in found.items():
        assert value.dtype == wide[name].dtype and torch.equal(value, wide[name])
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["modelspec.title"] == "made elsewhere"
    assert load_head(tmp_path / "a.safetensors")[1] == CARD


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (checkpoint(), "gives 4 channels for 4, not 8"),
        (checkpoint(rows=8, channels=8), "gives 8 channels for 8, not 16"),
        (checkpoint(rows=8) | {f"{UNET}out.2.weight": torch.ones(())}, "not a UNet"),
        ({"joint_blocks.0.x": torch.ones(1)}, "not a UNet of the family of SD1.5, SD2 and SDXL"),
        ({**checkpoint(rows=8), "steadydiff.xi.bias": torch.ones(4)}, "second head apart already"),
        ({name: v for name, v in checkpoint(rows=8).items() if "bias" not in name}, "can be split"),
    ],
    ids=range(6),
)
def test_checkpoints_that_cannot_be_split_are_refused(tmp_path, tensors, sentence):
    save_file(tensors, tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        convert(tmp_path / "wide.safetensors", tmp_path / "a.safetensors", CARD)
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"form": "widened"}, "form 'widened'"),
        ({"variant": "heun"}, "variant 'heun'"),
        ({"k": "4"}, "k '4'"),
        ({"space": "vp"}, "got 'vp'"),
        ({"sigma_range": [3, 1]}, "sigma_range"),
        ({"family": {}}, "no text"),
        ({"novelty": 1}, "novelty"),
    ],
    ids=str,
)
def test_headers_of_something_else_are_refused(path, change, sentence):
    rewritten(path, lambda header: header | {"card": header["card"] | change})
    with pytest.raises(CheckpointError, match=f"does not know.*{sentence}"):
        load_head(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": torch.randn(4, 8, 3)}, "unknown shape"),
        ({"weight": torch.randn(4, 8, 2, 2)}, "unknown shape"),
        ({"weight": torch.randn(4, 8, 3, 5)}, "unknown shape"),
        ({"bias": torch.randn(5)}, "unknown shape"),
        ({"bias": torch.tensor([0, 0, 0, torch.nan])}, "not finite numbers"),
        ({"weight": torch.zeros(4, 8, 3, 3, dtype=torch.int8)}, "not finite numbers"),
        ({"gain": torch.ones(1)}, "unknown parts"),
    ],
    ids=range(7),
)
def test_heads_that_are_none_are_refused(path, change, sentence):
    named = {f"steadydiff.xi.{name}": value for name, value in change.items()}
    rewritten(path, change=lambda tensors: tensors | named)
    with pytest.raises(CheckpointError, match=sentence):
        load_head(path)


def test_damaged_and_foreign_files_are_refused(path):
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"PK\x03\x04 a pickle in disguise", b""):
        path.write_bytes(content)
        for read in (load_head, lambda path: convert(path, path.with_name("a.safetensors"), CARD)):
            with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
                read(path)
    path.write_bytes(whole)
    rewritten(path, lambda header: header | {"version": VERSION + 1})
    with pytest.raises(CheckpointError, match=f"'{KIND}' version {VERSION + 1}"):
        load_head(path)
    save_file(checkpoint(), path)
    with pytest.raises(CheckpointError, match="no SteadyDiff header"):
        load_head(path)
    with pytest.raises(CheckpointError, match="is not there"):
        load_head(path.with_name("other.safetensors"))


def test_cards_without_sense_are_refused_when_made():
    for change in ({"k": -2}, {"form": "pickle"}, {"space": "vp"}):
        with pytest.raises(SettingsError):
            replace(CARD, **change)


def test_the_command_converts_and_says_what_is_wrong(tmp_path, capsys):
    save_file(checkpoint(rows=8), tmp_path / "wide.safetensors")
    arguments = ["convert", str(tmp_path / "wide.safetensors"), "--out", str(tmp_path / "a.safetensors")]
    assert main([*arguments, "--family", "SD15"]) == 0
    assert "4 channels, and a second head" in capsys.readouterr().out
    assert load_head(tmp_path / "a.safetensors")[1] == MdssCard(form="checkpoint", space="ve", family="SD15")
    assert main(["convert", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b.safetensors")]) == 1
    assert "second head apart already" in capsys.readouterr().err
