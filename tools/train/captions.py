"""Captions of pictures to train on: a .txt for each, or one file for all."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from steadydiff.errors import SettingsError
from steadydiff.files.text import read_text

ROWS = {".jsonl": lambda file: map(json.loads, filter(str.strip, file)), ".csv": csv.DictReader}


def captions_of(pictures: Sequence[Path], where: Path | None = None) -> list[str | None]:
    """Captions of pictures, None for those that have none.

    where: a folder with a .txt for each (None: their own), or a .jsonl or .csv file whose rows have file_name
           and text, as data sets of Hugging Face have it

    Raises:  SettingsError for a file that cannot be read so.
    """
    if where is None or where.is_dir():
        files = [(where or picture.parent) / f"{picture.stem}.txt" for picture in pictures]
        return [read_text(file).strip() if file.is_file() else None for file in files]
    if where.suffix not in ROWS:
        raise SettingsError(f"--captions is a folder, or a file of {' or '.join(ROWS)}; got {where}")
    try:
        rows = ROWS[where.suffix](io.StringIO(read_text(where), newline=""))
        known = {Path(row["file_name"]).name: row["text"].strip() for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{where} cannot be read as rows of file_name and text ({type(error).__name__}: {error})"
        ) from error
    return [known.get(picture.name) for picture in pictures]


def all_captions(pictures: Sequence[Path], where: Path | None) -> list[str]:
    """As `captions_of`; SettingsError unless every picture has one, and be it empty."""
    captions = captions_of(pictures, where)
    missing = [p.name for p, caption in zip(pictures, captions, strict=True) if caption is None]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise SettingsError(
            f"{len(missing)} of {len(pictures)} pictures have no caption ({shown}); write them, empty ones "
            f"for none, or move these pictures away"
        )
    return [caption or "" for caption in captions]
