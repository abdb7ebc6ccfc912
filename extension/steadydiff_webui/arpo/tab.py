"""ARPO's tab: a picture in, its drawings and their scores as they come, the prompt found on to txt2img."""

# Over 400 lines: the tab is one page, laid out as it is read from top to bottom.

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from pathlib import Path
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
from steadydiff.picture_files import read_picture

from .. import layout
from ..settings import SERVER
from ..widgets import widget
from . import txt2img
from .captioners import PROPOSER, captioners
from .helpers import reach_server, told_of_clip
from .search import Search
from .settings import banks, parts, read_settings

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
APART = {("scorer", "download"), ("drawing", "seed"), ("search", "seeds"), ("search", "words")}
"""Beside what they belong to."""
SIDE_BY_SIDE = 4
LABELS = {
    ("proposer", "proposer"): "Who suggests phrases",
    ("proposer", "captioner"): "First prompt by",
    ("search", "iterations"): "Rounds",
    ("search", "prompt"): "Start prompt",
    ("search", "combine"): "Several images",
    ("scorer", "download"): "Download once",
    ("search", "best_by"): "Keep the prompt closest by",
    ("search", "drop"): "Also remove phrases",
    ("search", "min_gain"): "Smallest gain",
    ("search", "keep_as"): "Save search as",
    ("search", "words"): "Swap words",
    ("drawing", "cfg"): "CFG scale",
    ("bank", "most"): "Phrases per list",
    ("bank", "against"): "Weight of the drawing",
    ("server", "url"): "Server address",
    ("server", "model"): "Vision model on the server",
    ("server", "key_name"): "Name of the saved key",
}
"""What inputs are called whose names say too little."""
TAKE = (
    "Draws with txt2img's sampler, steps, CFG scale, negative prompt and size as they are when the search "
    "begins, the size in the reference's proportions. Off: with those below."
)


class Searches:
    """The searches of this UI, by id; the last few stay to be looked at."""

    KEPT = 8

    def __init__(self) -> None:
        self._by_id: dict[str, Search] = {}

    def begin(self, references: list[Image.Image], given: dict) -> Search:
        search = Search(references, given)
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
                with gr.Row(elem_classes=["steadydiff-row"]):
                    reference = gr.Image(
                        label="Reference", type="pil", height=140, elem_id=f"{NAME}_reference"
                    )
                    more = gr.File(
                        label="More references",
                        file_count="multiple",
                        file_types=["image"],
                        height=140,
                        min_width=100,
                        elem_id=f"{NAME}_more",
                    )
                widgets = dict[tuple[str, str], Any]()
                with gr.Row(elem_classes=["steadydiff-row"]):
                    start = gr.Button("Find the prompt", variant="primary", elem_id=f"{NAME}_start")
                    cancel = gr.Button("Cancel", interactive=False, elem_id=f"{NAME}_cancel")
                    clip = gr.HTML(elem_id=f"{NAME}_clip", elem_classes=["steadydiff-hint"])
                    add(widgets, known, "scorer", "download")
                taken = txt2img.components([one.name for one in known["drawing"]])
                take = settings_widgets(widgets, known, bool(taken))
                tell_of_clip(widgets, clip)
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
                add(widgets, known, "search", "words")
                with gr.Row():
                    buttons = infotext_utils.create_buttons(["txt2img", "img2img"])
                gallery = gr.Gallery(
                    label="Drawings",
                    columns=4,
                    height=220,
                    allow_preview=False,
                    show_label=True,
                    elem_id=f"{NAME}_gallery",
                )
                scores = gr.HTML(elem_id=f"{NAME}_scores")
                search_id = gr.Textbox(visible=False, elem_id=f"{NAME}_id")
                infotext = gr.Textbox(visible=False, elem_id=f"{NAME}_infotext")
        for shown_only in (found, negative, search_id, infotext):
            shown_only.do_not_save_to_config = True
        for name, button in buttons.items():
            infotext_utils.register_paste_params_button(
                infotext_utils.ParamBinding(
                    paste_button=button,
                    tabname=name,
                    source_text_component=infotext,
                    source_image_component=best if name == "img2img" else None,
                )
            )
        places = [(part, one) for part, inputs in known.items() for one in inputs]
        flat = [widgets[part, one.name] for part, one in places]

        def watch(picture: Image.Image | None, files: list, as_txt2img: bool, *values: Any) -> Iterator[list]:
            given: dict[str, dict] = {}
            for (part, one), value in zip(places, values, strict=False):
                given.setdefault(part, {})[one.name] = value
            if as_txt2img:
                drawing = given["drawing"]
                drawing |= dict(zip(taken, values[len(places) :], strict=True))
                drawing |= fitted(picture, drawing["width"], drawing["height"])
            yield from follow(searches, picture, given, files)

        def last(*values: Any) -> list:
            *_, shown = watch(*values)
            return shown

        start.click(
            fn=last if getattr(shared.cmd_opts, "no_gradio_queue", False) else watch,
            inputs=[reference, more, take, *flat, *taken.values()],
            outputs=[search_id, status, best, found, negative, infotext, gallery, scores, start, cancel],
            show_progress="hidden",
        )
        cancel.click(fn=lambda name: stop(searches, name), inputs=[search_id], outputs=[], queue=False)
        width, height = widgets["drawing", "width"], widgets["drawing", "height"]
        reference.upload(fn=fitting, inputs=[reference, width, height], outputs=[width, height])

        def choose(name: str, event: gr.SelectData):
            search = searches.get(name)
            if not (search and search.log):
                return [gr.update()] * 4
            return shown_step(search, search.log.steps[event.index // search.log.seeds])

        gallery.select(fn=choose, inputs=[search_id], outputs=[best, found, negative, infotext])
    return blocks


# --- settings ---------------------------------------------------------------------------------------------


Known = dict[str, tuple[Input, ...]]
Widgets = dict[tuple[str, str], Any]


def add(widgets: Widgets, known: Known, part: str, name: str) -> None:
    """An input's widget."""
    one = next(one for one in known[part] if one.name == name)
    made = widgets[part, name] = widget(one, label(part, one), f"{NAME}_{part}_{name}")
    if isinstance(made, gr.Textbox):
        made.lines = 1  # and grows with what is written
    if part == "server" and name in SERVER:
        made.do_not_save_to_config = True  # the settings page says with what they begin


def settings_widgets(widgets: Widgets, known: Known, takes: bool) -> Any:
    """A widget for every input that has none yet; what is changed most stands above the accordions.

    Returns the switch that takes txt2img's drawing settings, which is on if there are such (`takes`).
    """
    with gr.Row(elem_classes=["steadydiff-row"]):
        add(widgets, known, "proposer", "proposer")
        add(widgets, known, "proposer", "captioner")
        refresh(widgets, "proposer", "captioner", lambda: [PROPOSER, *captioners()])
        for name in SHOWN:
            add(widgets, known, "search", name)
    parted: dict[str, Any] = {}
    take: Any = None  # made in the part of the drawing
    for part, heading in HEADINGS.items():
        with gr.Accordion(
            heading,
            open=False,
            elem_id=f"{NAME}_{part}",
            elem_classes=["steadydiff-more"],
            visible=part != "server",
        ) as parted[part]:
            if part == "drawing":
                with gr.Row(elem_classes=["steadydiff-row"]):
                    take = gr.Checkbox(
                        takes, label="Take from txt2img", visible=takes, elem_id=f"{NAME}_take", min_width=100
                    )
                    take.webui_tooltip = TAKE
                    add(widgets, known, part, "seed")
                    add(widgets, known, "search", "seeds")
            with gr.Column(visible=not (takes and part == "drawing")) as column:
                rows(widgets, known, part)
            parted |= {"own drawing": column} if part == "drawing" else {}
    proposer = widgets["proposer", "proposer"]
    layout.follow(
        [proposer],
        lambda chosen: gr.update(visible=chosen == SERVER_PROPOSES),
        [proposer],
        [parted["server"]],
    )
    layout.follow([take], lambda on: gr.update(visible=not on), [take], [parted["own drawing"]])
    return take


def rows(widgets: Widgets, known: Known, part: str) -> None:
    """The widgets of a part that stand nowhere else, side by side."""
    left = [one.name for one in known[part] if (part, one.name) not in widgets.keys() | APART]
    for first in range(0, len(left), SIDE_BY_SIDE):
        with gr.Row(elem_classes=["steadydiff-row"]):
            for name in left[first : first + SIDE_BY_SIDE]:
                add(widgets, known, part, name)
                if (part, name) == ("bank", "bank"):
                    refresh(widgets, part, name, lambda: [*banks(), NO_BANK])


def refresh(widgets: Widgets, part: str, name: str, choices: Callable[[], list[str]]) -> None:
    """The host's button beside a list, that looks for new files."""
    made = widgets[part, name]
    create_refresh_button(made, lambda: None, lambda: {"choices": choices()}, f"{NAME}_{name}_refresh")


def tell_of_clip(widgets: Widgets, line: Any) -> None:
    """Say beside the button which CLIP there is; the download is offered where it helps."""
    asked = [widgets["scorer", name] for name in ("model", "weights", "architecture")]

    def told(*named: str) -> list:
        text, missing = told_of_clip(*named)
        return [html.escape(text), gr.update(visible=missing)]

    layout.follow(asked, told, asked, [line, widgets["scorer", "download"]])


def label(part: str, one: Input) -> str:
    """Within a tab the host wants labels to differ, so those of the helpers say whose they are."""
    words = one.name.replace("_", " ").capitalize()
    words = f"{words} ({HEADINGS[part]})" if part in ("bank", "server", "scorer") else words
    return LABELS.get((part, one.name), words)


def fitting(picture: Image.Image | None, width: float, height: float) -> tuple:
    """About as many pixels as now, in the reference's proportions."""
    found = fitted(picture, width, height)
    return tuple(found.get(side, gr.update()) for side in ("width", "height"))


def fitted(picture: Image.Image | None, width: float, height: float) -> dict[str, int]:
    if picture is None:
        return {}
    scale = (width * height / (picture.width * picture.height)) ** 0.5
    return {
        side: max(64, round(length * scale / 8) * 8)
        for side, length in zip(("width", "height"), picture.size, strict=True)
    }


# --- results ----------------------------------------------------------------------------------------------


def follow(
    searches: Searches, picture: Image.Image | None, given: dict, files: list | None = None
) -> Iterator[list]:
    """Begin a search and yield what its widgets show, whenever that changes."""
    try:
        pictures = [*([picture] if picture else []), *map(opened, files or [])]
        if not pictures:
            yield shown_error("Give a reference image first.")
            return
        reach_server(read_settings(given))
        search = searches.begin(pictures, given)
    except SteadyDiffError as error:
        yield shown_error(str(error))
        return
    before, seen = None, (None,)
    while True:
        ended, status, log = search.ended, search.status, search.log
        if (status, ended) != before or log is not seen:
            yield shown(search, status, ended, log is not seen)
            before, seen = (status, ended), log
        if ended:
            return
        time.sleep(POLL_SECONDS)


def opened(file: Any) -> Image.Image:
    """A file that was uploaded; gradio 3 gives an object with its path as `name`, gradio 4 the path."""
    path = Path(getattr(file, "name", file))
    return read_picture(path, path.name)


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
    return [as_pil(step.picture), search.prompt(step), search.negative(step), search.infotext(step)]


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
        (
            str(i),
            near(step),
            f"{step.text_similarity:.3f}",
            step.phrases.prompt,
            named(step.gains),
            named(step.drops),
        )
        for i, step in enumerate(steps)
    ]
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
