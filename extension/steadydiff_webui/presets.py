"""Presets: all panels' values under a name, in one JSON file of the user's, and the row that uses them."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths

from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.files.atomic import write_whole
from steadydiff.files.text import read_text

from .panels import PANELS

OFF = "off"
"""Always there: every panel as it is at first, and none enabled."""


class Presets:
    """The presets of a file; each is {panel: {input: value}}."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def names(self) -> list[str]:
        return [OFF, *sorted(self._load())]

    def get(self, name: str) -> dict[str, dict[str, Any]]:
        """Every panel's values; what the preset does not say, or no longer rightly, is as at first."""
        stored = {} if name == OFF else self._load().get(name)
        if stored is None:
            raise SettingsError(f"there is no preset {name!r}; there are {', '.join(self.names())}")
        found = {}
        for panel in PANELS:
            given = stored.get(panel.name, {})
            found[panel.name] = {one.name: _read(one, given) for one in panel.all_inputs}
        return found

    def save(self, name: str, values: dict[str, dict[str, Any]]) -> None:
        plain = (name or "").strip()
        if not plain or plain == OFF:
            raise SettingsError(f"give the preset a name other than {OFF}")
        self._write(self._load() | {plain: values})

    def delete(self, name: str) -> None:
        self._write({other: values for other, values in self._load().items() if other != name})

    def _load(self) -> dict[str, dict]:
        if not self._file.is_file():
            return {}
        try:
            stored = json.loads(read_text(self._file))
            if not all(isinstance(values, dict) for values in stored.values()):
                raise ValueError("a preset is an object of panels")
            return stored
        except (ValueError, AttributeError) as error:
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


def row(components: list, elem_id: str) -> None:
    """Build the row of presets for the panels' components, which come in the order of script arguments."""
    presets, places = users(), [(panel.name, one.name) for panel in PANELS for one in panel.all_inputs]
    with gr.Row(elem_id=elem_id):
        name = gr.Dropdown(
            choices=known(presets), value=OFF, label="SteadyDiff preset", allow_custom_value=True, scale=3,
            min_width=120, elem_id=f"{elem_id}_name",
        )  # fmt: skip
        use, keep, drop = (
            gr.Button(word, scale=1, min_width=60, elem_id=f"{elem_id}_{word.lower()}")
            for word in ("Use", "Save", "Delete")
        )
    said = gr.HTML()

    def using(chosen: str) -> list:
        try:
            values = presets.get(chosen)
        except SettingsError as error:
            return [*[gr.update()] * len(places), html.escape(str(error))]
        return [*(values[panel][one] for panel, one in places), ""]

    def keeping(chosen: str, *given: Any) -> list:
        values: dict[str, dict] = {}
        for (panel, one), value in zip(places, given, strict=True):
            values.setdefault(panel, {})[one] = value
        return changed(lambda: presets.save(chosen, values), f"Saved as {chosen}.")

    def dropping(chosen: str) -> list:
        return changed(lambda: presets.delete(chosen), f"Deleted {chosen}.")

    def changed(change: Any, message: str) -> list:
        try:
            change()
        except SteadyDiffError as error:
            return [gr.update(), html.escape(str(error))]
        return [gr.update(choices=known(presets)), html.escape(message)]

    use.click(using, inputs=[name], outputs=[*components, said], show_progress="hidden")
    keep.click(keeping, inputs=[name, *components], outputs=[name, said], show_progress="hidden")
    drop.click(dropping, inputs=[name], outputs=[name, said], show_progress="hidden")
    name.do_not_save_to_config = True


def known(presets: Presets) -> list[str]:
    """Names to choose from; a file that cannot be read must not take the whole UI down."""
    try:
        return presets.names()
    except SettingsError:
        return [OFF]
