"""What the trainers' command lines share: from arguments to an exit code."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from steadydiff.errors import SettingsError, SteadyDiffError
from steadydiff.files.atomic import check_writable
from steadydiff.training.distributed import team
from steadydiff.training.loop import Plan


def training_parser(
    name: str, text: str | None, bases: Iterable[str], plan: Plan, batch: int
) -> argparse.ArgumentParser:
    """What every trainer asks for; `plan` and `batch` hold the defaults."""
    top = argparse.ArgumentParser(prog=f"run.py train {name}", description=text, allow_abbrev=False)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--base", required=True, help=f"a checkpoint, or {' or '.join(bases)}")
    top.add_argument("--images", type=Path, metavar="FOLDER", help="with a checkpoint: pictures")
    top.add_argument(
        "--captions",
        type=Path,
        metavar="FOLDER_OR_FILE",
        help="of the .txt files, if not beside the pictures; or a .jsonl or .csv of file_name and text",
    )
    top.add_argument("--size", type=int, default=512, help="pixels a side that pictures are brought to")
    top.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors to write")
    top.add_argument("--work", type=Path, default=Path("output") / name, help="folder of state and cache")
    top.add_argument("--steps", type=int, default=plan.steps, help="optimiser steps in all")
    top.add_argument("--flip", action="store_true", help="with pictures: train on mirror images as well")
    top.add_argument("--batch", type=int, default=batch)
    top.add_argument("--accumulate", type=int, default=plan.accumulate, help="batches in a step")
    top.add_argument("--lr", type=float, default=plan.lr)
    top.add_argument("--warmup", type=int, default=plan.warmup, help="steps of rising rate")
    top.add_argument(
        "--decay", type=float, default=plan.decay, help="last part of the steps, of falling rate"
    )
    top.add_argument("--ema", type=float, default=plan.ema, help="decay of the average; warmed up")
    top.add_argument("--seed", type=int, default=plan.seed)
    top.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    return top


def plan_of(options: argparse.Namespace, plan: Plan) -> Plan:
    """Return the plan that the options ask for."""
    return replace(plan, **{name: getattr(options, name) for name in plan.facts})


def run_training(
    parser: argparse.ArgumentParser, train: Callable[[argparse.Namespace, str], None], arguments: list[str]
) -> int:
    """Train with the options of a command line; every expected failure is one sentence and exit code 1.

    train: (options, the whole command); the options have `threads` and `work`
    """
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if not team().rank:
            check_writable(options.out)
        train(options, f"{parser.prog} {shlex.join(arguments)}")
        team().leave()
    except SteadyDiffError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on from the state in {options.work}.", file=sys.stderr)
        return 130
    return 0


def check_base(options: argparse.Namespace, bases: Iterable[str]) -> bool:
    """Whether --base is a checkpoint; SettingsError if it is neither one with pictures nor one of `bases`."""
    if options.base in bases:
        for name in ("images", "captions"):
            if given := getattr(options, name):
                raise SettingsError(
                    f"the tiny world draws its own pictures; leave --{name} out, or name a checkpoint "
                    f"as --base; got --base {options.base} --{name} {given}"
                )
        if options.flip:
            raise SettingsError("captions of the tiny world say left and right; leave --flip out")
        return False
    if options.images is None:
        raise SettingsError(
            f"--base is {' or '.join(bases)}, or a checkpoint together with --images; got {options.base!r}"
        )
    return True
