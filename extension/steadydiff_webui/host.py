"""What the WebUI calls things, for the adapter, which imports no host."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, util
from typing import Any

from steadydiff.hosts.webui.attach import WebuiHost

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


def checkpoint_name() -> str:
    """Return the loaded checkpoint's name, for people."""
    from modules import shared

    return shared.sd_model.sd_checkpoint_info.model_name


def weights(p: Any) -> list[Any]:
    """Return what tells the loaded checkpoint from others, with the LoRAs of a generation's prompt and what
    else the host says of its weights."""
    from modules import shared

    info = shared.sd_model.sd_checkpoint_info
    known = getattr(info, "calculate_shorthash", lambda: None)()  # kept by the host; none with --no-hashing
    networks = getattr(p, "extra_network_data", None) or {}
    added = {kind: [list(one.items) for one in networks[kind]] for kind in networks if networks[kind]}
    facts = ("refiner_checkpoint", "refiner_switch_at", "distilled_cfg_scale")
    more = {name: str(value) for name in facts if (value := getattr(p, name, None)) not in (None, "None", "")}
    if "refiner_checkpoint" not in more:
        more.pop("refiner_switch_at", None)
    return [known or info.model_name, added, more]


def native_scaling() -> str:
    """Warn if the host scales epsilon by itself as well: reForge's and Forge Neo's own settings."""
    from modules import shared

    option = shared.opts.data.get
    factor = option("epsilon_scaling_factor", 1.005) if option("epsilon_scaling_enabled") else 1.0
    factor *= option("scaling_factor", 1.0)
    if factor == 1:
        return ""
    return f"this WebUI's own settings scale epsilon by {factor:g} as well; switch one of the two off"


def on_main_thread(work: Callable[[], None]) -> None:
    """Work where the Forge family keeps its models; A1111 works on any thread."""
    if util.find_spec("modules_forge"):
        import_module("modules_forge.main_thread").run_and_wait_result(work)
    else:
        work()


def check_interrupted() -> None:
    """Raise what the host raises if the user cancelled."""
    from modules import sd_samplers_common, shared

    if shared.state.interrupted or shared.state.skipped:
        raise sd_samplers_common.InterruptedException
