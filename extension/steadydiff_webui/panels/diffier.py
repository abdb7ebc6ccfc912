"""DiffIER's panel."""

from steadydiff import inputs
from steadydiff.hosts.session import Patch
from steadydiff.hosts.webui import Plan
from steadydiff.methods.diffier import PAPER, DiffIER

from .panel import Panel

OWN = ("strength", "divide_by_cfg", "iterations", "threshold")
"""What the paper has values for."""


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    chosen = PAPER if values["values"] == "paper" else {name: values[name] for name in OWN}
    settings = DiffIER(values["mode"], antithetic=values["antithetic"], **chosen)
    return lambda start: Patch(settings, values["start_percent"], values["end_percent"])


PANEL = Panel("DiffIER", "diffier", inputs.DIFFIER, plan)
