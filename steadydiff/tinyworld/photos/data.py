"""CIFAR-10's pictures from a folder of class folders, a tar of one, or torchvision's download."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import SettingsError
from ...files.atomic import atomic_write, check_writable
from ...picture_files import pixels, read_picture
from .network import SIZE_PX
from .words import CLASSES

SPLITS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png")


def load_photos(source: Path, split: str, work: Path) -> tuple[Tensor, Tensor]:
    """Return pictures [N, 3, 32, 32] uint8 and class numbers [N] int64, in the order of their paths.

    source:  a folder or a tar with <split>/<class>/*.png or .jpg somewhere inside, or the folder in which
             torchvision keeps CIFAR10
    work:    folder of a cache, so that pictures are decoded once; of one source, by its name

    Raises:  SettingsError naming what is missing.
    """
    cache = work / f"photos_{split}.safetensors"
    if not source.exists():
        raise SettingsError(f"{source} is not there; name CIFAR-10's folder or tar with --data")
    if cache.exists():
        kept = _kept_source(cache) or source.name
        if kept != source.name:
            raise SettingsError(
                f"the pictures kept in {work} are those of {kept}, not of {source.name}; use another folder"
            )
    else:
        check_writable(cache)
        try:
            found = sorted(_torchvision(source, split) or _entries(source, split), key=lambda one: one[0])
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, RuntimeError) as error:
            raise SettingsError(f"{source} is no tar of pictures, or it is damaged; get it again") from error
        if not found:
            raise SettingsError(
                f"{source} holds no pictures as {split}/<class>/*.png or .jpg; "
                f"name CIFAR-10's folder or tar with --data"
            )
        work.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache) as draft:
            save_file(
                {
                    "pictures": torch.stack([pixels for _, _, pixels in found]),
                    "classes": torch.tensor([label for _, label, _ in found]),
                },
                draft,
                {"source": source.name},
            )
    kept = load_file(cache)
    return kept["pictures"], kept["classes"]


def _kept_source(cache: Path) -> str | None:
    try:
        with safe_open(cache, "pt") as file:
            return (file.metadata() or {}).get("source")
    except SafetensorError as error:
        raise SettingsError(f"{cache} is damaged ({error}); delete it, and it is made again") from None


def _torchvision(source: Path, split: str) -> list[tuple[str, int, Tensor]]:
    if not (source / "cifar-10-batches-py").is_dir():
        return []
    from torchvision.datasets import CIFAR10

    data = CIFAR10(str(source), train=split == "train")
    return [
        (f"{i:05}", label, torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        for i, (pixels, label) in enumerate(zip(data.data, data.targets, strict=True))
    ]


def _entries(source: Path, split: str) -> Iterator[tuple[str, int, Tensor]]:
    """Yield (path, class number, pixels) of every picture of the split."""
    if source.is_dir():
        for path in source.rglob("*"):
            label = _label(PurePosixPath(path.as_posix()), split)
            if label is not None:
                yield path.as_posix(), label, _pixels(path.read_bytes(), path.as_posix())
    else:
        with tarfile.open(source) as tar:
            for member in tar:
                label = _label(PurePosixPath(member.name), split)
                if label is not None and (file := tar.extractfile(member)):
                    yield member.name, label, _pixels(file.read(), member.name)


def _label(path: PurePosixPath, split: str) -> int | None:
    folders = [parent.name for parent in path.parents][:2]
    known = (
        path.suffix.lower() in ENDINGS
        and not path.name.startswith(".")
        and folders[1:] == [split]
        and folders[0] in CLASSES
    )
    return CLASSES.index(folders[0]) if known else None


def _pixels(data: bytes, name: str) -> Tensor:
    picture = read_picture(data, name)
    if picture.size != (SIZE_PX, SIZE_PX):
        raise SettingsError(f"{name} has {picture.size} pixels; CIFAR-10's have {SIZE_PX} x {SIZE_PX}")
    return pixels(picture).permute(2, 0, 1).contiguous()
