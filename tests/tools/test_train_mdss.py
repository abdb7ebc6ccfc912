"""`run.py train mdss`: from a command line to a file, and what it says of a wrong one."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from steadydiff.files.mdss import load_head
from steadydiff.tinyworld import files
from tools.train.mdss import main


@pytest.fixture
def work(tmp_path):
    """A folder with a few cached latents, so that none need be encoded."""
    latents, tokens = torch.randn(16, 4, 8, 8).half(), torch.ones(16, 4, 24, dtype=torch.uint8)
    save_file({"latents": latents, "tokens": tokens}, tmp_path / "latents.safetensors")
    return tmp_path


def run(work, *more, base="tinyworld:epsilon"):
    out = str(work / "out" / "made.safetensors")
    return main(["--base", base, "--out", out, "--work", str(work), "--steps", "1", "--batch", "2", *more])


@pytest.mark.slow
def test_a_command_line_becomes_a_checkpoint_with_a_head(work):
    assert run(work, "--variant", "ddim", "--k", "3") == 0
    head, card = load_head(work / "out" / "made.safetensors")
    stored, own = load_file(work / "out" / "made.safetensors"), files.tensors("epsilon")
    assert {name for name in stored if not name.startswith("steadydiff.")} == set(own)
    assert head.weight.shape == own[f"{files.UNET_PREFIX}out.2.weight"].shape
    assert (card.form, card.space, card.variant, card.k, card.family) == (
        "checkpoint",
        "ve",
        "ddim",
        3,
        "TinyWorldEpsilon",
    )
    assert 0 < card.sigma_range[0] < card.sigma_range[1] < 14.6
    assert card.training["command"].startswith("run.py train mdss --base tinyworld:")


@pytest.mark.slow
def test_or_a_lora_without_one(work):
    assert run(work, "--lora", "4", "--no-xi", base="tinyworld:flow") == 0
    head, card = load_head(work / "out" / "made.safetensors")
    assert head is None and (card.form, card.space, card.variant) == ("lora", "flow", "flow")
    assert all(name.startswith("lora_unet_") for name in load_file(work / "out" / "made.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "folder"], "draws its own pictures; leave --images out, or name a checkpoint"),
        (["--captions", "folder"], "leave --captions out"),
        (["--base", "sd15.safetensors"], "or a checkpoint together with --images; got 'sd15"),
        (["--variant", "flow"], "tinyworld:epsilon takes the variant posterior or ddim; got flow"),
        (["--k", "999"], "k is at most 998; got 999"),
        (["--lora", "-1"], "--lora is a rank"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_said_in_a_sentence(arguments, sentence, work, capsys):
    assert run(work, *arguments) == 1
    assert sentence in capsys.readouterr().err
    assert not (work / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(work, capsys):
    (work / "out").write_text("")
    assert run(work) == 1
    assert "made.safetensors cannot be written to" in capsys.readouterr().err
    assert not (work / "epsilon-made.safetensors").exists()
