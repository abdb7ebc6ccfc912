"""Taking any sampler step by step, though a host runs it as one function that cannot be paused.

A sampler asks its model one question after another. Run again from the start, with the answers it got so far
given from memory, it arrives at its next question without a model call: the arithmetic is repeated, the
network is not. Used by `measurement.py` and `calibration.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, per_sample, signal_level
from ..errors import SettingsError

Sampler = Callable[[Denoise, Tensor, tuple[float, ...]], Tensor]
"""(denoise, first state [B, C, *S], sigmas) -> final state: one whole run, however it is made."""

Remember = Callable[[], Callable[[], None]]
"""Notes what is kept beside a model from call to call, and returns what puts it back, as often as wanted."""


def nothing() -> Callable[[], None]:
    """`Remember` where nothing is kept."""
    return lambda: None


# A sampler computes the sigma it asks at in its own way; hosts move a flow run's first one off 1 a little.
SAME_SIGMA = 1e-3


class Question(NamedTuple):
    """A state and its noise level [B], at which a sampler wants a clean estimate."""

    x: Tensor
    sigma: Tensor


def step_calls(sampler: Sampler, x: Tensor, run: Run) -> tuple[int, ...]:
    """Return which of a run's model calls, counted from 0, begin its steps.

    A step begins at the last call at its noise level: what a solver asks there before is a stage of the step
    above. Found on a closed-form denoiser, without the network.

    Raises:  SettingsError if the sampler does not stop at the run's noise levels, or they do not fall.
    """
    asked: list[float] = []

    def note(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma.flatten()[0]))
        level = per_sample(sigma.to(x), x)
        alpha = signal_level(level, run.space)
        return alpha * x / (alpha**2 + level**2)  # exact for data of N(0, 1)

    if not run.steps or not all(a > b for a, b in zip(run.sigmas, run.sigmas[1:], strict=False)):
        raise SettingsError("sigmas fall from step to step, and there is at least one step; check sigmas")
    with same_luck(x):
        sampler(note, x[:1].clone(), run.sigmas)
    last = {_step_of(level, run.sigmas[:-1]): call for call, level in enumerate(asked)}
    begins = [last[step] for step in range(run.steps) if step in last]
    if len(begins) < run.steps or sorted(begins) != begins:
        raise SettingsError(
            "this sampler does not go through the given sigmas one by one, so it cannot be taken step by "
            "step; choose one that does, e.g. euler"
        )
    return tuple(begins)


def next_question(
    sampler: Sampler, x: Tensor, sigmas: tuple[float, ...], answers: Sequence[Tensor]
) -> Question | Tensor:
    """Run a sampler on the answers it has got so far; return its next question, or its result.

    Shapes:  x and answers [B, C, *S]. The sampler's own randomness is the same at each call.
    """
    asked = 0

    def remember(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        if asked == len(answers):
            raise _Asked(Question(x.clone(), sigma.clone()))
        asked += 1
        return answers[asked - 1].clone()

    with same_luck(x):
        try:
            return sampler(remember, x.clone(), sigmas)
        except _Asked as reached:
            return reached.question


@contextmanager
def same_luck(x: Tensor) -> Iterator[None]:
    """Give code the same random numbers each time it runs, and leave the rest of the world its own."""
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        # Not torch.manual_seed, which notes the whole call stack for every accelerator that sleeps.
        torch.default_generator.manual_seed(0)
        if x.is_cuda:
            with torch.cuda.device(x.device):
                torch.cuda.manual_seed(0)
        yield


class _Asked(Exception):  # noqa: N818  # not an error: the way out of a sampler
    def __init__(self, question: Question) -> None:
        self.question = question


def _step_of(sigma: float, sigmas: Sequence[float]) -> int | None:
    """Which step starts at this noise level, if one does."""
    nearest = min(range(len(sigmas)), key=lambda step: abs(sigmas[step] - sigma))
    return nearest if math.isclose(sigma, sigmas[nearest], rel_tol=SAME_SIGMA) else None
