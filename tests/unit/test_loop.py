"""The training loop: resumable to the bit, and nothing lost when it is interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.training import loop


class _Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))


def _fit(path, steps: int) -> nn.Module:
    model = _Line()

    def loss(rng, seed):
        return (model.weight * torch.randn(2, generator=rng) + seed % 3).square().sum()

    return loop.fit(model, loss, loop.Plan(steps=steps, warmup=2, save_every=100), path)


def test_a_resumed_training_equals_an_unbroken_one_to_the_bit(tmp_path):
    whole = _fit(tmp_path / "whole.safetensors", 8)
    _fit(tmp_path / "broken.safetensors", 3)
    assert torch.equal(_fit(tmp_path / "broken.safetensors", 8).weight, whole.weight)
    assert torch.equal(loop.average(tmp_path / "broken.safetensors")["weight"], whole.weight)
    losses = loop.losses(tmp_path / "broken.safetensors")
    assert losses == loop.losses(tmp_path / "whole.safetensors") and len(losses) == 8


def test_batches_of_a_step_count_as_one_of_their_samples(tmp_path):
    """Two batches by the mean of their gradients: the step of one batch that holds both."""
    seeds = []

    def stepped(name, plan, loss):
        model = _Line()
        loop.fit(
            model, lambda rng, seed: loss(model.weight, rng, seed), plan, tmp_path / f"{name}.safetensors"
        )
        return model.weight.detach()

    def one(weight, rng, seed):
        seeds.append(seed)
        return (weight * torch.randn(2, generator=rng)).square().sum()

    parts = stepped("parts", loop.Plan(steps=3, warmup=1, accumulate=2), one)
    assert len(set(seeds)) == 6 and len(loop.losses(tmp_path / "parts.safetensors")) == 3
    drawn = iter(list(zip(seeds[::2], seeds[1::2], strict=True)))

    def both(weight, rng, seed):
        noise = [torch.randn(2, generator=torch.Generator().manual_seed(s)) for s in next(drawn)]
        return sum((weight * n).square().sum() for n in noise) / 2

    torch.testing.assert_close(stepped("whole", loop.Plan(steps=3, warmup=1), both), parts)
    whole, again = (loop.losses(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole == pytest.approx(again)


@pytest.mark.parametrize("wrong", [{"warmup": 0}, {"accumulate": 0}, {"decay": 1.5}, {"ema": 1.0}], ids=str)
def test_plans_without_sense_are_refused(wrong):
    with pytest.raises(SettingsError, match=f"{next(iter(wrong))}"):
        loop.Plan(steps=1, **wrong)


def test_an_interrupted_training_saves_where_it_stands(tmp_path):
    model = _Line()

    def loss(rng, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return model.weight.square().sum()

    path = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.fit(model, loss, loop.Plan(steps=9), path)
    assert torch.equal(loop._part(loop.load_file(path), "model.")["weight"], model.weight)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal it could handle")
def test_a_terminated_training_saves_where_it_stands(tmp_path):
    """In a process of its own, as it is ended by the signal."""
    code = (
        "import os, signal, sys, torch; from pathlib import Path; from torch import nn; "
        "from steadydiff.training import loop; model = nn.Linear(2, 1); "
        "stop = lambda rng, seed: seed == 18 and os.kill(os.getpid(), signal.SIGTERM); "
        "loss = lambda rng, seed: [stop(rng, seed), model(torch.ones(1, 2)).square().sum()][1]; "
        "loop.fit(model, loss, loop.Plan(steps=60), Path(sys.argv[1]))"
    )
    root, state = Path(__file__).resolve().parents[2], tmp_path / "state.safetensors"
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code, str(state)], env=environment, check=False)
    assert done.returncode == 143 and loop.steps_of(state) == 18


def test_a_training_is_saved_by_time_too_and_gives_signals_back(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    before, saved, model = signal.getsignal(signal.SIGTERM), [], _Line()
    monkeypatch.setattr(loop, "_save", lambda state, step, *rest: saved.append(step))
    loop.fit(
        model, lambda rng, seed: model.weight.square().sum(), loop.Plan(steps=3), tmp_path / "s.safetensors"
    )
    assert saved == [1, 2, 3, 3]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_days_training_keeps_the_disk_bounded(tmp_path, monkeypatch):
    """A day at 30 seconds a step; it is saved at least every minute and stopped ten times."""
    clock, state, most = iter(range(0, 10**9, 10)), tmp_path / "state.safetensors", 0
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))

    def watch(step, loss):
        nonlocal most
        assert {file.name for file in tmp_path.iterdir()} <= {state.name, "state.jsonl"}
        most = max(most, sum(file.stat().st_size for file in tmp_path.iterdir()))

    for until in range(288, 2881, 288):
        model = _Line()
        plan = loop.Plan(steps=2880, warmup=1)
        loop.fit(
            model,
            lambda rng, seed, m=model: m.weight.square().sum(),
            plan,
            state,
            0,
            on_step=watch,
            until=until,
        )
    assert loop.steps_of(state) == 2880
    assert most < 2880 * (4 + 2) + 4000  # a loss a step, a line every fifty


def test_files_have_the_modes_that_the_umask_gives(tmp_path):
    (tmp_path / "usual").touch()
    _fit(tmp_path / "state.safetensors", 1)
    modes = {file.stat().st_mode for file in (tmp_path / "usual", tmp_path / "state.safetensors")}
    assert len(modes) == 1


def test_figures_beside_the_loss_are_averaged_and_written_down(tmp_path):
    model, path = _Line(), tmp_path / "noted.safetensors"

    def loss(rng, seed):
        return {"loss": model.weight.square().sum(), "seed": torch.tensor(float(seed))}

    loop.fit(model, loss, loop.Plan(steps=3), path)
    [line] = path.with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 1.0 and json.loads(line)["step"] == 3


def test_the_average_follows_quickly_at_first_and_then_at_its_own_pace():
    model, average = _Line(), _Line()
    model.weight.data.fill_(1.0)
    average.weight.data.zero_()
    loop._follow(average, model, 0.75)
    assert average.weight.tolist() == [0.25, 0.25]


def test_the_average_of_a_model_has_its_batch_statistics(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))

    def loss(rng, seed):
        return model(torch.randn(8, 2, generator=rng) + 3).square().mean()

    average = loop.fit(model, loss, loop.Plan(steps=5), tmp_path / "state.safetensors")
    assert torch.equal(average[0].running_mean, model[0].running_mean) and average[0].running_mean.min() > 0.5


def _identified(path: Path, identity: loop.Identity, model: nn.Module | None = None) -> None:
    trained = model or _Line()

    def loss(rng, seed):
        return torch.cat([weight.flatten() for weight in trained.parameters()]).square().sum()

    loop.fit(trained, loss, loop.Plan(steps=1), path, identity=identity)


def test_the_refusal_of_a_state_says_what_can_be_known(tmp_path):
    """States of earlier versions hold no settings; and what has no name may differ as well."""
    path, named = tmp_path / "state.safetensors", loop.Identity.of("b", {"batch_size": 8})
    for kept, told in (
        (loop.Identity("a"), "what it was begun with is not kept in it"),
        (loop.Identity.of("a", {"batch_size": 8}), "in what the model is like"),
        (loop.Identity.of("a", {"k": 4}), "(k was 4; batch_size now 8)"),
    ):
        path.unlink(missing_ok=True)
        _identified(path, kept)
        with pytest.raises(SettingsError, match=re.escape(told)):
            _identified(path, named)
    _identified(path, loop.Identity.of("a", {"renamed": 4}))  # settings are for sentences only


def test_a_state_of_another_network_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "state.safetensors"
    _identified(path, loop.Identity())
    with pytest.raises(SettingsError, match=r"state.safetensors is the state of another network"):
        _identified(path, loop.Identity(), nn.Linear(2, 1))


def test_a_state_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteadyDiffError, match=r"state.safetensors cannot be written to"):
        loop.fit(
            _Line(),
            lambda *_: pytest.fail("a step"),
            loop.Plan(steps=1),
            tmp_path / "file" / "state.safetensors",
        )


@pytest.mark.parametrize("heard", [True, False])
def test_a_diverged_training_ends_and_keeps_its_last_good_state(heard, tmp_path):
    path, plan = tmp_path / "state.safetensors", loop.Plan(steps=100, warmup=2, save_every=5)

    def loss(rng, seed):
        del rng, seed
        told.append(None)
        return model.weight.square().sum() * (float("nan") if len(told) == 8 else 1)

    model, told = _Line(), []
    with pytest.raises(SteadyDiffError, match="the loss is not a number any more"):
        loop.fit(model, loss, plan, path, on_step=(lambda *_: None) if heard else None)
    assert len(told) == (8 if heard else 50)
    kept = loop.average(path)["weight"]
    assert kept.isfinite().all() and loop.steps_of(path) == (7 if heard else 5)
