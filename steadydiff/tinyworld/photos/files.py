"""The photos' shipped weights: where they lie, what their keys mean, and host-free networks of them."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...files.checkpoints import load_checkpoint, save_checkpoint
from ..files import TEXT_PREFIX, UNET_PREFIX, part
from ..text import TextEncoder
from .network import PhotoNet
from .words import TEXT

FOLDER = Path(__file__).resolve().parents[3] / "models" / "photos"
VARIANTS = ("epsilon", "flow")
KIND, VERSION = "photos", 1


def save(variant: str, unet: PhotoNet, text: TextEncoder, steps: int, **facts) -> Path:
    """Write a network and its text encoder in fp16 to models/photos/<variant>_<steps>.safetensors."""
    modules = {UNET_PREFIX: unet, TEXT_PREFIX: text}
    tensors = {prefix + k: v.half() for prefix, net in modules.items() for k, v in net.state_dict().items()}
    path = FOLDER / f"{variant}_{steps}.safetensors"
    save_checkpoint(path, tensors, kind=KIND, version=VERSION, variant=variant, steps=steps, **facts)
    return path


def tensors(name: str) -> dict[str, Tensor]:
    """Return the float32 tensors of one shipped file.

    Raises:  CheckpointError where it is missing or damaged.
    """
    stored, _ = load_checkpoint(FOLDER / f"{name}.safetensors", kind=KIND, version=VERSION)
    return {k: v.float() for k, v in stored.items()}


def header(name: str) -> dict:
    """Return the header of one shipped file."""
    return load_checkpoint(FOLDER / f"{name}.safetensors", kind=KIND, version=VERSION)[1]


def names(variant: str) -> list[str]:
    """Return the shipped files of a variant, `<variant>_<steps>`, the one that was trained longest last."""
    found = (path.stem for path in FOLDER.glob(f"{variant}_*.safetensors"))
    found = (name for name in found if re.fullmatch(rf"{variant}_\d+", name))  # not a copy of one
    return sorted(found, key=lambda name: int(name.rpartition("_")[2]))


def newest(variant: str) -> str:
    """Return the shipped file of a variant that was trained longest.

    Raises:  CheckpointError where there is none.
    """
    found = names(variant)
    if not found:
        raise CheckpointError(
            f"the photos' weights ({variant}) are not here: the registry's archive leaves them out; "
            f"get the folder models/photos from SteadyDiff's repository"
        )
    return found[-1]


def load(name: str) -> tuple[PhotoNet, TextEncoder]:
    """Return the host-free network and text encoder of one file; ComfyUI builds its own kinds from it."""
    stored = tensors(name)
    with torch.random.fork_rng():  # initial weights must not move the caller's random numbers
        unet, text = PhotoNet(), TextEncoder(TEXT)
    unet.load_state_dict(part(stored, UNET_PREFIX))
    text.load_state_dict(part(stored, TEXT_PREFIX))
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)
