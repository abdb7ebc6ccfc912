"""Real pictures: how few-step samples of the photos drift from CIFAR-10, and what Epsilon Scaling, Time
Shift and DiffIER do about it at equal model calls. `run.py bench photos --data CIFAR10`.

Every class in turn, no guidance, clean estimates clipped to -1..1 as the papers' pixel models do; the same
first noise and the same noise along the way in every cell. Fréchet distances are given as the excess over the
floor: what as many unseen real pictures have to the same reference, training pictures. `variance` is the
total variance of the samples against that of real pictures. Where --data is a
JPEG copy of CIFAR-10, so are the real pictures and what the network was trained on. `--sheet FILE` draws the
same seeds without and with Time Shift.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadydiff.denoiser import Run
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.method import Method
from steadydiff.methods.time_shift import TimeShift
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.samplers import sample_ddpm, sample_dpmpp_2m, sample_euler
from steadydiff.tinyworld.photos import files, sampling
from steadydiff.tinyworld.photos.data import load_photos
from steadydiff.tinyworld.photos.network import SIZE_PX
from steadydiff.tinyworld.photos.words import CLASSES
from tools.bench.shared import photo_judges as judges
from tools.bench.shared.frame import Bench, Figures, options_of
from tools.launch.console import Stop, exit_with
from tools.launch.sheet import INK, PAPER

SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_euler, "dpmpp_2m": sample_dpmpp_2m}
SEEDS = (0, 1, 2)
BATCH = 128
SPACES = ("classifier", "imagenet", "pixels")

# sampler, steps, label, correction. 14 steps of which DiffIER calls the later half twice are 21 calls.
GRID: list[tuple[str, int, str, Method | None]] = [
    ("ddpm", 10, "plain", None),
    ("ddpm", 10, "c 0.9", TimeShift(0.9)),
    ("ddpm", 10, "c 0.8", TimeShift(0.8)),
    ("ddpm", 20, "plain", None),
    ("ddpm", 20, "lambda 1.015", EpsilonScaling(1.015)),
    ("ddpm", 20, "lambda 1.03", EpsilonScaling(1.03)),
    ("ddpm", 20, "lambda 1.05", EpsilonScaling(1.05)),
    ("ddpm", 20, "c 0.95", TimeShift(0.95)),
    ("ddpm", 20, "c 0.9", TimeShift(0.9)),
    ("ddpm", 14, "DiffIER 0.3", DiffIER(strength=0.3)),
    ("ddim", 20, "plain", None),
    ("ddim", 20, "lambda 1.01", EpsilonScaling(1.01)),
    ("ddim", 20, "c 0.98", TimeShift(0.98)),
    ("ddpm", 50, "plain", None),
    ("ddpm", 50, "c 0.98", TimeShift(0.98)),
    ("ddpm", 50, "c 0.95", TimeShift(0.95)),
]
QUICK = ("ddpm 20 plain", "ddpm 20 c 0.95", "ddpm 20 lambda 1.03")


def key(sampler: str, steps: int, label: str) -> str:
    return f"{sampler} {steps} {label}"


@torch.no_grad()
def samples(sampler: str, steps: int, method: Method | None, seed: int, count: int) -> Tensor:
    """Draw pictures [count, 3, 32, 32] in -1..1, every class in turn."""
    unet, text = files.load("epsilon")
    run, found = Run("ve", sampling.sigmas("epsilon", steps), seed), []

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return unet(x, t, context).float()

    for start in range(0, count, BATCH):
        names = [CLASSES[i % len(CLASSES)] for i in range(start, min(start + BATCH, count))]
        context, _ = sampling.embed(text, [f"a photo of a {name}" for name in names])
        denoise = sampling.clipped(sampling.denoiser("epsilon", network, context, context, 1.0))
        if method is not None:
            denoise = method.wrap(denoise, run)
        with torch.random.fork_rng():  # the same noise, at the start and along the way, for every correction
            torch.manual_seed(1000 * seed + start)
            x = torch.randn(len(names), 3, SIZE_PX, SIZE_PX) * (1 + run.sigmas[0] ** 2) ** 0.5
            found.append(SAMPLERS[sampler](denoise, x, run.sigmas).clamp(-1, 1))
    return torch.cat(found)


class World:
    """The real pictures and the judges, made when first asked for."""

    def __init__(self, data: Path, count: int) -> None:
        self._data, self._work, self._count = data, judges.work_folder(), count

    def real(self, split: str) -> tuple[Tensor, Tensor]:
        return load_photos(self._data, split, self._work)

    @cached_property
    def judges(self) -> dict[str, judges.Judge]:
        ours = judges.classifier(*self.real("train"), self._work)
        return {"classifier": ours.features, "imagenet": judges.imagenet(), "pixels": judges.pixels}

    @cached_property
    def reference(self) -> dict[str, tuple[Tensor, ...]]:
        """Return, per judge, mean and covariance of training pictures and the axes they are taken in."""
        file = self._work / "photo_reference.safetensors"
        if not file.exists():
            pictures, found = judges.as_floats(self.real("train")[0][::5]), {}
            for name, judge in self.judges.items():
                features = judges.in_parts(judge, pictures)
                axes = judges.principal(features) if name == "imagenet" else torch.eye(features.shape[1])
                mean, covariance = moments(features @ axes)
                found |= {f"{name}.mean": mean, f"{name}.covariance": covariance, f"{name}.axes": axes}
            save_file({key: value.contiguous() for key, value in found.items()}, file)
        kept, parts = load_file(file), ("mean", "covariance", "axes")
        return {name: tuple(kept[f"{name}.{part}"] for part in parts) for name in SPACES}

    def distances(self, pictures: Tensor) -> dict[str, float]:
        """Return the Fréchet distance to the training pictures in each judge's features."""
        found = {}
        for name, (mean, covariance, axes) in self.reference.items():
            features = judges.in_parts(self.judges[name], pictures) @ axes
            found[name] = frechet_distance(*moments(features), mean, covariance)
        return found

    @cached_property
    def floor(self) -> dict[str, float]:
        """Return the distances of as many unseen real pictures, the mean over disjoint sets of them."""
        pictures = judges.as_floats(self.real("test")[0])
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
        sets = [self.distances(pictures[index]) for index in order.split(self._count)[:3]]
        return {name: sum(one[name] for one in sets) / len(sets) for name in SPACES}

    @cached_property
    def variance(self) -> float:
        return float(judges.as_floats(self.real("test")[0]).var(0).sum())

    def judged(self, draw: Callable[[], Tensor]) -> Figures:
        pictures, floor = draw(), self.floor
        figures: Figures = {name: value - floor[name] for name, value in self.distances(pictures).items()}
        figures["variance"] = float(pictures.var(0).sum()) / self.variance - 1
        return figures


def summary(cells: dict[str, Figures]) -> Figures:
    """Return by how many per cent each correction changes the excess distances of plain, and its spread."""
    found: Figures = {}
    for sampler, steps, label, _ in GRID:
        base = key(sampler, 20 if label.startswith("DiffIER") else steps, "plain")
        for space in SPACES:
            changes = [
                100
                * (
                    float(cells[f"{key(sampler, steps, label)} {s}"][space] or 0)
                    / float(cells[f"{base} {s}"][space] or 1)
                    - 1
                )
                for s in SEEDS
                if f"{key(sampler, steps, label)} {s}" in cells and f"{base} {s}" in cells
            ]
            if label != "plain" and changes:
                mean, spread = sum(changes) / len(changes), max(changes) - min(changes)
                found[f"{key(sampler, steps, label)}: {space}"] = f"{mean:+.0f} % (spread {spread:.0f})"
    return found


SHEET = (("without", "plain", None), ("Time Shift 0.95", "c 0.95", TimeShift(0.95)))
SHEET_PICTURES = 8  # the first ones of seed 0: none is chosen


def draw_sheet(results: dict[str, dict], file: Path) -> None:
    """Draw the same seeds without and with a correction, 20 ancestral steps, with the kept distances."""
    from PIL import Image, ImageDraw, ImageFont

    side, margin, text = 4 * SIZE_PX, 12, 28
    size = (margin + SHEET_PICTURES * (side + margin), len(SHEET) * (side + margin + text) + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (title, label, method) in enumerate(SHEET):
        top = margin + row * (side + margin + text)
        kept = [results.get(f"{key('ddpm', 20, label)} {seed}", {}).get("figures") for seed in SEEDS]
        known = [figures for figures in kept if figures]
        if known:
            means = (sum(one[space] for one in known) / len(known) for space in SPACES)
            told = ", ".join(f"{space} {mean:.3g}" for space, mean in zip(SPACES, means, strict=True))
            title += f"    excess FD over real pictures: {told}"
        draw.text((margin, top), title, INK, ImageFont.load_default(16))
        pictures = samples("ddpm", 20, method, seed=0, count=SHEET_PICTURES)
        for i, picture in enumerate((pictures + 1) * 127.5):
            pixels = Image.fromarray(picture.byte().permute(1, 2, 0).numpy())
            place = (margin + i * (side + margin), top + text)
            sheet.paste(pixels.resize((side, side), Image.Resampling.NEAREST), place)
    sheet.save(file)


def main(arguments: list[str]) -> int:
    own = options_of("photos").parse_args(arguments)
    if own.data is None:
        raise Stop("This bench needs --data, CIFAR-10 as a folder, a tar or torchvision's download.")
    weights = hashlib.sha256((files.FOLDER / "epsilon.safetensors").read_bytes()).hexdigest()[:12]
    count = own.count
    bench = Bench("photos", {"weights": weights, "count": count, "judges": 1}, arguments)
    count = 512 if bench.quick else count
    world = World(own.data, count)
    if own.sheet:
        draw_sheet(bench.results, own.sheet)
        return 0
    bench.cell("floor", lambda: {**world.floor})
    for sampler, steps, label, method in GRID:
        for seed in SEEDS:
            draw = partial(samples, sampler, steps, method, seed, count)
            name = key(sampler, steps, label)
            bench.cell(
                f"{name} {seed}",
                lambda draw=draw: world.judged(draw),
                quick=seed == 0 and name in QUICK,
            )
    return bench.run(summary)


if __name__ == "__main__":
    exit_with(main)
