"""`accelerate launch`: several processes train one network, each on its own batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steadydiff.files.antibias import load_prompt
from steadydiff.training import antibias, loop
from steadydiff.training.antibias import PromptLoss
from tools.train import antibias as train_antibias

PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from steadydiff.errors import SettingsError
from steadydiff.training import loop
from steadydiff.training.distributed import team

folder, dies, steps, apart = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
torch.manual_seed(0)
torch.set_num_threads(1)
model, rank = nn.Linear(8, 8), team().rank
def loss(rng, seed):
    return model(torch.randn(4, 8, generator=rng)).square().mean()
def on_step(step, value):
    if rank and step == dies:
        os.kill(os.getpid(), signal.SIGKILL)
state = folder / (str(rank) if apart else "") / "state.safetensors"
try:
    loop.fit(model, loss, loop.Plan(steps=steps, warmup=1, save_every=2), state, on_step=on_step)
    team().leave()
    left = {name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")}  # none but on Linux
    assert "pt_gloo_runloop" not in left, "threads that may abort the process when Python ends"
except SettingsError as error:
    sys.exit(str(error))
"""
ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
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
    done = subprocess.run(
        [*LAUNCH, "-m", "tools.train.antibias", *arguments(works["two"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
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


@pytest.fixture
def launch(tmp_path):
    """Train by PROGRAM in two processes; `apart`: in folders of their own, as on machines that share none."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")

    def run(name, steps, dies=0, *apart):
        (tmp_path / name).mkdir(exist_ok=True)
        given = [str(program), str(tmp_path / name), str(dies), str(steps), *apart]
        return subprocess.run(
            [*LAUNCH, *given],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_team_and_all_go_on_from_its_state(launch, tmp_path):
    assert launch("broken", 9, 6).returncode != 0
    state = tmp_path / "broken" / "state.safetensors"
    assert 4 <= loop.steps_of(state) <= 5
    assert list(state.parent.glob("*.part")) == []
    for name in ("broken", "whole"):
        done = launch(name, 9)
        assert done.returncode == 0, done.stderr
    broken, whole = (load_file(tmp_path / name / state.name) for name in ("broken", "whole"))
    assert all(torch.equal(broken[key], whole[key]) for key in whole) and loop.steps_of(state) == 9


@pytest.mark.slow
def test_machines_of_which_only_one_has_the_state_are_refused(launch, tmp_path):
    assert launch("apart", 4, 0, "apart").returncode == 0
    assert not (tmp_path / "apart" / "1" / "state.safetensors").exists()
    done = launch("apart", 8, 0, "apart")
    assert done.returncode != 0
    assert "begin at different steps (4, 0), as not all of them find state.safetensors" in done.stderr
