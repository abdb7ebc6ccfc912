"""Script arguments, in every form they come in, as values by panel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from steadydiff.errors import SettingsError

from .panels import PANELS
from .panels.panel import Panel

Values = dict[str, dict[str, Any]]
"""By panel, by input."""


def read(p: Any, args: Iterable[Any]) -> Values:
    """Return all panels' values: from the widgets, in their order, or by name from one JSON object
    `{"epsilon_scaling": {"scale": 1.01}}`, where a panel that is named is enabled unless it says otherwise.
    What a grid has put on the processing object goes before both.

    Raises:  SettingsError for a value out of range or a name we do not know.
    """
    args = list(args)
    found = _by_name(args[0]) if args and isinstance(args[0], dict) else _by_place(args)
    for panel in PANELS:
        values = found[panel.name]
        for one in panel.all_inputs:
            value = getattr(p, panel.attribute(one), values[one.name])
            try:
                values[one.name] = one.read(value)
            except SettingsError as error:
                raise SettingsError(f"{panel.title}: {error}") from None
    return found


def enabled(values: Values) -> Iterator[tuple[Panel, dict[str, Any]]]:
    """Yield the panels that are switched on."""
    for panel in PANELS:
        if values[panel.name]["enabled"]:
            yield panel, values[panel.name]


def _by_place(args: list[Any]) -> Values:
    given, found = iter(args), {}
    for panel in PANELS:
        found[panel.name] = {one.name: next(given, one.default) for one in panel.all_inputs}
    return found


def _by_name(named: dict[str, dict[str, Any]]) -> Values:
    found = {panel.name: panel.defaults() for panel in PANELS}
    for name, values in named.items():
        if name not in found or not isinstance(values, dict) or values.keys() - found[name].keys():
            raise SettingsError(
                f"the API knows {', '.join(found)}, each with its inputs' names; got {name!r}: {values!r}"
            )
        found[name].update({"enabled": True, **values})
    return found
