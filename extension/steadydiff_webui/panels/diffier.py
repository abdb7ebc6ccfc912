"""DiffIER's panel."""

from hashlib import sha256

from steadydiff.drift.measurement import Measurement
from steadydiff.hosts.patch import Patch
from steadydiff.hosts.webui.attach import Plan
from steadydiff.inputs.diffier import DIFFIER
from steadydiff.methods.diffier import DiffIER, values_of

from ..folders import MEASUREMENTS, NONE, File
from .panel import Panel

OWN = ("strength", "divide_by_cfg", "iterations", "threshold")
"""What the paper has values for."""

INPUTS = (
    *DIFFIER,
    File(
        "measurement",
        MEASUREMENTS,
        "norm then pulls to the norms measured on noised clean pictures instead of the conditional "
        "branch's; with values auto, renoise takes its strength from it. Epsilon Scaling's Calibrate puts "
        "what it measures into models/steadydiff_measurements.",
    ),
)


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    measured = None
    if values["measurement"] != NONE:
        measured = Measurement.from_json(MEASUREMENTS.read_text(values["measurement"]))
    own = {name: values[name] for name in OWN}
    chosen = values_of(values["values"], own, values["mode"], measured)
    settings = DiffIER(values["mode"], antithetic=values["antithetic"], measurement=measured, **chosen)
    return lambda setup: Patch(settings, values["start_percent"], values["end_percent"])


def holds(values: dict) -> dict[str, str]:
    """Return the beginning of the SHA-256 of a measurement that is used."""
    used = values["mode"] == "norm" or values["values"] == "auto"
    if not used or values["measurement"] == NONE:
        return {}
    content = MEASUREMENTS.path_of(values["measurement"]).read_bytes()
    return {"measurement hash": sha256(content).hexdigest()[:10]}


PANEL = Panel(
    "DiffIER",
    "diffier",
    INPUTS,
    plan,
    hint="0 is off, 0.5 usual. Higher: more contrast, then hard edges.",
    page="diffier.md",
    rows=({"mode": "DiffIER mode", "strength": "DiffIER strength", "iterations": "Iterations"},),
    more=(
        {
            "start_percent": "DiffIER starts at (0 to 1)",
            "end_percent": "DiffIER ends at (0 to 1)",
            "threshold": "Stop below",
            "values": "DiffIER values",
        },
        {
            "divide_by_cfg": "Weaker at high CFG",
            "antithetic": "Two opposite noises (calmer, twice the time)",
            "measurement": "Measurement",
        },
    ),
    choice="mode",
    serves={"divide_by_cfg": "renoise", "antithetic": "renoise"},
    holds=holds,
)
