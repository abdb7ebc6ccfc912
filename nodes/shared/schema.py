"""What our nodes' schemas share: fields that old hosts lack, and bounds that NaN does not slip through."""

from collections.abc import Iterable
from dataclasses import fields

from comfy_api.latest import io

from ...steadydiff.inputs.kinds import Input

CATEGORY = "SteadyDiff"
"""The menu's first shelf: what corrects a model at once, and Compare."""

MEASURING = f"{CATEGORY}/Measure and Schedule"
TRAINED = f"{CATEGORY}/Trained Corrections"
PROMPTS = f"{CATEGORY}/Image to Prompt"
DEMO = f"{CATEGORY}/Demo"

Schedule = io.Custom("STEADYDIFF_SCHEDULE")
"""The wire between our nodes: a schedule as JSON text, see `steadydiff/schedules.py`."""

Measurement = io.Custom("STEADYDIFF_MEASUREMENT")
"""A measurement as JSON text, see `steadydiff/drift/measurement.py`."""

AntiBias = io.Custom("STEADYDIFF_ANTIBIAS")
"""A loaded anti-bias network, see `steadydiff/hosts/comfy/state.py`."""

Proposer = io.Custom("STEADYDIFF_PROPOSER")
"""What says what a drawing lacks beside a picture, see `Proposer` in `steadydiff/arpo/search.py`."""

Scorer = io.Custom("STEADYDIFF_SCORER")
"""What tells how near texts and pictures are, see `Scorer` in the same file."""

MdssHead = io.Custom("STEADYDIFF_MDSS_HEAD")
"""A second head, or None for a model trained without, see `steadydiff/hosts/comfy/mdss.py`."""


LABELS = {
    "start_percent": "start",
    "end_percent": "end",
    "tsr_k": "TSR k",
    "tsr_sigma": "TSR sigma",
    "dcw_lambda": "DCW lambda",
    "divide_by_cfg": "divide by cfg",
    "min_gain": "smallest gain",
    "most": "phrases per list",
    "against": "weight of the drawing",
    "keep_as": "save search as",
    "drop": "also remove phrases",
    "stand_in": "without pictures",
}
"""What the node shows instead of an input's name."""


def schema(advanced: Iterable[str] = (), **settings) -> io.Schema:
    """Make a schema of the fields this host knows; the oldest we support has no `search_aliases`.

    advanced: inputs that newer pages fold away
    """
    folded = {one.id: one for one in settings["inputs"]}
    for name in advanced:  # not by a field of the input's own, which the oldest host lacks
        folded[name].extra_dict = {**folded[name].extra_dict, "advanced": True}
    for one in settings["inputs"]:
        one.display_name = LABELS.get(one.id)
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in settings.items() if name in known})


class Least(float):
    """A lower bound that NaN is not above.

    The host refuses `value < bound`, which is false for NaN. Python asks a subclass for its side of the
    comparison first, and its side says "not at least the bound". Thus the host itself refuses NaN, with one
    error at the right widget; a `validate_inputs` would put its one message at every input it names.
    """

    def __gt__(self, value: float) -> bool:
        return not value >= float(self)


def number(
    name: str, default: float, least: float, most: float, step: float, tooltip: str, **more
) -> io.Float.Input:
    """Make a number widget that refuses NaN and accepts a digit more than its arrows step by."""
    return io.Float.Input(
        name, default=default, min=Least(least), max=most, step=step, round=step / 10, tooltip=tooltip, **more
    )


def widgets(declared: Iterable[Input]) -> list:
    """Make the widgets of inputs that are declared once for all hosts, in `steadydiff/inputs/`."""
    return [widget(one) for one in declared]


def advanced(one: Input):
    """Make the widget of an input that workflows of before may lack; newer pages fold it away."""
    made = later(one)
    made.extra_dict = {"advanced": True}
    return made


def later(one: Input):
    """Make the widget of an input that workflows of before may lack."""
    made = widget(one)
    made.optional = True
    return made


def widget(one: Input):
    if one.kind == "number":
        return number(one.name, one.default, one.least, one.most, one.step, one.tooltip)
    if one.kind == "whole":
        control = True if one.name == "seed" else None  # the box that changes it after each run
        return io.Int.Input(
            one.name,
            default=one.default,
            min=one.least,
            max=one.most,
            tooltip=one.tooltip,
            control_after_generate=control,  # pyright: ignore[reportArgumentType]  (its default is None)
        )
    if one.kind == "choice":
        return io.Combo.Input(one.name, options=list(one.options), default=one.default, tooltip=one.tooltip)
    if one.kind == "switch":
        return io.Boolean.Input(one.name, default=one.default, tooltip=one.tooltip)
    assert one.kind in ("line", "text"), one
    return io.String.Input(one.name, default=one.default, multiline=one.kind == "text", tooltip=one.tooltip)


def check_part(start_percent: float | None, end_percent: float | None) -> str | bool:
    """Say what is wrong with a part of a run, True if nothing; None is a link, not known yet."""
    for name, value in (("start_percent", start_percent), ("end_percent", end_percent)):
        if value is not None and not 0 <= value <= 1:
            return f"{name} is a number from 0 to 1; got {value}"
    if start_percent is not None and end_percent is not None and start_percent > end_percent:
        return f"start_percent is not above end_percent; got {start_percent} and {end_percent}"
    return True
