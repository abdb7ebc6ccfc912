"""What the trainers' command lines share: from arguments to an exit code."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable

import torch

from steadydiff.errors import SteadyDiffError


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
        train(options, f"{parser.prog} {shlex.join(arguments)}")
    except SteadyDiffError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on from the state in {options.work}.", file=sys.stderr)
        return 130
    return 0
