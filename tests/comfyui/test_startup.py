"""Loading the pack must not slow a user's start: nothing comes along that the host had not loaded itself.

STEADYDIFF_OLD_COMFYUI may name a second host, the oldest one supported (0.3.64), for the same test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A child process, since this one has loaded everything. `nodes` is the host's own module, as at its start.
CHILD = """
import asyncio, importlib.util, json, sys
host, root = sys.argv[1:]
sys.path.insert(0, host)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
extension = asyncio.run(pack.comfy_entrypoint())
names = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
loaded = set(sys.modules) - before
names["SteadyDiffSchedule"].execute(mode="uniform", steps=3, scale=1.0)
print(json.dumps([sorted(loaded), sorted(set(sys.modules) - before)]))
"""


HOSTS = ["STEADYDIFF_COMFYUI", "STEADYDIFF_OLD_COMFYUI"]


@pytest.fixture(scope="module", params=HOSTS[: 1 + (HOSTS[1] in os.environ)])
def modules(request):
    """Names of modules that loading the pack adds, and of those that drawing a plot has then added."""
    command = [sys.executable, "-c", CHILD, os.environ[request.param], str(ROOT)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [{name.split(".")[0] for name in names} for names in json.loads(done.stdout.splitlines()[-1])]


def test_loading_the_pack_adds_only_the_pack(modules):
    assert modules[0] - set(sys.stdlib_module_names) == {"pack"}


def test_what_is_heavy_would_have_been_seen(modules):
    assert "matplotlib" in modules[1] - modules[0]
