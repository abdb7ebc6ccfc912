"""Changes a found prompt for novel pictures: other content in the same style, or the other way round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args

from ...errors import SettingsError
from ..phrases import Phrases

Edit = Literal["swap", "add"]
EDITS: tuple[Edit, ...] = get_args(Edit)


def edit_phrases(phrases: Phrases, change: Phrases, edit: Edit, without: Phrases | None = None) -> Phrases:
    """Swap or add phrases of either kind.

    change:  "swap": takes the place of all phrases of its kind, if it has any of that kind;
             "add": comes after those of its kind
    without: phrases that are taken out first, whichever kind they are

    Neutral: an empty change and nothing to take out return the phrases as they are.
    Source:  Ren, 2025, section 4.2.3 and figure 4.4.
    """
    if edit not in EDITS:
        raise SettingsError(f"edit must be one of {', '.join(EDITS)}; got {edit!r}")
    phrases = phrases - (without or Phrases())
    if edit == "add":
        return phrases + change
    return Phrases(change.content or phrases.content, change.style or phrases.style)


def known_phrases(prompt: str, report: str) -> Phrases:
    """The parts of a prompt, their kinds taken from a report of ARPO, in which the prompt occurs.

    Raises:  SettingsError if it does not, or the report is none.
    """
    try:
        found = next((found for found in _all_phrases(json.loads(report)) if found.prompt == prompt), None)
    except (ValueError, RecursionError):
        found = None
    if found is None:
        raise SettingsError(
            "the report does not hold this prompt; connect prompt and report of the same ARPO node, or no "
            "report: then every phrase counts as content"
        )
    return found


def _all_phrases(value: Any) -> Iterator[Phrases]:
    if isinstance(value, dict):
        kinds = value.get("content"), value.get("style")
        if all(isinstance(kind, list) and all(isinstance(p, str) for p in kind) for kind in kinds):
            yield Phrases(*(tuple(kind) for kind in kinds))  # pyright: ignore[reportArgumentType]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _all_phrases(inner)
