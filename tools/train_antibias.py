"""Train an anti-bias prompt model: `python3 run.py train antibias --base tinyworld:epsilon --out FILE`.

Ctrl+C keeps the state in --work; the same command goes on from there, to the bit. --work holds the cached
latents as well.
"""

import argparse
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from steadydiff.antibias_files import Card, save_prompt
from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.networks.antibias_prompt import PromptConfig, PromptNetwork, attention_at
from steadydiff.tinyworld import base as tinyworld
from steadydiff.tinyworld.files import VARIANTS
from steadydiff.training.antibias import PLAN, Recipe, StepPairs, train_prompt
from steadydiff.training.losses import LOSSES

BASES = {f"tinyworld:{variant}": variant for variant in VARIANTS}
LATENT_SIZE = 8  # of the tiny world


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py train antibias", description=__doc__, allow_abbrev=False)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--base", required=True, help="tinyworld:epsilon or tinyworld:flow")
    top.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors to write")
    top.add_argument("--work", type=Path, default=Path("output/antibias"), help="folder of state and cache")
    top.add_argument("--steps", type=int, default=PLAN.steps, help="optimiser steps in all")
    top.add_argument("--batch", type=int, default=Recipe.batch)
    top.add_argument("--target", default=Recipe.target, help="residual or phi")
    top.add_argument("--loss", default=Recipe.loss, help=", ".join(LOSSES))
    top.add_argument("--snr-cap", type=float, default=Recipe.snr_cap, help="inf: the paper's weight")
    top.add_argument("--sample-steps", default="8-50", help="numbers of steps sampled with: 8-50, or 10,20")
    top.add_argument("--channels", type=int, default=16, help="width; the paper's: 32, 64, 16 (small)")
    top.add_argument("--mult", default="2,2,2", help="times the width, one per resolution")
    top.add_argument("--blocks", type=int, default=PromptConfig.blocks, help="per resolution")
    top.add_argument("--lr", type=float, default=PLAN.lr)
    top.add_argument("--ema", type=float, default=PLAN.ema, help="decay of the average; warmed up")
    top.add_argument("--seed", type=int, default=PLAN.seed)
    top.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    return top


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        train(options, "run.py train antibias " + shlex.join(arguments))
    except SteadyDiffError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on from the state in {options.work}.", file=sys.stderr)
        return 130
    return 0


def train(options: argparse.Namespace, command: str) -> None:
    variant = BASES.get(options.base)
    if variant is None:
        raise SettingsError(
            f"--base is one of {', '.join(BASES)}; got {options.base!r}. For other models use the node Train "
            f"Anti-Bias Model in ComfyUI."
        )
    mult = numbers(options.mult)
    config = PromptConfig(4, options.channels, mult, options.blocks, attention_at(LATENT_SIZE, len(mult)))
    recipe = Recipe(options.target, options.loss, options.snr_cap, options.batch)
    plan = replace(
        PLAN, steps=options.steps, lr=options.lr, ema=options.ema, seed=options.seed, keep_every=2000
    )
    base = tinyworld.load_base(variant, options.work, numbers(options.sample_steps))
    torch.manual_seed(plan.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = PromptNetwork(config).to(device)
    logging.info("%s parameters", f"{sum(w.numel() for w in network.parameters()):,}")
    state = options.work / f"{variant}-{options.out.stem}.safetensors"
    trained = train_prompt(network, base, recipe, plan, state)
    card = Card(
        target=recipe.target,
        space=base.space,
        sigma_data=base.sigma_data,
        sigma_range=StepPairs.of(base.schedules).sigma_range,
        base=options.base,
        base_sha256=tinyworld.sha256(variant),
        family=f"TinyWorld{variant.capitalize()}",
        latent_format="SD15",
        training={
            "command": command,
            "data": "drawings of the tiny world, those its base model was trained on",
            "steps": plan.steps,
            "ema": plan.ema,
            "sample_steps": options.sample_steps,
            "recipe": vars(recipe),
        },
        licence="MIT",
    )
    save_prompt(options.out, trained.cpu(), card)
    logging.info("wrote %s", options.out)


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
