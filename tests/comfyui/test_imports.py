"""What we take from the host exists there and takes what we hand it, in calls that no test makes as well."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.launch.environment import ROOT
from tools.launch.inprocess import host_path

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="comfy-import-guard reads hosts by git")


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Return a function: whether comfy-import-guard finds fault with a pack in this host, and its words."""
    host, folder = Path(host_path() or ""), tmp_path_factory.mktemp("guard")
    kept, packs = folder / "cache" / "ComfyUI", folder / "install" / "custom_nodes"
    python = shutil.ignore_patterns("__pycache__", "*.json", "*.safetensors")
    for source in ("comfy", "comfy_extras", "comfy_api", "comfy_execution"):
        shutil.copytree(host / source, kept / source, ignore=python)
    for module in host.glob("*.py"):
        shutil.copy(module, kept)
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "host"]):
        subprocess.run(["git", *command], cwd=kept, check=True, capture_output=True)

    def guard(name, fill):
        (packs / name).mkdir(parents=True)
        fill(packs / name)
        where = ["--comfy-dir", packs.parent, "--cache-dir", folder / "cache", "--pack", name]
        how = ["--offline", "--no-update", "--target", "HEAD", "--strict"]
        command = [sys.executable, "-m", "comfy_import_guard.cli", "check", *where, *how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return guard


def test_the_host_has_what_the_pack_takes(guard):
    def ours(folder):
        shutil.copy(ROOT / "__init__.py", folder)
        for package in ("nodes", "steadydiff"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))

    failed, said = guard("ours", ours)
    assert not failed and "SAFE" in said and " 0 comfy.* reference" not in said, said


def test_a_call_that_the_host_refuses_is_found(guard):
    wrong = "from comfy.utils import no_such_thing\nimport comfy.utils\ncomfy.utils.repeat_to_batch_size()\n"
    failed, said = guard("wrong", lambda folder: (folder / "__init__.py").write_text(wrong))
    assert failed and "MISSING" in said and "BADCALL" in said, said
