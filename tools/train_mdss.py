"""Fine-tune a model by MDSS: `python3 run.py train mdss --base tinyworld:epsilon --k 4 --out FILE`.

Ctrl+C keeps the state in --work; the same command goes on from there, to the bit. --work holds the cached
latents as well. FILE is an ordinary checkpoint, or with --lora a LoRA, with the second head beside it.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from steadydiff.errors import SettingsError
from steadydiff.methods.mdss import VARIANTS
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.tinyworld.finetune import BASES, load_base, save_trained
from steadydiff.training.mdss import PLAN, Recipe, train_mdss
from steadydiff.training.team import team
from tools.train_command import run_training


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py train mdss", description=__doc__, allow_abbrev=False)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--base", required=True, help=" or ".join(BASES))
    top.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors to write")
    top.add_argument("--work", type=Path, default=Path("output/mdss"), help="folder of state and cache")
    top.add_argument("--k", type=int, default=Recipe.k, help="steps an error is carried on; 0 is SDSS")
    top.add_argument("--variant", help=f"{', '.join(VARIANTS)}; the thesis': posterior")
    top.add_argument("--no-xi", action="store_true", help="without the second head")
    top.add_argument("--lora", type=int, default=0, metavar="RANK", help="0: train all weights")
    top.add_argument("--steps", type=int, default=PLAN.steps, help="optimiser steps in all")
    top.add_argument("--batch", type=int, default=Recipe.batch)
    top.add_argument("--lr", type=float, default=PLAN.lr)
    top.add_argument("--ema", type=float, default=PLAN.ema, help="decay of the average; warmed up")
    top.add_argument("--checkpointing", action="store_true", help="less memory for a quarter more time")
    top.add_argument("--seed", type=int, default=PLAN.seed)
    top.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    return top


def main(arguments: list[str]) -> int:
    return run_training(parser(), train, arguments)


def train(options: argparse.Namespace, command: str) -> None:
    if options.base not in BASES:
        raise SettingsError(f"--base is one of {', '.join(BASES)}; got {options.base!r}")
    if options.lora < 0:
        raise SettingsError(f"--lora is a rank of 1 or more, or 0 for all weights; got {options.lora}")
    flow = BASES[options.base] == "flow"
    recipe = Recipe(options.variant or ("flow" if flow else "posterior"), options.k, options.batch)
    plan = replace(PLAN, steps=options.steps, lr=options.lr, ema=options.ema, seed=options.seed)
    torch.manual_seed(plan.seed)
    base = load_base(options.base, options.work, team().device, options.checkpointing)
    model = TwoHeads(base.network, xi=not options.no_xi, rank=options.lora)
    logging.info("%s parameters to train", f"{sum(w.numel() for w in model.parameters()):,}")
    state = options.work / f"{BASES[options.base]}-{options.out.stem}.safetensors"
    trained = train_mdss(model, base, recipe, plan, state)
    if team().rank:
        return
    facts = {"command": command, "steps": plan.steps, "ema": plan.ema, "recipe": vars(recipe)}
    save_trained(options.out, trained, base, recipe, facts)
    logging.info("wrote %s", options.out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
