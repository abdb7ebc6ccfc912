"""`run.py train antibias`: from a command line to a file, and what it says of a wrong one."""

import pytest
import torch
from safetensors.torch import save_file

from steadydiff.files.antibias import load_prompt
from tools.train.antibias import main

SMALL = ["--steps", "1", "--batch", "2", "--channels", "4", "--mult", "1", "--blocks", "1"]


@pytest.fixture
def work(tmp_path):
    """A folder with a few cached latents, so that none need be encoded."""
    latents, tokens = torch.randn(16, 4, 8, 8).half(), torch.ones(16, 4, 24, dtype=torch.uint8)
    save_file({"latents": latents, "tokens": tokens}, tmp_path / "latents.safetensors")
    return tmp_path


def run(work, *more, base="tinyworld:epsilon"):
    return main(
        ["--base", base, "--out", str(work / "out" / "made.safetensors"), "--work", str(work), *SMALL, *more]
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["epsilon", "flow"])
def test_a_command_line_becomes_a_file_that_says_what_it_is(variant, work):
    assert run(work, "--sample-steps", "4,6", base=f"tinyworld:{variant}") == 0
    network, card = load_prompt(work / "out" / "made.safetensors")
    assert network.config.channels == 4
    assert (card.space, card.base) == ("ve" if variant == "epsilon" else "flow", f"tinyworld:{variant}")
    assert card.training["command"].startswith("run.py train antibias --base tinyworld:")
    assert 0 < card.sigma_range[0] < card.sigma_range[1]
    assert card.bands[0].sigma == pytest.approx(card.sigma_range[0]) and len(card.bands) > 1
    assert card.training["accumulate"] == 1 and card.training["recipe"]["weight"] == "ve"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "folder"], "draws its own pictures; leave --images out, or name a checkpoint"),
        (["--captions", "folder"], "leave --captions out"),
        (["--base", "sd15.safetensors"], "or a checkpoint together with --images; got 'sd15"),
        (["--sample-steps", "many"], "numbers are written like 8-50 or 10,20; got 'many'"),
        (["--sample-steps", "1"], "no schedule has two steps"),
        (["--weight", "vq"], "weight is one of ve, vp; got 'vq'"),
        (["--accumulate", "0"], "warmup and accumulate are 1 or more"),
        (["--flip"], "say left and right; leave --flip out"),
        (["--loss", "l3"], "loss is one of l2, l1, contrastive; got 'l3'"),
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
