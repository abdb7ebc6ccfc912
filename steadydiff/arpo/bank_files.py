"""The files of phrase banks: where they are, which the user named, and what their lines stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

from ..errors import SettingsError
from ..files.text import is_hidden, read_text
from .phrases import Phrases

BANKS = Path(__file__).resolve().parents[2] / "phrases"
MOST_PHRASES = 20_000  # embeddings of so many are some 60 MB
OWN = "steadydiff_phrases", "steadydiff_banks"
"""The folders of a host's models in which users keep banks; the first is the elder."""
EMBEDDINGS = "steadydiff_banks/.embeddings"
NO_BANK = "none"
WILDCARDS = "wildcards"
"""Begins the names of banks that are folders of wildcards, which are read more leniently."""

_WILDCARD = re.compile(r"__([^\W_]+(?:[_/-][^\W_]+)*)__")
_TEMPLATE = re.compile(r"[{}$<>]|__|::")  # what only a wildcard program can read


# --- which banks there are --------------------------------------------------------------------------------


def find_banks(*own: Path, wildcards: Iterable[Path] = ()) -> dict[str, Path]:
    """Banks by name: those that ship, then the user's, then wildcards; of equal names the last.

    own:       folders in which every folder, and every .txt file, is a bank
    wildcards: folders of wildcards, named after the folder they lie in, as that of an extension
    """
    found = list(BANKS.iterdir())
    for folder in own:
        found += folder.iterdir() if folder.is_dir() else []
    banks = {}
    for path in sorted(found, key=lambda path: (path.parent != BANKS, path.name)):
        if not path.name.startswith(".") and (path.is_dir() or path.suffix == ".txt"):
            banks[path.name if path.is_dir() else path.stem] = path
    for folder in wildcards:
        if folder.is_dir() and any(folder.rglob("*.txt")):
            banks[f"{WILDCARDS} {folder.parent.name}"] = folder
    return banks


@dataclass(frozen=True)
class Bank:
    """A bank that a user named, or a part of one: one of its folders or files."""

    name: str
    path: Path
    part: str = ""

    def lists(self) -> tuple[Phrases, ...]:
        """As `read_bank`, leniently where it is of wildcards."""
        return read_bank(self.path, self.part, lenient=self.name.startswith(WILDCARDS))

    def files(self) -> list[tuple[str, int]]:
        """Its files, and when they were last written."""
        files = sorted(self.path.rglob("*.txt")) if self.path.is_dir() else [self.path]
        return [(str(file), file.stat().st_mtime_ns) for file in files]


def named_banks(banks: Mapping[str, Path], bank: str, more: str = "") -> list[Bank]:
    """One bank, no bank for "none", and those that `more` names between commas.

    A name there may go on into a bank: "art/style/prints" is its file style/prints.txt alone.

    Raises:  SettingsError with the names there are.
    """
    names = [] if bank == NO_BANK else [bank]
    names += [name.strip() for name in more.split(",") if name.strip()]
    found = []
    for name in dict.fromkeys(names):
        first, _, part = name.partition("/")
        if first not in banks:
            raise SettingsError(f"there is no phrase bank {first!r}; there are {', '.join(banks)}")
        found.append(Bank(name, banks[first], part.strip("/")))
    return found


def named_lists(
    banks: Mapping[str, Path], bank: str, more: str = "", content: str = "", style: str = ""
) -> tuple[Phrases, ...]:
    """The lists of the banks that a user named, and of the phrases that they typed, one a line.

    Raises:  SettingsError as `named_banks` and `read_bank` do.
    """
    lists = [phrases for one in named_banks(banks, bank, more) for phrases in one.lists()]
    own = Phrases(tuple(content.splitlines())), Phrases((), tuple(style.splitlines()))
    return (*lists, *(phrases for phrases in own if len(phrases)))


# --- what a bank holds ------------------------------------------------------------------------------------


def read_bank(folder: Path, part: str = "", *, lenient: bool = False) -> tuple[Phrases, ...]:
    """The lists of a bank, their wildcards filled in.

    part:    one of its folders, or of its files without .txt, with "/" between; empty: all
    lenient: leave out what is not understood: lines of a wildcard program's own language, wildcards that are
             not there, files that are no text. Files in different folders may then have the same name

    Raises:  SettingsError naming the file: it is not there, is no text, names a file that is not there or
             itself, or fills in to too many phrases.
    """
    files = _files(folder, lenient)
    if not files:
        raise SettingsError(f"no phrase bank is in {folder.name}: a folder of .txt files, one phrase a line")
    lists = []
    for name, file in files.items():
        inside = file.relative_to(folder).with_suffix("").parts if folder.is_dir() else (name,)
        if "words" not in inside[:-1] and f"{'/'.join(inside)}/".startswith(f"{part}/" if part else ""):
            lines = tuple(_filled(name, files, lenient))
            lists.append(Phrases((), lines) if "style" in inside[:-1] else Phrases(lines))
    if not lists:
        raise SettingsError(f"{folder.name} has no {part}; a part of a bank is one of its folders or files")
    if sum(map(len, lists)) > MOST_PHRASES:
        raise SettingsError(
            f"{folder.name} has more than {MOST_PHRASES} phrases; part it into several banks, or name one of "
            f"its folders alone: {folder.name}/folder"
        )
    return tuple(phrases for phrases in lists if len(phrases) or not lenient)


def _files(folder: Path, lenient: bool) -> dict[str, Path]:
    """The files of a bank by the name that wildcards give them."""
    if folder.is_file():
        return {folder.stem: folder}
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.txt")):
        if is_hidden(file, folder) or not file.is_file():  # what macOS, notebooks and editors leave behind
            continue
        name = file.relative_to(folder).with_suffix("").as_posix() if lenient else file.stem
        if name in files:
            raise SettingsError(f"{folder.name} has two files {file.name}; wildcards could mean either")
        files[name] = file
    return files


def _filled(name: str, files: Mapping[str, Path], lenient: bool, within: Sequence[str] = ()) -> list[str]:
    """The lines of a file with every wildcard in them filled in."""
    if name in within:
        raise SettingsError(f"{name}.txt stands for itself, by way of {', '.join(within)}")
    if name not in files:
        raise SettingsError(f"{within[-1]}.txt names __{name}__, but the bank has no {name}.txt")
    try:
        lines = read_text(files[name]).splitlines()
    except OSError as error:
        raise SettingsError(f"{name}.txt cannot be read: {error}") from None
    except SettingsError:
        if lenient:
            return []
        raise
    found = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            try:
                found += _phrases(line, name, files, lenient, within, MOST_PHRASES - len(found))
            except SettingsError:
                if not lenient:
                    raise
    return found


def _phrases(
    line: str, name: str, files: Mapping[str, Path], lenient: bool, within: Sequence[str], most: int
) -> list[str]:
    """What a line stands for."""
    parts = _WILDCARD.split(line)  # text, name, text, name, ..., text
    if lenient and any(map(_TEMPLATE.search, parts[::2])):
        return []
    if lenient:
        parts[1::2] = [_found(part, files) for part in parts[1::2]]
    choices = [_filled(p, files, lenient, (*within, name)) if i % 2 else [p] for i, p in enumerate(parts)]
    if prod(map(len, choices)) > most:
        if len(parts) == 1:
            raise SettingsError(f"{name}.txt has more than {MOST_PHRASES} lines; part it into several banks")
        raise SettingsError(f"{name}.txt: {line!r} stands for more than {MOST_PHRASES} phrases")
    return ["".join(choice) for choice in product(*choices)]


def _found(name: str, files: Mapping[str, Path]) -> str:
    """The file that a wildcard means whose folders may be left out."""
    return next((n for n in (name, *files) if n in files and f"/{n}".endswith(f"/{name}")), name)
