"""Starts a real ComfyUI for as long as a `with` block lasts, with this repository as its only custom node.

The host gets a base directory of its own (models, input, output, user, custom_nodes), so nothing a user has
installed is loaded or written to. Standard library only; called by run.py and by the host tests.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.launch.comfy_client import ComfyClient
from tools.launch.console import Stop, tail
from tools.launch.environment import HOSTS, ROOT, has_gpu
from tools.launch.find_comfyui import Host

START_LIMIT = 300  # seconds until the host must answer; 10 are usual on two idle cores, 60 on busy ones


@dataclass(frozen=True)
class Server:
    """A ComfyUI that answers on 127.0.0.1 at `port`; `base` is its base directory, `log` its whole output."""

    process: subprocess.Popen
    port: int
    base: Path
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> ComfyClient:
        return ComfyClient(self.port)


@contextlib.contextmanager
def running(
    host: Host, port: int = 0, base: Path | None = None, options: tuple[str, ...] = ()
) -> Iterator[Server]:
    """Start the host, wait until it answers, and stop it however the block ends.

    `port` 0 picks a free one. `base` is kept if given; otherwise a fresh one is made and removed at the end.
    """
    port = free_port(port)
    with contextlib.ExitStack() as cleanup:
        if base is None:
            HOSTS.mkdir(exist_ok=True)
            base = Path(tempfile.mkdtemp(prefix="base-", dir=HOSTS))
            cleanup.callback(remove_base, base)
        link_pack(base)
        log = base / "comfyui.log"
        process = _spawn(command(host, port, base, options), base, log)
        cleanup.callback(stop, process)
        wait_until_ready(process, port, log)
        if "(IMPORT FAILED)" in log.read_text(encoding="utf-8", errors="replace"):
            raise Stop("ComfyUI could not load this repository as a custom node.", tail(log))
        yield Server(process, port, base, log)


def command(host: Host, port: int, base: Path, options: tuple[str, ...] = ()) -> list[str]:
    """The host's command line: headless, local, private, and on the CPU where torch sees no accelerator."""
    device = [] if has_gpu(host.python) else ["--cpu"]
    return [
        *(str(host.python), "-u", str(host.path / "main.py"), "--listen", "127.0.0.1", "--port", str(port)),
        *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
        *("--disable-auto-launch", "--disable-api-nodes", *device, *options),
    ]


def _spawn(arguments: list[str], base: Path, log: Path) -> subprocess.Popen:
    environment = dict(os.environ, PYTHONIOENCODING="utf-8")  # its log may exceed a Windows code page
    environment.pop("PYTHONPATH", None)  # a user's host does not have this repository on its path either
    with open(log, "wb") as out:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        return subprocess.Popen(arguments, cwd=base, env=environment, **streams)


def wait_until_ready(process: subprocess.Popen, port: int, log: Path, limit: float = START_LIMIT) -> None:
    """Return once the host answers; say why, with its last words, if it ends or stays silent instead."""
    deadline = time.monotonic() + limit
    client = ComfyClient(port, patience=5)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Stop(f"ComfyUI ended while starting (exit code {process.returncode}).", tail(log))
        try:
            client.get("/system_stats")
            return
        except OSError:
            time.sleep(0.2)
    raise Stop(f"ComfyUI did not answer within {limit:.0f} seconds.", tail(log))


def stop(process: subprocess.Popen, patience: float = 10) -> None:
    """End the host politely, then firmly."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(wanted: int) -> int:
    """A port nobody listens on: the wanted one, or any if that is 0."""
    with socket.socket() as probe:
        if os.name != "nt":  # there the option would allow taking a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise Stop(f"Port {wanted} is in use; choose another one with --port.") from error
        return probe.getsockname()[1]


def link_pack(base: Path, repository: Path = ROOT) -> None:
    """Make the repository the one custom node below `base`: a link, or a junction where links need rights."""
    link = base / "custom_nodes" / "SteadyDiff"
    link.parent.mkdir(parents=True, exist_ok=True)
    unlink_pack(base)  # it may point to where the repository was before it was moved
    try:
        os.symlink(repository, link, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        command = ["cmd", "/c", "mklink", "/J", str(link), str(repository)]
        subprocess.run(command, capture_output=True, check=True)


def unlink_pack(base: Path) -> None:
    """Undo link_pack; the repository itself stays."""
    link = base / "custom_nodes" / "SteadyDiff"
    if os.path.lexists(link):
        link.unlink() if link.is_symlink() else link.rmdir()  # rmdir takes the junction, not its target


def remove_base(base: Path) -> None:
    """Delete a base directory; the link to the repository goes first, so that nothing can follow it."""
    unlink_pack(base)
    shutil.rmtree(base, ignore_errors=True)
