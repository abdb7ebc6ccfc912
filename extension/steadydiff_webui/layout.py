"""How panels are drawn: each by its declaration, and the header that names what is on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion, ToolButton

from . import docs
from .folders import File
from .panels import PANELS
from .panels.panel import ENABLED, Panel
from .widgets import widget

NAME, MORE, AGAIN = "SteadyDiff", "More", "\U0001f504"
AT_ONCE = {"queue": False, "show_progress": "hidden"}


class Drawn:
    """A panel's components by its inputs' names, and what is hidden with each."""

    def __init__(self, panel: Panel, elem_id: str) -> None:
        self.panel, self._elem_id = panel, elem_id
        self.by_name: dict[str, Any] = {}
        self._shells: dict[str, Any] = {}
        with InputAccordion(False, label=panel.title, elem_id=elem_id) as switch:
            self.by_name[ENABLED.name] = switch
            with switch.extra():
                gr.HTML(panel.hint, elem_classes=["steadydiff-hint"])
            self._draw(panel.rows)
            with self._closed() if panel.more else contextlib.nullcontext():
                self._draw(panel.more)
                gr.HTML(docs.link(panel.page, f"{panel.title}: docs"), elem_classes=["steadydiff-hint"])
            self.below = gr.Column(elem_id=f"{elem_id}_below")
        if panel.choice:
            choice, shells = self.by_name[panel.choice], [self._shells[name] for name in panel.serves]
            follow([choice], self._showing, [choice], shells)

    @property
    def components(self) -> list[Any]:
        """As script arguments come."""
        return [self.by_name[one.name] for one in self.panel.all_inputs]

    def _closed(self) -> Any:
        """Return a part that is closed at first."""
        more, classes = f"{self._elem_id}_more", ["steadydiff-more"]
        return gr.Accordion(MORE, open=False, elem_id=more, elem_classes=classes)

    def _draw(self, rows) -> None:
        inputs = {one.name: one for one in self.panel.inputs}
        for row in rows:
            with gr.Row(elem_classes=["steadydiff-row"]):
                for name in row:
                    self._add(inputs[name])

    def _add(self, one: Any) -> None:
        label, elem_id = self.panel.label(one), f"{self._elem_id}_{one.name}"
        shown = self.panel.shows(one.name, self.panel.defaults().get(self.panel.choice))
        if isinstance(one, File):
            with gr.Column(visible=shown, scale=2, min_width=180) as shell:
                made = file_widget(one, label, elem_id)
        else:
            made = shell = widget(one, label, elem_id)
            made.visible = shown
        self.by_name[one.name], self._shells[one.name] = made, shell

    def _showing(self, chosen: str) -> list | dict:
        found = [gr.update(visible=self.panel.shows(name, chosen)) for name in self.panel.serves]
        return found if len(found) > 1 else found[0]


def file_widget(one: File, label: str, elem_id: str):
    """Return a list of a folder's files, beside it what looks for new ones; without any it says whence."""
    with gr.Row(elem_classes=["steadydiff-file"]):
        made = widget(one, label, elem_id)
        look = ToolButton(AGAIN, elem_id=f"{elem_id}_refresh")
    note = gr.HTML(
        docs.link(one.folder.page, one.folder.origin),
        visible=not one.folder.files(),
        elem_id=f"{elem_id}_none",
        elem_classes=["steadydiff-hint"],
    )

    def noted():
        return gr.update(visible=not one.folder.files())

    look.click(lambda: [gr.update(choices=list(one.options)), noted()], outputs=[made, note], **AT_ONCE)
    made.change(noted, inputs=[], outputs=[note], **AT_ONCE)
    return made


def follow(changing: list[Any], work: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Work whenever something changes, and when a page is opened: the host may begin with other values."""
    for component in changing:
        component.change(work, inputs=inputs, outputs=outputs, **AT_ONCE)
    gr.context.Context.root_block.load(work, inputs=inputs, outputs=outputs, **AT_ONCE)


def header(values: dict[str, dict[str, Any]]) -> str:
    """Return the outer accordion's label, from the inputs of every panel's `heads`."""
    on = [panel.headline(values[panel.name]) for panel in PANELS if values[panel.name][ENABLED.name]]
    return f"{NAME}: {', '.join(on) or 'off'}"


def connect_header(outer: Any, drawn: list[Drawn]) -> None:
    """Let the outer accordion name what is on, whatever changes it."""
    places = [*_heads(drawn)]
    components = [component for _, _, component in places]

    def shown(*given: Any):
        values: dict[str, dict[str, Any]] = {}
        for (panel, name, _), value in zip(places, given, strict=True):
            values.setdefault(panel.name, {})[name] = value
        return gr.update(label=header(values))

    follow(components, shown, components, [outer])


def _heads(drawn: list[Drawn]) -> Iterator[tuple[Panel, str, Any]]:
    for one in drawn:
        for head in one.panel.heads():
            yield one.panel, head.name, one.by_name[head.name]
