"""The panels, one file per method, in the order of script arguments, and how they lie on the page."""

from . import antibias_prompt, diffier, epsilon_scaling, mdss
from .panel import Panel

PANELS: tuple[Panel, ...] = (epsilon_scaling.PANEL, diffier.PANEL, antibias_prompt.PANEL, mdss.PANEL)

ROWS: tuple[tuple[Panel, ...], ...] = (
    (epsilon_scaling.PANEL,),
    (diffier.PANEL,),
    (antibias_prompt.PANEL, mdss.PANEL),
)
