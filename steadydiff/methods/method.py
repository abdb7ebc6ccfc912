"""What a method tells the adapters, which know nothing else of it: `Method`, `StateMethod` and `Editor`.

A method of kind "prediction" corrects what the model answers; one of kind "state" corrects the sampler's own
state, and shares its settings and its bookkeeping with others of that kind in `state.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ..denoiser import Denoise, Run, Space


class Method(Protocol):
    """Frozen settings of one method.

    title:          as people read it
    acts_on:        "prediction", or "state": then it is a `StateMethod`
    order:          where it stands among the others around one model, the least one innermost
    single:         whether two of it on one model are refused
    scales_branch:  whether CFG++ samplers, which step along one branch of guidance, must see that branch
                    wrapped as well
    shifts_level:   whether it calls the denoiser at another level than it was called at, so that a host that
                    calls first must do so at that level
    wants_branches: whether it looks at the branches of guidance, see `denoiser.Guided`
    wants_steps:    whether it must know which model calls start a step, see `Run.step_calls`
    is_off:         whether it changes nothing: `wrap` then returns the denoiser itself
    extra_calls:    model calls it makes at an active step beyond the sampler's own; at most
    """

    title: ClassVar[str]
    acts_on: ClassVar[Literal["prediction", "state"]]
    order: ClassVar[int]
    single: ClassVar[bool]
    scales_branch: ClassVar[bool]
    shifts_level: ClassVar[bool]

    @property
    def wants_branches(self) -> bool: ...
    @property
    def wants_steps(self) -> bool: ...
    @property
    def is_off(self) -> bool: ...

    @property
    def extra_calls(self) -> int: ...

    def check(self, space: Space) -> None:
        """Raise SettingsError where the model is of a kind these settings cannot work on."""

    def within(self, sigma_high: float, sigma_low: float) -> Method:
        """Return a copy that acts between two noise levels, both included; equal levels switch it off."""
        ...

    def differences(self, **facts: Any) -> list[str]:
        """Say in sentences where this run (sampler, cfg, sigmas, model) differs from what it was made for."""
        ...

    def summary(self, run: Run) -> str:
        """Say what it does in a run, to follow its title."""
        ...

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return the corrected denoiser, a fresh one for each run; `denoise` itself where it is off."""
        ...


class StateMethod(Method, Protocol):
    """Frozen settings of a method that corrects the sampler's own state; `summary` says what is planned."""

    def masked(self, mask: Tensor) -> StateMethod:
        """Return a copy that corrects a state as far as `mask` [1 or B, 1 or C, *S] says, 0 to 1."""
        ...

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return an `Editor`, a fresh one for each run; `denoise` itself where it is off."""
        ...


class Editor(Protocol):
    """A denoiser that writes its correction into the state x it is called with.

    applied: how often it has; `str` of it says so to people
    """

    applied: int

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...

    def error(self, x: Tensor, sigma: Tensor) -> Tensor | float:
        """Return what the call at work takes off the state and the clean estimate alike once the model has
        answered; CFG++ samplers are shown branches that are moved by as much."""
        ...


class Defaults:
    """What most methods answer: they correct a prediction, may stand twice, look at no branch, at no start
    of a step and at no run in particular, and make no model calls of their own."""

    acts_on: ClassVar[Literal["prediction", "state"]] = "prediction"
    single: ClassVar[bool] = False
    scales_branch: ClassVar[bool] = False
    shifts_level: ClassVar[bool] = False

    @property
    def wants_branches(self) -> bool:
        """Whether the denoiser must show its branches."""
        return False

    @property
    def wants_steps(self) -> bool:
        """Whether the run must tell which model calls start a step."""
        return False

    @property
    def extra_calls(self) -> int:
        """Model calls at an active step beyond the sampler's own."""
        return 0

    def differences(self, **facts: Any) -> list[str]:
        """Return no sentences: it was made for no run in particular."""
        del facts
        return []
