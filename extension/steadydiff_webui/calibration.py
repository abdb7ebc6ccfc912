"""Calibration in txt2img: finds an Epsilon Scaling schedule for what is set there, shows and keeps it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr
from modules import call_queue

from steadydiff.drift.measurement import Measurement
from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.files.atomic import check_writable, write_whole
from steadydiff.files.checkpoints import check_file_name
from steadydiff.hosts.webui.drift import DriftRequest, calibrate_next
from steadydiff.inputs.drift import CALIBRATE, MEASURE
from steadydiff.plots import drift_figure, picture, schedule_figure
from steadydiff.schedules import Schedule

from .folders import MEASUREMENTS, SCHEDULES
from .host import checkpoint_name, find_host
from .measuring import SETTINGS, generate
from .widgets import widget

CHOICES = (*CALIBRATE, *(one for one in MEASURE if one.name == "refine"))
"""What is asked beside them."""

LABELS = {"method": "Shape", "count": "Samples", "refine": "Fine steps"}


class Found(NamedTuple):
    """What one calibration has found."""

    schedule: Schedule
    measurement: Measurement
    said: Sequence[str]


def calibrate(settings: dict[str, Any], method: str, count: int, refine: int, seed: int = 0) -> Found:
    """Find a schedule for the loaded checkpoint; `settings` as in SETTINGS."""
    found: list[Found] = []

    def keep(schedule: Schedule, measurement: Measurement, said: list[str]) -> None:
        found.append(Found(schedule, measurement, said))

    def begin(p: Any) -> None:
        checkpoint = checkpoint_name()  # only now it is the chosen one
        request = DriftRequest(method, int(refine), int(p.seed), getattr(p, "scheduler", None), checkpoint)
        calibrate_next(p.sampler, find_host(), request, keep)

    generate(settings, int(count), seed, begin)
    if not found:
        raise SettingsError("Fit stopped before it finished. Nothing was saved.")
    return found[-1]


def file_called(name: str) -> str:
    """Return the one name of the files that are kept; SteadyDiffError where they cannot be written."""
    plain = name.strip().removesuffix(SCHEDULES.suffix)
    check_file_name(name, plain)
    for folder in (SCHEDULES, MEASUREMENTS):
        check_writable(folder.home / f"{plain}{folder.suffix}")
    return f"{plain}{SCHEDULES.suffix}"


def keep(found: Found, name: str) -> str:
    """Write a schedule and the measurement behind it into the host's folders; return the files' one name."""
    file = file_called(name)
    for folder, what in ((SCHEDULES, found.schedule), (MEASUREMENTS, found.measurement)):
        write_whole(folder.home / file, what.to_json())
    return file


class Row:
    """The widgets inside Epsilon Scaling's panel, and the click that needs the host's own, made elsewhere."""

    def __init__(self, targets: Sequence[Any], elem_id: str) -> None:
        """targets: the panel's switch, its choice of a schedule, and the schedule's file."""
        self._targets = [*targets]
        with gr.Accordion("Calibrate", open=False, elem_id=elem_id, elem_classes=["steadydiff-more"]):
            gr.HTML(
                "Finds a schedule for the prompt, sampler, steps, CFG scale and size set above, with the "
                "loaded checkpoint. Takes as long as some pictures. It mends few-step error only, not the "
                "model's own bias: the checkpoint's own samples are the measure."
            )
            with gr.Row():
                self._choices = [widget(one, LABELS[one.name], f"{elem_id}_{one.name}") for one in CHOICES]
            with gr.Row():
                self._name = gr.Textbox(
                    value="calibrated", label="Schedule's name", elem_id=f"{elem_id}_name", scale=3
                )
                self._button = gr.Button("Fit to this checkpoint", elem_id=f"{elem_id}_measure")
            with gr.Row():
                self._curve, self._drift = (
                    gr.Image(
                        label=label,
                        show_label=False,
                        visible=False,
                        interactive=False,
                        elem_id=f"{elem_id}_{name}",
                    )
                    for name, label in (("curve", "Scales"), ("drift", "Drift"))
                )
            self._said = gr.HTML(elem_id=f"{elem_id}_said")

    def connect(self, settings: dict[str, Any]) -> None:
        """Let the button work; `settings` are the host's widgets by the names in SETTINGS."""
        outputs = [*self._targets, self._curve, self._drift, self._said]
        self._button.click(
            call_queue.wrap_gradio_gpu_call(clicked, extra_outputs=[gr.update()] * (len(outputs) - 1)),
            inputs=[*settings.values(), *self._choices, self._name],
            outputs=outputs,
            show_progress=True,
        )


def clicked(*values: Any) -> list:
    """Calibrate, keep the schedule, and choose it in the panel."""
    settings = dict(zip(SETTINGS, values, strict=False))
    *choices, name = values[len(SETTINGS) :]
    unchanged = gr.update()
    try:
        read: dict[str, Any] = {
            one.name: one.read(value) for one, value in zip(CHOICES, choices, strict=True)
        }
        file_called(name)  # before it takes its time
        found, known = calibrate(settings, **read), SCHEDULES.files()
        file = keep(found, name)
    except SteadyDiffError as error:
        return [*[unchanged] * 5, f"<p class='error'>{html.escape(str(error))}</p>"]
    chosen = gr.update(choices=["none", *SCHEDULES.files()], value=file)
    drawn = picture(schedule_figure, found.schedule), picture(drift_figure, found.measurement)
    curve, drift = (gr.update(value=one, visible=True) for one in drawn)
    instead = ", in the place of another" if file in known else ""
    said = f"Kept as {html.escape(file)}{instead}, and chosen above: {len(found.schedule.values)} scales."
    said = " ".join([said, *map(html.escape, found.said)])
    return [True, gr.update(value="file"), chosen, curve, drift, f"<p>{said}</p>"]
