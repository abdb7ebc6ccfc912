"""Imports: the core needs no host, says what is public, and loads the way each host and pytest load it."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import steadydiff
import steadydiff.methods.epsilon_scaling as epsilon_scaling

ROOT = Path(__file__).resolve().parents[2]

# Imports a package with all its modules and prints what must not have come along.
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[2])
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(found.name)
foreign = {"comfy", "comfy_api", "comfy_extras", "gradio", "modules", "matplotlib", "open_clip", "accelerate"}
print(*sorted(foreign & {name.partition(".")[0] for name in sys.modules}))
"""


def brought_along(package, folder):
    """Import every module of a package in a fresh process and return the unwanted names it loaded."""
    command = [sys.executable, "-I", "-c", IMPORT_ALL, package, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_the_core_brings_no_host_and_no_plots_along():
    assert brought_along("steadydiff", ROOT) == []


def test_the_check_above_can_fail(tmp_path):
    for name in ("gradio", "comfy"):
        (tmp_path / f"{name}.py").touch()
    inner = tmp_path / "core" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").touch()
    (inner / "__init__.py").touch()
    (inner / "deep.py").write_text("import gradio\n", encoding="utf-8")
    assert brought_along("core", tmp_path) == ["gradio"]


@pytest.mark.parametrize("module", [steadydiff, epsilon_scaling])
def test_all_lists_what_is_there(module):
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_all_forgets_nothing_public():
    public = {
        name
        for name, value in vars(steadydiff).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(steadydiff.__all__) - {"__version__"}


def test_the_version_is_the_packages():
    assert f'\nversion = "{steadydiff.__version__}"\n' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )


@pytest.fixture
def own_modules():
    """Hide our package from the import system and, afterwards, drop whatever the test imported."""
    before = dict(sys.modules)
    for name in list(sys.modules):
        if name.partition(".")[0] == "steadydiff":
            del sys.modules[name]
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def pack(tmp_path):
    """A copy of the pack in a folder no Python name could have, with a node that needs no host."""
    folder = tmp_path / "My-Pack v1.0"
    shutil.copytree(ROOT / "steadydiff", folder / "steadydiff", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", folder)
    (folder / "nodes").mkdir()
    (folder / "nodes" / "__init__.py").write_text(
        "from ..steadydiff.methods.epsilon_scaling import EpsilonScaling\n\n\n"
        "class SteadyDiffExtension:\n    method = EpsilonScaling\n",
        encoding="utf-8",
    )
    return folder


def load_as_comfyui_does(folder):
    """Load a pack under its path as name, every dot spelt `_x_`, entered in sys.modules before it runs."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_comfyui_loads_the_root_alone_and_the_nodes_when_asked(pack, own_modules):
    before = set(sys.modules)
    root = load_as_comfyui_does(pack)
    assert set(sys.modules) - before == {root.__name__}
    assert (pack / root.WEB_DIRECTORY).resolve() == (pack / "web").resolve()
    assert not hasattr(root, "NODE_CLASS_MAPPINGS")
    extension = asyncio.run(root.comfy_entrypoint())
    assert extension.method.__module__ == root.__name__ + ".steadydiff.methods.epsilon_scaling"
    assert extension.method(1.01).scale == 1.01
    assert "steadydiff" not in sys.modules


@pytest.mark.slow
def test_two_copies_live_side_by_side(pack, own_modules):
    twin = pack.with_name("SteadyDiff (2)")
    shutil.copytree(pack, twin)
    first, second = (asyncio.run(load_as_comfyui_does(folder).comfy_entrypoint()) for folder in (pack, twin))
    assert first.method is not second.method


def load_as_webui_does(script):
    """Run a script under its file name, outside sys.modules, with the extension's root on the path."""
    path = list(sys.path)
    sys.path.insert(0, str(script.parents[1]))
    try:
        spec = importlib.util.spec_from_file_location(script.name, script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_webui_scripts_find_the_core_by_its_unique_name(pack, own_modules):
    script = pack / "scripts" / "steadydiff_script.py"
    script.parent.mkdir()
    script.write_text("from steadydiff.methods.epsilon_scaling import EpsilonScaling\n", encoding="utf-8")
    module = load_as_webui_does(script)
    assert Path(sys.modules["steadydiff"].__file__).parent == pack / "steadydiff"
    assert module.EpsilonScaling(1.01).scale == 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("head", "passes"), [("", True), ("import comfy\n", False)], ids=["ours", "eager"])
def test_pytest_survives_the_root_package(tmp_path, head, passes):
    """pytest imports a root `__init__.py` as a package; one that imports a host there fails every test."""
    folder = tmp_path / "My-Pack v1.0"
    (folder / "tests").mkdir(parents=True)
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    (folder / "__init__.py").write_text(head + source, encoding="utf-8")
    (folder / "tests" / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) is passes, done.stdout
