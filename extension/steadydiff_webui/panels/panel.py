"""What a panel is: one declaration, from which follow its widgets, infotext keys, API and grid names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steadydiff.hosts.webui.attach import Plan
from steadydiff.inputs.kinds import Input, Switch

if TYPE_CHECKING:
    from ..folders import File

    Setting = Input | File

ENABLED = Switch("enabled", False, "Whether it acts.")

Row = Mapping[str, str]
"""Inputs side by side: their names, and what they are called there."""


@dataclass(frozen=True)
class Panel:
    """One method's accordion.

    title:  shown; begins its keys in an infotext
    name:   its name in the API, and part of its attributes' on a processing object
    inputs: what the user sets, beside the accordion's own switch
    plan:   makes of their values what a run needs
    hint:   one short line: which way to turn what
    page:   the file of docs/ that tells the rest
    rows:   what is drawn at once, row by row, and
    more:   what is drawn in the part that is closed at first; every input is in one of the two
    choice: the input that says which others serve, and
    serves: for which of its options alone an input does; it is hidden at the others
    head:   whose values the header tells: that of the first one that is not hidden
    holds:  tells what the files that are used hold now, by names of its own
    """

    title: str
    name: str
    inputs: tuple[Setting, ...]
    plan: Callable[[dict], Plan]
    hint: str
    page: str
    rows: tuple[Row, ...]
    more: tuple[Row, ...]
    choice: str = ""
    serves: Mapping[str, str] = field(default_factory=dict)
    head: tuple[str, ...] = ("strength",)
    holds: Callable[[dict], dict[str, str]] = lambda values: {}

    @property
    def all_inputs(self) -> tuple[Setting, ...]:
        """The switch and the inputs, as script arguments come."""
        return ENABLED, *self.inputs

    def key(self, one: Setting) -> str:
        """Return an input's key in an infotext."""
        return f"SteadyDiff {self.title} {one.name}"

    def infotext(self, values: dict) -> dict:
        """Return what goes into an infotext: the first input, as the mark of the panel, what is not the
        default, and what its files hold, as another may later bear their name."""
        first = self.inputs[0]
        found = {
            self.key(one): values[one.name]
            for one in self.inputs
            if one is first or values[one.name] != one.default
        }
        try:
            found |= {f"SteadyDiff {self.title} {name}": text for name, text in self.holds(values).items()}
        except Exception:  # the plan tells it
            pass
        return found

    def mentioned(self, found: dict) -> bool:
        """Return whether an infotext is of a picture on which the panel acted."""
        return self.key(self.inputs[0]) in found

    def pasted(self, one: Input, found: dict):
        """Return an input's value in an infotext, None to leave the widget as it is."""
        return found.get(self.key(one), one.default) if self.mentioned(found) else None

    def attribute(self, one: Setting) -> str:
        """Return the name under which a grid puts an input's value on the processing object."""
        return f"steadydiff_{self.name}_{one.name}"

    def label(self, one: Setting) -> str:
        """Return an input's label; within a script file the host wants them all different."""
        return next(row[one.name] for row in (*self.rows, *self.more) if one.name in row)

    def shows(self, name: str, chosen: object) -> bool:
        """Return whether an input serves at an option of the choice."""
        return self.serves.get(name, chosen) == chosen

    def headline(self, values: Mapping[str, Any]) -> str:
        """Return in a few words what is set; `values` has the inputs of `heads`."""
        name = next(one for one in self.head if self.shows(one, values.get(self.choice)))
        value = values[name]
        said = f"{value:g}" if isinstance(value, (int, float)) else str(value or "")
        return f"{self.title} {said}".strip()

    def heads(self) -> Iterator[Setting]:
        """Yield the inputs that the header depends on."""
        return (one for one in self.all_inputs if one.name in (ENABLED.name, self.choice, *self.head))

    def defaults(self) -> dict:
        """Return the inputs' values if nothing is said."""
        return {one.name: one.default for one in self.all_inputs}
