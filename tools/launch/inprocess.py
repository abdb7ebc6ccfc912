"""ComfyUI inside this process, for tests and benches that must look closer than a server allows.

Needs the host's own packages; `run.py` starts such work with the host's interpreter and names its tree in
STEADYDIFF_COMFYUI.
"""

import asyncio
import importlib
import importlib.util
import os
import pkgutil
import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import steadydiff
from tools.launch.environment import ROOT

PACK = "custom_nodes_x_SteadyDiff"
"""Package that our nodes are loaded as: no name that an import would use."""


def host_path() -> str | None:
    """The host's tree, None if nobody named one."""
    return os.environ.get("STEADYDIFF_COMFYUI")


@cache
def prepare_host(cpu: bool, *switches: str) -> None:
    """Make ComfyUI's modules importable; once, before anything else of it is imported.

    switches: of its command line, e.g. "novram"
    """
    # Its root must come before ours: both have a package `nodes`, and the host means its own.
    sys.path.insert(0, str(host_path()))
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = cpu
    for switch in switches:
        setattr(arguments, switch, True)
    load("comfy.samplers")  # first, as the host's modules import each other in a circle


def load(name: str) -> ModuleType:
    """Import one of the host's modules; what it deprecates while loading is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@cache
def load_pack(name: str = PACK) -> dict[str, type]:
    """Our nodes by id, loaded as the host loads a custom node, from a folder, but around the core that this
    process has already: its classes and errors are there once, whoever imports them. Once a process."""
    _share_core(name)
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def _share_core(name: str) -> None:
    """Let a package find our core under its own name."""
    sys.modules[f"{name}.steadydiff"] = steadydiff
    for module in pkgutil.walk_packages(steadydiff.__path__, "steadydiff."):
        sys.modules[f"{name}.{module.name}"] = importlib.import_module(module.name)


def defaults_of(node: Any) -> dict[str, Any]:
    """A node's widgets at their defaults."""
    return {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if hasattr(entry, "default")}
