"""Files that are written whole or not at all, whatever ends the writing: a cancel, a kill or a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import SteadyDiffError


@contextmanager
def atomic_write(path: Path, by: str = "") -> Iterator[Path]:
    """Give a draft beside `path` to write; once the block has ended well the draft takes its place.

    What a killed process leaves of a draft is no file that anyone looks for, and the next one writes over it.

    by: tells apart processes that may write the same file at once

    Raises:  SteadyDiffError if it cannot be written; what was there before is then still there.
    """
    draft = path.with_name(f"{path.name}{by and f'.{by}'}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        usual = draft.stat().st_mode  # by the umask; safetensors writes files that only their owner can read
        yield draft
        draft.chmod(usual)
        os.replace(draft, path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if isinstance(error, (OSError, SafetensorError)):
            raise SteadyDiffError(
                f"{path.name} cannot be written to {path.parent} ({error}); make room there, or choose "
                f"another folder. What it held before is kept."
            ) from error
        raise


def check_writable(path: Path) -> None:
    """Raise SteadyDiffError as `atomic_write` does unless it could write here; leaves nothing behind."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        with atomic_write(path) as draft:
            draft.write_bytes(b" ")
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            raise _Enough
    except _Enough:
        pass
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


class _Enough(Exception):  # noqa: N818  # not an error: the way out before the draft takes its place
    pass


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as `atomic_write` does."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")
