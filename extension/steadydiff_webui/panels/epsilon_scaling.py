"""Epsilon Scaling's panel: one scale, a line, or a schedule of a step each."""

from steadydiff.drift.saved_fit import schedule_in
from steadydiff.errors import SettingsError
from steadydiff.hosts.patch import Patch
from steadydiff.hosts.webui.attach import Plan
from steadydiff.hosts.webui.run import RunSetup
from steadydiff.inputs.epsilon_scaling import EPSILON_SCALING, SCHEDULE
from steadydiff.inputs.kinds import Choice
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.schedules import MadeFor, Schedule, dcw_schedule, read_table, snr_schedule

from ..folders import NONE, SCHEDULES, File
from .panel import Panel

LINE = "scale and slope"

INPUTS = (
    *EPSILON_SCALING,
    Choice(
        "schedule",
        LINE,
        (LINE, "table", "snr", "dcw", "file"),
        "Where each step's scale comes from. scale and slope: from the two above. The others replace "
        "these. table: your own numbers. snr: the curve of Temporal Score Rescaling, 1 in pure noise and "
        "1/tsr_k at the end, so it acts on detail. dcw: moves every Euler step as DCW does, which acts most "
        "where steps are short. file: a schedule that was measured or kept.",
    ),
    *SCHEDULE,
    File(
        "schedule_file",
        SCHEDULES,
        "file: a schedule of models/steadydiff_schedules, made for this sampler and cfg. One that was "
        "calibrated serves other numbers of steps too; its scales are then read off by noise level.",
    ),
)


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    if values["schedule"] == "file" and values["schedule_file"] == NONE:
        raise SettingsError("schedule is file and schedule_file is none; choose a file")

    def begin(setup: RunSetup) -> Patch:
        settings = EpsilonScaling(
            scale=values["scale"],
            slope=values["slope"],
            schedule=schedule(values, setup),
            space=values["space"],
        )
        return Patch(settings, values["start_percent"], values["end_percent"])

    return begin


def schedule(values: dict, setup: RunSetup) -> Schedule | None:
    """Return the schedule of the panel's choice, None for scale and slope."""
    mode, run = values["schedule"], setup.run
    if mode == LINE:
        return None
    if mode == "table":
        return read_table(values["table"])
    if mode == "file":
        return from_file(values)
    if mode == "dcw":
        made_for = MadeFor(sampler="euler")  # the identity with DCW holds for Euler steps
        return Schedule(mode, dcw_schedule(run.sigmas, values["dcw_lambda"]), made_for)
    return Schedule(mode, snr_schedule(run.sigmas, values["tsr_k"], values["tsr_sigma"], run.space))


def from_file(values: dict) -> Schedule:
    """Return the chosen file's schedule, of Auto Correct's too."""
    return schedule_in(SCHEDULES.read_text(values["schedule_file"]))


def holds(values: dict) -> dict[str, str]:
    """Return the scales of a file that is used, as `table` takes them."""
    if values["schedule"] != "file" or values["schedule_file"] == NONE:
        return {}
    return {"schedule_file values": ", ".join(map(repr, from_file(values).values))}


CHOSEN_BY_CALIBRATION = ("schedule", "schedule_file")

PANEL = Panel(
    "Epsilon Scaling",
    "epsilon_scaling",
    INPUTS,
    plan,
    hint="1 is off. Higher: more texture, then grain. Lower: smoother.",
    page="epsilon_scaling.md",
    rows=(
        {
            "scale": "Scale",
            "schedule": "Source",
            "slope": "Change per step",
            "table": "Own table",
            "tsr_k": "TSR k",
            "tsr_sigma": "TSR sigma",
            "dcw_lambda": "DCW lambda",
            "schedule_file": "Saved schedule",
        },
    ),
    more=(
        {
            "start_percent": "Start at (0 to 1)",
            "end_percent": "End at (0 to 1)",
            "space": "Scale noise or velocity",
        },
    ),
    choice="schedule",
    serves={
        "scale": LINE,
        "slope": LINE,
        "table": "table",
        "tsr_k": "snr",
        "tsr_sigma": "snr",
        "dcw_lambda": "dcw",
        "schedule_file": "file",
    },
    head=("scale", "schedule"),
    holds=holds,
)
