"""The panels, one file per method, in the order they are shown; script arguments follow it."""

from . import epsilon_scaling
from .panel import Panel

PANELS: tuple[Panel, ...] = (epsilon_scaling.PANEL,)
