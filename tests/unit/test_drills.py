"""Drills: a process that is killed, a disk that is full. Files stay whole, no draft stays, and work goes on.

A child process, forked from this one, kills itself or may write no more at an exact moment.
"""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from steadydiff.arpo.log import load_log, save_log
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO
from steadydiff.errors import SteadyDiffError
from steadydiff.files.atomic import atomic_write, check_writable, write_whole
from steadydiff.files.checkpoints import load_checkpoint, save_checkpoint
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.samplers import gaussian_denoiser
from steadydiff.tinyworld import train as tinyworld
from steadydiff.training import antibias, loop, mdss
from tools.bench.shared.frame import Bench

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="autograd's threads do not outlive a fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12: of threads, here all idle
]


def in_child(work):
    """Run in a forked process; return the signal that ended it, or 0, and the SteadyDiffError it raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
        except SteadyDiffError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, text


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls, function, last):
    """A function that does `last` instead of its call of this number."""
    left = iter(range(calls, 0, -1))
    return lambda *given: last(*given) if next(left) == 1 else function(*given)


def at_save(folder, number, last):
    """Do `last` instead of the move of this number into the folder; libraries move files elsewhere too."""
    move = os.replace
    counted = after(number, move, last)
    os.replace = lambda *given: (counted if Path(given[1]).is_relative_to(folder) else move)(*given)


def torn(draft, path):
    """Die with the draft half written."""
    os.truncate(draft, os.path.getsize(draft) // 2)
    die()


def no_more_room(*_):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # bytes per file; the error is that of a full disk


# --- trainings --------------------------------------------------------------------------------------------

PLAN = loop.Plan(steps=5, warmup=1, save_every=2, lr=0.01)


def draw(n, rng):
    return torch.randn((n, 2, 4, 4), generator=rng), torch.zeros(n, 1)


def train_antibias(folder, plan):
    torch.manual_seed(3)
    network, exact = PromptNetwork(PromptConfig(2, 4, (1,), 1, ())), gaussian_denoiser(0.3, 0.6, "ve")
    levels = (antibias.karras_levels(4, 0.1, 10.0),)
    base = antibias.AntiBiasBase("ve", levels, draw, lambda x, sigma, _: 0.9 * exact(x, sigma))
    state = folder / "state.safetensors"
    antibias.train_prompt(network, base, antibias.AntiBiasRecipe(batch=4, loss="l2"), plan, state)
    return state


class _TwoLayers(nn.Module):
    """The smallest network whose last layer is where a UNet's is."""

    def __init__(self):
        super().__init__()
        self.out = nn.Sequential(nn.Conv2d(2, 2, 1), nn.SiLU(), nn.Conv2d(2, 2, 1))

    def forward(self, x):
        return self.out(x)


def train_mdss(folder, plan):
    torch.manual_seed(3)
    sigmas = torch.logspace(-1, 1, 20, dtype=torch.float64)
    base = mdss.MdssBase("drill", _TwoLayers(), "ve", "eps", sigmas, draw, lambda model, x, at, _: model(x))
    state = folder / "state.safetensors"
    mdss.train_mdss(TwoHeads(base.network), base, mdss.MdssRecipe(k=2, batch=4), plan, state)
    return state


class _Diffusion(nn.Module):
    """In place of the tiny world's own, which takes longer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x, t, tokens):
        return self.layer(x)


def train_tinyworld(folder, plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinyworld, "Diffusion", _Diffusion)
        patch.setattr(tinyworld, "LATENTS", 4)
        patch.setitem(tinyworld.BATCH, "diffusion", 2)
        patch.setitem(tinyworld.PLANS, "epsilon", plan)
        latents = {"latents": torch.ones(4, 4, 8, 8), "tokens": torch.ones(4, 4, 24, dtype=torch.uint8)}
        tinyworld.keep(latents, folder / "latents.safetensors")
        tinyworld.train_diffusion("epsilon", folder)
    return folder / "epsilon.safetensors"


def goes_on(train, folder, steps):
    """Whether `folder` holds a whole state of so many steps, from which training ends as an unbroken one."""
    assert loop.steps_of(next(folder.glob("[es]*.safetensors"))) == steps
    state = train(folder, PLAN)
    (folder / "whole").mkdir()
    whole = loop.average(train(folder / "whole", PLAN))
    assert all(torch.equal(value, whole[name]) for name, value in loop.average(state).items())
    assert len(loop.losses(state)) == PLAN.steps
    return not list(folder.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_antibias, train_mdss, train_tinyworld])
def test_a_training_killed_while_it_saves_goes_on_from_the_save_before(train, tmp_path):
    def killed():
        at_save(tmp_path, 3 if train is train_tinyworld else 2, torn)  # the first: its latents
        train(tmp_path, PLAN)

    assert in_child(killed) == (signal.SIGKILL, "")
    assert list(tmp_path.glob("*.part"))  # half a state, which nobody takes for one
    assert goes_on(train, tmp_path, 2)


@pytest.mark.slow
def test_a_training_killed_between_two_saves_goes_on_from_the_last(tmp_path):
    def killed():
        loop._follow = after(4, loop._follow, die)
        train_mdss(tmp_path, PLAN)

    assert in_child(killed) == (signal.SIGKILL, "")
    assert goes_on(train_mdss, tmp_path, 2)


@pytest.mark.slow
def test_a_full_disk_ends_a_training_with_a_sentence_and_its_last_state(tmp_path):
    def filled():
        follow = loop._follow
        loop._follow = after(3, follow, lambda *given: no_more_room() or follow(*given))
        train_mdss(tmp_path, PLAN)

    ended, said = in_child(filled)
    assert ended == 0 and "cannot be written to" in said and "make room" in said
    assert not list(tmp_path.glob("*.part"))
    assert goes_on(train_mdss, tmp_path, 2)


# --- ARPO -------------------------------------------------------------------------------------------------

WORDS = ("red", "star", "soft")


class _Words:
    """Scores by the words of WORDS; pictures are drawn as one column per word."""

    def picture(self, picture):
        return nn.functional.normalize(picture.mean((0, 2)) + 1e-3, dim=0)

    def texts(self, texts):
        return torch.stack([self.picture(drawn(text)) for text in texts])

    def fits(self, texts):
        return [True] * len(texts)

    def caption(self, reference):
        return Phrases()

    def propose(self, reference, generated, current):
        return Phrases(WORDS)


def drawn(prompt, seed=0):
    columns = torch.tensor([float(word in prompt) for word in WORDS])
    return columns[None, :, None].expand(2, -1, 3)


def search(file, log=None):
    """Search one phrase at a time, keeping the log after every drawing."""
    one = _Words()
    for _ in range(4):
        earlier = load_log(file) if file.exists() else None
        for log in ARPO(9).search(drawn("red star soft"), drawn, one, one, 3, None, earlier):
            save_log(log, file)
    return [step.phrases for step in log.steps]


def test_a_search_killed_while_it_keeps_its_log_goes_on_from_the_iteration_before(tmp_path):
    file = tmp_path / "log.safetensors"

    def killed():
        at_save(tmp_path, 2, torn)
        search(file)

    assert in_child(killed) == (signal.SIGKILL, "")
    assert len(load_log(file).steps) == 1
    assert search(file) == search(tmp_path / "whole.safetensors")
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_ends_a_search_with_a_sentence_and_its_last_log(tmp_path):
    file = tmp_path / "log.safetensors"

    def filled():
        at_save(tmp_path, 1, lambda *given: os.rename(*given) or no_more_room())
        search(file)

    ended, said = in_child(filled)
    assert ended == 0 and said.startswith("log.safetensors cannot be written to")
    assert os.listdir(tmp_path) == ["log.safetensors"] and len(load_log(file).steps) == 1


# --- files of any kind ------------------------------------------------------------------------------------


def write(path, value):
    save_checkpoint(path, {"w": torch.full((50,), value)}, kind="toy", version=1)


def kept(path):
    return load_checkpoint(path, kind="toy", version=1)[0]["w"][0].item()


@pytest.mark.parametrize("end", [torn, no_more_room], ids=["killed", "full"])
def test_a_file_that_was_there_stays_whole(end, tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, 1.0)

    def ended():
        if end is torn:
            at_save(tmp_path, 1, torn)
        else:
            no_more_room()
        write(path, 2.0)

    in_child(ended)
    assert kept(path) == 1.0
    write(path, 3.0)
    assert kept(path) == 3.0 and os.listdir(tmp_path) == ["a.safetensors"]


def test_a_killed_calibration_leaves_the_schedule_before(tmp_path):
    """A WebUI keeps what it calibrated as text; the next one takes the torn draft's place."""
    path = tmp_path / "schedule.json"
    write_whole(path, "{}")

    def killed():
        at_save(tmp_path, 1, torn)
        write_whole(path, "1" * 10_000)

    assert in_child(killed)[0] == signal.SIGKILL
    assert path.read_text() == "{}"
    write_whole(path, "[]")
    assert path.read_text() == "[]" and os.listdir(tmp_path) == ["schedule.json"]


def test_text_on_a_full_disk(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text("{}")

    def filled():
        no_more_room()
        with atomic_write(path) as draft:
            draft.write_text("1" * 10_000)

    ended, said = in_child(filled)
    assert ended == 0 and "schedule.json cannot be written to" in said
    assert path.read_text() == "{}" and os.listdir(tmp_path) == ["schedule.json"]


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SteadyDiffError, match="choose another folder"):
        write(tmp_path / "file" / "a.safetensors", 1.0)


def test_a_bench_killed_in_a_cell_measures_only_what_is_missing(tmp_path, capfd):
    measured = []

    def run(measure):
        bench = Bench("drill", {}, [], tmp_path)
        for key in "abc":
            bench.cell(key, lambda key=key: measure(key))
        return bench.run()

    assert in_child(lambda: run(lambda key: die() if key == "c" else {"value": 1.0})) == (signal.SIGKILL, "")
    run(lambda key: measured.append(key) or {"value": 1.0})
    assert measured == ["c"]


def test_that_a_file_can_be_written_is_known_beforehand_and_leaves_no_trace(tmp_path):
    kept, file = tmp_path / "kept.safetensors", tmp_path / "file"
    kept.write_text("kept")
    file.write_text("")
    check_writable(kept)
    check_writable(tmp_path / "new" / "folder" / "made.safetensors")
    for unwritable in (file / "made.safetensors", file / "new" / "made.safetensors", tmp_path):
        with pytest.raises(SteadyDiffError, match="cannot be written to"):
            check_writable(unwritable)
    assert kept.read_text() == "kept" and sorted(tmp_path.iterdir()) == [file, kept]
