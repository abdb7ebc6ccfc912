"""How a search draws: by the host's own txt2img, whose models take turns with CLIP and a server."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from importlib import import_module, util
from typing import Any

import torch
from modules import devices, processing, scripts, sd_models, shared
from PIL import Image

from steadydiff.picture_files import pixels


class Cancelled(Exception):
    """The user has had enough."""


def check_interrupted() -> None:
    if shared.state.interrupted or shared.state.stopping_generation:
        raise Cancelled


# --- the host's memory ------------------------------------------------------------------------------------


def has_patcher() -> bool:
    return hasattr(shared.sd_model, "forge_objects")


def make_room() -> None:
    """Take the host's models off the device; `take_back` undoes it."""
    if not has_patcher():
        sd_models.send_model_to_cpu(shared.sd_model)
        return
    name = (
        "backend.memory_management" if util.find_spec("backend") else "ldm_patched.modules.model_management"
    )
    import_module(name).unload_all_models()
    devices.torch_gc()


def take_back() -> None:
    """A1111 wants its model where it left it; patcher hosts load theirs before each use."""
    if not has_patcher():
        sd_models.send_model_to_device(shared.sd_model)


# --- drawing ----------------------------------------------------------------------------------------------


def draw(settings: Mapping[str, Any], prompt: str, seed: int) -> Image.Image:
    """Draw a prompt as txt2img does, without scripts and without saving."""
    same = ("sampler_name", "scheduler", "steps", "width", "height")
    wanted = {name: settings[name] for name in same if name in settings}
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt,
        negative_prompt=settings["negative"],
        cfg_scale=settings["cfg"],
        seed=seed,
        do_not_save_samples=True,
        do_not_save_grid=True,
        **wanted,
    )
    p.scripts, p.script_args = scripts.ScriptRunner(), []  # none, but reForge looks for one of its own there
    with closing(p):
        done = processing.process_images(p)
    check_interrupted()
    return done.images[0]


def infotext(settings: Mapping[str, Any], prompt: str, seed: int) -> str:
    """What txt2img needs to draw it again."""
    fields = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler_name"],
        **({"Schedule type": settings["scheduler"]} if "scheduler" in settings else {}),
        "CFG scale": settings["cfg"],
        "Seed": seed,
        "Size": f"{settings['width']}x{settings['height']}",
    }
    negative = f"\nNegative prompt: {settings['negative']}" if settings["negative"] else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in fields.items())


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """[H, W, 3] in 0..1."""
    return pixels(picture) / 255
