"""The widgets of the host's KSampler, for our nodes that sample: its bounds, tooltips of their own."""

import comfy.samplers
from comfy_api.latest import io

from .schema import number


def seed(tooltip: str) -> io.Int.Input:
    """The seed, with the box that changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip
    )


def steps(tooltip: str) -> io.Int.Input:
    return io.Int.Input("steps", default=20, min=1, max=10000, tooltip=tooltip)


def cfg(tooltip: str, default: float = 8.0) -> io.Float.Input:
    return number("cfg", default, 0.0, 100.0, 0.1, tooltip)


def sampler_name(tooltip: str) -> io.Combo.Input:
    names = comfy.samplers.SAMPLER_NAMES
    return io.Combo.Input("sampler_name", options=names, default="euler", tooltip=tooltip)


def scheduler(tooltip: str) -> io.Combo.Input:
    names = comfy.samplers.SCHEDULER_NAMES
    return io.Combo.Input("scheduler", options=names, default="normal", tooltip=tooltip)
