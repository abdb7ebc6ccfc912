"""The interpreter that runs the host: makes and repairs `.venv`, or checks the one that was named.

`.venv` counts as complete only when its stamp, written after the last package, matches the requirements and
the Python; anything else is installed again over what is there. Standard library only; called by run.py.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.launch.console import Stop, say, tail

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
HOSTS = ROOT / ".hosts"
REQUIREMENTS = ROOT / "tools" / "requirements-host.txt"
HOST_MODULES = ("torch", "aiohttp", "numpy", "PIL", "comfyui_frontend_package", "comfyui_workflow_templates")
OLDEST_PYTHON = (3, 10)

_PROBE = """
import importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps({"python": list(sys.version_info[:3]), "missing": missing}))
"""
_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
_GPU_PROBE = """
import torch
accelerators = [torch.cuda, torch.backends.mps, getattr(torch, "xpu", torch.cuda)]
print(any(a.is_available() for a in accelerators))
"""
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|getaddrinfo|ConnectTimeout|ConnectionError|"
    r"Max retries|ProxyError|ReadTimeout|Connection (refused|reset|broken)|IncompleteRead|unreachable",
    re.IGNORECASE,
)


@contextlib.contextmanager
def setup_lock(folder: Path = HOSTS) -> Iterator[None]:
    """Let one launcher at a time install or unpack; the system frees the lock of one that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "setup.lock", "a+b") as file:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def venv_python(venv: Path = VENV) -> Path:
    """Where a virtual environment keeps its interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_venv(venv: Path = VENV, requirements: Path = REQUIREMENTS) -> Path:
    """Return the interpreter of a complete `.venv`, creating or repairing it first where needed."""
    python = venv_python(venv)
    if stamp_matches(venv, requirements):
        return python
    with setup_lock():
        if not stamp_matches(venv, requirements):  # another launcher may have finished it meanwhile
            _create(venv)
            say(f"Installing the packages of {requirements.name} into {venv.name}: about 6 GB, only once ...")
            pip(python, ["install", "--requirement", str(requirements)], "install the host's packages")
            write_stamp(venv, requirements)
    return python


def borrowing_venv(base: Path, venv: Path, requirements: Path, purpose: str, *options: str) -> Path:
    """Return the interpreter of an environment that has its own packages and else those of `base`'s.

    It is made or made again where needed; its own packages come before the borrowed ones.
    """
    python, borrowed = venv_python(venv), venv / "borrowed.txt"
    packages = _output([base, "-c", _PACKAGES], purpose).strip()
    with setup_lock():
        if _read(borrowed) != packages or not stamp_matches(venv, requirements):
            say(f"Making {venv.name}, only once ...")
            _output([base, "-m", "venv", "--clear", "--without-pip", venv], purpose)
            own = Path(_output([python, "-c", _PACKAGES], purpose).strip())
            (own / "borrowed.pth").write_text(packages + "\n", encoding="utf-8")
            install = ["--python", str(python), "install", *options, "--requirement", str(requirements)]
            pip(base, install, purpose)
            borrowed.write_text(packages, encoding="utf-8")
            write_stamp(venv, requirements)
    return python


def _output(command: list, purpose: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stop(f"Could not {purpose}: '{command[0]}' failed.", done.stdout + done.stderr)
    return done.stdout


def stamp_matches(venv: Path, requirements: Path) -> bool:
    """Whether `venv` was completely installed from these requirements and its interpreter is still there."""
    return _load(_stamp_file(venv)) == _stamp(venv, requirements) and venv_python(venv).is_file()


def write_stamp(venv: Path, requirements: Path) -> None:
    """Declare `venv` complete; call it last."""
    _stamp_file(venv).write_text(json.dumps(_stamp(venv, requirements), indent=1), encoding="utf-8")


def _stamp_file(venv: Path) -> Path:
    return venv / "steadydiff-complete.json"


def _stamp(venv: Path, requirements: Path) -> dict:
    made_by = re.search(r"^version\s*=\s*(\S+)", _read(venv / "pyvenv.cfg"), re.MULTILINE)
    return {
        "requirements": hashlib.sha256(requirements.read_bytes()).hexdigest(),
        "python": made_by.group(1) if made_by else None,
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _create(venv: Path) -> None:
    """Make the environment with the running Python, or keep a sound one whose install was interrupted."""
    _stamp_file(venv).unlink(missing_ok=True)
    if venv_python(venv).is_file() and _runs([venv_python(venv), "-m", "pip", "--version"]):
        forget_unfinished(venv)
        return
    say(f"Creating {venv.name} with Python {platform.python_version()} ...")
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Stop(
            "This Python cannot create a virtual environment; install its venv module "
            "(on Debian and Ubuntu the package python3-venv) or name another one with --python.",
            made.stdout + made.stderr,
        )


def forget_unfinished(venv: Path) -> None:
    """Drop the records of packages whose install was cut off: pip would take them for installed.

    pip writes INSTALLER last but for RECORD, so a record without it belongs to a package that is not whole.
    """
    for record in venv.glob("[Ll]ib/**/site-packages/*.dist-info"):
        if not (record / "INSTALLER").is_file():
            shutil.rmtree(record)


def _runs(command: list) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip(python: Path, arguments: list[str], purpose: str, log: Path = HOSTS / "pip.log") -> None:
    """Run pip, log all it says, show what it is collecting, and explain a failure in a sentence."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with (
        open(log, "w", encoding="utf-8") as out,
        subprocess.Popen([*command, *arguments], **streams) as process,
    ):
        try:
            for line in process.stdout or ():
                out.write(line)
                if line.startswith(("Collecting ", "Installing ")):
                    say("  " + line.split(" (from ")[0].strip()[:100])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise _explained(log, purpose)


def _explained(log: Path, purpose: str) -> Stop:
    """The usual reasons in a sentence, any other one with pip's own words."""
    output, again = _read(log), "run the same command again"
    if _NO_NETWORK.search(output):
        return Stop(f"Could not {purpose}: no connection to the package index; {again} later.")
    if "No space left" in output:
        return Stop(f"Could not {purpose}: the disk is full; free about 8 GB and {again}.")
    return Stop(f"Could not {purpose}: pip failed as shown above; {again} once that is solved.", tail(log, 6))


def check_interpreter(name: str, modules: tuple[str, ...]) -> Path:
    """Return an interpreter the user named if it can run the host; nothing is ever installed into it."""
    python = Path(name).expanduser()
    try:
        command = [str(python), "-c", _PROBE, *modules]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        facts = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise Stop(
            f"'{name}' is not an interpreter that runs; give --python the path of a Python."
        ) from error
    if tuple(facts["python"][:2]) < OLDEST_PYTHON:
        version = ".".join(map(str, facts["python"]))
        raise Stop(f"'{name}' is Python {version}; SteadyDiff needs 3.10 or newer.")
    if facts["missing"]:
        wanted = ", ".join(facts["missing"])
        raise Stop(f"'{name}' lacks {wanted}; install them there as in tools/{REQUIREMENTS.name}.")
    return python.absolute()  # not resolved: a venv's interpreter is a link, and only the link knows the venv


def has_gpu(python: Path, cache: Path = HOSTS / "gpu.json") -> bool:
    """Whether torch sees an accelerator; asked once per interpreter and machine, as it takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    key = f"{python} on {platform.node()} with CUDA_VISIBLE_DEVICES={visible}"
    known = _load(cache)
    if key not in known:
        done = subprocess.run([str(python), "-c", _GPU_PROBE], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Stop(f"torch cannot be imported by '{python}'; the reason is shown above.", done.stderr)
        known[key] = done.stdout.strip() == "True"
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known[key]


def _load(file: Path) -> dict:
    """A JSON file of ours; one that is missing or was cut off counts as empty."""
    try:
        return json.loads(_read(file))
    except ValueError:
        return {}
