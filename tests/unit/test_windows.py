"""What Windows refuses, where it can be seen here: a file that is mapped into memory can be neither replaced
nor removed (os error 1224), a console knows 256 letters, and a path is short."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from steadydiff.drift.saved_fit import Unfinished, file_name
from steadydiff.errors import SteadyDiffError
from steadydiff.files.antibias import AntiBiasCard, load_prompt, save_prompt
from steadydiff.files.atomic import check_writable
from steadydiff.files.checkpoints import load_checkpoint, save_checkpoint
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.schedules import MadeFor
from steadydiff.training import loop

ROOT = Path(__file__).resolve().parents[2]
MAPS = Path("/proc/self/maps")
mapping = pytest.mark.skipif(not MAPS.exists(), reason="this system does not say what is mapped")


@pytest.fixture
def windows(monkeypatch):
    """Refuse to replace or remove a file that is mapped."""

    def refusing(own, place):
        def checked(*given, **more):
            path = Path(given[place]).absolute()
            if f" {path}\n" in MAPS.read_text(encoding="utf-8"):
                raise PermissionError(13, "a file with a user-mapped section is open (os error 1224)")
            return own(*given, **more)

        return checked

    monkeypatch.setattr(os, "replace", refusing(os.replace, 1))
    monkeypatch.setattr(Path, "unlink", refusing(Path.unlink, 0))


@mapping
def test_what_is_read_from_a_file_does_not_keep_it(tmp_path, windows):
    path = tmp_path / "a.safetensors"
    for _ in range(2):  # the second time over what is still held
        save_checkpoint(path, {"a": torch.ones(4000)}, kind="k", version=1)
        held = load_checkpoint(path, kind="k", version=1)[0]
    assert held["a"].sum() == 4000


@mapping
def test_a_resumed_training_saves_over_its_own_state(tmp_path, windows):
    state = tmp_path / "state.safetensors"
    for last in (2, 4):
        torch.manual_seed(0)
        model = nn.Linear(60, 60)

        def loss(rng, seed, model=model):
            return model(torch.randn(8, 60, generator=rng)).square().mean()

        loop.fit(model, loss, loop.Plan(steps=4, warmup=1, save_every=1), state, until=last)
    assert loop.steps_of(state) == 4


@mapping
def test_an_unfinished_fit_is_gone_on_with_and_ended(tmp_path, windows):
    path = tmp_path / "fit.safetensors"
    begun = Unfinished(path, "p")
    begun.own, begun.done["plain"] = torch.ones(8, 4, 8, 8), {"pooled": torch.ones(8, 600)}
    begun.save()
    later = Unfinished(path, "p")
    later.done["c 0.9"] = {"pooled": torch.ones(8, 600)}
    later.save()
    later.end()
    assert not path.exists()


@mapping
def test_a_network_is_trained_again_under_the_name_it_was_loaded_from(tmp_path, windows):
    path, card = tmp_path / "net.safetensors", AntiBiasCard(target="residual", space="ve")
    save_prompt(path, PromptNetwork(PromptConfig(4, 4, (1,), 1, ())), card)
    network, card = load_prompt(path)
    save_prompt(path, network, card)


def test_the_name_of_a_fit_is_short_however_long_the_models_is():
    made_for = MadeFor("dpmpp_2m_sde_heun_gpu", "linear_quadratic", 1000, 7.25, 100 * "模型 v1.0, ")
    assert len(file_name(made_for, 64 * "0").encode()) <= 200


def test_a_name_that_is_too_long_gets_a_sentence_before_there_is_anything_to_lose(tmp_path):
    with pytest.raises(SteadyDiffError, match="cannot be written to .* choose another folder"):
        check_writable(tmp_path / f"{300 * 'a'}.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_texts_that_a_console_has_no_letters_for_are_shown_without_them(encoding):
    code = """
import sys, run
def demo(options, rest):
    run.say("λ 长城 café")
def test(options, rest):
    run.python_in_root(sys.executable, ["-c", "print('λ 长城 café')"])
run.demo, run.test = demo, test
run.main([sys.argv[1]])
"""
    for command in ("demo", "test"):
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert done.stdout.decode(encoding).strip() == "λ 长城 café".encode(encoding, "replace").decode(
            encoding
        )


SYSTEM = re.compile(
    r"\bos\.(fork|kill|getuid|geteuid|setsid|killpg|chown|mkfifo)\b|import (fcntl|resource|pwd|termios)\b|"
    r"\bsignal\.(SIGKILL|SIGUSR|SIGALRM|alarm|pause)|[\"'](/tmp|/dev/|/proc/|/etc/)"
)


@pytest.mark.slow
def test_nothing_is_used_that_windows_lacks():
    """Files are opened as UTF-8, whatever the system's own encoding is."""
    found, opened = [], 0
    for file in subprocess.run(
        ["git", "ls-files", "*.py", ":!tests"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        text = (ROOT / file).read_text(encoding="utf-8")
        found += [f"{file}: {hit[0]}" for hit in SYSTEM.finditer(text)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and opens_text(node):
                opened += 1
                if "utf-8" not in ast.unparse(node):
                    found.append(f"{file}:{node.lineno} opens a text in the system's own encoding")
    assert opened > 20
    assert found == ["tools/launch/environment.py: import fcntl"]  # beside msvcrt's lock


def opens_text(call):
    """Whether it is open(..., "w"), .open("w"), .read_text() or .write_text(...) of a text."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if isinstance(call.func, ast.Attribute) and (
        name == "write_text" or name == "read_text" and not call.args
    ):
        return True
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return name == "open" and any(set(mode) <= set("rwax+") for mode in modes)
