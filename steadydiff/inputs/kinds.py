"""What a user sets, method by method: names, defaults, bounds and tooltips, once for all hosts' faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..drift.calibration import METHODS
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

    kind: ClassVar[str] = "number"

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

    kind: ClassVar[str] = "whole"

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

    kind: ClassVar[str] = "choice"

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

    kind: ClassVar[str] = "switch"

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

    kind: ClassVar[str] = "text"

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
        "start_percent", 0.0, 0.0, 1.0, 0.001,
        "Where in the run it begins to act; 0 is the first, noisiest step. Later spares the "
        "composition. Equal to end_percent it is off.",
    ),
    Number(
        "end_percent", 1.0, 0.0, 1.0, 0.001,
        "Where in the run it ceases to act; 1 is the last step. Earlier spares fine detail.",
    ),
)  # fmt: skip
"""The part of a run in which a method acts."""

EPSILON_SCALING = (
    Number(
        "scale", 1.005, *TABLE_RANGE, 0.0001,
        "The predicted noise is divided by this. 1 is off. Above 1 less noise is taken away: "
        "more detail and texture, in the end grain. Below 1 more is taken away: smoother, in "
        "the end flat. Published values lie between 0.998 and 1.017; the fewer the steps, the "
        "larger.",
    ),
    Number(
        "slope", 0.0, -0.05, 0.05, 0.00001,
        "Added to scale once per step, counted from the last step back to the first (the "
        "paper's k). 0 is one scale for all. Above 0 the early steps are scaled more, which "
        "acts on composition; below 0 they are scaled less, which leaves the effect to fine "
        "detail. Keep the mean, scale + slope x (steps - 1) / 2, where scale alone worked well.",
    ),
    Number(
        "start_percent", 0.0, 0.0, 1.0, 0.001,
        "Where in the run it begins to act; 0 is the first, noisiest step. Later spares the "
        "composition and leaves the effect to detail. Equal to end_percent it is off.",
    ),
    Number(
        "end_percent", 1.0, 0.0, 1.0, 0.001,
        "Where in the run it ceases to act; 1 is the last step. Earlier spares fine texture and "
        "leaves the effect to composition.",
    ),
    Choice(
        "space", "auto", SPACE_SETTINGS,
        "What is scaled. epsilon: the noise, on every kind of model. velocity: the "
        "velocity, on flow models (SD3, Flux, Wan ...) only, as ComfyUI's own node does there; "
        "weaker on the early, noisiest steps. auto: epsilon, except velocity for a dcw schedule "
        "on a flow model.",
    ),
)  # fmt: skip

SCHEDULE = (
    Text(
        "table", "1.008, 1.006, 1.004, 1.002",
        "table: one scale per step, the first, noisiest step first, parted by commas, "
        "blanks or new lines; or the JSON text of a schedule. Above 1 more detail, below 1 "
        "smoother. What stands here must be readable even if it is not used.",
        most=20_000,  # a thousand scales, or the JSON text of a schedule, are shorter
    ),
    Number(
        "tsr_k", 0.95, 0.01, 100.0, 0.001,
        "snr: the scale at the end of the run is 1 / tsr_k. Below 1 more detail, above 1 "
        "smoother, 1 is off. As in ComfyUI's TSR node.",
    ),
    Number(
        "tsr_sigma", 1.0, 0.01, 100.0, 0.001,
        "snr: larger acts earlier in the run, on larger forms; smaller later, on fine detail "
        "only. As in ComfyUI's TSR node.",
    ),
    Number(
        "dcw_lambda", 0.005, -0.5, 0.5, 0.0001,
        "dcw: DCW's own weight. Above 0 more detail, below 0 smoother, 0 is off.",
    ),
)  # fmt: skip

BAND_SCALING = (
    Number(
        "coarse", 1.005, *TABLE_RANGE, 0.0001,
        "The predicted noise is divided by this in structure of two latent pixels and more: "
        "composition, large areas, light. 1 is off. Above 1 more contrast of forms, below 1 flatter.",
    ),
    Number(
        "fine", 1.0, *TABLE_RANGE, 0.0001,
        "The predicted noise is divided by this in what changes from one latent pixel to the "
        "next: texture, edges. 1 is off. Above 1 more texture, in the end grain; below 1 smoother.",
    ),
    *PART,
    Choice(
        "space", "auto", SPACE_SETTINGS,
        "What is scaled, in both bands. epsilon: the noise, on every kind of model. velocity: the "
        "velocity, on flow models (SD3, Flux, Wan ...) only; weaker on the early, noisiest steps. "
        "auto: epsilon, except velocity for a dcw schedule on a flow model.",
    ),
)  # fmt: skip

TIME_SHIFT = (
    Number(
        "factor", 0.98, 0.5, 1.5, 0.001,
        "The network is called at the noise level times this. 1 is off. Below 1 it takes the "
        "picture for cleaner than the sampler does and leaves more in it: more contrast and "
        "detail, in the end grain. Above 1 it takes more away. Try 0.95 where a sampler draws "
        "noise at every step (euler_ancestral, ddpm, lcm) and steps are few; 0.98 to 1 elsewhere.",
    ),
    *PART,
)  # fmt: skip

TIME_SHIFT_LEVELS = Number(
    "levels", 0.0, -200.0, 200.0, 0.5,
    "If not 0, the network is called so many of its 1000 training levels lower, instead of at factor; below "
    "0 higher. The papers count so: MDSS of k teaches a shift of about k + 1. Small at low noise, where "
    "levels lie close, and nothing at the lowest.",
)  # fmt: skip
"""The other way to set Time Shift; workflows of before do not have it."""

DIFFIER = (
    Choice(
        "mode", "renoise", MODES,
        "renoise: the model is asked again at its own noised estimate, at one more model "
        "call per iteration and step. norm: free; pulls the guided noise to the strength of the "
        "conditional branch's, against the burnt look of high cfg; at cfg 1 it does nothing. "
        "previous, literal: for research only, both make pictures worse; previous pulls to the "
        "step before, literal towards plain noise, which is what the paper prints.",
    ),
    Number(
        "strength", 0.5, -1.0, 1.0, 0.01,
        "The share of the found error that is corrected: twice the paper's eta. 0 is off. More "
        "brings more contrast and detail, in the end grain and hard edges. Below 0, only in renoise, "
        "samples vary less: for a sampler that makes them vary too much.",
    ),
    Switch(
        "divide_by_cfg", True,
        "renoise divides strength by the sampler's cfg. Guidance multiplies the errors a "
        "model makes by about as much; without this, high cfg needs a strength of 0.1 or less.",
    ),
    Whole(
        "iterations", 1, 0, 100,
        "How often per step, at most; in mode renoise each costs a model call. 0 is off. "
        "Three at strength 0.1 do about what one does at 0.3.",
    ),
    Number(
        "threshold", 0.0, 0.0, 10.0, 0.0001,
        "renoise ends a step early for a picture whose mean loss changes by less than this from "
        "one iteration to the next; norm ends below it. 0 is never. Larger saves calls where "
        "there is little to correct.",
    ),
    Switch(
        "antithetic", False,
        "renoise asks twice, with a noise and its opposite: the correction is calmer and "
        "adds no grain of its own, at twice the extra model calls.",
    ),
    Number(
        "start_percent", 0.5, 0.0, 1.0, 0.001,
        "Where in the run it begins to act; 0 is the first, noisiest step. The later half is the "
        "better half, at half the cost. Equal to end_percent it is off.",
    ),
    Number(
        "end_percent", 1.0, 0.0, 1.0, 0.001,
        "Where in the run it ceases to act; 1 is the last step. Earlier saves calls and leaves "
        "fine texture as the model draws it.",
    ),
    Choice(
        "values", "as set", VALUES,
        f"paper: strength {PAPER['strength']} (eta 0.05), threshold {PAPER['threshold']} "
        f"and up to {PAPER['iterations']} iterations instead of what is set above; slower, and "
        "weaker per model call. auto: the strength from the measurement's final variance error, above 0 "
        "where samples vary too little, below 0 where too much, 0 where it is within its error.",
    ),
)  # fmt: skip

ANTIBIAS_PROMPT = (
    Number(
        "strength", 1.0, 0.0, 2.0, 0.01,
        "The correction is multiplied by this. 0 is off, 1 what the network was trained for. "
        "Below 1 is careful; above 1 overshoots if the training was long enough.",
    ),
    *PART,
    Choice(
        "calls", "every", CALLS,
        "every: before every model call but the first, also the inner ones of samplers "
        "that ask several times a step (heun, dpmpp_sde ...), as in the paper. step starts: once "
        "a step, if such a sampler overshoots.",
    ),
)  # fmt: skip

MDSS = (
    Number(
        "strength", 1.0, 0.0, 1.0, 0.01,
        "What is subtracted is multiplied by this. 0 is off, 1 what the head was trained for.",
    ),
    Number(
        "start_percent", 0.0, 0.0, 1.0, 0.001,
        "Where in the run it begins to act; 0 is the first, noisiest step. Equal to end_percent "
        "it is off.",
    ),
    Number(
        "end_percent", 1.0, 0.0, 1.0, 0.001,
        "Where in the run it ceases to act; 1 is the last step. Earlier spares fine detail.",
    ),
    Choice(
        "branches", "positive", BRANCHES,
        "Under guidance the network answers for two prompts. positive: the positive "
        "prompt's second output counts. guided: both, combined by cfg as the first output is, "
        "which enlarges it.",
    ),
)  # fmt: skip

MEASURE = (
    Whole(
        "count", 16, 2, 100000,
        "How many samples. More make the curves steadier and take as much longer.",
    ),
    Whole(
        "batch_size", 8, 1, 4096,
        "How many are sampled at a time: larger is faster and takes more memory. The "
        "result stays the same, up to the model's own rounding.",
    ),
    Whole(
        "refine", 4, 1, 100,
        "Without reference: every step of the model's own clean samples is divided into "
        "this many. Larger shows few-step error more fully and takes longer; the model's own bias "
        "is in them however many. Unused with a reference.",
    ),
)  # fmt: skip

PAPER_CURVES = Switch(
    "paper_curves", False,
    "Also measure the paper's curves: the variance error of the states against their own clean samples "
    "over the whole run and after one ancestral step, and the error of the clean estimate behind them. "
    "Costs one more run of the sampler. For research: see the help page before reading them as errors.",
)  # fmt: skip
"""Whether Measure Drift redraws the figures of Ning et al., 2023."""

CALIBRATE = (
    Choice(
        "method", "norm", METHODS,
        "norm: a scale of its own for every step, which follows the model closest. "
        "linear, uniform: the straight line, or the one number, nearest to that in the first "
        "three quarters of the steps; smoother. variance: a scale for every step that keeps the "
        "variance of noised clean pictures, coarse and fine; for flow models, and to be compared "
        "with norm. Take 64 samples or more.",
    ),
    Whole(
        "count", 8, 1, 256,
        "How many samples, at most as many as were measured; all at a time. More make "
        "the scales steadier and take more time and memory. Where the sampler draws noise, 32 "
        "are taken at least.",
    ),
)  # fmt: skip
