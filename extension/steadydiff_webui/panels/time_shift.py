"""Time Shift's panel: the network is called at another noise level than the sampler's."""

from steadydiff.hosts.patch import Patch, training_sigmas
from steadydiff.hosts.webui.attach import Plan
from steadydiff.hosts.webui.run import RunSetup
from steadydiff.inputs.time_shift import TIME_SHIFT, TIME_SHIFT_LEVELS
from steadydiff.methods.time_shift import TimeShift

from .panel import Panel

INPUTS = (*TIME_SHIFT, TIME_SHIFT_LEVELS)


def plan(values: dict) -> Plan:
    """Return what a run needs."""

    def begin(setup: RunSetup) -> Patch:
        levels = values["levels"]
        table = tuple(training_sigmas(setup.route.levels).tolist()) if levels else ()
        settings = TimeShift(values["factor"], levels=levels, table=table)
        return Patch(settings, values["start_percent"], values["end_percent"])

    return begin


PANEL = Panel(
    "Time Shift",
    "time_shift",
    INPUTS,
    plan,
    hint="1 is off. Lower: crisper.",
    page="time_shift.md",
    rows=({"factor": "Noise level times"},),
    more=(
        {"start_percent": "Shift starts at (0 to 1)", "end_percent": "Shift ends at (0 to 1)"},
        {"levels": "Training levels instead"},
    ),
    head=("factor",),
)
