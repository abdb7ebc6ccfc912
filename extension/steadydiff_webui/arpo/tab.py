"""ARPO's tab: a picture in, its drawings and their scores as they come, the prompt found on to txt2img."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from modules import infotext_utils, script_callbacks, shared
from modules.ui_common import create_refresh_button
from PIL import Image

from steadydiff.arpo.bank_files import NO_BANK
from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.log import Step
from steadydiff.errors import SteadyDiffError
from steadydiff.inputs.arpo import SERVER as SERVER_PROPOSES
from steadydiff.inputs.kinds import Input

from .. import layout
from ..settings import SERVER
from ..widgets import widget
from .search import Search, banks, parts

TITLE, NAME = "SteadyDiff ARPO", "steadydiff_arpo"
POLL_SECONDS = 0.25
HEADINGS = {
    "drawing": "Drawing",
    "search": "Search",
    "bank": "Phrase bank",
    "server": "Chat server",
    "scorer": "CLIP scorer",
}
SHOWN = ("iterations", "prompt")  # of the search, above the accordions
SIDE_BY_SIDE = 4
LABELS = {
    ("proposer", "proposer"): "Who suggests phrases",
    ("search", "iterations"): "Rounds",
    ("search", "prompt"): "Start prompt",
    ("search", "best_by"): "Keep the prompt closest by",
    ("search", "drop"): "Also remove phrases",
    ("search", "min_gain"): "Smallest gain",
    ("search", "keep_as"): "Save search as",
    ("drawing", "cfg"): "CFG scale",
    ("bank", "most"): "Phrases per list",
    ("bank", "against"): "Weight of the drawing",
    ("server", "url"): "Server address",
    ("server", "model"): "Vision model on the server",
    ("server", "key_name"): "Name of the saved key",
}
"""What inputs are called whose names say too little."""


class Searches:
    """The searches of this UI, by id; the last few stay to be looked at."""

    KEPT = 8

    def __init__(self) -> None:
        self._by_id: dict[str, Search] = {}

    def begin(self, reference: Image.Image, given: dict) -> Search:
        search = Search(reference, given)
        for old in [one for one in self._by_id.values() if one.ended][: -self.KEPT]:
            del self._by_id[old.id]
        self._by_id[search.id] = search
        search.start()
        return search

    def get(self, name: str) -> Search | None:
        return self._by_id.get(name)


def register(searches: Searches) -> None:
    """Have the host show the tab; called at every load of the script."""
    script_callbacks.on_ui_tabs(lambda: [(tab(searches), TITLE, NAME)])


def tab(searches: Searches) -> gr.Blocks:
    known = parts()
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Row(equal_height=False):
            with gr.Column(variant="panel", elem_id=f"{NAME}_settings"):
                reference = gr.Image(label="Reference", type="pil", height=240, elem_id=f"{NAME}_reference")
                with gr.Row():
                    start = gr.Button("Find the prompt", variant="primary", elem_id=f"{NAME}_start")
                    cancel = gr.Button("Cancel", interactive=False, elem_id=f"{NAME}_cancel")
                widgets = settings_widgets(known)
            with gr.Column(variant="panel", elem_id=f"{NAME}_results"):
                status = gr.HTML(elem_id=f"{NAME}_status")
                best = gr.Image(
                    label="Drawing", type="pil", height=320, interactive=False, elem_id=f"{NAME}_best"
                )
                found = gr.Textbox(
                    label="Prompt found", lines=3, show_copy_button=True, elem_id=f"{NAME}_prompt"
                )
                negative = gr.Textbox(
                    label="Negative prompt found", lines=2, show_copy_button=True, elem_id=f"{NAME}_negative"
                )
                with gr.Row():
                    buttons = infotext_utils.create_buttons(["txt2img", "img2img"])
                gallery = gr.Gallery(
                    label="Drawings", columns=4, height=220, allow_preview=False, show_label=True,
                    elem_id=f"{NAME}_gallery",
                )  # fmt: skip
                scores = gr.HTML(elem_id=f"{NAME}_scores")
                search_id = gr.Textbox(visible=False, elem_id=f"{NAME}_id")
                infotext = gr.Textbox(visible=False, elem_id=f"{NAME}_infotext")
        for shown_only in (found, negative, search_id, infotext):
            shown_only.do_not_save_to_config = True
        for name, button in buttons.items():
            infotext_utils.register_paste_params_button(
                infotext_utils.ParamBinding(
                    paste_button=button, tabname=name, source_text_component=infotext,
                    source_image_component=best if name == "img2img" else None,
                )
            )  # fmt: skip
        places = [(part, one) for part, inputs in known.items() for one in inputs]
        flat = [widgets[part, one.name] for part, one in places]

        def watch(picture: Image.Image | None, *values: Any) -> Iterator[list]:
            given: dict[str, dict] = {}
            for (part, one), value in zip(places, values, strict=True):
                given.setdefault(part, {})[one.name] = value
            yield from follow(searches, picture, given)

        def last(*values: Any) -> list:
            *_, shown = watch(*values)
            return shown

        start.click(
            fn=last if getattr(shared.cmd_opts, "no_gradio_queue", False) else watch,
            inputs=[reference, *flat],
            outputs=[search_id, status, best, found, negative, infotext, gallery, scores, start, cancel],
            show_progress="hidden",
        )
        cancel.click(fn=lambda name: stop(searches, name), inputs=[search_id], outputs=[], queue=False)
        width, height = widgets["drawing", "width"], widgets["drawing", "height"]
        reference.upload(fn=fitting, inputs=[reference, width, height], outputs=[width, height])

        def choose(name: str, event: gr.SelectData):
            search = searches.get(name)
            step = search.log.steps[event.index // search.log.seeds] if search and search.log else None
            return shown_step(search, step) if step else [gr.update()] * 4

        gallery.select(fn=choose, inputs=[search_id], outputs=[best, found, negative, infotext])
    return blocks


# --- settings ---------------------------------------------------------------------------------------------


def settings_widgets(known: dict[str, tuple[Input, ...]]) -> dict[tuple[str, str], Any]:
    """A widget for every input; what is changed most stands above the accordions."""
    widgets: dict[tuple[str, str], Any] = {}

    def add(part: str, one: Input) -> None:
        made = widgets[part, one.name] = widget(one, label(part, one), f"{NAME}_{part}_{one.name}")
        if part == "server" and one.name in SERVER:
            made.do_not_save_to_config = True  # the settings page says with what they begin

    shown = [one for one in known["search"] if one.name in SHOWN]
    with gr.Row(elem_classes=["steadydiff-row"]):
        add("proposer", known["proposer"][0])
        for one in shown:
            add("search", one)
    accordions = {}
    for part, heading in HEADINGS.items():
        with gr.Accordion(
            heading, open=False, elem_id=f"{NAME}_{part}", elem_classes=["steadydiff-more"]
        ) as accordions[part]:
            rest = [one for one in known[part] if one not in shown]
            for first in range(0, len(rest), SIDE_BY_SIDE):
                with gr.Row(elem_classes=["steadydiff-row"]):
                    for one in rest[first : first + SIDE_BY_SIDE]:
                        add(part, one)
                        if (part, one.name) == ("bank", "bank"):
                            create_refresh_button(
                                widgets[part, one.name], lambda: None,
                                lambda: {"choices": [*banks(), NO_BANK]},
                                f"{NAME}_bank_refresh",
                            )  # fmt: skip
    proposer, serving = widgets["proposer", "proposer"], accordions["server"]
    layout.follow(
        [proposer], lambda chosen: gr.update(visible=chosen == SERVER_PROPOSES), [proposer], [serving]
    )
    return widgets


def label(part: str, one: Input) -> str:
    """Within a tab the host wants labels to differ, so those of the helpers say whose they are."""
    words = one.name.replace("_", " ").capitalize()
    words = f"{words} ({HEADINGS[part]})" if part in ("bank", "server", "scorer") else words
    return LABELS.get((part, one.name), words)


def fitting(picture: Image.Image | None, width: float, height: float) -> tuple:
    """About as many pixels as now, in the reference's proportions."""
    if picture is None:
        return gr.update(), gr.update()
    scale = (width * height / (picture.width * picture.height)) ** 0.5
    return tuple(max(64, round(side * scale / 8) * 8) for side in picture.size)


# --- results ----------------------------------------------------------------------------------------------


def follow(searches: Searches, picture: Image.Image | None, given: dict) -> Iterator[list]:
    """Begin a search and yield what its widgets show, whenever that changes."""
    if picture is None:
        yield shown_error("Give a reference image first.")
        return
    try:
        search = searches.begin(picture, given)
    except SteadyDiffError as error:
        yield shown_error(str(error))
        return
    before, drawn = None, -1
    while True:
        ended, status = search.ended, search.status
        steps = search.log.steps if search.log else ()
        if (status, ended) != before or len(steps) != drawn:
            yield shown(search, status, ended, len(steps) != drawn)
            before, drawn = (status, ended), len(steps)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def shown(search: Search, status: str, ended: bool, new: bool) -> list:
    """Values of the widgets; pictures only when there are new ones, as they travel to the browser."""
    steps = search.log.steps if search.log else ()
    pictures: list = [gr.update()] * 6
    if new:
        step = search.best
        items = [(as_pil(p), caption(i, one)) for i, one in enumerate(steps) for p in one.pictures]
        pictures = [*(shown_step(search, step) if step else (None, "", "", "")), items, table(steps)]
    error = search.message if ended and search.message else ""
    said = f"<div class='error'>{html.escape(error)}</div>" if error else f"<p>{html.escape(status)}</p>"
    return [search.id, said, *pictures, gr.update(interactive=ended), gr.update(interactive=not ended)]


def shown_error(message: str) -> list:
    return ["", f"<div class='error'>{html.escape(message)}</div>", *[gr.update()] * 8]


def shown_step(search: Search, step: Step) -> list:
    return [as_pil(step.picture), step.phrases.prompt, search.negative(step), search.infotext(step)]


def caption(number: int, step: Step) -> str:
    return f"{number}: {near(step)}"


def near(step: Step) -> str:
    """How near its pictures are; of several their mean and standard deviation."""
    spread = f" ± {step.spread:.3f}" if step.others else ""
    return f"{step.image_similarity:.3f}{spread}"


def table(steps: tuple[Step, ...]) -> str:
    """All steps with their similarities, and what was added to each prompt for the next."""
    if not steps:
        return ""
    heads = ("", "image", "text", "prompt", "added", "taken out")
    rows = [
        (str(i), near(step), f"{step.text_similarity:.3f}", step.phrases.prompt,
         named(step.gains), named(step.drops))
        for i, step in enumerate(steps)
    ]  # fmt: skip
    if not any(step.drops for step in steps):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    head = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def named(changes: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(phrase for phrase, _ in changes)


def stop(searches: Searches, name: str) -> None:
    if search := searches.get(name):
        search.cancel()
