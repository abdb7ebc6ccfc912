"""The tiny world as a base to fine-tune, and what comes of it as a file; without a host."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from ..networks.xi_head import TwoHeads
from ..training.distributed import team
from ..training.loop import OnStep, Plan
from ..training.mdss import MdssBase, MdssRecipe, MdssRequest, save_trained, train_mdss
from . import base as tinyworld
from . import files, sampling
from .files import check_variant

BASES = {f"tinyworld:{variant}": variant for variant in files.VARIANTS}


def load_base(name: str, work: Path, device: torch.device, checkpointing: bool = False) -> MdssBase:
    """Return one of BASES with its training data, cached in `work`; the text encoder stays as it is.

    checkpointing: whether the network works out most of a pass twice, to keep less of it in memory
    """
    variant = check_variant(BASES[name])
    unet, text = files.load_diffusion(variant)
    unet.train().requires_grad_(True).to(device)
    unet.checkpointing = checkpointing
    text.to(device)
    abar = sampling.alphas_cumprod()
    sigmas = ((1 - abar) / abar).sqrt() if variant == "epsilon" else torch.arange(1, 1001).double() / 1000

    def evaluate(model: TwoHeads, x: Tensor, at: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            context = text(tokens)
        return model(x, at if variant == "epsilon" else 1000 * sigmas.to(at.device)[at], context)

    return MdssBase(
        name=name,
        network=unet,
        space="ve" if variant == "epsilon" else "flow",
        prediction="eps" if variant == "epsilon" else "velocity",
        sigmas=sigmas,
        draw=tinyworld.load_base(variant, work, (2,), device).draw,  # the same pictures and captions
        evaluate=evaluate,
    )


def save_finetuned(path: Path, model: TwoHeads, base: MdssBase, recipe: MdssRecipe, training: dict) -> None:
    """Write a checkpoint with the text encoder in it, or a LoRA if the model has one; in half precision."""
    variant = BASES[base.name]

    def checkpoint(network: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {f"{files.UNET_PREFIX}{name}": value for name, value in network.items()}
        return {name: own.get(name, value).half() for name, value in files.tensors(variant).items()}

    save_trained(
        path,
        model,
        base,
        recipe,
        checkpoint,
        base_sha256=tinyworld.sha256(variant),
        family=f"TinyWorld{variant.capitalize()}",
        latent_format="SD15",
        training={"data": "drawings of the tiny world, those its base model was trained on", **training},
        licence="MIT",
    )


def finetune(
    base: str,
    request: MdssRequest,
    plan: Plan,
    file: Path,
    state: Path,
    work: Path,
    device: torch.device,
    about: dict,
    on_step: OnStep | None = None,
) -> None:
    """Fine-tune one of BASES, the random numbers as the caller has seeded them, and write the file.

    work:  where the training data is cached
    about: for people who read the file
    """
    chosen = load_base(base, work, device, request.checkpointing)
    recipe, model = request.recipe(chosen.space), request.heads(chosen.network)
    logging.info("%s parameters to train", f"{sum(w.numel() for w in model.parameters()):,}")
    trained = train_mdss(model, chosen, recipe, plan, state, on_step)
    if not team().rank:
        save_finetuned(file, trained, chosen, recipe, {**about, **plan.facts, "recipe": vars(recipe)})
