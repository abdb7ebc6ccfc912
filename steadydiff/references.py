"""The 32 real pictures that ship, with captions: references where nobody connects any.

Who made them and their licences: `models/references/LICENCES.md`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import SettingsError
from .picture_files import pictures_in, pixels, read_picture

FOLDER = Path(__file__).resolve().parents[1] / "models" / "references"
CAPTIONS = "captions.json"

OWN, SHIPPED = STAND_INS = ("own samples", "shipped pictures")
"""What serves as reference where no pictures are connected."""

OTHER_KIND = "show also what differs from these photographs, and their blur above 256 pixels, not only drift"
"""What pictures of another kind show as reference."""


@dataclass(frozen=True)
class References:
    """Real pictures [N, H, W, 3] in 0..1, and what each shows, in a sentence."""

    pictures: Tensor
    captions: tuple[str, ...]

    @property
    def source(self) -> str:
        """Where they come from, in words."""
        return f"{len(self.pictures)} {SHIPPED}"


def is_shipped(source: str) -> bool:
    """Whether words name pictures that ship, as `References.source` does."""
    return source.endswith(SHIPPED)


def shipped_files(count: int | None = None, folder: Path = FOLDER) -> list[Path]:
    """Return the first pictures that ship, all without a count; any number of the first is of mixed kinds.

    Raises:  SettingsError where they are not there.
    """
    files = pictures_in(folder)
    if not files or not (folder / CAPTIONS).is_file():
        raise SettingsError(
            f"the pictures that ship are not in {folder}; get the folder models/references from SteadyDiff's "
            f"repository, or connect pictures of your own"
        )
    return files[:count]


def shipped_references(count: int | None = None, folder: Path = FOLDER) -> References:
    """Return them read, with their captions; as `shipped_files`."""
    files = shipped_files(count, folder)
    captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    pictures = torch.stack([pixels(read_picture(file, file.name)) for file in files])
    return References(pictures.float() / 255, tuple(captions[file.name] for file in files))
