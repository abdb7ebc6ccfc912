"""What a user sets where drift is measured, and λ found from it."""

from __future__ import annotations

from ..drift.calibration import TARGETS
from .kinds import Choice, Switch, Whole

MEASURE = (
    Whole(
        "count",
        default=16,
        least=2,
        most=100000,
        tooltip="How many samples. More make the curves steadier and take as much longer.",
    ),
    Whole(
        "batch_size",
        default=8,
        least=1,
        most=4096,
        tooltip=(
            "How many are sampled at a time: larger is faster and takes more memory. The "
            "result stays the same, up to the model's own rounding."
        ),
    ),
    Whole(
        "refine",
        default=4,
        least=1,
        most=100,
        tooltip=(
            "Used without reference images: the model's own samples are made with this many times more "
            "steps. More shows few-step error more fully and takes longer; never the model's own bias."
        ),
    ),
)

PAPER_CURVES = Switch(
    "paper_curves",
    default=False,
    tooltip=(
        "Also measure the paper's curves: the variance error of the states against their own clean samples "
        "over the whole run and after one ancestral step, and the error of the clean estimate behind them. "
        "Costs one more run of the sampler. For research: see the help page before reading them as errors."
    ),
)
"""Whether Measure Drift redraws the figures of Ning et al., 2023."""

CALIBRATE = (
    Choice(
        "method",
        default="norm",
        options=TARGETS,
        tooltip=(
            "uniform: one number for all steps. linear: a straight line. norm: one number per step, which "
            "follows the model closest. variance: one per step that keeps the variance of noised clean "
            "pictures, coarse and fine; for flow models. norm and variance need 64 samples or more."
        ),
    ),
    Whole(
        "count",
        default=8,
        least=1,
        most=256,
        tooltip=(
            "How many samples, at most as many as were measured; all at a time. More make "
            "the scales steadier and take more time and memory. Where the sampler draws noise, 32 "
            "are taken at least."
        ),
    ),
)
