"""Phrases out of whatever a language model answers, in any of the shapes such models fall into.

Called by `proposer.py`. An answer is text from a stranger: nothing in it is executed, and what comes out are
short phrases of letters, digits and a little punctuation, so that no host reads weights, files, wildcards or
keywords into them. Here is how an answer is built; what its words mean stands in `wording.py`.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from ..phrases import Phrases
from . import wording
from .thoughts import without_thoughts
from .wording import Kind, Place

__all__ = ["Kind", "is_refusal", "parse_phrases", "without_thoughts"]

MAX_ANSWER = 20_000  # characters that are read, thoughts apart; lists have a tenth of it
MAX_WORDS = 20  # of a phrase; CLIP reads about fifty in all
MAX_LETTERS = 120
MAX_DEPTH = 8  # of nested JSON
MAX_OBJECTS = 64  # of JSON that is no whole
CALLED_WITH = ("arguments", "parameters")  # what a tool call hands over, beside the tool's name

Placed = tuple[Place | None, str]
"""Where a text belongs, None if nothing says it, and the text."""

MEANT: Placed = ("aside", "")
"""JSON that names its kinds, or an empty list: if no phrase is in it, the answer means to have none."""

_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_NO_STOP = r"[^\n,;:，；、。\[\]{}]"
_SECTION = re.compile(
    rf"{_NO_STOP}{{0,30}}(?:\b(content|style|negative)s?\b|(内容|內容|风格|風格|负面|負面))(?:(?!\.){_NO_STOP}){{0,30}}"
    r":[\"'*]*(?=\s|$|[\[{\"'])",
    re.IGNORECASE,
)
_BULLET = re.compile(
    r"^\s*(?:(?:(?:[-*•·+–—]|\(?\d{1,3}[.):．]|\(?[A-Za-z]\)|[ivx]{1,4}\.)\s+|\d{1,3}(?:、|[.)](?=[^\W\d_]))|\d\ufe0f?\u20e3\s*"
    r"|[\u2190-\u2bff\U0001f000-\U0001faff][\ufe0e\ufe0f\u200d\U0001f3fb-\U0001f3ff]*\s*))+"
)
_COUNTED = re.compile(r"(?m)^\s*(?:\(?1[.)]\s.*\b2[.)]\s|①.*②).*$")  # a list in a line
_COUNT = re.compile(r"[,;]?\s+(?=\(?\d{1,2}[.)]\s|[②-⑳])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_LABEL = re.compile(r"([^:;]{1,80}):[\"'*]*(?:\s|$)")
_NEXT_LABEL = re.compile(
    r"[,;]\s*(?=[A-Z][^\W\d_]*(?: [^\W\d_]+){0,2}:\s|\"\w+\":)"  # of "Subject: a fox, Light: soft"
)
_STRAIGHT = str.maketrans(dict.fromkeys("“”„«»「」『』", '"'))
_WEIGHED = r"[\[({]+([^\[\](){},;:\"'\n]+)(?::[\d.]+)?[\])}]+"  # as prompts stress a phrase: (red hat:1.2)
_EMPHASIS = re.compile(rf"(?m)^[ \t]*{_WEIGHED}(?=[ \t]*[,;])|(?<=[,;])[ \t]*{_WEIGHED}(?=[ \t]*(?:[,;]|$))")
_KIND_FIRST = re.compile(r"(?mi)^(\s*(?:[-*•+]|\d+[.)])\s+)?[\[(](content|style)[\])][ \t]*")
_KIND_LAST = re.compile(r"(?mi)^(.*\S)[ \t]*[\[(](content|style)[\])][ \t]*$")
_SQUARE_ASIDE = re.compile(r"(?m)^(\s*(?:[-*•]|\d+[.)])\s+[^\[\]\n]*\w)[ \t]+\[[^\[\],\"'\n]*\][ \t]*$")
_BOX = re.compile(r"(?m)^(\s*[-*+] )\[[ xX]\](?= )")  # of a list of tasks
_KIND_ALONE = re.compile(r"\W*(?:content|style)s?(?: phrases| keywords)?\W*", re.IGNORECASE)
_REASON = re.compile(r"(.{2,60}?)(?:\s[-–—]+\s|:\s|\sbecause\s)(.+)")
_ASIDE = re.compile(r"(?<=\w)[\"'*]*\s+\([^()\s]+\s[^()]*\)")  # of several words: one belongs to the phrase
_COMMENT = re.compile(r"(^|[\s,\[{])(?://|#)\s[^\n\"]*$", re.MULTILINE)
_TRAILING = re.compile(r",(\s*[\]}])")
_INFOTEXT = re.compile(r"(?m)^\s*Steps: \d+,.*$")  # a WebUI's settings beneath its prompts
_FLAG = re.compile(r"(?:^|\s)--(?=[a-z])")  # Midjourney's settings behind its prompt
_ARROW = re.compile(r"(?<=\S)\s+(?:→|⟶|[-=]>)\s+(?=\S)")  # from what is to what should be
_SENTENCE = re.compile(
    r"(?<=[^\W\d_]{3}[.!?])[\"'*]*\s+|(?:(?<=\s[a-z]{2}[.!?])|(?<=\d\d[.!?]))[\"'*]*\s+(?=[A-Z])"
    r"|(?<=[。!?])(?=[\u3040-\u9fff])|(?<=。)"
)
_TAG = re.compile(r"<(/?)([a-z][a-z_]{0,20}[1-6]?)(?:\s+[\w-]+=[^<>\n]*)?\s*/?>", re.IGNORECASE)
_KEYWORDS = re.compile(r"\b(?:AND|BREAK)\b")  # WebUI's syntax
_PUNCTUATION = " '-–./&%+#°!?"


def parse_phrases(answer: str, kind: Kind | None = None, limit: int = 40) -> Phrases:
    """The phrases of an answer: JSON, tables, Python lists, bullets, numbers, commas; fenced, or cut off.

    kind:  of phrases that the answer itself puts under neither content nor style; None tells by their words
    limit: how many of each kind are kept, the first ones

    Phrases that say what should be absent come as `negative`, without the word that says so.
    Whatever the answer, this returns: with no phrases if it holds none.
    """
    answer = without_thoughts(answer)[:MAX_ANSWER]
    fenced = "\n".join(_FENCED.findall(answer))
    for text in filter(None, (fenced, answer)):
        for read in (_read_json, _read_table, _read_lines):
            raw = read(text)
            found: dict[Place, list[str]] = {"content": [], "style": [], "negative": [], "aside": []}
            for place, phrase in _unlooped(list(tidied(raw or []))):
                found[place or kind or wording.kind_of_phrase(phrase)].append(phrase)
            whole = Phrases(*(tuple(found[place]) for place in ("content", "style", "negative")))
            ended = MEANT in (raw or []) or any(wording.refuses(said) for _, said in raw or [])
            if whole != Phrases() or ended:
                return Phrases(whole.content[:limit], whole.style[:limit], whole.negative[:limit])
    return Phrases()


def is_refusal(answer: str) -> bool:
    """Whether a model says that it will or can not do what it was asked, and does not do it all the same."""
    first = " ".join(_SENTENCE.split(_unescaped(without_thoughts(answer)[:MAX_ANSWER]))[:3])
    return wording.refuses(first) and parse_phrases(answer) == Phrases()


# --- texts to phrases -------------------------------------------------------------------------------------


def tidied(raw: list[Placed]) -> Iterator[Placed]:
    """What of these texts can stand in a prompt."""
    for place, text in raw:
        if place == "aside":
            continue
        text = unicodedata.normalize("NFKC", html.unescape(_TAG.sub(_tag, text))).replace("’", "'")
        text, *flags = _FLAG.split(_THOUSANDS.sub("", _ASIDE.sub("", text)))
        yield from _sentences(place, text)
        for flag in flags:
            if flag.startswith("no "):
                yield from _sentences("negative", flag[3:])


def _unlooped(phrases: list[Placed]) -> list[Placed]:
    """Without the last phrase of a loop, if that is cut off: "a hat, a dog, a hat, a dog, a h"."""
    last, others = phrases[-1:], set(phrases[:-1])
    looped = len(phrases) > 2 * len(others) and any(text.startswith(last[0][1]) for _, text in others)
    return phrases[:-1] if looped else phrases


def _sentences(place: Place | None, text: str) -> Iterator[Placed]:
    for sentence in _SENTENCE.split(text):
        if wording.is_talk(wording.without_lead(_plain(sentence))) or wording.refuses(sentence):
            continue
        for part in re.split(r"[,;、\n]|\s[/|•·]\s", sentence):
            yield from _tidy(place, part)


def _tidy(place: Place | None, text: str) -> Iterator[Placed]:
    wanted, absent = wording.parted(wording.without_lead(_plain(_ARROW.split(text)[-1])))
    if place == "negative":
        wanted, absent = "", (wording.without_article(wanted), *absent)
    texts: list[Placed] = [(place, wanted), *(("negative", phrase) for phrase in absent)]
    for at, phrase in texts:
        for piece in wording.shortened(phrase.strip(" '-–./&+!?"), MAX_WORDS, MAX_LETTERS):
            if any(letter.isalpha() for letter in piece) and not wording.is_talk(piece):
                yield at, _KEYWORDS.sub(lambda word: word[0].lower(), piece)


def _plain(text: str) -> str:
    """Without bullets and whatever is neither a letter nor a little punctuation."""
    letters = "".join(letter if _is_plain(letter) else " " for letter in text)
    return _BULLET.sub("", " ".join(letters.split()), count=1).strip(" '-–./&+") if letters.strip() else ""


def _is_plain(letter: str) -> bool:
    mark = unicodedata.category(letter) in ("Mn", "Mc") and not "\ufe00" <= letter <= "\ufe0f"
    return letter.isalnum() or letter in _PUNCTUATION or mark


# --- shapes to texts --------------------------------------------------------------------------------------


def _read_json(text: str) -> list[Placed] | None:
    """From the first bracket to the last, if that is JSON; else all objects, of equal keys the last; None if
    there is none."""
    start, end = re.search(r"[\[{]", text), max(text.rfind("]"), text.rfind("}"))
    if not start or end < start.start():
        return None
    whole = text[start.start() : end + 1]
    for tried in (whole, _TRAILING.sub(r"\1", _COMMENT.sub(r"\1", whole))):
        try:
            return list(_walk(json.loads(tried), None, MAX_DEPTH))
        except (ValueError, RecursionError):
            pass
    objects = _objects(whole)
    return list(_walk(objects, None, MAX_DEPTH)) if objects else None


def _objects(text: str) -> list[dict]:
    """All JSON objects in a text; those with keys such as content as one, as the first may be drafts."""
    lists: dict = {}
    found: list[dict] = []
    at, reads = 0, json.JSONDecoder()
    for _ in range(MAX_OBJECTS):
        if (at := text.find("{", at)) < 0:
            break
        try:
            value, at = reads.raw_decode(text, at)
            lists, found = (
                (lists | value, found) if any(map(wording.said_kind, value)) else (lists, [*found, value])
            )
        except (ValueError, RecursionError):
            at += 1
    return [lists, *found] if lists else found


def _walk(value: Any, place: Place | None, depth: int) -> Iterator[Placed]:
    if isinstance(value, str):
        if depth and (inner := _within(value)) is not None:
            yield from _walk(inner, place, depth - 1)
        else:
            yield place, value
    elif value in ([], {}):
        yield MEANT
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _walk(item, place, depth - 1)
    elif isinstance(value, dict) and depth:
        if "name" in value and (given := [value[key] for key in CALLED_WITH if key in value]):
            value = {"": given}
        if all(isinstance(item, int | float) for item in value.values()):  # {"a red hat": 1.2}
            for key, item in value.items():
                if item and wording.place_of_label(key) != "aside":
                    yield place, key
            return
        # {"phrase": "impasto", "kind": "style"} says its place as a value, {"style": [...]} as a key.
        told: Place | None = next(filter(None, (_told(key, item) for key, item in value.items())), None)
        for key, item in value.items():
            if wording.said_kind(key):
                yield MEANT
            named = wording.place_of_label(key)
            if named != "aside" and not _exact_kind(item):
                hint = named if place is None or named == "negative" else None
                yield from _walk(item, told or wording.said_kind(key) or hint or place, depth - 1)


def _within(text: str) -> Any:
    """The JSON that a JSON text holds, as the arguments of tool calls do; None if it holds none."""
    try:
        return json.loads(text) if text.lstrip().startswith(("[", "{")) else None
    except (ValueError, RecursionError):
        return None


def _told(key: str, value: Any) -> Place | None:
    """The place that a value names, such as {"category": "lighting"}."""
    if wording.place_of_label(key) == "aside" and isinstance(value, str) and wording.is_label(value):
        return wording.place_of_label(value)
    return _exact_kind(value)


def _exact_kind(value: Any) -> Kind | None:
    is_kind = isinstance(value, str) and value.strip().lower() in ("content", "style")
    return wording.said_kind(value) if is_kind else None


def _read_table(text: str) -> list[Placed] | None:
    """Rows of a Markdown table as objects, whose keys stand in its head."""
    rows = [
        re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in text.splitlines() if line.count("|") > 1
    ]
    rows = [[cell.strip() for cell in row] for row in rows]
    line = next((i for i, row in enumerate(rows) if all(re.fullmatch(r":?-+:?", cell) for cell in row)), 0)
    if not line:
        return None
    return list(_walk([dict(zip(rows[line - 1], row, strict=False)) for row in rows[line + 1 :]], None, 2))


def _read_lines(text: str) -> list[Placed] | None:
    """Line by line, a bracket ending one: of lists and bullets, if there are any, nothing else."""
    refused = wording.refuses(text)
    inside: dict[int, list[Placed]] = {0: [], 1: [], 2: []}  # plain lines, bullets, in brackets
    place, depth = None, 0
    pieces = re.split(r"([\[\]{}\n])", _unmarked(text))
    lines = [piece for piece in pieces if piece.strip() or piece in "[]{}"]
    for i, piece in enumerate(lines):
        if piece in ("[", "{"):
            depth += 1
        elif piece in ("]", "}"):
            depth = max(0, depth - 1)
        elif piece.startswith("\0"):
            place = wording.place_of_label(piece)
        elif not depth and _is_heading(piece, lines[i + 1] if i + 1 < len(lines) else ""):
            offer = refused and wording.offers(_SENTENCE.split(piece.strip())[-1])
            place = "aside" if offer else wording.place_of_label(piece)
        elif piece.strip():
            bullet = _BULLET.match(piece)
            line = piece[bullet.end() :] if bullet else piece
            if not (bullet or depth) and refused and not _LABEL.match(line):
                line = wording.shown_in(line)
            crossed = bullet and any(mark in bullet[0] for mark in "❌🚫⛔✖✗")
            where = ("negative" if crossed else place), line
            inside[2 if depth else 1 if bullet else 0].append(_without_reason(*where))
    for tier in (inside[2], inside[1], inside[0]):
        if any(True for _ in tidied(tier)):
            return tier
    quoted = re.findall(r'"([^"\n]{2,80})"', "\n".join(line for _, line in inside[0]))
    return [(None, phrase) for phrase in quoted] if len(quoted) > 1 and not refused else None


def _unmarked(text: str) -> str:
    """Sections named on lines of their own; without comments, tags and a phrase that was cut off."""
    text = _unescaped(text)
    text = re.sub(r"\\[nrt]", "\n", text).replace("\\", "").replace("：", ": ")
    text = re.sub(r"~~[^~\n]+~~|(?m:(?<=\S)[ \t]{2,}#\s.*$)", "", text.translate(_STRAIGHT))
    text = _KIND_FIRST.sub(r"\2:\n\1", text)
    if "(content)" in text or "[content]" in text:  # else it may be a tag: "1980s (style)"
        text = _KIND_LAST.sub(r"\2:\n\1", text)
    text = _SQUARE_ASIDE.sub(r"\1", text)
    text = _COUNTED.sub(lambda line: _COUNT.sub("\n", line[0]), text)
    text = html.unescape(_TAG.sub(_tag, _INFOTEXT.sub("", text)))
    text = re.sub(r"(?m)^\s*>\s", "", text)
    text = re.sub(r"(?m)(?<=[\"',\[{(])(?:\s*(?:#|//)\s[^\n\"]*$)+", "", text)
    if text.count('"') % 2:
        text = re.sub(r"(?<![^\s\[{(,:])\"[^\"\n]*\Z", "", text)
    text = re.sub(r'"[ \t]+"', '", "', text)
    text = re.sub(r"(?mi)^(content|style|negative)\s*[,\t]", r"\1: ", text)
    text = _EMPHASIS.sub(r" \1\2", _NEXT_LABEL.sub("\n", _BOX.sub(r"\1", text)))
    return _SECTION.sub(lambda label: f"\n\0{(label[1] or label[2]).lower()}\n", text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)


def _tag(tag: re.Match[str]) -> str:
    name = tag[2].lower()
    if name in ("content", "style", "negative"):
        return "" if tag[1] else f"\n{name}:\n"
    return (
        ""
        if name in ("b", "i", "em", "strong", "span", "code")
        else "\n- "
        if name == "li" and not tag[1]
        else "\n"
    )


def _is_heading(line: str, following: str) -> bool:
    """Markdown's, a line that ends with a colon, one all bold, and a bullet with others beneath it."""
    bare = line.strip()
    if bare.startswith("#") or bare.strip("*_").endswith(":") or _KIND_ALONE.fullmatch(bare):
        return True
    beneath = _BULLET.match(following)
    reason = _LABEL.match(following[beneath.end() :]) if beneath else None
    if reason and wording.place_of_label(reason[1]) == "aside":
        return False
    deeper = beneath and len(following) - len(following.lstrip()) > len(line) - len(line.lstrip())
    bold = re.fullmatch(r"\*\*[^*]+\*\*", bare) and beneath
    return bool(deeper if _BULLET.match(line) else bold)


def _without_reason(place: Place | None, line: str) -> Placed:
    """A line without its label or its explanation: "Light: soft", "a hat - missing in Image 2"."""
    line = _ASIDE.sub("", line)  # before a colon in it is taken for a label's
    label = _LABEL.match(line)
    if label and wording.place_of_label(label[1]) == "aside":
        return "aside", line
    is_label = label and ("," not in label[1] or wording.is_talk(_plain(label[1])))
    if label and is_label and not wording.explains(_plain(line[label.end() :])):
        return place or wording.place_of_label(label[1]), line[label.end() :]
    reason = _REASON.match(line)
    if reason and wording.is_label(reason[1]) and not wording.explains(_plain(reason[2])):
        return place or wording.place_of_label(reason[1]), reason[2]
    return place, reason[1] if reason else line
