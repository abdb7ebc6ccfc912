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


@dataclass(frozen=True)
class References:
    """Real pictures [N, H, W, 3] in 0..1, and what each shows, in a sentence."""

    pictures: Tensor
    captions: tuple[str, ...]

    @property
    def source(self) -> str:
        """Where they come from, in words."""
        return shipped_pictures(len(self.pictures))


def shipped_pictures(count: int) -> str:
    """Return in words that so many of the pictures that ship are the reference."""
    return f"{count} shipped pictures"


def shipped_references(count: int | None = None, folder: Path = FOLDER) -> References:
    """Return the first pictures that ship, all without a count; any number of the first is of mixed kinds.

    Raises:  SettingsError where they are not there.
    """
    files = pictures_in(folder)
    if not files or not (folder / CAPTIONS).is_file():
        raise SettingsError(
            f"the pictures that ship are not in {folder}; get the folder models/references from SteadyDiff's "
            f"repository, or connect pictures of your own"
        )
    captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    chosen = files[:count]
    pictures = torch.stack([pixels(read_picture(file, file.name)) for file in chosen])
    return References(pictures.float() / 255, tuple(captions[file.name] for file in chosen))
