"""What a user sets of MDSS."""

from __future__ import annotations

from ..methods.mdss import BRANCHES
from .kinds import Choice, Number, part

MDSS = (
    Number(
        "strength",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.01,
        tooltip="What is subtracted is multiplied by this. 0 is off, 1 what the head was trained for.",
    ),
    *part(later=""),
    Choice(
        "branches",
        default="positive",
        options=BRANCHES,
        tooltip=(
            "Which prediction is corrected. positive: the positive prompt's (usual). guided: positive and "
            "negative combined by CFG, which is stronger."
        ),
    ),
)
