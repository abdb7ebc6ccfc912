"""One training loop for every network: resumable to the bit on one device, without pickles.

Everything random in a step is drawn from (seed, step, process), so a resumed run repeats what an unbroken
one would have done. Several processes of `accelerate launch` train one network, see `team.py`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..errors import CheckpointError, SettingsError, SteadyDiffError
from ..files.atomic import atomic_write, check_writable
from .distributed import team

log = logging.getLogger("steadydiff")

SAVE_SECONDS = 60.0
OF_PROCESS = 2_654_435_769  # apart in the seeds of batches; torch's generator takes their last 32 bits

Net = TypeVar("Net", bound=nn.Module)
Loss = Callable[[torch.Generator, int], "Tensor | dict[str, Tensor]"]
"""(a batch's random numbers, its seed) -> the scalar to lower, alone or as "loss" among figures."""

OnStep = Callable[[int, float], None]
"""(steps of this run so far, loss), in every step; may raise to cancel, which keeps the state."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    steps: int  #            optimiser steps
    lr: float = 1e-3  #      AdamW's learning rate after the warm-up
    warmup: int = 100  #     steps of linear warm-up
    decay: float = (
        0.0  #    last fraction of the steps over which the rate falls linearly to zero; 0 = constant
    )
    ema: float = (
        0.999  #    decay of the weights' moving average; short runs warm it up as (1 + step) / (10 + step)
    )
    accumulate: int = 1  #   batches of a step, one after the other; the mean of their gradients counts
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    seed: int = 0
    save_every: int = 250  # steps, and SAVE_SECONDS at the latest
    keep_every: int = 0  #   also keep the average of every so many steps beside the state; 0 = none

    def __post_init__(self) -> None:
        if self.warmup < 1 or self.accumulate < 1:
            raise SettingsError(
                f"warmup and accumulate are 1 or more; got {self.warmup} and {self.accumulate}"
            )
        if not (0 <= self.decay <= 1 and 0 <= self.ema < 1):
            raise SettingsError(
                f"decay is of 0 to 1, ema of 0 to below 1; got {self.decay:g} and {self.ema:g}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """What a user chooses of it, and a file says of its training."""
        names = "steps", "lr", "warmup", "decay", "accumulate", "ema", "seed"
        return {name: getattr(self, name) for name in names}

    def rate(self, step: int) -> float:
        tail = self.steps * self.decay
        fall = min(1.0, (self.steps - step) / tail) if tail else 1.0
        return self.lr * min(1.0, (step + 1) / self.warmup) * fall


class Identity(NamedTuple):
    """What is trained, and how: only a state of the same training is gone on with.

    key:      tells trainings apart
    settings: those of them that have a name for the user, to say what differs
    """

    key: str = ""
    settings: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of(cls, whole: object, settings: Mapping[str, object]) -> Identity:
        """whole: with a repr by which trainings can be told apart."""
        key = hashlib.sha256(repr(whole).encode()).hexdigest()
        return cls(key, {name: str(value) for name, value in settings.items()})

    def beside(self, kept: Mapping[str, str]) -> str:
        """What differs from the settings that a state of another key holds."""
        if not kept:
            return "an earlier version began it, and what it was begun with is not kept in it"
        told = []
        for name in {**kept, **self.settings}:
            was, now = (f"was {kept[name]}" if name in kept else ""), self.settings.get(name)
            if kept.get(name) != now:
                told.append(f"{name} {was}{was and ', '}now {now}" if now else f"{name} {was}")
        return "; ".join(told) or "those that have a name are the same; they differ in what the model is like"


def fit(
    model: Net,
    loss: Loss,
    plan: Plan,
    state: Path,
    start: int = 0,
    identity: Identity = Identity(),  # noqa: B008  # cannot be changed
    on_step: OnStep | None = None,
    until: int | None = None,
) -> Net:
    """Train `model` in place up to `plan.steps`, resuming from `state` if it exists; return its average.

    `until` stops at a step before the plan's last, for a later call to go on. Without a state, `start` says
    how many steps the model already has behind it. `identity` tells what is trained: a state of
    something else is refused (SettingsError) and stays as it is.

    Ctrl-C and SIGTERM save and end it. `state` (safetensors) holds weights, average, optimiser, step and
    losses; the log beside it one JSON line per 50 steps. Of several processes each takes a batch of its own,
    the mean of their gradients counts, and the first one saves and reports.
    """
    together, last = team(), min(plan.steps, plan.steps if until is None else until)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay
    )
    if not together.rank:
        check_writable(state)
    state.parent.mkdir(parents=True, exist_ok=True)
    step, past = _load(state, identity, model, average, optimiser) if state.exists() else (start, [])
    if len(set(steps := together.gathered(step))) > 1:
        raise SettingsError(
            f"the processes begin at different steps ({', '.join(map(str, steps))}), as not all of them find "
            f"{state.name}; use a folder that all machines share, or copy the file to the same place on each"
        )
    begun = step
    seen, since, saved = [], time.monotonic(), time.monotonic()
    former = _end_by_exception()
    try:
        while step < last:
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(step)
            optimiser.zero_grad()
            parts = []
            for part in range(plan.accumulate):
                seed = plan.seed * 1_000_003 + step + OF_PROCESS * (together.rank * plan.accumulate + part)
                found = loss(torch.Generator().manual_seed(seed), seed)
                parts.append(found if isinstance(found, dict) else {"loss": found})
                (parts[-1]["loss"] / plan.accumulate).backward()
                parts[-1] = {name: figure.detach() for name, figure in parts[-1].items()}
            figures = {name: torch.stack([p[name] for p in parts]).mean() for name in parts[0]}
            if on_step:
                on_step(step - begun + 1, _number(figures["loss"]))
            together.average(p.grad for p in model.parameters() if p.grad is not None)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            _follow(average, model, min(plan.ema, (1 + step) / (10 + step)))
            step += 1
            if together.rank:
                continue
            seen.append(figures)
            if step % 50 == 0 or step == last:
                seconds = (time.monotonic() - since) / len(seen)
                means = {name: torch.stack([f[name] for f in seen]).mean().item() for name in figures}
                _number(figures["loss"])
                _report(state, step, last, means, seconds)
                past += _losses(seen)
                seen, since = [], time.monotonic()
            if step % plan.save_every == 0 or time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                _save(state, step, identity, model, average, optimiser, past + _losses(seen))
            if plan.keep_every and step % plan.keep_every == 0:
                with atomic_write(state.with_name(f"{state.stem}-{step}.safetensors")) as draft:
                    save_file(average.state_dict(), draft)
    finally:
        if not together.rank:
            _save(state, step, identity, model, average, optimiser, past + _losses(seen))
        if former is not None:
            signal.signal(signal.SIGTERM, former)
    together.wait()
    return average.eval()


def stratified(rand: Tensor) -> Tensor:
    """Return one draw in each n-th part of 0 to 1, so that every batch sees every noise level.

    Shapes:  rand [n], uniform in 0 to below 1; result [n], rising. The last may round to 1 itself.
    """
    return (torch.arange(len(rand)) + rand) / len(rand)


def _end_by_exception() -> Any:
    """Let SIGTERM end this training as Ctrl-C does; return the handler to put back, or None."""
    if threading.current_thread() is not threading.main_thread():  # a host's worker: the host handles signals
        return None
    return signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def steps_of(state: Path) -> int:
    """How many steps a state has behind it."""
    with safe_open(state, "pt") as file:
        return int(file.metadata()["step"])


def losses(state: Path) -> list[float]:
    """The loss of every step that a state has behind it."""
    with safe_open(state, "pt") as file:
        return file.get_tensor("losses").tolist()


def average(state: Path) -> dict[str, Tensor]:
    """The moving average that a state holds."""
    return _part(load_file(state), "average.")


def _losses(seen: list[dict[str, Tensor]]) -> list[float]:
    return torch.stack([figures["loss"] for figures in seen]).tolist() if seen else []


def _number(loss: Tensor) -> float:
    value = float(loss.detach())
    if value != value:
        raise SteadyDiffError("the loss is not a number any more; lower the learning rate and start again")
    return value


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), 0)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)  # batch statistics are averages already


def _report(state: Path, step: int, last: int, means: dict[str, float], seconds: float) -> None:
    line = {"step": step, **{k: float(f"{v:.5g}") for k, v in means.items()}}
    try:
        with state.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seconds_per_step": round(seconds, 4)}) + "\n")
    except OSError as error:  # no reason to stop; the state, which matters, comes next
        log.warning("%s is not kept up (%s)", state.with_suffix(".jsonl").name, error)
    shown = "  ".join(f"{name} {value:.5f}" for name, value in means.items())
    left = (last - step) * seconds / 60
    log.info("%s %d/%d  %s  %.3f s/step  %.0f min left", state.stem, step, last, shown, seconds, left)


def _save(
    state: Path,
    step: int,
    identity: Identity,
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    past: list[float],
) -> None:
    if not all(weight.isfinite().all() for weight in model.parameters()):
        return  # of no use, and the last one may be good
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for name, p in model.named_parameters():
        tensors |= {f"adam.{key}.{name}": v for key, v in optimiser.state.get(p, {}).items()}
    tensors["losses"] = torch.tensor(past)
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    with atomic_write(state) as draft:
        facts = {"step": str(step), "identity": identity.key, "settings": json.dumps(dict(identity.settings))}
        save_file(tensors, draft, facts)


def _load(
    state: Path, identity: Identity, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    """Fill in what a state holds; return its step and its losses."""
    try:
        with safe_open(state, "pt") as file:
            kept = file.metadata()
        tensors, step = load_file(state), int(kept["step"])
        settings = dict(json.loads(kept.get("settings", "{}")))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{state.name} is damaged ({error}); move it away to start afresh") from None
    if kept.get("identity", "") != identity.key:
        raise SettingsError(
            f"{state.name} is the state of a training with other settings ({identity.beside(settings)}); "
            f"give another name or folder, or go on with the settings it was begun with"
        )
    try:
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
    except RuntimeError as error:
        raise SettingsError(
            f"{state.name} is the state of another network; give another name or folder, or move it away"
        ) from error
    for key in ("step", "exp_avg", "exp_avg_sq"):
        for name, value in _part(tensors, f"adam.{key}.").items():
            weight = model.get_parameter(name)
            # A copy: else it would keep the file mapped, and Windows replaces no file that is.
            optimiser.state[weight][key] = value.clone() if key == "step" else value.to(weight, copy=True)
    return step, tensors["losses"].tolist()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
