"""Auto Correct in txt2img: measures the checkpoint with what is set there, and keeps what it chose."""

from __future__ import annotations

import hashlib
import html
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from modules import call_queue, sd_samplers_common, shared
from PIL import Image, ImageOps

from steadydiff.drift.digest import digest
from steadydiff.drift.fit_plan import FitPlan
from steadydiff.drift.saved_fit import SavedFit
from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.hosts.webui.fit import FitRequest, fit_next
from steadydiff.inputs.arpo import Line
from steadydiff.inputs.kinds import Switch, Whole
from steadydiff.inputs.references import STAND_IN
from steadydiff.picture_files import pictures_in, read_picture
from steadydiff.plots import fit_figure, picture
from steadydiff.references import SHIPPED, shipped_files

from .host import find_host
from .layout import MORE
from .measuring import SETTINGS, generate
from .panels.auto_correct import key_of
from .widgets import widget

logger = logging.getLogger("steadydiff")

POLL_SECONDS = 0.25
CHOICES = (
    Line(
        "pictures",
        "",
        "A folder with 8 or more real pictures of what the prompt asks for that the model was not trained "
        "on. Empty: the model's own finely stepped samples serve, which show the error of few steps only.",
    ),
    Whole(
        "batch_size",
        4,
        1,
        64,
        "How many pictures are sampled at a time: more is faster and takes more memory.",
    ),
    Switch("again", False, "Measures anew though a fit is kept for this checkpoint, sampler, steps and CFG."),
    STAND_IN,
)
LABELS = {
    "pictures": "Folder of real pictures",
    "batch_size": "Pictures at a time",
    "again": "Measure again",
    "stand_in": "Without pictures",
}


class Measuring:
    """One press of the button, in a thread of its own, after what the host has yet to do.

    said:  how far it is
    found: the fit, its file, and whether it was kept before; None while there is none
    error: why there is none
    """

    def __init__(self, settings: dict[str, Any], quality: str, choices: dict[str, Any]) -> None:
        self._settings, self._quality, self._choices = settings, quality, choices
        self.said, self.error, self.ended = "Waiting for the generation before it.", "", False
        self.found: tuple[SavedFit, Path, bool] | None = None
        self._running = self._cancelled = False

    def start(self) -> None:
        threading.Thread(target=self.run, name="steadydiff-auto-correct", daemon=True).start()

    def cancel(self) -> None:
        """End it; what is measured is kept."""
        self._cancelled = True
        if self._running:
            shared.state.interrupt()

    def run(self) -> None:
        """Measure now."""
        try:
            with call_queue.queue_lock:
                self._work()
        except SteadyDiffError as error:
            self.error = str(error)
        except Exception as error:
            logger.exception("SteadyDiff: measuring failed")
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.ended = True

    def _work(self) -> None:
        shared.state.begin(job="steadydiff_auto_correct")
        self._running = True
        try:
            if not self._cancelled:
                generate(self._settings, self._choices["batch_size"], 0, self._begin)
        finally:
            self._running = False
            shared.state.end()
            shared.state.interrupted = False
        if self.found is None:
            raise SettingsError("Cancelled. What was measured is kept; press again to go on.")

    def _begin(self, p: Any) -> None:
        plan, folder = FitPlan.of(self._quality), self._choices["pictures"].strip()
        shipped = not folder and self._choices["stand_in"] == SHIPPED
        files = picture_files(folder, plan.pictures) if folder else []
        files = shipped_files(plan.pictures) if shipped else files
        request = FitRequest(
            key_of(p),
            plan,
            digest(p.prompt, p.negative_prompt),
            self._choices["again"],
            self._say,
            encoded(files, p.width, p.height) if files else None,
            f"{len(files)} {SHIPPED if shipped else f'pictures of {folder}'}" if files else "",
            digest(*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)) if files else None,
        )
        fit_next(p.sampler, find_host(), request, self._keep)

    def _say(self, text: str) -> None:
        self.said = shared.state.textinfo = text

    def _keep(self, *found: Any) -> None:
        self.found = found


def picture_files(folder: str, count: int) -> list[Path]:
    """Return the first pictures of a folder; SettingsError if it has none."""
    if not (files := pictures_in(Path(os.path.expanduser(folder)))):
        raise SettingsError(
            f"the folder of real pictures, {folder!r}, has no PNG, JPEG or WebP file; name another or none"
        )
    return files[:count]


def encoded(files: Sequence[Path], width: int, height: int) -> torch.Tensor:
    """Return pictures as clean latents [M, C, *S] in the loaded model's own units, cut to a size."""
    latents = []
    for file in files:
        seen = ImageOps.fit(read_picture(file, file.name), (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(seen, dtype=np.float32) / 255).movedim(-1, 0)
        latents.append(sd_samplers_common.images_tensor_to_samples(pixels[None], None, shared.sd_model).cpu())
    return torch.cat(latents).float()


class Row:
    """The widgets inside Auto Correct's panel, and the click that needs the host's own, made elsewhere."""

    def __init__(self, switch: Any, quality: Any, elem_id: str) -> None:
        """switch, quality: the panel's."""
        self._switch, self._quality = switch, quality
        pictures, *rest = CHOICES
        self._choices = [_widget(pictures, elem_id)]
        with (
            gr.Accordion(MORE, open=False, elem_id=f"{elem_id}_choices", elem_classes=["steadydiff-more"]),
            gr.Row(elem_classes=["steadydiff-row"]),
        ):
            self._choices += [_widget(one, elem_id) for one in rest]
        with gr.Row(elem_classes=["steadydiff-buttons"]):
            self._start = gr.Button("Measure and choose", elem_id=f"{elem_id}_measure")
            self._cancel = gr.Button("Stop measuring", interactive=False, elem_id=f"{elem_id}_cancel")
        self._curve = gr.Image(
            label="Signs and tries",
            show_label=False,
            visible=False,
            interactive=False,
            elem_id=f"{elem_id}_curve",
        )
        self._said = gr.HTML(
            "Measures once for a checkpoint with its LoRAs, sampler, steps and CFG. Experimental.",
            elem_id=f"{elem_id}_said",
            elem_classes=["steadydiff-hint"],
        )

    def connect(self, settings: dict[str, Any]) -> None:
        """Let the buttons work; `settings` are the host's widgets by the names in SETTINGS."""
        work = last if getattr(shared.cmd_opts, "no_gradio_queue", False) else clicked
        self._start.click(
            work,
            inputs=[*settings.values(), self._quality, *self._choices],
            outputs=[self._switch, self._curve, self._said, self._start, self._cancel],
            show_progress="hidden",
        )
        self._cancel.click(cancel, inputs=[], outputs=[], queue=False)


def _widget(one: Any, elem_id: str) -> Any:
    return widget(one, LABELS[one.name], f"{elem_id}_{one.name}")


_BEGUN: list[Measuring] = []  # what the button to stop stops, of every page


def cancel() -> None:
    for one in _BEGUN:
        one.cancel()


def clicked(*values: Any) -> Iterator[list]:
    """Measure, tell how far it is whenever that changes, and at last what was chosen."""
    settings, quality = dict(zip(SETTINGS, values, strict=False)), values[len(SETTINGS)]
    try:
        given = zip(CHOICES, values[len(SETTINGS) + 1 :], strict=True)
        work = Measuring(settings, quality, {one.name: one.read(value) for one, value in given})
    except SteadyDiffError as error:
        yield shown(error=str(error))
        return
    _BEGUN[:] = [*(one for one in _BEGUN if not one.ended), work]
    work.start()
    before = ""
    while not work.ended:
        if work.said != before:
            before = work.said
            yield shown(before, running=True)
        time.sleep(POLL_SECONDS)
    yield shown(error=work.error) if work.found is None else chosen(*work.found)


def last(*values: Any) -> list:
    *_, found = clicked(*values)
    return found


def shown(said: str = "", running: bool = False, error: str = "", **more: Any) -> list:
    """Values of the switch, the picture, the words and the two buttons."""
    words = f"<p class='error'>{html.escape(error)}</p>" if error else f"<p>{html.escape(said)}</p>"
    words = words.replace("\n", "<br>")
    buttons = gr.update(interactive=not running), gr.update(interactive=running)
    return [more.get("switch", gr.update()), more.get("curve", gr.update()), words, *buttons]


def chosen(kept: SavedFit, file: Path, before: bool) -> list:
    """Show a fit, and switch its use on."""
    again = " It was measured before; tick Measure again to measure anew." if before else ""
    said = (
        f"{kept.report()}\nKept in {file.name}, and used for runs like this while Auto Correct is on.{again}"
    )
    curve = gr.update(value=picture(fit_figure, kept), visible=True)
    return shown(said, switch=True, curve=curve)
