"""`accelerate launch`: several processes train one network, each on its own batches."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from steadydiff.files.antibias import load_prompt
from steadydiff.training import antibias, loop
from steadydiff.training.antibias import PromptLoss
from tools.train import antibias as train_antibias

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--steps",
    "3",
    "--batch",
    "4",
    "--channels",
    "4",
    "--mult",
    "1",
    "--blocks",
    "1",
    "--sample-steps",
    "4,6",
]


def arguments(work):
    return [
        "--base",
        "tinyworld:epsilon",
        "--out",
        str(work / "made.safetensors"),
        "--work",
        str(work),
        *SMALL,
    ]


def test_two_processes_train_on_the_mean_of_their_gradients(tmp_path, monkeypatch):
    works = {name: tmp_path / name for name in ("two", "one")}
    latents, tokens = torch.randn(64, 4, 8, 8).half(), torch.ones(64, 4, 24, dtype=torch.uint8)
    for work in works.values():
        work.mkdir()
        save_file({"latents": latents, "tokens": tokens}, work / "latents.safetensors")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, "-m", "tools.train.antibias", *arguments(works["two"])],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote ") == 1

    class Both(PromptLoss):
        def __call__(self, rng, seed):
            seeds = (seed, seed + loop.OF_PROCESS)
            parts = [super(Both, self).__call__(torch.Generator().manual_seed(s), s) for s in seeds]
            return {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}

    monkeypatch.setattr(antibias, "PromptLoss", Both)
    with torch.inference_mode(False):
        assert train_antibias.main(arguments(works["one"])) == 0
    # Of the gradients: the last layer's, as it is 0 at first and hides the others behind rounding errors.
    two, one = (
        load_file(work / "epsilon-made.safetensors")["adam.exp_avg.out.weight"] for work in works.values()
    )
    torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-3)
    assert one.abs().mean() > 1e-4
    assert load_prompt(works["two"] / "made.safetensors")[0].config.channels == 4
