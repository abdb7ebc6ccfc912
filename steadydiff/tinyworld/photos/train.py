"""Train the photos' networks: `python3 run.py train photos --data CIFAR10 [STAGE ...]`, each stage resumable.

epsilon  noise prediction on DDPM's linear schedule        flow    the flow-matching twin
export   writes models/photos/ from the states there are
"""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import SettingsError, SteadyDiffError
from ...files.atomic import check_writable
from ...training.loop import Loss, Plan, average, fit, losses, steps_of, stratified
from ..files import write_manifest
from ..text import TextEncoder, tokenize
from ..train import noised
from . import files
from .data import load_photos
from .network import PhotoNet
from .sampling import alphas_cumprod
from .words import CLASSES, TEXT, PhotoTokenizer, captions

STAGES = (*files.VARIANTS, "export")
BATCH = 64
UNLABELLED = 0.15  # of the pictures, for classifier-free guidance
PLANS = {
    # More steps than one sitting has; every two thousand of them is an average worth exporting.
    "epsilon": Plan(steps=500_000, lr=1e-3, warmup=400, ema=0.9995, seed=11, save_every=500, keep_every=2000),
    "flow": Plan(steps=500_000, lr=1e-3, warmup=400, ema=0.9995, seed=12, save_every=500, keep_every=2000),
}
EXPORTED_LOSSES = 500  # the last ones, whose mean the card gives


class Trainee(nn.Module):
    """The network with the text encoder that is trained with it."""

    def __init__(self):
        super().__init__()
        self.unet, self.text = PhotoNet(), TextEncoder(TEXT)

    def forward(self, x: Tensor, timesteps: Tensor, caption: Tensor, tokens: Tensor) -> Tensor:
        """Predict for pictures [B, 3, H, W] whose captions are rows of tokens [K, T], as caption [B] says."""
        return self.unet(x, timesteps, self.text(tokens)[caption])


def loss_of(model: Trainee, variant: str, pictures: Tensor, labels: Tensor) -> Loss:
    """Return what `fit` makes smaller: the error of the prediction on pictures [N, 3, 32, 32] uint8."""
    texts = [captions(name) for name in CLASSES]
    per_class = len(texts[0])
    tokens = tokenize(["", *sum(texts, [])], PhotoTokenizer())  # row 0: no caption

    def loss(rng: torch.Generator, seed: int) -> Tensor:
        del seed
        index = torch.randint(len(pictures), (BATCH,), generator=rng)
        x0 = pictures[index].float() / 127.5 - 1
        flipped = torch.rand(BATCH, 1, 1, 1, generator=rng) < 0.5
        x0 = torch.where(flipped, x0.flip(-1), x0)
        caption = 1 + labels[index] * per_class + torch.randint(per_class, (BATCH,), generator=rng)
        caption = caption.where(torch.rand(BATCH, generator=rng) >= UNLABELLED, torch.tensor(0))
        u = stratified(torch.rand(BATCH, generator=rng))
        x, t, target = noised(variant, x0, torch.randn(x0.shape, generator=rng), u, alphas_cumprod)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(x, t, caption, tokens)
        return (predicted.float() - target).square().mean()

    return loss


def trainee(name: str = "") -> Trainee:
    """Return a network to train: a shipped file's, or a new one."""
    model = Trainee()
    if name:
        unet, text = files.load(name)
        model.unet.load_state_dict(unet.state_dict())
        model.text.load_state_dict(text.state_dict())
    return model


def train(variant: str, data: Path, work: Path, steps: int, shipped: bool = False) -> None:
    """Train up to `steps` steps of 64 pictures; with `shipped` from the weights the repository has.

    A twin of which it has none begins as the noise prediction, whose features are the same.
    """
    pictures, labels = load_photos(data, "train", work)
    logging.getLogger("steadydiff").info("%s: of %d pictures", variant, len(pictures))
    torch.manual_seed(PLANS[variant].seed)
    newest = files.newest(variant if files.names(variant) else "epsilon") if shipped else ""
    start = files.header(newest)["steps"] if newest.startswith(variant) else 0
    model = trainee(newest)
    loss = loss_of(model, variant, pictures, labels)
    fit(model, loss, PLANS[variant], work / f"{variant}.safetensors", start, until=steps)


def export(work: Path) -> None:
    """Write the averages of the stages to models/photos/ in fp16, with the card's facts.

    Raises:  SettingsError where nothing was trained.
    """
    states = [work / f"{variant}.safetensors" for variant in files.VARIANTS]
    states = [state for state in states if state.exists() and losses(state)]
    if not states:
        raise SettingsError(f"{work} holds nothing that was trained; train a stage, or name another --work")
    for state in states:
        variant, latest = state.stem, statistics.mean(losses(state)[-EXPORTED_LOSSES:])
        write(variant, average(state), steps_of(state), loss=round(latest, 5))
        for kept in sorted(work.glob(f"{variant}-*.safetensors")):
            logging.getLogger("steadydiff").info("an earlier average: %s", kept.name)


def write(variant: str, stored: dict[str, Tensor], steps: int, **facts) -> None:
    """Write one average to models/photos/."""
    model = Trainee()
    model.load_state_dict(stored)
    files.save(variant, model.unet, model.text, steps, pictures=steps * BATCH, **facts)
    write_manifest()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="run.py train photos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="of epsilon, flow, export; default: all")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as a folder, a tar or torchvision's download")
    parser.add_argument("--work", type=Path, default=Path("output/photos"), help="folder of the states")
    parser.add_argument("--steps", type=int, default=50_000, help="stop at so many steps of 64 pictures")
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="go on from the latest of models/photos/ if no state is kept; flow, at first, from epsilon's",
    )
    parser.add_argument(
        "--export-average",
        type=Path,
        metavar="FILE",
        help="export one kept average (epsilon-8000...) as well",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        torch.set_num_threads(args.threads)
    stages = args.stages or (() if args.export_average else STAGES)
    for stage in stages:
        if stage not in STAGES:
            parser.error(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        if stage in files.VARIANTS and args.data is None:
            parser.error("training needs --data, CIFAR-10 as a folder, a tar or torchvision's download")
    average_of, kept = None, args.export_average
    if kept and not ((average_of := re.fullmatch(r"(epsilon|flow)-(\d+)", kept.stem)) and kept.is_file()):
        parser.error(f"--export-average is a kept average such as epsilon-8000.safetensors; got {kept}")
    try:
        if "export" in stages or average_of:
            check_writable(files.FOLDER / "model.safetensors")
        for stage in stages:
            if stage == "export":
                export(args.work)
            else:
                train(stage, args.data, args.work, args.steps, args.shipped)
        if average_of:
            write(average_of[1], load_file(kept), int(average_of[2]))
    except (SteadyDiffError, SafetensorError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
