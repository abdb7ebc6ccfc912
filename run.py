#!/usr/bin/env python3
"""SteadyDiff's commands: demo, test, ui, train, bench, arpo. `python3 run.py --help` lists them.

Needs only Python 3.10 or newer; what a command needs beyond that (packages, the host) is fetched once,
checked and reused. This file parses arguments and says what happens in which order; `tools/` does the work.
"""

import sys

if sys.version_info < (3, 10):  # before the imports, which an older Python cannot read
    sys.exit("SteadyDiff needs Python 3.10 or newer; this is Python %d.%d." % sys.version_info[:2])

import argparse
import ast
import io
import os
import signal
import subprocess
import time
from pathlib import Path

from tools.bench.shared.frame import options_of
from tools.launch import webui
from tools.launch.browser import ensure_browser_python, find_chromium
from tools.launch.chat_server import running_chat
from tools.launch.console import Stop, say, tail
from tools.launch.demo import run_demo
from tools.launch.environment import HOSTS, borrowing_venv, check_interpreter, ensure_venv
from tools.launch.find_comfyui import Host, ensure_host
from tools.launch.server import running

ROOT = Path(__file__).resolve().parent
STARTED = time.monotonic()
HELP = ["--help"]
NOTHING_COLLECTED = 5  # pytest's exit code
MOST_WORKERS = 8  # each has a host in its memory, some 1.5 GB
FAST = ["-m", "not slow and not host and not gpu and not chat and not webui and not browser", "--few", "2"]
TRAINERS = {
    "tinyworld": "steadydiff.tinyworld.train",
    "photos": "steadydiff.tinyworld.photos.train",
    "antibias": "tools.train.antibias",
    "mdss": "tools.train.mdss",
}


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the workflows in a real ComfyUI and show baseline and corrected pictures side by side."""
    no_more(rest)
    run_demo(ensure_host(options.python), STARTED, options.workflow, options.open)
    return 0


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the fast suite, then the host suite against the real ComfyUI; a suite without tests has failed."""
    if not (ROOT / "tests").is_dir():  # the registry's archive
        raise Stop("No tests here: the registry's archive leaves them out. The repository has them.")
    needed = ("pytest", "hypothesis", "xdist")
    host = None
    if not options.fast:
        host = ensure_host(options.python, *needed, "comfy_import_guard", named=options.comfyui)
    python = host.python if host else interpreter(options.python, *needed)
    shared = [] if rest else shared_out()
    codes = [pytest(python, [*shared, *(FAST if options.fast else []), *rest])]
    if host:
        say(f"\nHost suite against ComfyUI {host.version}")
        codes.append(pytest(python, [*shared, "-m", "host and not gpu", *(rest or ["tests/comfyui"])], host))
    if options.chat:
        codes.append(chat_suite(python, rest))
    if options.webui:
        own = with_browser(python) if options.browser else python
        codes.append(webui_suite(python, own, rest, host or ensure_host(options.python, *needed)))
    if options.browser:
        codes.append(browser_suite(python, rest, host or ensure_host(options.python, *needed)))
    if rest and 0 in codes:  # arguments may select tests of one suite only
        codes = [code for code in codes if code != NOTHING_COLLECTED]
    return max(codes)


def shared_out() -> list[str]:
    """Return the options with which whole suites are shared out to the cores, each with one thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "worksteal"]


def chat_suite(python: Path, rest: list[str]) -> int:
    """Run what needs a real chat server against one that is started for it."""
    with running_chat(python) as chat:
        say("\nChat suite against transformers serve")
        os.environ["STEADYDIFF_CHAT"] = f"{chat.url} {chat.model}"
        return pytest(python, ["-m", "chat", *(rest or ["tests/chat"])])


def webui_suite(python: Path, own: Path, rest: list[str], host: Host) -> int:
    """Run what needs real WebUIs against those whose checkouts the environment names.

    own: the interpreter of the tests; the hosts' environments borrow from `python`, as loans are not lent on
    """
    kinds = webui.named()
    say(f"\nWebUI suite against {', '.join(kind.name for kind in kinds) or 'no host: none is named'}")
    for gradio in {kind.gradio for kind in kinds}:
        os.environ[f"STEADYDIFF_GRADIO{gradio}"] = str(webui.ensure_python(python, gradio))
    return pytest(own, ["-m", "webui", *(rest or ["tests/webui/real"])], host)


def browser_suite(python: Path, rest: list[str], host: Host) -> int:
    """Run what needs ComfyUI's pages in a real browser."""
    own = with_browser(python)
    say(f"\nBrowser suite in {os.environ['STEADYDIFF_CHROMIUM'] or 'Chromium'}")
    return pytest(own, ["-m", "browser", *(rest or ["tests/browser"])], host)


def with_browser(base: Path) -> Path:
    """Return an interpreter that drives a browser, which the environment then names."""
    own = ensure_browser_python(base)
    os.environ["STEADYDIFF_CHROMIUM"] = find_chromium(own)
    return own


def ui(options: argparse.Namespace, rest: list[str]) -> int:
    """Start ComfyUI with this repository as its only custom node and leave it running until Ctrl+C."""
    no_more(rest)
    with running(ensure_host(options.python), options.port, HOSTS / "ui") as server:
        say(f"ComfyUI runs at {server.address} (log: {server.log}). Ctrl+C stops it.")
        try:
            code = server.process.wait()
        except KeyboardInterrupt:
            return 0
        raise Stop(f"ComfyUI ended by itself (exit code {code}).", tail(server.log))


def train(options: argparse.Namespace, rest: list[str]) -> int:
    """Train; further arguments go to the trainer. With --images the base model is loaded by ComfyUI."""
    if options.name not in TRAINERS:
        raise Stop(f"There is no training '{options.name}'; there are: {', '.join(TRAINERS)}.")
    pictures = any(a.startswith("--images") for a in rest) and "tinyworld:" not in " ".join(rest)
    host = ensure_host(options.python) if pictures else None
    python = host.python if host else interpreter(options.python)
    return python_in_root(python, ["-m", TRAINERS[options.name], *rest], host)


def mdss(options: argparse.Namespace, rest: list[str]) -> int:
    """Work on MDSS's files: `convert` splits a last layer widened to twice its channels into ours."""
    return python_in_root(
        interpreter(options.python), ["-m", "tools.train.convert", *given(options.action), *rest]
    )


def bench(options: argparse.Namespace, rest: list[str]) -> int:
    """Run a benchmark against the real ComfyUI; further arguments go to it, its results to benchmarks/."""
    if options.name == "tables":  # they measure nothing
        return python_in_root(interpreter(options.python), ["-m", "tools.bench.tables.all", *rest])
    benches = [file.stem for file in sorted((ROOT / "tools" / "bench").glob("*.py"))]
    if options.name not in benches:
        raise Stop(f"There is no bench '{options.name}'; there are: {', '.join(benches)}, tables.")
    if rest == HELP:
        source = (ROOT / "tools" / "bench" / f"{options.name}.py").read_text(encoding="utf-8")
        options_of(options.name, ast.get_docstring(ast.parse(source))).print_help()
        return 0
    host = ensure_host(options.python)
    judged = options.name.startswith(("photos", "digits"))
    python = ensure_judges(host.python) if judged else host.python
    return python_in_root(python, ["-m", f"tools.bench.{options.name}", *rest], host)


def ensure_judges(base: Path) -> Path:
    """Return the interpreter of .hosts/bench, which has a network that judges pictures beside the host's."""
    requirements = ROOT / "tools" / "requirements-bench.txt"
    return borrowing_venv(base, HOSTS / "bench", requirements, "install the judges", "--no-deps")


def arpo(options: argparse.Namespace, rest: list[str]) -> int:
    """From a picture back to a prompt, by the tiny world or a running ComfyUI; arguments go to the search."""
    os.environ["STEADYDIFF_FROM"] = os.getcwd()
    return python_in_root(
        interpreter(options.python), ["-m", "tools.launch.arpo", *given(options.image), *rest]
    )


def pytest(python: Path, arguments: list[str], host: Host | None = None) -> int:
    return python_in_root(python, ["-m", "pytest", *arguments], host)


def python_in_root(python: Path, arguments: list[str], host: Host | None = None) -> int:
    """Run `python -m ...` in the root, so that the repository is importable, and name it the host."""
    letters = os.environ.get("PYTHONIOENCODING", "")  # a console that lacks some shows "?" for them
    environment = {**os.environ, "PYTHONIOENCODING": letters if ":" in letters else f"{letters}:replace"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):  # else every process compiles ComfyUI for itself
        environment.setdefault("PYTHONPYCACHEPREFIX", str(HOSTS / "bytecode"))
    if host:
        environment["STEADYDIFF_COMFYUI"] = str(host.path)
    with subprocess.Popen([str(python), *arguments], cwd=ROOT, env=environment) as process:
        try:
            return process.wait()
        except SystemExit:  # somebody ended us; a training saves first (Ctrl-C reaches it by itself)
            process.terminate()
            raise


def interpreter(name: str | None, *modules: str) -> Path:
    """The interpreter for work that needs no host: the named one if it has these modules, else .venv's."""
    return check_interpreter(name, ("torch", *modules)) if name else ensure_venv()


def given(argument: str | None) -> list[str]:
    """One argument, or none where only help is asked for."""
    return [] if argument is None else [argument]


def no_more(rest: list[str]) -> None:
    if rest:
        raise Stop(f"Unknown argument '{rest[0]}'; see run.py COMMAND --help.")


class HandedOn(argparse.Action):
    """`--help` of a command that hands its arguments on: the help of the program that takes them."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, "name", "") is None:  # which program is not said yet
            parser.print_help()
            parser.exit()
        parser.exit(namespace.function(namespace, HELP))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py", description="SteadyDiff's commands", allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, text: str, hands_on: bool = False) -> argparse.ArgumentParser:
        name, description = function.__name__, function.__doc__
        sub = commands.add_parser(
            name, help=text, description=description, allow_abbrev=False, add_help=not hands_on
        )
        if hands_on:
            sub.add_argument("-h", "--help", nargs=0, action=HandedOn, help="show the options handed on")
        sub.add_argument("--python", metavar="PATH", help="use this interpreter, installing nothing")
        sub.set_defaults(function=function)
        return sub

    sub = command(demo, "run the workflows in a real ComfyUI and show baseline and corrected side by side")
    sub.add_argument("--workflow", metavar="NAME", help="run only this one of workflows/api/")
    sub.add_argument("--open", action="store_true", help="show the sheets worth seeing first")
    sub = command(test, "the fast suite, then the host suite; further arguments go to pytest")
    host = sub.add_mutually_exclusive_group()
    fast = "leave out the host suite, what is marked slow, and all but two sets of a test's parameters"
    host.add_argument("--fast", action="store_true", help=fast)
    host.add_argument("--comfyui", metavar="PATH", help="the host suite in this checkout of ComfyUI")
    sub.add_argument("--chat", action="store_true", help="also a real chat server, set up and started for it")
    variables = ", ".join(kind.variable for kind in webui.KINDS)
    sub.add_argument(
        "--browser",
        action="store_true",
        help="also the pages in headless Chromium: ComfyUI's, and with --webui the WebUIs'",
    )
    sub.add_argument("--webui", action="store_true", help=f"also the real WebUIs named by {variables}")
    sub = command(ui, "the same ComfyUI left running, for the browser")
    sub.add_argument("--port", type=int, default=8188)
    sub = command(
        train, "train what ships with the repository, or on a model of yours: " + ", ".join(TRAINERS), True
    )
    sub.add_argument(
        "name", metavar="NAME", help=f"one of {', '.join(TRAINERS)}; NAME --help has its options"
    )
    sub = command(mdss, "convert checkpoints of MDSS: mdss convert WIDENED --out FILE", True)
    sub.add_argument("action", choices=["convert"])
    sub = command(bench, "measure; --quick for a short run, further arguments go to the bench", True)
    sub.add_argument(
        "name", metavar="NAME", help="a file of tools/bench/, or tables: NAME --help has its options"
    )
    sub = command(arpo, "from a picture back to a prompt; further arguments go to tools/launch/arpo.py", True)
    sub.add_argument("image", metavar="IMAGE", help="a picture, or scene:N for a drawing of the tiny world")
    return top


def main(arguments: list[str]) -> int:
    """Run one command; every expected failure ends here as one sentence and exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the server
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options, rest = parser().parse_known_args(arguments)
        return options.function(options, rest)
    except Stop as stop:
        if stop.detail:
            print(stop.detail.rstrip(), file=sys.stderr)
        print(stop, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
