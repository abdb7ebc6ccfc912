"""What the launcher says: one-sentence refusals, plain lines and a progress bar. Standard library only."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Stop(Exception):
    """A reason to end, as one sentence for the user; `detail` (a log's tail) is shown above it."""

    def __init__(self, sentence: str, detail: str = ""):
        super().__init__(sentence)
        self.detail = detail


def exit_with(main: Callable[..., int], *given: Any) -> NoReturn:
    """End a module run as a command by main(its arguments, *given), or by our errors' sentence."""
    try:
        sys.exit(main(sys.argv[1:], *given))
    except Exception as error:  # known by name: with steadydiff come packages that a launcher lacks
        if {kind.__name__ for kind in type(error).__mro__}.isdisjoint({"Stop", "SteadyDiffError"}):
            raise
        sys.exit(str(error))


def say(text: str) -> None:
    """Print one line at once, also when the output is a file or a pipe."""
    print(text, flush=True)


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log without their colours, or nothing if there is no log."""
    if not path.is_file():
        return ""
    text = re.sub(r"\x1b\[[0-9;]*m", "", path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(text.splitlines()[-lines:])


class ProgressBar:
    """A bar that redraws one line on a terminal and stays silent elsewhere, so that logs remain readable."""

    width = 30

    def __init__(self, label: str):
        self.label = label
        self.live = sys.stdout.isatty()

    def update(self, value: int, total: int, what: str = "") -> None:
        if self.live:
            filled = self.width * value // max(total, 1)
            bar = "#" * filled + "-" * (self.width - filled)
            sys.stdout.write(f"\r{self.label} [{bar}] {value}/{total} {what:<24.24}")
            sys.stdout.flush()

    def close(self) -> None:
        if self.live:
            sys.stdout.write("\r" + " " * (len(self.label) + self.width + 48) + "\r")
            sys.stdout.flush()
