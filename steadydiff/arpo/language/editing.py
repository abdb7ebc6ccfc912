"""Changes a found prompt for novel pictures: other content in the same style, other words in every phrase."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from ...errors import SettingsError
from ..phrases import Phrases, whole_words

Edit = Literal["swap", "add"]
EDITS: tuple[Edit, ...] = get_args(Edit)


def edit_phrases(phrases: Phrases, change: Phrases, edit: Edit, without: Phrases | None = None) -> Phrases:
    """Swap or add phrases of either kind.

    change:  "swap": takes the place of all phrases of its kind, if it has any of that kind;
             "add": comes after those of its kind
    without: phrases that are taken out first, whichever kind they are

    What is shown now is no longer negative; the rest of the negative phrases stays.
    Neutral: an empty change and nothing to take out return the phrases as they are.
    Source:  Ren, 2025, section 4.2.3 and figure 4.4.
    """
    if edit not in EDITS:
        raise SettingsError(f"edit must be one of {', '.join(EDITS)}; got {edit!r}")
    negative, phrases = phrases.negative, phrases - (without or Phrases())
    if edit == "add":
        phrases += change
    else:
        phrases = Phrases(change.content or phrases.content, change.style or phrases.style)
    return Phrases(phrases.content, phrases.style, negative)


def read_exchanges(text: str) -> dict[str, str]:
    """Words and what takes their place: "dog -> cat", between commas or one a line; nothing takes them out.

    Raises:  SettingsError for anything else.
    """
    found = {}
    for part in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        words = [word.strip() for word in re.split(r"->|=>|→", part)]
        if len(words) != 2 or not words[0]:
            raise SettingsError(
                f"words must be like 'dog -> cat', between commas or one a line; got {part!r}"
            )
        found[words[0]] = words[1]
    return found


def exchange_words(phrases: Phrases, exchanges: Mapping[str, str]) -> Phrases:
    """Exchange words within every phrase, all at once; a word that began with a capital does so again.

    An English article before a word fits what follows then, and goes with the last word of a phrase.
    Negative phrases stay as they are, but for those that hold a word that is wanted now.
    Neutral: nothing to exchange returns the phrases as they are.
    Source:  Ren, 2025, figure B.14.
    """
    pattern = re.compile(rf"(?:(?<!\w)(an?)\s+)?(?:{whole_words(exchanges).pattern})", re.IGNORECASE)
    known = {" ".join(old.split()).casefold(): new for old, new in exchanges.items()}

    def exchanged(found: re.Match[str]) -> str:
        article = found[1] or ""
        old = found[0][len(article) :].lstrip()
        new = known.get(old.casefold(), old)
        new = new[:1].upper() + new[1:] if old[0].isupper() else new
        following = new or found.string[found.end() :].lstrip()
        return f"{_fitting(article, following)} {new}" if article and following else new

    content, style = (
        tuple(pattern.sub(exchanged, p) for p in kind) for kind in (phrases.content, phrases.style)
    )
    absent = Phrases(negative=phrases.negative).without(exchanges.values())
    return Phrases(content, style, absent.negative)


def _fitting(article: str, following: str) -> str:
    """ "a" or "an" as it is spoken before a word, as large as it was."""
    spoken = r"(?!uni(?!n|m)|us[aeu]|eu|one\b|once)[aeiou]|hour|honest|honou?r|heir"
    an = re.match(spoken, following, re.IGNORECASE)
    return article[0] + ("n" if an else "")


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
