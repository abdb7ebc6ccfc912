"""Where a run tells what it did and what failed: the picture's infotext and comments, and the log."""

from __future__ import annotations

import logging
from typing import Any

from steadydiff.errors import SettingsError

logger = logging.getLogger("steadydiff")

LONGEST = 600
"""Characters of one message in an infotext."""


class Refused(SettingsError):
    """Ends a strict generation; the hosts' API answers with what it holds."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.status_code, self.detail = 422, message


def begin(p: Any) -> None:
    """Let a generation begin without our words of an earlier one: a grid's cells share both dicts."""
    for name, ours in (("extra_generation_params", "SteadyDiff "), ("comments", "SteadyDiff: ")):
        told = getattr(p, name, None) or {}
        setattr(p, name, {key: value for key, value in told.items() if not str(key).startswith(ours)})


class Report:
    """Tells it of one generation; the hires pass has keys of its own."""

    def __init__(self, p: Any, strict: bool = False) -> None:
        """strict: what fails is raised as well."""
        self._p, self._strict = p, strict
        self._part = "hires " if getattr(p, "is_hr_pass", False) else ""
        self._pass = "SteadyDiff, hires pass" if self._part else "SteadyDiff"

    def done(self, summary: str) -> None:
        """Note what acted."""
        logger.info("%s: %s", self._pass, summary)
        self._p.extra_generation_params[f"SteadyDiff {self._part}run"] = summary

    def failed(self, message: str) -> None:
        """Note what did not act, so that a picture without it says so."""
        logger.error("%s: %s", self._pass, message)
        self._tell("error", message)
        if self._strict:
            raise Refused(message)

    def warned(self, message: str) -> None:
        """Note what acted, but perhaps not as meant."""
        logger.warning("%s: %s", self._pass, message)
        self._tell("warning", message)

    def _tell(self, kind: str, message: str) -> None:
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."
        known, key = self._p.extra_generation_params, f"SteadyDiff {self._part}{kind}"
        if message not in known.get(key, ""):  # every batch of several tells it
            known[key] = "; ".join(filter(None, (known.get(key), message)))
        self._p.comment(f"{self._pass}: {message}")
