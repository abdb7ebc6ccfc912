"""Fine-tune a model by MDSS: `python3 run.py train mdss --base tinyworld:epsilon --k 4 --out FILE`, or
`--base CHECKPOINT --images FOLDER --out FILE` for checkpoints of SD1.5, SD2, SDXL, SD3,
Flux, Chroma, Lumina 2 and Z-Image.

Ctrl+C keeps the state in --work; the same command goes on from there, to the bit. --work holds the cached
latents as well. FILE is an ordinary checkpoint, or with --lora a LoRA, with the second head beside it.
"""

import argparse
import logging
import sys

import torch

from steadydiff.errors import SettingsError
from steadydiff.methods.mdss import VARIANTS
from steadydiff.tinyworld.finetune import BASES, finetune
from steadydiff.training.distributed import team
from steadydiff.training.loop import Plan
from steadydiff.training.mdss import PLAN, MdssRecipe, MdssRequest
from tools.train.command import check_base, plan_of, run_training, training_parser


def parser() -> argparse.ArgumentParser:
    top = training_parser("mdss", __doc__, BASES, PLAN, MdssRecipe.batch)
    top.add_argument("--k", type=int, default=MdssRecipe.k, help="steps an error is carried on; 0 is SDSS")
    top.add_argument("--variant", help=f"{', '.join(VARIANTS)}; the thesis': posterior")
    top.add_argument("--no-xi", action="store_true", help="without the second head")
    top.add_argument("--lora", type=int, default=0, metavar="RANK", help="0: train all weights")
    top.add_argument("--checkpointing", action="store_true", help="less memory for a quarter more time")
    return top


def main(arguments: list[str]) -> int:
    return run_training(parser(), train, arguments)


def train(options: argparse.Namespace, command: str) -> None:
    if options.lora < 0:
        raise SettingsError(f"--lora is a rank of 1 or more, or 0 for all weights; got {options.lora}")
    plan = plan_of(options, PLAN)
    way = train_on_checkpoint if check_base(options, BASES) else train_on_tinyworld
    request = MdssRequest(
        options.variant, options.k, options.batch, not options.no_xi, options.lora, options.checkpointing
    )
    way(options, request, plan, {"command": command})
    if not team().rank:
        logging.info("wrote %s", options.out)


def train_on_checkpoint(options: argparse.Namespace, request: MdssRequest, plan: Plan, about: dict) -> None:
    from tools.train.comfyui_base import train_on  # only here, as it needs the host's packages

    def train(training, base, encoded) -> None:
        state, name = options.work / f"{options.out.stem}.safetensors", base.path.name
        more = {"stored": base.tensors, "base_sha256": base.sha256}
        training.train(base.model, encoded, name, request, plan, options.out, state, about, **more)

    train_on(options, "mdss_training", whole=True, train=train)


def train_on_tinyworld(options: argparse.Namespace, request: MdssRequest, plan: Plan, about: dict) -> None:
    """Train a variant of the tiny world, without a host."""
    torch.manual_seed(plan.seed)
    state = options.work / f"{BASES[options.base]}-{options.out.stem}.safetensors"
    finetune(options.base, request, plan, options.out, state, options.work, team().device, about)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
