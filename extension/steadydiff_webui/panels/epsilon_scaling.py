"""Epsilon Scaling's panel."""

from steadydiff import inputs
from steadydiff.hosts.session import Patch
from steadydiff.hosts.webui import Plan
from steadydiff.methods.epsilon_scaling import EpsilonScaling

from .panel import Panel


def plan(values: dict) -> Plan:
    """Return what a run needs."""
    settings = EpsilonScaling(scale=values["scale"], slope=values["slope"], space=values["space"])
    return lambda run: Patch(settings, values["start_percent"], values["end_percent"])


PANEL = Panel("Epsilon Scaling", "epsilon_scaling", inputs.EPSILON_SCALING, plan)
