"""What a user sets of DiffIER."""

from __future__ import annotations

from ..methods.diffier import MODES, PAPER
from .kinds import Choice, Number, Switch, Whole, part

VALUES = ("as set", "paper", "auto")
"""Whose values DiffIER takes."""

DIFFIER = (
    Choice(
        "mode",
        default="renoise",
        options=MODES,
        tooltip=(
            "renoise: adds noise to the estimate and calls the model again. norm: free, reduces the burnt "
            "look at high CFG; does nothing at CFG 1. previous, literal: for research, both make pictures "
            "worse."
        ),
    ),
    Number(
        "strength",
        default=0.5,
        least=-1.0,
        most=1.0,
        step=0.01,
        tooltip=(
            "0 is off, 0.5 usual. How much of the error is corrected. Too much gives hard edges. Below 0, "
            "only in renoise, samples vary less."
        ),
    ),
    Switch(
        "divide_by_cfg",
        default=True,
        tooltip=(
            "renoise divides strength by the CFG scale, as guidance multiplies the model's errors. Without "
            "it, high CFG needs a strength of 0.1 or less."
        ),
    ),
    Whole(
        "iterations",
        default=1,
        least=0,
        most=100,
        tooltip="Most corrections per step; in mode renoise each is one more model call. 0 is off, 1 usual.",
    ),
    Number(
        "threshold",
        default=0.0,
        least=0.0,
        most=10.0,
        step=0.0001,
        tooltip=(
            "renoise ends a step early for a picture whose mean loss changes by less than this from "
            "one iteration to the next; norm ends below it. 0 is never. Larger saves calls where "
            "there is little to correct."
        ),
    ),
    Switch(
        "antithetic",
        default=False,
        tooltip="renoise uses a noise and its opposite. Calmer result, twice the extra time.",
    ),
    *part(
        0.5,
        later="The later half works best, at half the cost. ",
        earlier="Earlier saves calls and leaves fine texture alone.",
    ),
    Choice(
        "values",
        default="as set",
        options=VALUES,
        tooltip=(
            f"paper: strength {PAPER['strength']} (eta 0.05), threshold {PAPER['threshold']} "
            f"and up to {PAPER['iterations']} iterations instead of what is set above; slower, and "
            "weaker per model call. auto: the strength from the measurement's final variance error, above 0 "
            "where samples vary too little, below 0 where too much, 0 where it is within its error."
        ),
    ),
)
