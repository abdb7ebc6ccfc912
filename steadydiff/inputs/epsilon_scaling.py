"""What a user sets of Epsilon Scaling, and of its schedules."""

from __future__ import annotations

from ..methods.epsilon_scaling import SPACE_SETTINGS
from ..schedules import TABLE_RANGE
from .kinds import Choice, Number, Text, part

EPSILON_SCALING = (
    Number(
        "scale",
        default=1.005,
        least=TABLE_RANGE[0],
        most=TABLE_RANGE[1],
        step=0.0001,
        tooltip=(
            "1 is off. Higher: more texture, then grain. Below 1: smoother. Starting values, no more than "
            "that: SD1.5, SD2, SDXL 1.005 (default of ComfyUI's own node); anime SDXL 1.02 (users, reForge "
            "#434); EDM kind 1.0034 (the authors' EDM-ES table); flow (Flux, SD3) 1.001 (ours; nothing is "
            "published). Fewer steps need more: 1.006 at 100 steps, 1.011 at 20 on LSUN (Ning et al., "
            "2023)."
        ),
    ),
    Number(
        "slope",
        default=0.0,
        least=-0.05,
        most=0.05,
        step=0.00001,
        tooltip=(
            "Makes early steps stronger (above 0) or weaker (below 0) than late ones. 0: the same at every "
            "step. Usual: 0 to 0.001."
        ),
    ),
    *part(),
    Choice(
        "space",
        default="auto",
        options=SPACE_SETTINGS,
        tooltip=(
            "Leave on auto. epsilon: scales the noise, on every kind of model. velocity: the milder form "
            "for flow models (Flux, SD3, Wan). auto: epsilon, except velocity for a dcw schedule on a flow "
            "model."
        ),
    ),
)

SCHEDULE = (
    Text(
        "table",
        default="1.008, 1.006, 1.004, 1.002",
        tooltip=(
            "table: one scale per step, first step first, separated by commas, spaces or new lines; or the "
            "JSON text of a schedule. Must be readable even if it is not used."
        ),
        most=20_000,  # a thousand scales, or the JSON text of a schedule, are shorter
    ),
    Number(
        "tsr_k",
        default=0.95,
        least=0.01,
        most=100.0,
        step=0.001,
        tooltip=(
            "snr: the scale at the end of the run is 1 / tsr_k. Below 1 more detail, above 1 "
            "smoother, 1 is off. As in ComfyUI's TSR node."
        ),
    ),
    Number(
        "tsr_sigma",
        default=1.0,
        least=0.01,
        most=100.0,
        step=0.001,
        tooltip=(
            "snr: larger acts earlier in the run, on larger forms; smaller later, on fine detail "
            "only. As in ComfyUI's TSR node."
        ),
    ),
    Number(
        "dcw_lambda",
        default=0.005,
        least=-0.5,
        most=0.5,
        step=0.0001,
        tooltip="dcw: DCW's own weight. Above 0 more detail, below 0 smoother, 0 is off.",
    ),
)
