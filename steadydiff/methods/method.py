"""What a method that corrects a model's prediction tells the adapters, which know nothing else of it.

`EpsilonScaling`, `BandScaling`, `TimeShift` and `DiffIER` fulfil it. Those that correct the sampler's state
(`state.py`) have a contract of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from ..denoiser import Denoise, Run, Space


class Method(Protocol):
    """Frozen settings of one method.

    title:          as people read it
    order:          where it stands among the others around one model, the least one innermost
    single:         whether two of it on one model are refused
    scales_branch:  whether CFG++ samplers, which step along one branch of guidance, must see that branch
                    wrapped as well
    wants_branches: whether it looks at the branches of guidance, see `denoiser.Guided`
    """

    title: ClassVar[str]
    order: ClassVar[int]
    single: ClassVar[bool]
    scales_branch: ClassVar[bool]

    @property
    def wants_branches(self) -> bool: ...

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


class Defaults:
    """What most methods answer: they may stand twice, and look at no branch and at no run in particular."""

    single: ClassVar[bool] = False
    scales_branch: ClassVar[bool] = False

    @property
    def wants_branches(self) -> bool:
        """Whether the denoiser must show its branches."""
        return False

    def differences(self, **facts: Any) -> list[str]:
        """Return no sentences: it was made for no run in particular."""
        del facts
        return []
