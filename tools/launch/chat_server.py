"""A real OpenAI-compatible server with a very small model, as long as a `with` block lasts.

`transformers serve` runs in an environment of its own, .hosts/chat, which borrows the host's packages and
adds the few that serving needs. Standard library only; called by `run.py test --chat`.
"""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.launch.console import Stop, say, tail
from tools.launch.environment import HOSTS, ROOT, borrowing_venv
from tools.launch.server import free_port, stop

REQUIREMENTS = ROOT / "tools" / "requirements-chat.txt"
START_LIMIT = 300
SERVE = "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"


@dataclass(frozen=True)
class Chat:
    """A server that answers at `url` about `model`."""

    url: str
    model: str


def ensure_chat_python(base: Path) -> Path:
    """Return the interpreter of .hosts/chat, made first where needed; `base` is the host's."""
    return borrowing_venv(base, HOSTS / "chat", REQUIREMENTS, "install the chat server")


def _run(command: list) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Stop(f"'{command[0]}' failed while the chat server was made.", done.stdout + done.stderr)
    return done.stdout


@contextlib.contextmanager
def running_chat(base: Path) -> Iterator[Chat]:
    """Start the server with its model, wait until it answers, and stop it however the block ends."""
    python = ensure_chat_python(base)
    folder, log = HOSTS / "chat" / "tiny-vlm", HOSTS / "chat" / "server.log"
    _run([python, "-m", "tools.launch.tiny_vlm", folder])
    port = free_port(0)
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    offline = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(python), "-c", SERVE, "serve", str(folder), *options],
            cwd=HOSTS,
            env=offline,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield Chat(f"http://127.0.0.1:{port}/v1", str(folder))
    finally:
        stop(process)


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Stop(f"The chat server ended while starting (exit code {process.returncode}).", tail(log))
        try:
            direct.open(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise Stop(f"The chat server did not answer within {START_LIMIT} seconds.", tail(log))


if __name__ == "__main__":
    with running_chat(Path(sys.executable)) as chat:
        say(f"{chat.model} is served at {chat.url}. Ctrl+C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1e9)
