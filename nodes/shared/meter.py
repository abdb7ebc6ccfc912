"""How far a long measurement is, in pictures' time, said on the node; and saying anything there."""

import sys
import time
from collections.abc import Callable

from .set_up import progress

SECONDS = 1.0  # between two texts


def say(text: str) -> None:
    """Show a text on the node that is executing, where the host can; it stays until the next one."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:  # old hosts
        return
    context = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    send = getattr(getattr(server, "instance", None), "send_progress_text", None)
    if send is not None and context is not None:
        send(text, context.node_id)


class Meter:
    """Called after every model call: moves the bar, obeys Cancel, says what is done and how long it takes.

    least, most: model calls that it will take, and
    done:        how many of them were made before
    per_picture: how many make a picture's time
    """

    def __init__(
        self, model, least: int, most: int, done: int, per_picture: float,
        clock: Callable[[], float] = time.monotonic, say: Callable[[str], None] = say,
    ):  # fmt: skip
        self._bar, self._most, self._done, self._before = progress(model, most - done), most, done, done
        self._per_picture, self._clock, self._say = per_picture, clock, say
        self._began = self._said = clock()
        about = f"the time of {least / per_picture:.0f} to {most / per_picture:.0f} pictures"
        already = f", {done / per_picture:.0f} of them are done" if done else ""
        say(f"About to measure: {about}{already}. Cancel is safe: what is measured is kept.")

    def __call__(self, denoised) -> None:
        self._bar(denoised)
        self._done += 1
        now = self._clock()
        if now - self._said < SECONDS:
            return
        self._said = now
        left = (now - self._began) / (self._done - self._before) * max(self._most - self._done, 0)
        pictures = f"{self._done / self._per_picture:.0f} of at most {self._most / self._per_picture:.0f}"
        self._say(f"Measuring: {pictures} pictures' time, at most {_time(left)} left. Cancel is safe.")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
