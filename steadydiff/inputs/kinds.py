"""What a user sets, method by method: names, defaults, bounds and tooltips, once for all hosts' faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..drift.calibration import TARGETS
from ..errors import SettingsError
from ..methods.antibias_prompt import CALLS
from ..methods.diffier import MODES, PAPER
from ..methods.epsilon_scaling import SPACE_SETTINGS
from ..methods.mdss import BRANCHES
from ..schedules import TABLE_RANGE

VALUES = ("as set", "paper", "auto")
"""Whose values DiffIER takes."""


@dataclass(frozen=True)
class Number:
    """A number between two bounds; a face's arrows move it by `step`."""

    kind: ClassVar[Literal["number"]] = "number"

    name: str
    default: float
    least: float
    most: float
    step: float
    tooltip: str

    def read(self, value: object) -> float:
        """Return a value from outside as a number; SettingsError if it is none within the bounds."""
        return _within(self, float, value)


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds."""

    kind: ClassVar[Literal["whole"]] = "whole"

    name: str
    default: int
    least: int
    most: int
    tooltip: str

    def read(self, value: object) -> int:
        """Return a value from outside as a whole number; SettingsError if it is none within the bounds."""
        return _within(self, _whole, value)


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    kind: ClassVar[Literal["choice"]] = "choice"

    name: str
    default: str
    options: tuple[str, ...]
    tooltip: str

    def read(self, value: object) -> str:
        """Return a value from outside; SettingsError if it is not among the options."""
        if value not in self.options:
            raise SettingsError(f"{self.name} is one of {', '.join(self.options)}; got {shown(value)}")
        return str(value)


@dataclass(frozen=True)
class Switch:
    """On or off."""

    kind: ClassVar[Literal["switch"]] = "switch"

    name: str
    default: bool
    tooltip: str

    def read(self, value: object) -> bool:
        """Return a value from outside as a bool; 1 and 0 and the words as texts are understood."""
        meant = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
        if meant is None:
            raise SettingsError(f"{self.name} is True or False; got {shown(value)}")
        return meant


@dataclass(frozen=True)
class Text:
    """A text of several lines, and of at most as many characters."""

    kind: ClassVar[Literal["text", "line"]] = "text"

    name: str
    default: str
    tooltip: str
    most: int = 1_000_000

    def read(self, value: object) -> str:
        """Return a value from outside as a text; SettingsError if it is none, or too long."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise SettingsError(f"{self.name} is a text; got {shown(value)}")
        if len(text := str(value)) > self.most:
            raise SettingsError(
                f"{self.name} is a text of at most {self.most:,} characters; got {len(text):,}"
            )
        return text


Input = Number | Whole | Choice | Switch | Text


def shown(value: object) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _within(own, kind, value):
    try:
        grouped = isinstance(value, str) and "_" in value  # Python reads 1_0 as 10
        found = None if isinstance(value, bool) or grouped else kind(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not own.least <= found <= own.most:
        what = "whole number" if own.kind == "whole" else "number"
        raise SettingsError(f"{own.name} is a {what} from {own.least:g} to {own.most:g}; got {shown(value)}")
    return found


def _whole(value):
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


PART = (
    Number(
        "start_percent",
        default=0.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip=(
            "Starts at this part of the run: 0 is the first step, 0.5 half way. Later leaves the "
            "composition alone. Start = end turns it off."
        ),
    ),
    Number(
        "end_percent",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip="Stops at this part of the run: 1 is the last step. Earlier leaves fine texture alone.",
    ),
)
"""The part of a run in which a method acts."""

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
    Number(
        "start_percent",
        default=0.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip=(
            "Starts at this part of the run: 0 is the first step, 0.5 half way. Later leaves the "
            "composition alone. Start = end turns it off."
        ),
    ),
    Number(
        "end_percent",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip="Stops at this part of the run: 1 is the last step. Earlier leaves fine texture alone.",
    ),
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
    *PART,
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
    *PART,
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
    Number(
        "start_percent",
        default=0.5,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip=(
            "Starts at this part of the run: 0 is the first step, 0.5 half way. The later half works best, "
            "at half the cost. Start = end turns it off."
        ),
    ),
    Number(
        "end_percent",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip=(
            "Stops at this part of the run: 1 is the last step. Earlier saves calls and leaves fine texture"
            " alone."
        ),
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
    *PART,
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

MDSS = (
    Number(
        "strength",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.01,
        tooltip="What is subtracted is multiplied by this. 0 is off, 1 what the head was trained for.",
    ),
    Number(
        "start_percent",
        default=0.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip=(
            "Starts at this part of the run: 0 is the first step, 0.5 half way. Start = end turns it off."
        ),
    ),
    Number(
        "end_percent",
        default=1.0,
        least=0.0,
        most=1.0,
        step=0.001,
        tooltip="Stops at this part of the run: 1 is the last step. Earlier leaves fine texture alone.",
    ),
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
