"""Script arguments, in every form they come in, as values by panel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from steadydiff.errors import SettingsError
from steadydiff.inputs.kinds import Switch, shown

from .panels import PANELS
from .panels.panel import ENABLED, Panel

Values = dict[str, dict[str, Any]]
"""By panel, by input."""

STRICT = Switch("strict", False, "Whether what cannot act ends the generation.")
"""Of the API only."""


def read(p: Any, args: Iterable[Any]) -> Values:
    """Return all panels' values: from the widgets, in their order, or by name from one JSON object
    `{"epsilon_scaling": {"scale": 1.01}}`, where a panel that is named is enabled unless it says otherwise,
    and which one switch may precede. What a grid has put on the processing object goes before both.

    What does not act, as its panel is off or it serves another option, is at its default where it is wrong.

    Raises:  SettingsError for another value out of range or a name we do not know.
    """
    args = list(args)
    named = _named(args)
    found = _by_place(args) if named is None else _by_name(named)
    for panel in PANELS:
        values, faults = found[panel.name], {}
        for one in panel.all_inputs:
            value = getattr(p, panel.attribute(one), values[one.name])
            try:
                values[one.name] = one.read(value)
            except SettingsError as error:
                values[one.name], faults[one.name] = one.default, error
        for name, error in faults.items():
            served = values[ENABLED.name] and panel.shows(name, values.get(panel.choice))
            if served or name == ENABLED.name:
                raise SettingsError(f"{panel.title}: {error}")
    return found


def enabled(values: Values) -> Iterator[tuple[Panel, dict[str, Any]]]:
    """Yield the panels that are switched on."""
    for panel in PANELS:
        if values[panel.name]["enabled"]:
            yield panel, values[panel.name]


def is_strict(args: Iterable[Any]) -> bool:
    """Return whether a request would rather fail than draw uncorrected, also one that `read` refuses."""
    said = [one.get(STRICT.name, STRICT.default) for one in args if isinstance(one, dict)]
    return any(str(one).lower() not in ("false", "0") for one in said)


def _named(args: list[Any]) -> dict[str, Any] | None:
    """Return the object among the arguments, if there is one."""
    places = [place for place, one in enumerate(args) if isinstance(one, dict)]
    if not places:
        return None
    if places == [0]:
        return args[0]
    if places == [1] and args[0] in (True, False):
        return args[1] if args[0] else {STRICT.name: args[1].get(STRICT.name, STRICT.default)}
    raise SettingsError(
        f"the API takes one object of panels, alone or after one switch; got {len(places)}, the first after "
        f"{places[0]} other arguments"
    )


def _by_place(args: list[Any]) -> Values:
    given, found = iter(args), {}
    for panel in PANELS:
        found[panel.name] = {one.name: next(given, one.default) for one in panel.all_inputs}
    return found


def _by_name(named: dict[str, Any]) -> Values:
    found = {panel.name: panel.defaults() for panel in PANELS}
    for name, values in named.items():
        if name == STRICT.name:
            STRICT.read(values)
            continue
        if name not in found:
            raise SettingsError(f"there is no {shown(name)}; there are {', '.join(found)}, {STRICT.name}")
        if not isinstance(values, dict):
            raise SettingsError(f"{name} is an object of its inputs' names and values; got {shown(values)}")
        for unknown in values.keys() - found[name].keys():
            raise SettingsError(f"{name} has no {shown(unknown)}; it has {', '.join(found[name])}")
        found[name].update({"enabled": True, **values})
    return found
