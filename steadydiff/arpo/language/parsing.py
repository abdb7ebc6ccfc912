"""Phrases out of whatever a language model answers, in any of the shapes such models fall into.

Called by `proposer.py`. An answer is text from a stranger: nothing in it is executed, and what comes out are
short phrases of letters, digits and a little punctuation, so that no host reads weights, files, wildcards or
keywords into them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Literal

from ..phrases import Phrases

Kind = Literal["content", "style"]

MAX_ANSWER = 20_000  # characters that are read, thoughts apart; lists have a tenth of it
MAX_WORDS = 20  # of a phrase; CLIP reads about fifty in all
MAX_LETTERS = 120
MAX_DEPTH = 8  # of nested JSON

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_SECTION = re.compile(
    r"[^\n,;:\[\]{}]{0,30}\b(content|style)s?\b[^\n,;:.\[\]{}]{0,30}:[\"'*]*(?=\s|$|[\[{\"'])", re.IGNORECASE
)
_BULLET = re.compile(r"^\s*(?:(?:[-*•·+–—]|\(?\d{1,3}[.):])\s+)+")
_LABEL = re.compile(r"[^,:;]{1,60}:[\"'*]*(?:\s|$)")
# What a chat says around its list, and phrases that speak of the comparison instead of the picture.
_TALK = re.compile(
    r"(?:sure|sorry|okay|certainly|of course|please|as an ai|as requested|let me|let's|"
    r"here(?:'s| is| are)|note that|i(?:'m|'ll|'ve| am| can| cannot| can't| will| have| think| see| don't)|"
    r"the (?:picture|image|difference)s?|there (?:is|are) no|none|no difference|n/a)\b"
    r"|.*\b(?:image|picture) [12]\b",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:the|this) (?:image|picture|photo|photograph)(?: [12])? "
    r"(?:shows|portrays|depicts|features|contains|is) ",
    re.IGNORECASE,
)
_KEYWORDS = re.compile(r"\b(?:AND|BREAK)\b")  # WebUI's syntax
_PUNCTUATION = " '-–./&%+#°!?"
_ASIDE = frozenset({"reason", "why", "explanation", "difference", "differences", "note", "id"})


def without_thoughts(answer: str) -> str:
    """The answer proper: thoughts stand between tags, of which the first or the last may be missing."""
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THOUGHT.finditer(answer):
        closing = bool(tag[1])
        if closing and not thinking:
            kept.clear()  # it had begun before the answer did
        elif not thinking:
            kept.append(answer[at : tag.start()])
        at, thinking = tag.end(), not closing
    return "".join(kept if thinking else [*kept, answer[at:]]).strip()


def parse_phrases(answer: str, kind: Kind = "content", limit: int = 40) -> Phrases:
    """The phrases of an answer: JSON, Python lists, bullets, numbered lines, commas; fenced, or cut off.

    kind:  of phrases that the answer itself puts under neither content nor style
    limit: how many of each kind are kept, the first ones

    Whatever the answer, this returns: with no phrases if it holds none.
    """
    answer = without_thoughts(answer)[:MAX_ANSWER]
    fenced = "\n".join(_FENCED.findall(answer))
    for text in filter(None, (fenced, answer)):
        for read in (_read_json, _read_lines):
            found: dict[Kind, list[str]] = {"content": [], "style": []}
            read(text, kind, found)
            phrases = {name: tuple(tidied(raw)) for name, raw in found.items()}
            if any(phrases.values()):
                whole = Phrases(**phrases)  # which drops what stands there twice
                return Phrases(whole.content[:limit], whole.style[:limit])
    return Phrases()


def tidied(raw: list[str]) -> list[str]:
    """What of these texts can stand in a prompt."""
    texts = (unicodedata.normalize("NFKC", text).replace("’", "'") for text in raw)
    parts = (part for text in texts for part in re.split(r"[,;、\n]", text))
    return [phrase for phrase in map(_tidy, parts) if phrase]


def _tidy(text: str) -> str:
    letters = (letter if _is_plain(letter) else " " for letter in text)
    phrase = _BULLET.sub("", " ".join("".join(letters).split()))
    phrase = _LEAD.sub("", phrase).strip(" '-–./&+!?")
    if len(phrase) > MAX_LETTERS or len(phrase.split()) > MAX_WORDS or _TALK.match(phrase):
        return ""
    is_text = any(letter.isalpha() for letter in phrase)
    return _KEYWORDS.sub(lambda word: word[0].lower(), phrase) if is_text else ""


def _is_plain(letter: str) -> bool:
    return letter.isalnum() or letter in _PUNCTUATION or unicodedata.category(letter)[0] == "M"


def _read_json(text: str, kind: Kind, found: dict[Kind, list[str]]) -> None:
    """From the first bracket to the last, if that is JSON."""
    ends = re.search(r"[\[{]", text), max(text.rfind("]"), text.rfind("}"))
    if ends[0] and ends[0].start() < ends[1]:
        try:
            _walk(json.loads(text[ends[0].start() : ends[1] + 1]), kind, found, MAX_DEPTH)
        except (ValueError, RecursionError):
            pass  # then it is read as lines


def _walk(value: Any, kind: Kind, found: dict[Kind, list[str]], depth: int) -> None:
    if isinstance(value, str):
        found[kind].append(value)
    elif isinstance(value, list) and depth:
        for item in value:
            _walk(item, kind, found, depth - 1)
    elif isinstance(value, dict) and depth:
        # {"phrase": "impasto", "kind": "style"} says its kind as a value, {"style": [...]} as a key.
        said: list[Kind] = [named for item in value.values() if (named := _exact_kind(item))]
        for key, item in value.items():
            if key.lower() not in _ASIDE and not _exact_kind(item):
                _walk(item, said[0] if said else _kind_in(key) or kind, found, depth - 1)


def _exact_kind(value: Any) -> Kind | None:
    is_kind = isinstance(value, str) and value.strip().lower() in ("content", "style")
    return _kind_in(value) if is_kind else None


def _kind_in(label: str) -> Kind | None:
    label = label.lower()
    return "style" if "style" in label else "content" if "content" in label else None


def _read_lines(text: str, kind: Kind, found: dict[Kind, list[str]]) -> None:
    """Line by line, a bracket ending one: of lists and bullets, if there are any, nothing else."""
    text = re.sub(r"\\[nrt]", "\n", text).replace("\\", "")
    text = _SECTION.sub(lambda label: f"\n\0{label[1].lower()}\n", text)
    inside: dict[int, list[tuple[Kind, str]]] = {0: [], 1: [], 2: []}  # plain lines, bullets, in brackets
    depth = 0
    for piece in re.split(r"([\[\]{}\n])", text):
        if piece in ("[", "{"):
            depth += 1
        elif piece in ("]", "}"):
            depth = max(0, depth - 1)
        elif piece.startswith("\0"):
            kind = _kind_in(piece) or kind
        elif piece.strip():
            bullet = _BULLET.match(piece)
            line = piece[bullet.end() :] if bullet else piece
            label = _LABEL.match(line)
            inside[2 if depth else 1 if bullet else 0].append((kind, line[label.end() :] if label else line))
    for lines in (inside[2], inside[1], inside[0]):
        for of, line in lines:
            found[of].append(line)
        if any(tidied(texts) for texts in found.values()):
            return
