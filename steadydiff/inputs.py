"""What a user sets, method by method: names, defaults, bounds and tooltips, once for all hosts' faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .errors import SettingsError
from .methods.epsilon_scaling import SPACE_SETTINGS


@dataclass(frozen=True)
class Number:
    """A number between two bounds; a face's arrows move it by `step`."""

    kind: ClassVar[str] = "number"

    name: str
    default: float
    least: float
    most: float
    step: float
    tooltip: str

    def read(self, value: object) -> float:
        """Return a value from outside as a number; SettingsError if it is none within the bounds."""
        return _within(self, float, value)


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds."""

    kind: ClassVar[str] = "whole"

    name: str
    default: int
    least: int
    most: int
    tooltip: str

    def read(self, value: object) -> int:
        """Return a value from outside as a whole number; SettingsError if it is none within the bounds."""
        return _within(self, int, value)


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    kind: ClassVar[str] = "choice"

    name: str
    default: str
    options: tuple[str, ...]
    tooltip: str

    def read(self, value: object) -> str:
        """Return a value from outside; SettingsError if it is not among the options."""
        if value not in self.options:
            raise SettingsError(f"{self.name} is one of {', '.join(self.options)}; got {value!r}")
        return str(value)


@dataclass(frozen=True)
class Switch:
    """On or off."""

    kind: ClassVar[str] = "switch"

    name: str
    default: bool
    tooltip: str

    def read(self, value: object) -> bool:
        """Return a value from outside as a bool; texts as infotexts hold them are understood."""
        if str(value) not in ("True", "False"):
            raise SettingsError(f"{self.name} is True or False; got {value!r}")
        return str(value) == "True"


@dataclass(frozen=True)
class Text:
    """A text of several lines."""

    kind: ClassVar[str] = "text"

    name: str
    default: str
    tooltip: str

    def read(self, value: object) -> str:
        """Return a value from outside as a text."""
        return str(value)


Input = Number | Whole | Choice | Switch | Text


def _within(own, kind, value):
    try:
        found = kind(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not own.least <= found <= own.most:
        raise SettingsError(f"{own.name} is a number from {own.least:g} to {own.most:g}; got {value!r}")
    return found


EPSILON_SCALING = (
    Number(
        "scale", 1.005, 0.5, 1.5, 0.0001,
        "The predicted noise is divided by this. 1 is off. Above 1 less noise is taken away: "
        "more detail and texture, in the end grain. Below 1 more is taken away: smoother, in "
        "the end flat. Published values lie between 0.998 and 1.017; the fewer the steps, the "
        "larger.",
    ),
    Number(
        "slope", 0.0, -0.05, 0.05, 0.00001,
        "Added to scale once per step, counted from the last step back to the first (the "
        "paper's k). 0 is one scale for all. Above 0 the early steps are scaled more, which "
        "acts on composition; below 0 they are scaled less, which leaves the effect to fine "
        "detail. Keep the mean, scale + slope x (steps - 1) / 2, where scale alone worked well.",
    ),
    Number(
        "start_percent", 0.0, 0.0, 1.0, 0.001,
        "Where in the run it begins to act; 0 is the first, noisiest step. Later spares the "
        "composition and leaves the effect to detail. Equal to end_percent it is off.",
    ),
    Number(
        "end_percent", 1.0, 0.0, 1.0, 0.001,
        "Where in the run it ceases to act; 1 is the last step. Earlier spares fine texture and "
        "leaves the effect to composition.",
    ),
    Choice(
        "space", "auto", SPACE_SETTINGS,
        "What is scaled. epsilon: the noise, on every kind of model. velocity: the "
        "velocity, on flow models (SD3, Flux, Wan ...) only, as ComfyUI's own node does there; "
        "weaker on the early, noisiest steps. auto: epsilon, except velocity for a dcw schedule "
        "on a flow model.",
    ),
)  # fmt: skip
