"""Folders for our files in a WebUI, beside its own models, and an input that is one of their files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from modules import paths, shared

from steadydiff.drift.saved_fit import FOUND
from steadydiff.errors import SettingsError
from steadydiff.files.text import read_text

NONE = "none"


@dataclass(frozen=True)
class WebuiFolder:
    """A folder under the host's models, and another one if the settings name one.

    name:   of the folder; the setting is called <name>_dir
    suffix: of its files
    origin: where the first one comes from, said while there is none
    page:   the file of docs/ that tells how
    """

    name: str
    suffix: str = ".safetensors"
    origin: str = ""
    page: str = ""

    @property
    def setting(self) -> str:
        return f"{self.name}_dir"

    @property
    def home(self) -> Path:
        """Where new files are written: the host's own."""
        return Path(paths.models_path) / self.name

    def files(self) -> dict[str, Path]:
        """All files by their names, with folders in between; of equal names the host's own."""
        found: dict[str, Path] = {}
        for root in self._roots():
            for file in sorted(filter(Path.is_file, root.rglob(f"*{self.suffix}"))):
                found.setdefault(file.relative_to(root).as_posix(), file)
        return found

    def path_of(self, name: str) -> Path:
        """Return where a file of `files` lies, without reading the folders, which may be large.

        Raises: SettingsError if there is no such file.
        """
        plain = PurePosixPath(name)
        if plain.as_posix() == name and not plain.is_absolute() and ".." not in plain.parts:
            for root in self._roots():
                if name.endswith(self.suffix) and os.path.isfile(root / name):
                    return root / name
        there = "; ".join(filter(None, (", ".join(self.files()) or "none", self.fault())))
        raise SettingsError(f"there is no file {name!r} in models/{self.name}; it has: {there}")

    def fault(self) -> str:
        """Say what is wrong with the folder that the settings name; empty if nothing is."""
        if all(root.is_dir() for root in self._roots()[1:]):
            return ""
        named = shared.opts.data[self.setting]
        return f"the settings' other folder for {self.name}, {named!r}, is no folder; correct it or empty it"

    def _roots(self) -> list[Path]:
        other = str(shared.opts.data.get(self.setting) or "").strip()
        return [self.home, *([Path(os.path.expanduser(other))] if other else [])]

    def read_text(self, name: str) -> str:
        """Raises: SettingsError if there is no such file, or it cannot be read as text."""
        try:
            return read_text(self.path_of(name))
        except OSError as error:
            raise SettingsError(
                f"{name} in models/{self.name} cannot be read ({error}); save it again or choose another"
            ) from None


TRAINED = "No file yet: must be trained for your checkpoint."
MEASURED = "No file yet: Epsilon Scaling's Calibrate makes one."
ANTIBIAS = WebuiFolder("steadydiff_antibias", origin=TRAINED, page="antibias_prompt.md")
MDSS = WebuiFolder("steadydiff_mdss", origin=TRAINED, page="mdss.md")
SCHEDULES = WebuiFolder("steadydiff_schedules", ".json", MEASURED, "webui.md")
MEASUREMENTS = WebuiFolder("steadydiff_measurements", ".json", MEASURED, "webui.md")
FITS = WebuiFolder(f"{SCHEDULES.name}/{FOUND}", ".json")
"""What Auto Correct found."""
FOLDERS = (ANTIBIAS, MDSS, SCHEDULES, MEASUREMENTS)


@dataclass(frozen=True)
class File:
    """One of a folder's files, or none; a face shows it with a button that looks for new ones."""

    kind: ClassVar[Literal["file"]] = "file"

    name: str
    folder: WebuiFolder
    tooltip: str
    default: str = NONE

    @property
    def options(self) -> tuple[str, ...]:
        return NONE, *self.folder.files()

    def read(self, value: object) -> str:
        """Return a value from outside; SettingsError if it is neither a file of the folder nor none."""
        if value != NONE:
            self.folder.path_of(str(value))
        return str(value)
