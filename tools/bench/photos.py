"""Real pictures: how few-step samples of the photos drift from CIFAR-10, and what Epsilon Scaling, Time
Shift and DiffIER do about it at equal model calls. `run.py bench photos --data CIFAR10`.

Every class in turn, no guidance but in `ddpm_cfg2`, clean estimates clipped to -1..1 as the papers' pixel
models do; the same first noise and the same noise along the way in every cell. Fréchet distances are given as
the excess over the floor: what as many unseen real pictures have to the same reference, training pictures.
`variance` is the total variance of the samples against that of real pictures. Where --data is a JPEG copy of
CIFAR-10, so are the real pictures and what the network was trained on.

A cell's name begins with the network, by the steps it was trained for: how far a network drifts, and what a
cure is worth, depends on that. `signs` are what Auto Correct measures of plain samples against 64 unseen real
pictures, `fit 16` is what its rule chooses from 16. `anti-bias` is a network that is trained here, twenty
minutes on one core, and `as long` what as many seconds are worth to the network itself. `--sheet FILE` draws
the same seeds without and with Epsilon Scaling and Time Shift, `--curve FILE` the gains over the drift.
"""

import hashlib
import math
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steadydiff.denoiser import Denoise, Guided, Run
from steadydiff.drift.fit import Fit, FitSettings, Problem, fit
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.method import Method
from steadydiff.methods.time_shift import TimeShift
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.plots import DPI, NEUTRAL
from steadydiff.plots import PAPER as PLOT_PAPER
from steadydiff.samplers import sample_ddpm, sample_euler
from steadydiff.tinyworld.photos import files, sampling
from steadydiff.tinyworld.photos.data import load_photos
from steadydiff.tinyworld.photos.network import SIZE_PX
from steadydiff.tinyworld.photos.words import CLASSES
from steadydiff.tinyworld.sampling import Network
from steadydiff.tinyworld.text import TextEncoder
from tools.bench.shared import photo_judges as judges
from tools.bench.shared import photo_training
from tools.bench.shared.frame import Bench, Cells, Figures, options_of
from tools.bench.tables.photos import FAMILIES, SPACES, best_of, mean_of, runs_of
from tools.launch.console import Stop, exit_with
from tools.launch.sheet import INK, PAPER

SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_euler, "ddpm_cfg2": sample_ddpm}
CFG = {"ddpm_cfg2": 2.0}
SEEDS = (0, 1, 2)
BATCH = 128

# sampler, steps, label, correction.
CURVE: list[tuple[str, int, str, Method | None]] = [  # of every network
    ("ddpm", 10, "plain", None),
    ("ddpm", 10, "c 0.9", TimeShift(0.9)),
    ("ddpm", 10, "lambda 1.05", EpsilonScaling(1.05)),
    ("ddpm", 20, "plain", None),
    ("ddpm", 20, "lambda 1.015", EpsilonScaling(1.015)),
    ("ddpm", 20, "lambda 1.03", EpsilonScaling(1.03)),
    ("ddpm", 20, "c 0.95", TimeShift(0.95)),
    ("ddpm", 50, "plain", None),
    ("ddpm", 50, "c 0.98", TimeShift(0.98)),
]
# Of the newest one as well. 14 steps of which DiffIER calls the later half twice are 21 calls.
MORE: list[tuple[str, int, str, Method | None]] = [
    ("ddpm", 10, "c 0.8", TimeShift(0.8)),
    ("ddpm", 14, "DiffIER 0.3", DiffIER(strength=0.3)),
    ("ddpm", 20, "lambda 1.05", EpsilonScaling(1.05)),
    ("ddpm", 20, "c 0.9", TimeShift(0.9)),
    ("ddim", 20, "plain", None),
    ("ddim", 20, "lambda 1.01", EpsilonScaling(1.01)),
    ("ddim", 20, "c 0.98", TimeShift(0.98)),
    ("ddpm_cfg2", 20, "plain", None),
    ("ddpm_cfg2", 20, "lambda 1.03", EpsilonScaling(1.03)),
    ("ddpm_cfg2", 20, "c 0.95", TimeShift(0.95)),
]
TRAINED_STEPS = (10, 20)
SIGNS = 64  # pictures from which Auto Correct's signs of a plain run are taken
FITS = [("ddpm", 20, 64), ("ddpm", 20, 16), ("ddpm", 10, 64)]  # sampler, steps, references
QUICK = ("ddpm 20 plain", "ddpm 20 c 0.95", "ddpm 20 lambda 1.03")


def key(net: str, sampler: str, steps: int, label: str) -> str:
    """Return a cell's name but for the seed; `net` is the name of its weights."""
    return f"{net.rpartition('_')[2]} {sampler} {steps} {label}"


Weights = tuple[nn.Module, TextEncoder]
"""The network and its text encoder."""


def called(unet: nn.Module) -> Network:
    """Return the network as it is called here, in bfloat16."""

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return unet(x, t, context).float()

    return network


def model(weights: Weights, count: int, start: int = 0, cfg: float = 1.0) -> Denoise:
    """Return a network asked for every class in turn, from the `start`-th on; each branch is clipped."""
    network, text = called(weights[0]), weights[1]
    names = [CLASSES[i % len(CLASSES)] for i in range(start, start + count)]
    contexts = sampling.embed(text, [f"a photo of a {name}" for name in names])
    cond, uncond = (sampling.clipped(sampling.denoiser("epsilon", network, c, c, 1.0)) for c in contexts)
    return cond if cfg == 1 else Guided(cond, uncond, cfg)


def first_state(run: Run, count: int) -> Tensor:
    return torch.randn(count, 3, SIZE_PX, SIZE_PX) * (1 + run.sigmas[0] ** 2) ** 0.5


@torch.no_grad()
def samples(
    weights: Weights, sampler: str, steps: int, methods: Iterable[Method], seed: int, count: int
) -> Tensor:
    """Draw pictures [count, 3, 32, 32] in -1..1, every class in turn."""
    run, found = Run("ve", sampling.sigmas("epsilon", steps), seed), []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        denoise = model(weights, size, start, CFG.get(sampler, 1.0))
        for method in methods:
            denoise = method.wrap(denoise, run)
        with torch.random.fork_rng():  # the same noise, at the start and along the way, for every correction
            torch.manual_seed(1000 * seed + start)
            x = first_state(run, size)
            found.append(SAMPLERS[sampler](denoise, x, run.sigmas).clamp(-1, 1))
    return torch.cat(found)


@torch.no_grad()
def fitted(weights: Weights, sampler: str, steps: int, seed: int, real: Tensor, trust: float = 2.0) -> Fit:
    """Let the rule choose from real pictures [N, 3, 32, 32] in -1..1, and as many samples.

    trust:  its own; with infinity nothing is tried, and the signs are those of plain samples
    """
    run, denoise = Run("ve", sampling.sigmas("epsilon", steps), seed), model(weights, len(real))
    with torch.random.fork_rng():
        torch.manual_seed(10_000 + seed)  # not the noise of the samples that are judged
        x = first_state(run, len(real))
    problem = Problem(SAMPLERS[sampler], denoise, x, run, denoise, real, denoise)
    return fit(problem, FitSettings(trust=trust))


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

    def unseen(self, count: int, seed: int) -> Tensor:
        """Return unseen pictures, every class in turn; others of each seed."""
        pictures, labels = self.real("test")
        places = [(labels == i % len(CLASSES)).nonzero()[:, 0] for i in range(count)]
        wanted = [int(place[seed * count + i // len(CLASSES)]) for i, place in enumerate(places)]
        return judges.as_floats(pictures[wanted])

    @cached_property
    def prompt(self) -> PromptModel:
        """The anti-bias network of the newest file's network, trained if it was not yet."""
        net, splits = files.newest("epsilon"), (self.real("train"), self.real("test"))
        return photo_training.prompt(net, called(files.load(net)[0]), *splits, self._work)

    @cached_property
    def as_long(self) -> Weights:
        """The newest file's network, trained on for as many seconds as its anti-bias network."""
        trained = photo_training.as_long(files.newest("epsilon"), self.real("train"), self._work)
        return trained.unet, trained.text

    @cached_property
    def variance(self) -> float:
        return float(judges.as_floats(self.real("test")[0]).var(0).sum())

    def judged(self, pictures: Tensor) -> Figures:
        floor = self.floor
        figures: Figures = {name: value - floor[name] for name, value in self.distances(pictures).items()}
        figures["variance"] = float(pictures.var(0).sum()) / self.variance - 1
        return figures


def digest_of(net: str) -> Figures:
    """Return whose weights a network's cells are of."""
    return {"sha256": hashlib.sha256((files.FOLDER / f"{net}.safetensors").read_bytes()).hexdigest()[:12]}


def cells_of(bench: Bench, world: World, net: str, seed: int, count: int) -> None:
    """Add a network's cells of one seed."""
    newest = net == files.newest("epsilon")

    def drawn(sampler: str, steps: int, methods: Iterable[Method], weights: Weights | None = None) -> Figures:
        return world.judged(samples(weights or files.load(net), sampler, steps, methods, seed, count))

    for sampler, steps, label, method in [*CURVE, *(MORE if newest else [])]:
        name = key(net, sampler, steps, label)
        quick = newest and seed == 0 and name.partition(" ")[2] in QUICK
        methods = () if method is None else (method,)
        bench.cell(f"{name} {seed}", partial(drawn, sampler, steps, methods), quick=quick)

    def chosen(sampler: str, steps: int, references: int) -> Figures:
        found = fitted(files.load(net), sampler, steps, seed, world.unseen(references, seed))
        methods = found.correction.methods(Run("ve", sampling.sigmas("epsilon", steps), seed))
        return drawn(sampler, steps, methods) | {"chosen": str(found.correction), "j": found.before.j}

    def signs(sampler: str, steps: int) -> Figures:
        found = fitted(files.load(net), sampler, steps, seed, world.unseen(SIGNS, seed), math.inf).before
        return {"j": found.j, "j_error": found.j_error, "v": found.v, "v_error": found.v_error}

    for sampler, steps in dict.fromkeys((sampler, steps) for sampler, steps, *_ in CURVE):
        name = f"{key(net, sampler, steps, 'signs')} {seed}"
        bench.cell(name, partial(signs, sampler, steps), quick=False)

    def trained(steps: int, label: str) -> Figures:
        if label == "anti-bias":
            return drawn("ddpm", steps, [AntiBiasPrompt(world.prompt)])
        return drawn("ddpm", steps, (), world.as_long)

    for steps in TRAINED_STEPS if newest else ():
        for label in ("anti-bias", "as long"):
            name = f"{key(net, 'ddpm', steps, label)} {seed}"
            bench.cell(name, partial(trained, steps, label), quick=False)

    for sampler, steps, references in FITS if newest else []:
        name = f"{key(net, sampler, steps, f'fit {references}')} {seed}"
        bench.cell(name, partial(chosen, sampler, steps, references), quick=False)


SHEET = (
    ("without", "plain", ()),
    ("Epsilon Scaling 1.03", "lambda 1.03", (EpsilonScaling(1.03),)),
    ("Time Shift 0.95", "c 0.95", (TimeShift(0.95),)),
)
SHEET_PICTURES = 8  # the first ones of seed 0: none is chosen


def draw_sheet(results: dict[str, dict], file: Path) -> None:
    """Draw the same seeds without and with a correction, 20 ancestral steps, with the kept distances."""
    from PIL import Image, ImageDraw, ImageFont

    side, margin, text = 4 * SIZE_PX, 12, 28
    size = (margin + SHEET_PICTURES * (side + margin), len(SHEET) * (side + margin + text) + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    net = files.newest("epsilon")
    for row, (title, label, methods) in enumerate(SHEET):
        top = margin + row * (side + margin + text)
        kept = [results.get(f"{key(net, 'ddpm', 20, label)} {seed}", {}).get("figures") for seed in SEEDS]
        known = [figures for figures in kept if figures]
        if known:
            means = (sum(one[space] for one in known) / len(known) for space in SPACES)
            told = ", ".join(f"{space} {mean:.3g}" for space, mean in zip(SPACES, means, strict=True))
            title += f"    excess FD over real pictures: {told}"
        draw.text((margin, top), title, INK, ImageFont.load_default(16))
        pictures = samples(files.load(net), "ddpm", 20, methods, seed=0, count=SHEET_PICTURES)
        for i, picture in enumerate((pictures + 1) * 127.5):
            pixels = Image.fromarray(picture.byte().permute(1, 2, 0).numpy())
            place = (margin + i * (side + margin), top + text)
            sheet.paste(pixels.resize((side, side), Image.Resampling.NEAREST), place)
    sheet.save(file)


MARKERS = {10: "o", 20: "s", 50: "^"}


def draw_curve(cells: Cells, file: Path) -> None:
    """Draw, for each method, the excess distance it takes away over the drift that is measured.

    A point is a network and a number of steps; the distance is the classifier's, the bar spans the seeds.
    """
    from matplotlib.figure import Figure

    runs, colours, space = runs_of(cells), {}, SPACES[0]
    figure = Figure(figsize=(9, 4), dpi=DPI, facecolor=PLOT_PAPER, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (title, start) in zip(panels, FAMILIES.items(), strict=True):
        for net, sampler, steps in sorted({run[:3] for run in runs if run[3] == "signs"}):
            best = best_of(runs, (net, sampler, steps), start)
            if best is None:
                continue
            plain, corrected = (runs[net, sampler, steps, label] for label in ("plain", best[0]))
            gains = [plain[seed][space] - one[space] for seed, one in corrected.items()]
            x, y = -mean_of(runs[net, sampler, steps, "signs"], "j"), sum(gains) / len(gains)
            colour = colours.setdefault(net, f"C{len(colours)}")
            bar = ((y - min(gains),), (max(gains) - y,))
            axes.errorbar(x, y, bar, fmt=MARKERS[steps], color=colour, capsize=3, markersize=8)
        axes.axhline(0, color=NEUTRAL, linewidth=1)
        axes.set(title=title, xlabel="drift measured: -j of plain samples", facecolor=PLOT_PAPER)
    panels[0].set_ylabel("excess FD taken away (classifier)")
    for steps, marker in MARKERS.items():
        panels[0].plot([], [], marker, color=NEUTRAL, label=f"{steps} steps")
    for net, colour in colours.items():
        panels[1].plot([], [], "o", color=colour, label=f"{64 * net:,} pictures seen")
    for axes in panels:
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(file)


def main(arguments: list[str]) -> int:
    own = options_of("photos").parse_args(arguments)
    if own.data is None:
        raise Stop("This bench needs --data, CIFAR-10 as a folder, a tar or torchvision's download.")
    bench = Bench("photos", {"count": own.count, "judges": 1}, arguments)
    count = 512 if bench.quick else own.count
    world = World(own.data, count)
    if own.sheet:
        draw_sheet(bench.results, own.sheet)
    if own.curve:
        draw_curve(bench.results, own.curve)
    if own.sheet or own.curve:
        return 0
    bench.cell("floor", lambda: {**world.floor})
    nets = files.names("epsilon")[::-1]
    for net in nets:
        bench.cell(f"{net} sha256", partial(digest_of, net))
    for seed in SEEDS:
        for net in nets:
            cells_of(bench, world, net, seed, count)
    return bench.run()


if __name__ == "__main__":
    exit_with(main)
