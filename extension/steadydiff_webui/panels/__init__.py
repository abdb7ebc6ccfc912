"""The panels, one file per method, in the order of script arguments, and how they lie on the page."""

from . import antibias_prompt, auto_correct, diffier, epsilon_scaling, mdss, time_shift
from .panel import Panel

PANELS: tuple[Panel, ...] = (
    epsilon_scaling.PANEL,
    diffier.PANEL,
    antibias_prompt.PANEL,
    mdss.PANEL,
    time_shift.PANEL,
    auto_correct.PANEL,
)

ROWS: tuple[tuple[Panel, ...], ...] = (
    (auto_correct.PANEL, time_shift.PANEL),
    (epsilon_scaling.PANEL,),
    (diffier.PANEL,),
    (antibias_prompt.PANEL, mdss.PANEL),
)
