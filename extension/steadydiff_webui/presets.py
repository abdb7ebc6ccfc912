"""Presets: all panels' values under a name, in one JSON file of the user's or built in, and their row."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths
from modules.ui_components import ToolButton

from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.files.atomic import write_whole
from steadydiff.files.text import read_text

from . import docs
from .panels import PANELS

OFF = "off"
"""Always there: every panel as it is at first, and none enabled."""

PLACES = [(panel.name, one.name) for panel in PANELS for one in panel.all_inputs]
"""The panels and inputs of all script arguments."""

BUTTONS = {
    "use": ("\U0001f4cb", "Apply preset"),
    "save": ("\U0001f4be", "Save preset"),
    "delete": ("\U0001f5d1\ufe0f", "Delete preset"),
    "reset": ("\u21a9\ufe0f", "Switch everything off and reset it"),
}
"""By name: what stands on a button, and what it says when the pointer rests there."""


@dataclass(frozen=True)
class Starting:
    """A scale to start from, and where it comes from; no more than that."""

    scale: float
    source: str
    space: str = "auto"

    @property
    def values(self) -> dict[str, dict[str, Any]]:
        return {"epsilon_scaling": {"enabled": True, "scale": self.scale, "space": self.space}}


STARTING = {
    f"starting value: {models}, {one.scale:g}": one
    for models, one in {
        "SD1.5, SD2, SDXL": Starting(
            1.005,
            "1.005 is the default of ComfyUI's own node; the paper has 1.004 to 1.017 for pixel models.",
        ),
        "anime SDXL": Starting(1.02, "1.02 is what users liked, up to 1.03: reForge's pull request 434."),
        "EDM kind (Playground)": Starting(
            1.0034, "1.0034 stands in the authors' EDM table: CIFAR-10, Euler, 35 steps."
        ),
        "flow (SD3, Flux)": Starting(1.001, "1.001 is our derivation for flow models; nothing is published."),
        "flow, velocity": Starting(
            1.005, "1.005 on the velocity is the formula and default of ComfyUI's node.", "velocity"
        ),
    }.items()
}
"""Built in; the table of README.md and docs/epsilon_scaling.md has the same."""


class Presets:
    """The presets of a file; each is {panel: {input: value}}."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self) -> list[str]:
        return [OFF, *sorted(self._load())]

    def get(self, name: str) -> dict[str, dict[str, Any]]:
        """Every panel's values; what the preset does not say, or no longer rightly, is as at first."""
        built_in = {OFF: {}, **{name: one.values for name, one in STARTING.items()}}
        stored = built_in[name] if name in built_in else self._load().get(name)
        if stored is None:
            raise SettingsError(f"there is no preset {name!r}; there are {', '.join(self.names())}")
        found = {}
        for panel in PANELS:
            given = stored.get(panel.name, {})
            found[panel.name] = {one.name: _read(one, given) for one in panel.all_inputs}
        return found

    def save(self, name: str, values: dict[str, dict[str, Any]]) -> None:
        plain = name.strip()
        if not plain or plain in (OFF, *STARTING):
            raise SettingsError(f"give the preset a name other than {OFF} and the starting values'")
        self._write(self._load() | {plain: values})

    def delete(self, name: str) -> None:
        stored = self._load()
        if name in (OFF, *STARTING):
            raise SettingsError(f"{name} is built in and stays; choose a preset of your own to delete")
        if stored.pop(name, None) is None:
            raise SettingsError(f"there is no preset {name!r}; there are {', '.join(self.names())}")
        self._write(stored)

    def _load(self) -> dict[str, dict]:
        if not self._file.is_file():
            return {}
        try:
            stored = json.loads(read_text(self._file))
            if not all(isinstance(values, dict) for values in stored.values()):
                raise ValueError("a preset is an object of panels")
            return stored
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise SettingsError(
                f"{self._file.name} cannot be read ({error}); correct it or take it away"
            ) from None

    def _write(self, stored: dict[str, dict]) -> None:
        write_whole(self._file, json.dumps(stored, indent=2, ensure_ascii=False) + "\n")


def _read(one: Any, given: Any) -> Any:
    try:
        return one.read(given[one.name])
    except (SettingsError, KeyError, TypeError):
        return one.default


def users() -> Presets:
    """Those of this WebUI; the file lies beside its own settings."""
    return Presets(Path(paths.data_path) / "steadydiff_presets.json")


class Row:
    """The row of presets; the panels' components, which it needs, are made below it."""

    def __init__(self, elem_id: str) -> None:
        self._presets = users()
        with gr.Row(elem_id=elem_id, elem_classes=["steadydiff-row"]):
            self._name = gr.Dropdown(
                choices=choices(self._presets),
                value=OFF,
                label="SteadyDiff preset",
                show_label=False,
                container=False,
                allow_custom_value=True,
                scale=3,
                min_width=120,
                elem_id=f"{elem_id}_name",
            )
            self._buttons = {}
            for name, (symbol, title) in BUTTONS.items():
                self._buttons[name] = ToolButton(symbol, elem_id=f"{elem_id}_{name}")
                self._buttons[name].webui_tooltip = title
            gr.HTML(docs.link("webui.md"), elem_classes=["steadydiff-docs"])
        self._said = gr.HTML(visible=False, elem_id=f"{elem_id}_said", elem_classes=["steadydiff-hint"])
        self._asked = gr.State("")
        self._name.do_not_save_to_config = True

    def connect(self, components: list) -> None:
        """Let the buttons work; `components` come in the order of script arguments."""
        name, said, asked = self._name, self._said, self._asked
        for button, work, inputs, outputs in (
            ("use", self._use, [name], [*components, said]),
            ("reset", lambda: [OFF, *self._use(OFF)], [], [name, *components, said]),
            ("save", self._save, [name, asked, *components], [name, said, asked]),
            ("delete", self._delete, [name], [name, said]),
        ):
            self._buttons[button].click(work, inputs=inputs, outputs=outputs, show_progress="hidden")

    def _use(self, chosen: str) -> list:
        chosen = (chosen or "").strip()
        try:
            values = self._presets.get(chosen)
        except SettingsError as error:
            return [*[gr.update()] * len(PLACES), say(str(error))]
        return [
            *(values[panel][one] for panel, one in PLACES),
            say(STARTING[chosen].source if chosen in STARTING else ""),
        ]

    def _save(self, chosen: str, asked: str, *given: Any) -> list:
        chosen = (chosen or "").strip()
        if chosen in known(self._presets)[1:] and asked != chosen:
            return [
                gr.update(),
                say(f"There is a preset called {chosen}. Press again to replace it."),
                chosen,
            ]
        values: dict[str, dict] = {}
        for (panel, one), value in zip(PLACES, given, strict=True):
            values.setdefault(panel, {})[one] = value
        return [*self._changed(lambda: self._presets.save(chosen, values), f"Saved as {chosen}."), ""]

    def _delete(self, chosen: str) -> list:
        chosen = (chosen or "").strip()
        return self._changed(lambda: self._presets.delete(chosen), f"Deleted {chosen}.")

    def _changed(self, change: Any, message: str) -> list:
        try:
            change()
        except SteadyDiffError as error:
            return [gr.update(), say(str(error))]
        return [gr.update(choices=choices(self._presets)), say(message)]


def say(message: str) -> dict:
    """Show a message below the row, or nothing."""
    return gr.update(value=html.escape(message), visible=bool(message))


def choices(presets: Presets) -> list[str]:
    """Return all names to choose from."""
    off, *own = known(presets)
    return [off, *STARTING, *own]


def known(presets: Presets) -> list[str]:
    """Names to choose from; a file that cannot be read must not take the whole UI down."""
    try:
        return presets.names()
    except SettingsError:
        return [OFF]
