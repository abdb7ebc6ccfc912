"""The panels, one file per method, in the order they are shown; script arguments follow it."""

from . import antibias_prompt, diffier, epsilon_scaling, mdss
from .panel import Panel

PANELS: tuple[Panel, ...] = (epsilon_scaling.PANEL, diffier.PANEL, antibias_prompt.PANEL, mdss.PANEL)
