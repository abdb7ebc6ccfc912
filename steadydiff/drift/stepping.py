"""Taking any sampler step by step, though a host runs it as one function that cannot be paused.

A sampler calls its model once after another. Run again from the start, with the predictions it got so far
given from memory, it arrives at its next call without a model call: the arithmetic is repeated, the
network is not. Used by `measurement.py` and `calibration.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..denoiser import Denoise, Run, per_sample, signal_level
from ..errors import SettingsError

Sampler = Callable[[Denoise, Tensor, tuple[float, ...]], Tensor]
"""(denoise, first state [B, C, *S], sigmas) -> final state: one whole run, however it is made."""

Remember = Callable[[], Callable[[], None]]
"""Notes what is kept beside a model from call to call, and returns what puts it back, as often as wanted."""


def nothing() -> Callable[[], None]:
    """`Remember` where nothing is kept."""
    return lambda: None


# A sampler computes the sigma it calls at in its own way; hosts move a flow run's first one off 1 a little.
SAME_SIGMA = 1e-3


class ModelCall(NamedTuple):
    """A state and its noise level [B], at which a sampler wants a clean estimate."""

    x: Tensor
    sigma: Tensor


def step_calls(sampler: Sampler, x: Tensor, run: Run) -> tuple[int, ...]:
    """Return which of a run's model calls, counted from 0, begin its steps.

    A step begins at the last call at its noise level: what a solver calls there before is a stage of the step
    above. Found on a closed-form denoiser, without the network.

    Raises:  SettingsError if the sampler does not stop at the run's noise levels, or they do not fall.
    """
    calls: list[float] = []

    def note(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma.flatten()[0]))
        return _closed_form(x, sigma, run)

    if not run.steps or not all(a > b for a, b in zip(run.sigmas, run.sigmas[1:], strict=False)):
        raise SettingsError("sigmas fall from step to step, and there is at least one step; check sigmas")
    with fixed_rng(x):
        sampler(note, x[:1].clone(), run.sigmas)
    last = {_step_of(level, run.sigmas[:-1]): call for call, level in enumerate(calls)}
    begins = [last[step] for step in range(run.steps) if step in last]
    if len(begins) < run.steps or sorted(begins) != begins:
        raise SettingsError(
            "this sampler does not go through the given sigmas one by one, so it cannot be taken step by "
            "step; choose one that does, e.g. euler"
        )
    return tuple(begins)


def draws_noise(sampler: Sampler, x: Tensor, run: Run) -> bool:
    """Return whether noise that a sampler draws enters its states; found without the network.

    Some draw it and multiply it by 0: what counts is whether the run ends elsewhere without it.
    """
    ends = []
    for share in (1.0, 0.0):
        with fixed_rng(x), _Drawn(x[:1], lambda noise, share=share: share * noise):
            ends.append(sampler(lambda x, sigma: _closed_form(x, sigma, run), x[:1].clone(), run.sigmas))
    return not torch.equal(*ends)


def next_call(
    sampler: Sampler, x: Tensor, sigmas: tuple[float, ...], predictions: Sequence[Tensor]
) -> ModelCall | Tensor:
    """Run a sampler on the predictions it has got so far; return its next call, or its result.

    Shapes:  x and answers [B, C, *S]. The sampler's own randomness is the same at each call.
    """
    calls = 0

    def remember(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        if calls == len(predictions):
            raise _Reached(ModelCall(x.clone(), sigma.clone()))
        calls += 1
        return predictions[calls - 1].clone()

    with fixed_rng(x):
        try:
            return sampler(remember, x.clone(), sigmas)
        except _Reached as reached:
            return reached.call


@contextmanager
def fixed_rng(x: Tensor, seed: int = 0) -> Iterator[None]:
    """Give code the same random numbers each time it runs, and leave the rest of the world its own."""
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        # Not torch.manual_seed, which notes the whole call stack for every accelerator that sleeps.
        torch.default_generator.manual_seed(seed % 2**63)
        if x.is_cuda:
            with torch.cuda.device(x.device):
                torch.cuda.manual_seed(seed % 2**63)
        yield


class _Drawn(TorchFunctionMode):
    """While it is open, Gaussian noise drawn in the shape of a state [B, C, *S], or of one of its samples,
    passes through a function. A context of torch's own, which ends with the block."""

    def __init__(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._shapes, self._change = (x.shape, x.shape[1:]), change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        drawn = func in (torch.randn, torch.randn_like, torch.normal) and found.shape in self._shapes
        return self._change(found) if drawn else found


def _closed_form(x: Tensor, sigma: Tensor, run: Run) -> Tensor:
    """The clean estimate that is exact for data of N(0, 1)."""
    level = per_sample(sigma.to(x), x)
    alpha = signal_level(level, run.space)
    return alpha * x / (alpha**2 + level**2)


def even_noise(x: Tensor) -> AbstractContextManager[Any]:
    """Let all noise that code draws for states like x [B, C, *S] have exactly its expected energy.

    By chance alone the norms of a few small samples jump by more from step to step than they drift. Of a
    Brownian motion drawn in pieces only the pieces are even.
    """
    places = tuple(range(1 - x.ndim, 0))
    return _Drawn(x, lambda noise: noise / noise.square().mean(places, keepdim=True).sqrt())


class _Reached(Exception):  # noqa: N818  # not an error: the way out of a sampler
    def __init__(self, call: ModelCall) -> None:
        self.call = call


def _step_of(sigma: float, sigmas: Sequence[float]) -> int | None:
    """Which step starts at this noise level, if one does."""
    nearest = min(range(len(sigmas)), key=lambda step: abs(sigmas[step] - sigma))
    return nearest if math.isclose(sigma, sigmas[nearest], rel_tol=SAME_SIGMA) else None
