"""Texts that people write: phrases, captions, keys, schedules. One reader for all of them."""

from __future__ import annotations

from pathlib import Path

from ..errors import SettingsError


def read_text(file: Path) -> str:
    """Return a text file's content without the mark that some editors put before it (BOM).

    Raises:  SettingsError naming the file, and the line where it is no UTF-8; OSError where it is no file.
    """
    data = file.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingsError(f"{file.name} is text in UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise SettingsError(f"{file.name} holds zero bytes: it is UTF-16 or no text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{file.name} is not text in UTF-8: line {line} holds the byte {data[error.start]:#x}; save it so"
        ) from None


def is_hidden(file: Path, within: Path) -> bool:
    """Whether a file, or a folder between it and `within`, is one that systems and tools hide (".x")."""
    return any(part.startswith(".") for part in file.relative_to(within).parts)
