"""Convert a checkpoint of MDSS: `python3 run.py mdss convert WIDENED --out FILE`.

WIDENED is a UNet whose last layer was widened to twice its channels, the second half being the error. FILE is
an ordinary checkpoint with the same weights, which every host loads, and the second half beside it.
"""

import argparse
import sys
from pathlib import Path

from steadydiff.denoiser import SPACES
from steadydiff.errors import SteadyDiffError
from steadydiff.files.mdss import MdssCard, convert


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="run.py mdss", description=__doc__, allow_abbrev=False)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("command", choices=["convert"])
    top.add_argument("source", type=Path, metavar="WIDENED", help="a .safetensors")
    top.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors to write")
    top.add_argument("--space", choices=SPACES, default="ve", help="ve: noise or v prediction; flow")
    top.add_argument("--base", default="", help="name of the model it was trained on, for people")
    top.add_argument("--family", default="", help="ComfyUI's class of that model, e.g. SD15")
    return top


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        card = MdssCard(form="checkpoint", space=options.space, base=options.base, family=options.family)
        head = convert(options.source, options.out, card)
    except SteadyDiffError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out.name}: {len(head.bias)} channels, and a second head for as many")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
