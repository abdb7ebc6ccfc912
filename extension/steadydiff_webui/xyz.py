"""Axes of the X/Y/Z plot: one for every number, mode, switch and file of every panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modules import script_callbacks, scripts

from steadydiff.inputs.kinds import Choice

from .folders import File
from .panels import PANELS
from .panels.panel import ENABLED, Panel

TYPES = {"number": float, "whole": int, "choice": str, "switch": str, "file": str}


def register() -> None:
    """Add them before each UI; called at every load of the script, which makes the plot anew."""
    script_callbacks.on_before_ui(add_axes)


def add_axes() -> None:
    # Importing it by name would give another copy, so it is looked for where the host keeps its own.
    for script in scripts.scripts_data:
        if Path(script.path).name == "xyz_grid.py":
            grid = script.module
            there = {option.label for option in grid.axis_options}
            grid.axis_options.extend(one for one in axes(grid.AxisOption) if one.label not in there)
            return


def axes(axis_option: Callable[..., Any]) -> Iterator[Any]:
    for panel in PANELS:
        for one in panel.all_inputs:
            if one.kind in TYPES:
                more: dict[str, Any] = {}
                more["confirm"] = lambda _, values, one=one: [one.read(value) for value in values]
                if one.kind == "switch":
                    more["choices"] = lambda: ["False", "True"]
                elif isinstance(one, (Choice, File)):
                    more["choices"] = lambda one=one: list(one.options)
                label = f"[SteadyDiff] {panel.title} {one.name}"
                yield axis_option(label, TYPES[one.kind], setter(panel, one.name), **more)


def setter(panel: Panel, name: str) -> Callable[[Any, Any, Any], None]:
    """Puts a cell's value onto its processing object, which goes before the panel's; the panel acts unless
    an axis of its own says otherwise."""
    attributes = {one.name: panel.attribute(one) for one in panel.all_inputs}
    enabled = attributes[ENABLED.name]

    def put(p: Any, value: Any, values: Any) -> None:
        setattr(p, attributes[name], value)
        if not hasattr(p, enabled):
            setattr(p, enabled, True)

    return put
