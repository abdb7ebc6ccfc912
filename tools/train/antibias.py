"""Train an anti-bias prompt model: `python3 run.py train antibias --base tinyworld:epsilon --out FILE`, or
`--base CHECKPOINT --images FOLDER --out FILE` for any checkpoint that ComfyUI loads.

Ctrl+C keeps the state in --work; the same command goes on from there, to the bit. --work holds the cached
latents as well.
"""

import argparse
import logging
import sys
from dataclasses import replace

import torch

from steadydiff.errors import SettingsError
from steadydiff.files.antibias import AntiBiasCard, save_prompt
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork
from steadydiff.tinyworld import base as tinyworld
from steadydiff.tinyworld.files import VARIANTS
from steadydiff.training.antibias import (
    FEWEST,
    MOST,
    PLAN,
    AntiBiasRecipe,
    StepPairs,
    measure_bands,
    train_prompt,
)
from steadydiff.training.distributed import team
from steadydiff.training.loop import Plan
from steadydiff.training.losses import LOSSES, WEIGHTS
from tools.train.command import check_base, plan_of, run_training, training_parser

BASES = {f"tinyworld:{variant}": variant for variant in VARIANTS}
LATENTS = (4, 8, 8)  # of the tiny world


def parser() -> argparse.ArgumentParser:
    top = training_parser("antibias", __doc__, BASES, PLAN, AntiBiasRecipe.batch)
    top.add_argument("--target", default=AntiBiasRecipe.target, help="residual or phi")
    top.add_argument("--loss", default=AntiBiasRecipe.loss, help=", ".join(LOSSES))
    top.add_argument("--snr-cap", type=float, default=AntiBiasRecipe.snr_cap, help="inf: the paper's weight")
    top.add_argument("--weight", default=AntiBiasRecipe.weight, help=", ".join(WEIGHTS))
    top.add_argument(
        "--sample-steps", default=f"{FEWEST}-{MOST}", help="numbers of steps sampled with: 8-50, or 10,20"
    )
    top.add_argument(
        "--channels", type=int, default=PromptConfig.channels, help="width; the paper's: 32, 64, 16 (small)"
    )
    mult = ",".join(map(str, PromptConfig.channel_mult))
    top.add_argument("--mult", default=mult, help="times the width, one per resolution")
    top.add_argument("--blocks", type=int, default=PromptConfig.blocks, help="per resolution")
    return top


def main(arguments: list[str]) -> int:
    return run_training(parser(), train, arguments)


def train(options: argparse.Namespace, command: str) -> None:
    recipe = AntiBiasRecipe(options.target, options.loss, options.snr_cap, options.batch, options.weight)
    plan = replace(plan_of(options, PLAN), keep_every=2000)
    about = {"command": command, "sample_steps": options.sample_steps}
    way = train_on_checkpoint if check_base(options, BASES) else train_on_tinyworld
    way(options, recipe, plan, about)
    if not team().rank:
        logging.info("wrote %s", options.out)


def train_on_checkpoint(options: argparse.Namespace, recipe: AntiBiasRecipe, plan: Plan, about: dict) -> None:
    from tools.train.comfyui_base import train_on  # only here, as it needs the host's packages

    def train(training, base, encoded) -> None:
        samples, mult = encoded(), numbers(options.mult)
        config = PromptConfig.for_latents(
            samples.clean.shape[1:], options.channels, mult, blocks=options.blocks
        )
        state = options.work / f"{options.out.stem}.safetensors"
        steps, card = numbers(options.sample_steps), {"base": base.path.name, "base_sha256": base.sha256}
        training.train(base.model, samples, config, recipe, plan, steps, options.out, state, about, **card)

    train_on(options, "antibias_training", whole=False, train=train)


def train_on_tinyworld(options: argparse.Namespace, recipe: AntiBiasRecipe, plan: Plan, about: dict) -> None:
    """Train on a variant of the tiny world, without a host."""
    variant, mult = BASES[options.base], numbers(options.mult)
    config = PromptConfig.for_latents(LATENTS, options.channels, mult, blocks=options.blocks)
    device = team().device
    base = tinyworld.load_base(variant, options.work, numbers(options.sample_steps), device)
    torch.manual_seed(plan.seed)
    network = PromptNetwork(config).to(device)
    logging.info("%s parameters", f"{sum(w.numel() for w in network.parameters()):,}")
    state = options.work / f"{variant}-{options.out.stem}.safetensors"
    trained = train_prompt(network, base, recipe, plan, state)
    bands = measure_bands(trained, base, recipe, plan.seed)
    card = AntiBiasCard(
        target=recipe.target,
        space=base.space,
        sigma_data=base.sigma_data,
        sigma_range=StepPairs.of(base.schedules).sigma_range,
        bands=bands,
        base=options.base,
        base_sha256=tinyworld.sha256(variant),
        family=f"TinyWorld{variant.capitalize()}",
        latent_format="SD15",
        training={
            **about,
            "data": "drawings of the tiny world, those its base model was trained on",
            **plan.facts,
            "recipe": vars(recipe),
        },
        licence="MIT",
    )
    if not team().rank:
        save_prompt(options.out, trained.cpu(), card)


def numbers(text: str) -> tuple[int, ...]:
    """Read "8-50" or "10,20"."""
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            return tuple(range(first, last + 1))
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"numbers are written like 8-50 or 10,20; got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
