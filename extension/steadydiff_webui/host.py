"""What the WebUI calls things, for the adapter, which imports no host."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, util

from steadydiff.hosts.webui import WebuiHost

SAMPLING_FUNCTIONS = (
    ("backend.sampling.sampling_function", "sampling_function_inner"),  # Forge, Forge Neo
    ("ldm_patched.modules.samplers", "sampling_function"),  # reForge, Forge Classic
)


def find_host() -> WebuiHost:
    """Return what this WebUI has."""
    return WebuiHost(sampling_function(), check_interrupted)


def sampling_function() -> Callable | None:
    """Return a patcher host's function that asks the model with guidance; None on A1111."""
    for module, name in SAMPLING_FUNCTIONS:
        if util.find_spec(module.partition(".")[0]) and util.find_spec(module):
            return getattr(import_module(module), name)
    return None


def check_interrupted() -> None:
    """Raise what the host raises if the user cancelled."""
    from modules import sd_samplers_common, shared

    if shared.state.interrupted or shared.state.skipped:
        raise sd_samplers_common.InterruptedException
