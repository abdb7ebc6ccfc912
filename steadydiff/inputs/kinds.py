"""The kinds of values that a user sets, with names, defaults, bounds and tooltips, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import SettingsError


@dataclass(frozen=True)
class Number:
    """A number between two bounds; a face's arrows move it by `step`."""

    kind: ClassVar[Literal["number"]] = "number"

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

    kind: ClassVar[Literal["whole"]] = "whole"

    name: str
    default: int
    least: int
    most: int
    tooltip: str

    def read(self, value: object) -> int:
        """Return a value from outside as a whole number; SettingsError if it is none within the bounds."""
        return _within(self, _whole, value)


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    kind: ClassVar[Literal["choice"]] = "choice"

    name: str
    default: str
    options: tuple[str, ...]
    tooltip: str

    def read(self, value: object) -> str:
        """Return a value from outside; SettingsError if it is not among the options."""
        if value not in self.options:
            raise SettingsError(f"{self.name} is one of {', '.join(self.options)}; got {shown(value)}")
        return str(value)


@dataclass(frozen=True)
class Switch:
    """On or off."""

    kind: ClassVar[Literal["switch"]] = "switch"

    name: str
    default: bool
    tooltip: str

    def read(self, value: object) -> bool:
        """Return a value from outside as a bool; 1 and 0 and the words as texts are understood."""
        meant = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
        if meant is None:
            raise SettingsError(f"{self.name} is True or False; got {shown(value)}")
        return meant


@dataclass(frozen=True)
class Text:
    """A text of several lines, and of at most as many characters."""

    kind: ClassVar[Literal["text", "line"]] = "text"

    name: str
    default: str
    tooltip: str
    most: int = 1_000_000

    def read(self, value: object) -> str:
        """Return a value from outside as a text; SettingsError if it is none, or too long."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise SettingsError(f"{self.name} is a text; got {shown(value)}")
        if len(text := str(value)) > self.most:
            raise SettingsError(
                f"{self.name} is a text of at most {self.most:,} characters; got {len(text):,}"
            )
        return text


Input = Number | Whole | Choice | Switch | Text


def shown(value: object) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _within(own, kind, value):
    try:
        grouped = isinstance(value, str) and "_" in value  # Python reads 1_0 as 10
        found = None if isinstance(value, bool) or grouped else kind(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not own.least <= found <= own.most:
        what = "whole number" if own.kind == "whole" else "number"
        raise SettingsError(f"{own.name} is a {what} from {own.least:g} to {own.most:g}; got {shown(value)}")
    return found


def _whole(value):
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def part(
    start: float = 0.0,
    later: str = "Later leaves the composition alone. ",
    earlier: str = "Earlier leaves fine texture alone.",
) -> tuple[Number, Number]:
    """Return the inputs for the part of a run in which a method acts; `later` and `earlier` advise."""
    starts = f"Starts at this part of the run: 0 is the first step, 0.5 half way. {later}"
    stops = f"Stops at this part of the run: 1 is the last step. {earlier}"
    bounds = {"least": 0.0, "most": 1.0, "step": 0.001}
    return (
        Number("start_percent", start, **bounds, tooltip=f"{starts}Start = end turns it off."),
        Number("end_percent", 1.0, **bounds, tooltip=stops),
    )
