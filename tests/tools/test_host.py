"""The launcher's host without a network: fetched once, checked, started, and nothing left behind."""

import io
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.launch import environment, server
from tools.launch import find_comfyui as host
from tools.launch.console import Stop
from tools.launch.environment import ROOT


@pytest.fixture
def no_network():
    """These tests talk to servers of their own on this machine, which the general guard would refuse."""


# --- the host ---------------------------------------------------------------------------------------------


def make_archive(file: Path, members: dict[str, bytes]) -> Path:
    """A source distribution with these members below ComfyUI's folder."""
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{host.INSIDE}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def index(tmp_path: Path, monkeypatch):
    """A package index that delivers a small archive; its calls are listed in `calls`."""
    source = make_archive(tmp_path / "source.tar.gz", {"main.py": b"print()", "comfy/sd.py": b"x = 1"})
    monkeypatch.setattr(host, "SHA256", host.sha256(source))

    class Index:
        calls: list[Path] = []
        content = source.read_bytes()

        def pip(self, python: Path, arguments: list[str], purpose: str) -> None:
            self.calls.append(python)
            folder = Path(arguments[arguments.index("--dest") + 1])
            (folder / host.ARCHIVE).write_bytes(self.content)

    index = Index()
    index.calls = []
    monkeypatch.setattr(host, "pip", index.pip)
    return index


def test_the_host_is_fetched_once_and_then_reused(tmp_path, index):
    for _ in range(2):
        found = host.fetch(Path("python"), tmp_path / "hosts")
        assert (found / "comfy" / "sd.py").read_bytes() == b"x = 1"
    assert len(index.calls) == 1
    assert sorted(file.name for file in (tmp_path / "hosts").iterdir()) == [
        "comfyui",
        "downloads",
        "setup.lock",
    ]


def test_a_tampered_archive_is_refused_and_nothing_stays(tmp_path, index):
    middle = len(index.content) // 2
    index.content = index.content[:middle] + bytes([index.content[middle] ^ 1]) + index.content[middle + 1 :]
    with pytest.raises(Stop, match="has not the expected sha256"):
        host.fetch(Path("python"), tmp_path / "hosts")
    assert not (tmp_path / "hosts" / "comfyui").exists()
    assert list((tmp_path / "hosts" / "downloads").iterdir()) == []


def test_a_half_finished_download_is_fetched_again(tmp_path, index):
    downloads = tmp_path / "hosts" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / host.ARCHIVE).write_bytes(index.content[:50])
    host.fetch(Path("python"), tmp_path / "hosts")
    assert len(index.calls) == 1
    assert host.sha256(downloads / host.ARCHIVE) == host.SHA256


def test_a_half_unpacked_host_is_unpacked_again_without_a_download(tmp_path, index):
    hosts = tmp_path / "hosts"
    host.download(Path("python"), hosts / "downloads")
    for name in (
        "comfyui",
        "comfyui.partial",
    ):  # as an interrupted run of an older or this version leaves them
        (hosts / name).mkdir()
        (hosts / name / "half.py").touch()
    found = host.fetch(Path("python"), hosts)
    assert (found / "main.py").is_file() and not (found / "half.py").exists()
    assert not (hosts / "comfyui.partial").exists() and len(index.calls) == 1


def test_a_host_from_another_archive_is_replaced(tmp_path, index):
    found = host.fetch(Path("python"), tmp_path / "hosts")
    (found / "steadydiff-archive.sha256").write_text("another one")
    (found / "old.py").touch()
    assert not (host.fetch(Path("python"), tmp_path / "hosts") / "old.py").exists()


def test_without_a_network_nothing_is_left_behind(tmp_path, index, monkeypatch):
    def offline(*_):
        raise Stop("no connection")

    monkeypatch.setattr(host, "pip", offline)
    with pytest.raises(Stop, match="no connection"):
        host.fetch(Path("python"), tmp_path / "hosts")
    assert list((tmp_path / "hosts" / "downloads").iterdir()) == []


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    archive = make_archive(tmp_path / "evil.tar.gz", {"../../../../evil.py": b"evil"})
    with pytest.raises(Stop, match="leads outside"):
        host.unpack(archive, tmp_path / "hosts" / "comfyui")
    assert not list(tmp_path.glob("**/evil.py"))


def _checkout(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_checkouts_are_recognised_by_version(tmp_path):
    assert host.checked_version(_checkout(tmp_path / "new", "0.30.0")) == "0.30.0"
    with pytest.raises(Stop, match="ComfyUI 0.3.63 .* is too old"):
        host.checked_version(_checkout(tmp_path / "old", "0.3.63"))
    with pytest.raises(Stop, match="No ComfyUI at"):
        host.checked_version(tmp_path)


def test_inside_custom_nodes_the_surrounding_host_and_its_interpreter_are_used(tmp_path):
    comfy = _checkout(tmp_path / "ComfyUI", "0.30.0")
    assert host.surrounding_host(comfy / "custom_nodes" / "SteadyDiff") == comfy
    assert host.surrounding_host(tmp_path / "custom_nodes" / "SteadyDiff") is None
    assert host.surrounding_host(comfy / "elsewhere" / "SteadyDiff") is None

    assert host.interpreter_of(comfy) == sys.executable
    portable = tmp_path / "python_embeded" / "python.exe"
    for python in (portable, environment.venv_python(comfy / "venv")):
        python.parent.mkdir(parents=True)
        python.touch()
        assert host.interpreter_of(comfy) == str(python)


# --- the server -------------------------------------------------------------------------------------------


def test_a_busy_port_is_named_and_a_free_one_is_found():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(Stop, match=f"Port {port} is in use; choose another one with --port"):
            server.free_port(port)
        assert server.free_port(0) not in (0, port)
    assert server.free_port(port) == port


FAKE_HOST = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *_): pass
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""


@pytest.fixture
def fake_host(tmp_path, monkeypatch):
    """Turns source text into a host that runs it as main.py."""
    monkeypatch.setattr(server, "HOSTS", tmp_path)
    monkeypatch.setattr(server, "has_gpu", lambda python: False)

    def make(source: str) -> host.Host:
        (tmp_path / "main.py").write_text(source)
        return host.Host(tmp_path, "0", Path(sys.executable))

    return make


@pytest.mark.slow
def test_a_host_is_started_and_leaves_nothing_behind_even_after_an_error(fake_host, tmp_path):
    with pytest.raises(ZeroDivisionError), server.running(fake_host(FAKE_HOST)) as running:
        assert running.client.get("/system_stats") == {}
        assert "--cpu" in running.process.args
        assert (running.base / "custom_nodes" / "SteadyDiff" / "run.py").samefile(ROOT / "run.py")
        _ = 1 / 0
    assert running.process.returncode is not None
    assert not running.base.exists()
    assert (ROOT / "run.py").is_file()


@pytest.mark.slow
def test_a_host_that_dies_is_reported_with_its_last_words(fake_host, tmp_path):
    with pytest.raises(Stop, match=r"ended while starting \(exit code 3\)") as stopped:
        with server.running(fake_host("print('out of luck'); raise SystemExit(3)")):
            pass
    assert stopped.value.detail == "out of luck"
    assert not list(tmp_path.glob("base-*"))


@pytest.mark.slow
def test_a_host_that_cannot_load_the_pack_is_not_used(fake_host):
    with pytest.raises(Stop, match="could not load this repository"):
        with server.running(
            fake_host("print('0.0 seconds (IMPORT FAILED): SteadyDiff', flush=True)" + FAKE_HOST)
        ):
            pass


@pytest.mark.slow
def test_a_silent_host_is_given_up_and_ended(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(Stop, match="did not answer within 0 seconds"):
        server.wait_until_ready(process, server.free_port(0), tmp_path / "log", limit=0.1)
    server.stop(process)
    assert process.returncode is not None
