"""What a user sets of Band Scaling."""

from __future__ import annotations

from ..methods.epsilon_scaling import SPACE_SETTINGS
from ..schedules import TABLE_RANGE
from .kinds import Choice, Number, part

BAND_SCALING = (
    Number(
        "coarse",
        default=1.005,
        least=TABLE_RANGE[0],
        most=TABLE_RANGE[1],
        step=0.0001,
        tooltip=(
            "The predicted noise is divided by this in structure of two latent pixels and more: "
            "composition, large areas, light. 1 is off. Above 1 more contrast of forms, below 1 flatter."
        ),
    ),
    Number(
        "fine",
        default=1.0,
        least=TABLE_RANGE[0],
        most=TABLE_RANGE[1],
        step=0.0001,
        tooltip=(
            "The predicted noise is divided by this in what changes from one latent pixel to the "
            "next: texture, edges. 1 is off. Above 1 more texture, in the end grain; below 1 smoother."
        ),
    ),
    *part(),
    Choice(
        "space",
        default="auto",
        options=SPACE_SETTINGS,
        tooltip=(
            "What is scaled, in both bands. epsilon: the noise, on every kind of model. velocity: the "
            "velocity, on flow models (SD3, Flux, Wan ...) only; weaker on the early, noisiest steps. "
            "auto: epsilon, except velocity for a dcw schedule on a flow model."
        ),
    ),
)
