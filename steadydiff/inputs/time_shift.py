"""What a user sets of Time Shift."""

from __future__ import annotations

from .kinds import Number, part

TIME_SHIFT = (
    Number(
        "factor",
        default=0.98,
        least=0.5,
        most=1.5,
        step=0.001,
        tooltip=(
            "The network is called at the noise level times this. 1 is off. Below 1 it takes the "
            "picture for cleaner than the sampler does and leaves more in it: more contrast and "
            "detail, in the end grain. Above 1 it takes more away. Try 0.95 where a sampler draws "
            "noise at every step (euler_ancestral, ddpm, lcm) and steps are few; 0.98 to 1 elsewhere."
        ),
    ),
    *part(),
)

TIME_SHIFT_LEVELS = Number(
    "levels",
    default=0.0,
    least=-200.0,
    most=200.0,
    step=0.5,
    tooltip=(
        "If not 0, the network is called so many of its 1000 training levels lower, instead of at factor; "
        "below 0 higher. The papers count so: MDSS of k teaches a shift of about k + 1. Small at low "
        "noise, where levels lie close, and nothing at the lowest."
    ),
)
"""The other way to set Time Shift; workflows of before do not have it."""
