"""Auto Correct's panel: uses what was measured for the checkpoint and run, if anything was."""

from steadydiff.drift.fit_plan import QUALITIES, FitPlan
from steadydiff.hosts.webui import attach as webui
from steadydiff.hosts.webui.fit import FitKey, use_matching
from steadydiff.inputs.kinds import Choice

from ..folders import FITS
from ..host import checkpoint_name, weights
from .panel import Panel

INPUTS = (
    Choice(
        "quality",
        "normal",
        tuple(QUALITIES),
        "How many pictures are measured on: 16, 32 or 64; each has a fit of its own. Takes, at 20 steps, at "
        "most the time of 64, 128 or 486 pictures, without a folder of pictures 125, 250 or 730; mostly it "
        "knows earlier. More is surer.",
    ),
)


def key_of(p) -> FitKey:
    """Return what a generation's fit is kept under."""
    return FitKey(FITS.home, weights(p), checkpoint_name(), getattr(p, "scheduler", None))


def plan(values: dict) -> webui.Plan:
    """Return what a run needs."""
    return lambda setup: use_matching(setup, key_of(setup.model.p), FitPlan.of(values["quality"]))


PANEL = Panel(
    "Auto Correct",
    "auto_correct",
    INPUTS,
    plan,
    hint="Uses the fit that matches.",
    page="webui.md",
    rows=({"quality": "Quality"},),
    more=(),
    head=("quality",),
)
