#!/usr/bin/env python3
"""SteadyDiff's commands: demo, test, ui, train, bench. `python3 run.py --help` lists them.

Needs only Python 3.10 or newer; what a command needs beyond that (packages, the host) is fetched once, checked
and reused. This file parses arguments and says what happens in which order; `tools/` does the work.
"""

import sys

if sys.version_info < (3, 10):  # before the imports, which an older Python cannot read
    sys.exit("SteadyDiff needs Python 3.10 or newer; this is Python %d.%d." % sys.version_info[:2])

import argparse  # noqa: E402  (see above)
import os  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402

from tools.console import Stop, say  # noqa: E402
from tools.environment import HOST_MODULES, check_interpreter, ensure_venv  # noqa: E402
from tools.host import Host, ensure_host  # noqa: E402

ROOT = Path(__file__).resolve().parent
NOTHING_COLLECTED = 5  # pytest's exit code


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the fast suite, then the host suite against the real ComfyUI; a suite without tests is a failure."""
    host = None if options.fast else ensure_host(options.python)
    python = host.python if host else interpreter(options.python, "pytest", "hypothesis")
    codes = [pytest(python, rest)]
    if host:
        say(f"\nHost suite against ComfyUI {host.version}")
        codes.append(pytest(python, ["-m", "host and not gpu", *(rest or ["tests/hosts"])], host))
    if rest and 0 in codes:  # arguments may select tests of one suite only
        codes = [code for code in codes if code != NOTHING_COLLECTED]
    return max(codes)


def pytest(python: Path, arguments: list[str], host: Host | None = None) -> int:
    environment = dict(os.environ, STEADYDIFF_COMFYUI=str(host.path)) if host else None
    return subprocess.run([str(python), "-m", "pytest", *arguments], cwd=ROOT, env=environment, check=False).returncode


def interpreter(name: str | None, *modules: str) -> Path:
    """The interpreter for work that needs no host: the named one if it has these modules, else .venv's."""
    return check_interpreter(name, (*HOST_MODULES[:1], *modules)) if name else ensure_venv()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py", description="SteadyDiff's commands", allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=text, description=function.__doc__, allow_abbrev=False)
        sub.add_argument("--python", metavar="PATH", help="use this interpreter instead of .venv; nothing is installed")
        sub.set_defaults(function=function)
        return sub

    sub = command(test, "the fast suite, then the host suite; further arguments go to pytest")
    sub.add_argument("--fast", action="store_true", help="leave the host suite out")
    return top


def main(arguments: list[str]) -> int:
    """Run one command; every expected failure ends here as one sentence and exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` stops the server
    options, rest = parser().parse_known_args(arguments)
    try:
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
