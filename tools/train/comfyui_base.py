"""A base model with pictures and captions to train on, read by ComfyUI's own loaders.

Needs the host's packages and STEADYDIFF_COMFYUI; `run.py train` sees to both.
"""

import argparse
import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadydiff.errors import SettingsError
from steadydiff.files.atomic import atomic_write
from steadydiff.hosts.comfy.train import Samples
from steadydiff.picture_files import SUFFIXES, pictures_in, pixels, read_picture
from steadydiff.training.distributed import team
from tools.launch.inprocess import PACK, host_path, load, load_pack, prepare_host
from tools.train.captions import all_captions, captions_of

ENCODE_BATCH = 4


@dataclass(frozen=True)
class HostBase:
    """A checkpoint as ComfyUI loads it: MODEL, CLIP and VAE."""

    path: Path
    model: Any
    clip: Any
    vae: Any

    @cached_property
    def sha256(self) -> str:
        """Digest of the checkpoint's file."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while data := file.read(1 << 24):
                digest.update(data)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """All that the checkpoint's file holds."""
        return load("comfy.utils").load_torch_file(str(self.path), safe_load=True)

    def captions(self, texts: Sequence[str]) -> list[Any]:
        """Conditioning of each text, each different one encoded once."""
        known = {
            text: self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in set(texts)
        }
        return [known[text] for text in texts]

    def latents(self, pictures: Sequence[Path], size: int, work: Path, flip: bool = False) -> Tensor:
        """Clean latents [N, C, *S] of the pictures, size x size pixels, kept in `work` for the next time.

        flip: each is followed by that of its mirror image
        """
        facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in pictures]
        known = [self.sha256, size, facts] + [flip] * flip
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
        file = work / f"latents-{key}.safetensors"
        if not file.is_file():
            logging.info("encoding %d pictures", len(pictures))
            parts = []
            for at in range(0, len(pictures), ENCODE_BATCH):
                batch = [fitted(path, size) for path in pictures[at : at + ENCODE_BATCH]]
                if flip:
                    batch = [way for picture in batch for way in (picture, picture.flip(1))]
                parts.append(self.vae.encode(torch.stack(batch)).cpu())
            with atomic_write(file, by=str(team().rank)) as draft:
                save_file({"latents": torch.cat(parts)}, draft)
        return load_file(file)["latents"]


def load_base(path: Path) -> HostBase:
    """Load a checkpoint with ComfyUI.

    Raises:  SettingsError where there is no host, no such file, or not all three parts in it.
    """
    if not host_path():
        raise SettingsError("a checkpoint is loaded by ComfyUI; start this with python3 run.py train")
    if not path.is_file():
        raise SettingsError(f"there is no checkpoint {path}")
    prepare_host(cpu=not torch.cuda.is_available())
    try:
        found = load("comfy.sd").load_checkpoint_guess_config(str(path))
    except Exception as error:  # whatever the host's loaders raise for a file they do not know
        raise SettingsError(f"ComfyUI cannot load {path.name}: {error}") from error
    for part, what in zip(found[:3], ("diffusion model", "text encoder", "VAE"), strict=True):
        if part is None:
            raise SettingsError(f"{path.name} has no {what}; name a checkpoint that holds all three parts")
    return HostBase(path, *found[:3])


def train_on(options: argparse.Namespace, module: str, whole: bool, train: Callable[..., None]) -> None:
    """Train on --base with --images as a node does, in a ComfyUI inside this process.

    module: what that node trains by, a file of nodes/shared/
    whole:  whether every picture must have a caption
    train:  (module, base, a function that encodes the samples)
    """
    team()  # before the host chooses a device
    pictures = given_pictures(options.images)
    where = options.captions
    texts = all_captions(pictures, where) if whole else [text or "" for text in captions_of(pictures, where)]
    base = load_base(Path(options.base))
    load_pack()
    training = importlib.import_module(f"{PACK}.nodes.shared.{module}")

    def samples():
        clean = base.latents(pictures, options.size, options.work, options.flip)
        captions = [caption for caption in base.captions(texts) for _ in range(1 + options.flip)]
        return Samples(clean, captions, base.captions([""])[0])

    with torch.inference_mode():  # as the host runs nodes
        train(training, base, samples)


def given_pictures(folder: Path) -> list[Path]:
    """The folder's pictures by name; SettingsError if there are none."""
    if not folder.is_dir():
        raise SettingsError(f"--images is a folder; there is none at {folder}")
    if not (found := pictures_in(folder)):
        raise SettingsError(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def fitted(path: Path, size: int) -> Tensor:
    """A picture as the host's nodes have it, [size, size, 3] in 0..1, its middle if it is not square.

    Raises:  SettingsError naming the file that is no picture.
    """
    picture = read_picture(path, path.name)
    return pixels(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)) / 255
