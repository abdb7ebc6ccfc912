"""models/steadydiff_schedules: schedules that users kept, and in auto/ what Auto Correct found."""

from pathlib import Path

import folder_paths

from ...steadydiff.drift.saved_fit import FOUND, file_name
from ...steadydiff.files.checkpoints import check_file_name
from ...steadydiff.schedules import MadeFor

NAME = "steadydiff_schedules"


def folder() -> Path:
    return Path(folder_paths.models_dir) / NAME


def auto_file(made_for: MadeFor, key: str) -> Path:
    """Where what was found for a model and run is kept."""
    return folder() / FOUND / file_name(made_for, key)


def options() -> list[str]:
    """The kept schedules by their names, those of Auto Correct after the others."""
    return [
        *sorted(file.stem for file in folder().glob("*.json")),
        *sorted(f"{FOUND}/{file.stem}" for file in (folder() / FOUND).glob("*.json")),
    ]


def file_of(name: str) -> Path:
    """Return the file of a schedule by its name; SettingsError for a name that is no file's."""
    within, slash, plain = name.strip().removesuffix(".json").rpartition("/")
    check_file_name(name, plain if not slash or within == FOUND else name)
    return folder() / within / f"{plain}.json"
