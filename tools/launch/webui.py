"""Real WebUIs for the tests: finds the checkouts, sets up their two environments, runs one as a subprocess.

No package of the registry carries these hosts, so a checkout of each is named by the user in the environment.
It is copied before it runs, since a WebUI writes into its own folder; the pack lies in it as a user's clone
would. torch and all that our own environment has are borrowed from there. Standard library only.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.launch.console import Stop, tail
from tools.launch.environment import HOSTS, ROOT, borrowing_venv, setup_lock
from tools.launch.server import free_port, stop

FOLDER = HOSTS / "webui"
EXTENSION = "SteadyDiff"
NOT_OF_A_CLONE = (".*", "__pycache__", "output", "runs", "tests", "benchmarks")
NOT_OF_A_HOST = (".*", "venv", "models", "outputs", "output", "extensions", "embeddings")
START_LIMIT = 300
EXPECTED = (  # A1111's start only looks whether they are there, a page's start for the last one's folder
    "repositories/stable-diffusion-stability-ai/ldm/models/diffusion/ddpm.py",
    "repositories/generative-models/sgm/__init__.py",
    "repositories/stable-diffusion-webui-assets/none",
)


@dataclass(frozen=True)
class Kind:
    """A WebUI: the environment variable that names its checkout, and the gradio it is made for."""

    name: str
    variable: str
    gradio: int


KINDS = (
    Kind("A1111", "A1111_ROOT", 3),
    Kind("Forge", "FORGE_ROOT", 4),
    Kind("reForge", "REFORGE_ROOT", 3),
    Kind("Forge Classic", "FORGE_CLASSIC_ROOT", 3),
    Kind("Forge Neo", "FORGE_NEO_ROOT", 4),
)


def named() -> list[Kind]:
    """The hosts whose checkouts are named in the environment."""
    found = [kind for kind in KINDS if os.environ.get(kind.variable)]
    for kind in found:
        if not (checkout(kind) / "modules" / "processing.py").is_file():
            raise Stop(f"{kind.variable} names no checkout of {kind.name}: '{checkout(kind)}'.")
    return found


def checkout(kind: Kind) -> Path:
    return Path(os.environ[kind.variable]).expanduser().absolute()


def ensure_python(base: Path, gradio: int) -> Path:
    """The interpreter of one of the two environments, made first where needed; `base` lends it torch."""
    requirements = ROOT / "tools" / f"requirements-webui-gradio{gradio}.txt"
    purpose = f"set up WebUIs of gradio {gradio}"
    return borrowing_venv(base, HOSTS / f"webui-gradio{gradio}", requirements, purpose, "--no-deps")


class Webui:
    """A running host that answers requests; they are the functions of `webui_host/actions.py`."""

    def __init__(self, process: subprocess.Popen, kind: Kind, data: Path, log: Path) -> None:
        self.process, self.kind, self.data, self.log = process, kind, data, log

    def ask(self, do: str, **arguments: Any) -> Any:
        """Return what the host answers; Stop with its own words if that is an error."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        try:
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise Stop(f"{self.kind.name} ended ('{do}').", tail(self.log, 25))
        answer = json.loads(line)
        if "error" in answer:
            raise Stop(f"{self.kind.name} could not do '{do}':\n{answer['error']}")
        return answer["result"]

    def generate(self, **arguments: Any) -> dict:
        """Make pictures in the host."""
        return self.ask("generate", **arguments)


@contextlib.contextmanager
def running(
    kind: Kind, python: Path, models: dict[str, Path], extension: bool = True, fresh: bool = True
) -> Iterator[Webui]:
    """Start a host with the pack in it and stop it however the block ends.

    `models` are files to put below its models folder; with `fresh` False its data folder is as the host of
    before left it, but for the pack if `extension` is False.
    """
    home = FOLDER / kind.name.replace(" ", "-").lower()
    root, data, log = home / "root", home / "data", home / "host.log"
    with setup_lock(home):  # held while it runs: another run of the tests waits
        refresh(checkout(kind), root)
        pack = data / "extensions" / EXTENSION
        if fresh:
            shutil.rmtree(data, ignore_errors=True)
        if extension:
            copy(ROOT, pack, NOT_OF_A_CLONE)
        else:
            shutil.rmtree(pack, ignore_errors=True)
        pack.parent.mkdir(parents=True, exist_ok=True)
        put(models, data)
        process = _spawn(python, root, data, log)
        try:
            yield Webui(process, kind, data, log)
        finally:
            end(process)


@contextlib.contextmanager
def serving(kind: Kind, python: Path, models: dict[str, Path], folder: Path) -> Iterator[str]:
    """Start a host with the pack in it for browsers, stop it however the block ends; yields its address.

    Its copies lie in `folder`: below one whose name begins with a dot its own page's files are refused.
    """
    root, data, log, port = folder / "root", folder / "data", folder / "host.log", free_port(0)
    refresh(checkout(kind), root)
    copy(ROOT, data / "extensions" / EXTENSION, NOT_OF_A_CLONE)
    put(models, data)
    process, address = _spawn(python, root, data, log, "serve", str(port)), f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + START_LIMIT
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > ends:
                raise Stop(f"{kind.name} does not serve its page.", tail(log, 25))
            time.sleep(1)
        yield address
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Stop a host and close the pipes to it."""
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    stop(process)
    if process.stdout:
        process.stdout.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def put(models: dict[str, Path], data: Path) -> None:
    """Copy files to their places below a data folder's models."""
    for name, file in models.items():
        (data / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, data / "models" / name)


def _spawn(python: Path, root: Path, data: Path, log: Path, *more: str) -> subprocess.Popen:
    program = ROOT / "tools" / "webui_host" / "main.py"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("PYTHONPATH", "COMMANDLINE_ARGS", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    with open(log, "wb") as out:
        return subprocess.Popen(
            [str(python), str(program), str(root), str(data), *more],
            cwd=root,
            env=environment,
            text=True,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
        )


def refresh(source: Path, root: Path) -> None:
    """Make `root` a copy of a checkout; one that is the same still is kept, as it is compiled already."""
    files = sorted(path for path in source.rglob("*.py") if "extensions" not in path.parts)
    seen = "\n".join(f"{path} {path.stat().st_mtime_ns}" for path in files)
    mark = root / "steadydiff-copied.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == seen:
        return
    copy(source, root, NOT_OF_A_HOST)
    for name in EXPECTED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    mark.write_text(seen, encoding="utf-8")


def copy(source: Path, target: Path, without: tuple[str, ...]) -> None:
    """Make `target` a copy of `source` but for what is called as in `without` at its top."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        return shutil.ignore_patterns(*without)(folder, names) if Path(folder) == source else set()

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=left_out)
