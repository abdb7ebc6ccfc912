"""The tiny world's shipped weights: where they lie, what their keys mean, and host-free models of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import SettingsError
from ..files.atomic import write_whole
from ..files.checkpoints import load_checkpoint, save_checkpoint
from ..optional import import_open_clip
from .autoencoder import Autoencoder
from .clip import CONFIG, TOKENIZER_CONFIG, Clip, tokenizer_json
from .reader import Reader
from .text import TextEncoder
from .unet import UNet

Net = TypeVar("Net", bound=nn.Module)
FOLDER = Path(__file__).resolve().parents[2] / "models" / "tinyworld"
CLIP_FOLDER = FOLDER / "clip"
VARIANTS = ("epsilon", "flow")
KIND, VERSION = "tinyworld", 1
# SD1's own prefixes, so that tools that know SD1 checkpoints find their way.
UNET_PREFIX, TEXT_PREFIX = "model.diffusion_model.", "cond_stage_model.transformer."


def save(name: str, modules: dict[str, nn.Module], folder: Path = FOLDER, **facts) -> Path:
    """Write modules in fp16 under their prefixes to `<folder>/<name>.safetensors`."""
    tensors = {
        prefix + k: v.half() if v.is_floating_point() else v
        for prefix, module in modules.items()
        for k, v in module.state_dict().items()
    }
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, tensors, kind=KIND, version=VERSION, part=name, **facts)
    return path


def tensors(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The float32 tensors of one shipped file: "epsilon", "flow", "vae" or "reader"."""
    stored, _ = load_checkpoint(folder / f"{name}.safetensors", kind=KIND, version=VERSION)
    return {k: v.float() for k, v in stored.items()}


def header(name: str, folder: Path = FOLDER) -> dict:
    """The header of one shipped file."""
    return load_checkpoint(folder / f"{name}.safetensors", kind=KIND, version=VERSION)[1]


def part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def check_variant(variant: str) -> str:
    if variant not in VARIANTS:
        raise SettingsError(f"variant is {variant!r}; choose one of {', '.join(VARIANTS)}.")
    return variant


def write_manifest(models: Path = FOLDER.parent) -> None:
    """List every shipped weight file with its size and sha256 in models/manifest.json."""
    entries = {
        path.relative_to(models).as_posix(): {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path in sorted(models.rglob("*.safetensors"))
        for data in (path.read_bytes(),)
    }
    write_whole(models / "manifest.json", json.dumps(entries, indent=1) + "\n")


def _filled(module: Net, stored: dict[str, Tensor]) -> Net:
    module.load_state_dict(stored)
    return module.eval().requires_grad_(False)


def load_diffusion(variant: str, folder: Path = FOLDER) -> tuple[UNet, TextEncoder]:
    """The host-free UNet and text encoder of a variant; ComfyUI builds its own kinds from the same file."""
    stored = tensors(check_variant(variant), folder)
    return _filled(UNet(), part(stored, UNET_PREFIX)), _filled(TextEncoder(), part(stored, TEXT_PREFIX))


def load_autoencoder(folder: Path = FOLDER) -> Autoencoder:
    return _filled(Autoencoder(), tensors("vae", folder))


def load_reader(folder: Path = FOLDER) -> Reader:
    with torch.random.fork_rng():  # a module's initial weights must not move the caller's random numbers
        return _filled(Reader(), tensors("reader", folder))


def save_clip(model: nn.Module, folder: Path = CLIP_FOLDER, **facts) -> Path:
    """Write a folder that open_clip knows as "local-dir:<folder>"."""
    path = save("open_clip_model", {"": model}, folder, **facts)
    for name, text in {
        "open_clip_config": json.dumps(CONFIG, indent=1),
        "tokenizer_config": json.dumps(TOKENIZER_CONFIG, indent=1),
        "tokenizer": tokenizer_json(),
    }.items():
        write_whole(folder / f"{name}.json", text + "\n")
    return path


def load_clip(folder: Path = CLIP_FOLDER) -> Clip:
    """The tiny CLIP as open_clip loads it, from these files alone; needs open_clip.

    Raises:  SteadyDiffError naming the command that installs open_clip; CheckpointError without weights.
    """
    open_clip, name = import_open_clip(), f"local-dir:{folder}"
    header("open_clip_model", folder)  # without weights open_clip would go on with random ones
    with torch.random.fork_rng():
        model = open_clip.create_model(name)
    return Clip(model.eval().requires_grad_(False), open_clip.get_tokenizer(name))
