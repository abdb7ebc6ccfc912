"""How far a long measurement is, in pictures' time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Meter:
    """Called after every model call: says what is done and how long the rest takes.

    least, most: model calls that it will take, and
    done:        how many of them were made before
    per_picture: how many make a picture's time
    say:         where to
    seconds:     between two texts
    """

    def __init__(
        self,
        least: int,
        most: int,
        done: int,
        per_picture: float,
        say: Callable[[str], None],
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._done, self._before = most, done, done
        self._per_picture, self._clock, self._say, self._seconds = per_picture, clock, say, seconds
        self._began = self._said = clock()
        about = f"the time of {least / per_picture:.0f} to {most / per_picture:.0f} pictures"
        already = f", {done / per_picture:.0f} of them are done" if done else ""
        say(f"About to measure: {about}{already}. Cancel is safe: what is measured is kept.")

    def __call__(self) -> None:
        self._done += 1
        now = self._clock()
        if now - self._said < self._seconds:
            return
        self._said = now
        left = (now - self._began) / (self._done - self._before) * max(self._most - self._done, 0)
        pictures = f"{self._done / self._per_picture:.0f} of at most {self._most / self._per_picture:.0f}"
        self._say(f"Measuring: {pictures} pictures' time, at most {spelled(left)} left. Cancel is safe.")


def spelled(seconds: float) -> str:
    """Return a time as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
