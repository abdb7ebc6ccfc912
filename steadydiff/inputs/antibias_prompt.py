"""What a user sets of Anti-Bias Prompt."""

from __future__ import annotations

from ..methods.antibias_prompt import CALLS
from .kinds import Choice, Number, part

ANTIBIAS_PROMPT = (
    Number(
        "strength",
        default=1.0,
        least=0.0,
        most=2.0,
        step=0.01,
        tooltip=(
            "The correction is multiplied by this. 0 is off, 1 what the network was trained for. "
            "Below 1 is careful; above 1 overshoots if the training was long enough."
        ),
    ),
    *part(),
    Choice(
        "calls",
        default="every",
        options=CALLS,
        tooltip=(
            "every: before every model call but the first, also the inner ones of samplers "
            "that ask several times a step (heun, dpmpp_sde ...), as in the paper. step starts: once "
            "a step, if such a sampler overshoots."
        ),
    ),
)
