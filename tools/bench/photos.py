"""Real pictures: how few-step samples of the photos drift from CIFAR-10, and what the methods do about it at
equal model calls. `run.py bench photos --data CIFAR10`.

Every class in turn, guided only in `ddpm_cfg2` and `ddpm_cfg4`; the model's clean estimates are clipped to
-1..1, what a correction makes of them only in `clipped ...`, as the paper's DDPM clips after scaling. The
same first noise and the same noise along the way in every cell. Fréchet
distances are given as the excess over the floor: what as many unseen real pictures have to the same
reference, training pictures. KID, precision and recall are against 1,000 of these and stand beside the
floor's. `variance` is the total variance of the samples against that of real pictures. Where --data is a
JPEG copy of CIFAR-10, so are the real pictures and what the network was trained on.

A cell's name begins with the network, by the steps it was trained for: how far a network drifts, and what
a cure is worth, depends on that. `signs` are what Auto Correct measures of plain samples against 64 unseen
real pictures, `fit 16` is what its rule chooses from 16, `fit 64 seen` from pictures of the network's
training. `anti-bias` is a network that is trained here, ten minutes on one core, and `as long` what as
many seconds are worth to the network itself; MDSS stands beside plain fine-tuning of as many steps, and
beside that network called as many training levels lower. `--sheet FILE` draws the same seeds without and
with Epsilon Scaling and Time Shift, `--curve FILE` the gains over the drift.
"""

import hashlib
import math
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadydiff.denoiser import Denoise, Guided, Run
from steadydiff.drift.fit import Fit, FitSettings, Problem, fit
from steadydiff.files.atomic import atomic_write
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.methods.diffier import DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.mdss import MDSS
from steadydiff.methods.time_shift import TimeShift
from steadydiff.metrics.frechet import frechet_distance, moments
from steadydiff.metrics.kid import kernel_distance
from steadydiff.metrics.precision_recall import precision_recall
from steadydiff.plots import DPI, NEUTRAL
from steadydiff.plots import PAPER as PLOT_PAPER
from steadydiff.tinyworld import sampling as tiny
from steadydiff.tinyworld.photos import files, sampling
from steadydiff.tinyworld.photos.data import load_photos
from steadydiff.tinyworld.photos.network import SIZE_PX
from steadydiff.tinyworld.photos.words import CLASSES
from steadydiff.tinyworld.sampling import Network
from steadydiff.tinyworld.text import TextEncoder
from tools.bench.shared import photo_judges as judges
from tools.bench.shared import photo_training
from tools.bench.shared.frame import OWN_OPTIONS, RESULTS, Bench, Cells, Figures, options_of
from tools.bench.shared.photo_grid import CURVE, FLOW, MORE, WAYS, Grid, one_by_one
from tools.bench.shared.strength import measured_strength
from tools.bench.shared.two_outputs import Recorded
from tools.bench.shared.world import Correct, plain
from tools.bench.tables.photos import FAMILIES, SPACES, best_of, mean_of, runs_of
from tools.launch.console import Stop, exit_with
from tools.launch.sheet import INK, PAPER

SEEDS = (0, 1, 2)
COUNT: int = OWN_OPTIONS["photos"]["--count"]["default"]  # results of others are kept apart
LARGEST = 10_000  # as many unseen pictures there are
BATCH = 128
NEAR = 1000  # training pictures that KID, precision and recall are against
TRAINED = (("ddpm", 10), ("ddpm", 20), ("ddim", 20))  # where what is trained here is sampled
MEASURED = 64  # pictures from which signs, and DiffIER's strength, are taken
FITS = [  # steps of ddpm, references, and the split they are of
    (20, 64, "test"),
    (20, 16, "test"),
    (10, 64, "test"),
    (20, 64, "train"),
]
AUTO = "ddpm", 14  # where DiffIER's strength is measured: 21 calls
QUICK = ("ddpm 20 plain", "ddpm 20 c 0.95", "ddpm 20 lambda 1.03")


def key(net: str, sampler: str, steps: int, label: str) -> str:
    """Return a cell's name but for the seed; `net` is the name of its weights."""
    return f"{net.rpartition('_')[2]} {sampler} {steps} {label}"


class Net(NamedTuple):
    """A network as it is called here, in bfloat16, what it predicts, and its text encoder."""

    variant: str
    network: Network
    text: TextEncoder


@cache
def net_of(name: str) -> Net:
    """Return one file's network."""
    unet, text = files.load(name)
    return Net(name.partition("_")[0], in_half(unet), text)


def in_half(unet: Network) -> Network:
    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return unet(x, t, context).float()

    return network


def model(net: Net, count: int, start: int = 0, cfg: float = 1.0) -> Denoise:
    """Return a network asked for every class in turn, from the `start`-th on; each branch is clipped."""
    names = [CLASSES[i % len(CLASSES)] for i in range(start, start + count)]
    contexts = sampling.embed(net.text, [f"a photo of a {name}" for name in names])
    cond, uncond = (
        sampling.clipped(sampling.denoiser(net.variant, net.network, c, c, 1.0)) for c in contexts
    )
    return cond if cfg == 1 else Guided(cond, uncond, cfg)


def in_turn(labels: Tensor, count: int, start: int = 0) -> Tensor:
    """Return where so many pictures lie, every class in turn, from the `start`-th of each class on."""
    places = [(labels == number).nonzero()[:, 0] for number in range(len(CLASSES))]
    return torch.stack([places[i % len(CLASSES)][start + i // len(CLASSES)] for i in range(count)])


def first_state(net: Net, run: Run, count: int) -> Tensor:
    return tiny.first_state(net.variant, torch.randn(count, 3, SIZE_PX, SIZE_PX), run.sigmas[0])


@torch.no_grad()
def samples(net: Net, way: str, steps: int, correct: Correct, seed: int, count: int) -> Tensor:
    """Draw pictures [count, 3, 32, 32] in -1..1, every class in turn."""
    run, found = WAYS[way].run(net.variant, steps, seed), []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        denoise = correct(model(net, size, start, WAYS[way].cfg), run)
        with torch.random.fork_rng():  # the same noise, at the start and along the way, for every correction
            torch.manual_seed(1000 * seed + start)
            x = first_state(net, run, size)
            found.append(WAYS[way].sampler(denoise, x, run.sigmas).clamp(-1, 1))
    return torch.cat(found)


@torch.no_grad()
def fitted(net: Net, way: str, steps: int, seed: int, real: Tensor, trust: float = 2.0) -> Fit:
    """Let the rule choose from real pictures [N, 3, 32, 32] in -1..1, and as many samples.

    trust:  its own; with infinity nothing is tried, and the signs are those of plain samples
    """
    run, denoise = WAYS[way].run(net.variant, steps, seed), model(net, len(real))
    x = other_state(net, run, seed, len(real))
    problem = Problem(WAYS[way].sampler, denoise, x, run, denoise, real, denoise)
    return fit(problem, FitSettings(trust=trust))


def other_state(net: Net, run: Run, seed: int, count: int) -> Tensor:
    """Return a first state of other noise than the samples' that are judged."""
    with torch.random.fork_rng():
        torch.manual_seed(10_000 + seed)
        return first_state(net, run, count)


class World:
    """The real pictures and the judges, made when first asked for."""

    def __init__(self, data: Path, count: int) -> None:
        self._data, self._work, self._count = data, judges.work_folder(), count

    def real(self, split: str) -> tuple[Tensor, Tensor]:
        return load_photos(self._data, split, self._work)

    @cached_property
    def judges(self) -> dict[str, judges.Judge]:
        ours = judges.classifier(*self.real("train"))
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
            with atomic_write(file) as draft:
                save_file({key: value.contiguous() for key, value in found.items()}, draft)
        kept, parts = load_file(file), ("mean", "covariance", "axes")
        return {name: tuple(kept[f"{name}.{part}"] for part in parts) for name in SPACES}

    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        return {name: judges.in_parts(judge, pictures) for name, judge in self.judges.items()}

    def distances(self, features: dict[str, Tensor]) -> dict[str, float]:
        """Return the Fréchet distance to the training pictures in each judge's features."""
        found = {}
        for name, (mean, covariance, axes) in self.reference.items():
            found[name] = frechet_distance(*moments(features[name] @ axes), mean, covariance)
        return found

    @cached_property
    def near(self) -> dict[str, Tensor]:
        """The features of some training pictures."""
        return self.features(judges.as_floats(self.real("train")[0][:: 50_000 // NEAR]))

    def beside(self, features: dict[str, Tensor]) -> dict[str, float]:
        """Return the kernel distance to training pictures, and precision and recall against them."""
        near, own = self.near["imagenet"], features["imagenet"]
        precision, recall = precision_recall(near, own)
        return {"kid_imagenet": kernel_distance(own, near), "precision": precision, "recall": recall}

    @cached_property
    def floor(self) -> dict[str, float]:
        """Return the figures of as many unseen real pictures, the mean over disjoint sets of them."""
        pictures, labels = self.real("test")
        each = math.ceil(self._count / len(CLASSES))  # of a class in a set
        starts = range(0, min(8, LARGEST // len(CLASSES) // each) * each, each)
        places = [in_turn(labels, self._count, start) for start in starts]
        sets = [self.features(judges.as_floats(pictures[place])) for place in places]
        found = [self.distances(one) | self.beside(one) for one in sets]
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def pictures(self, split: str, count: int, seed: int) -> Tensor:
        """Return pictures of a split, every class in turn; others of each seed."""
        pictures, labels = self.real(split)
        return judges.as_floats(pictures[in_turn(labels, count, seed * count)])

    @cached_property
    def prompt(self) -> PromptModel:
        """The anti-bias network of the newest file's network, trained if it was not yet."""
        name, splits = files.newest("epsilon"), (self.real("train"), self.real("test"))
        return photo_training.prompt(name, net_of(name).network, *splits, self._work)

    @cached_property
    def as_long(self) -> Net:
        """The newest file's network, trained on for as many seconds as its anti-bias network."""
        trained = photo_training.as_long(files.newest("epsilon"), self.real("train"), self._work)
        return Net("epsilon", in_half(trained.unet), trained.text)

    @cache  # noqa: B019  (one world a process)
    def tuned(self, name: str) -> Recorded:
        """The newest file's network fine-tuned."""
        return photo_training.tuned(files.newest("epsilon"), name, self.real("train"), self._work)

    @cached_property
    def variance(self) -> float:
        return float(judges.as_floats(self.real("test")[0]).var(0).sum())

    def judged(self, pictures: Tensor) -> Figures:
        features = self.features(pictures)
        floor, found = self.floor, self.distances(features)
        figures: Figures = {name: value - floor[name] for name, value in found.items()}
        figures["variance"] = float(pictures.var(0).sum()) / self.variance - 1
        return figures | self.beside(features)


def digest_of(net: str) -> Figures:
    """Return whose weights a network's cells are of."""
    return {"sha256": hashlib.sha256((files.FOLDER / f"{net}.safetensors").read_bytes()).hexdigest()[:12]}


def cells_of(bench: Bench, world: World, name: str, grid: Grid, seed: int, count: int) -> None:
    """Add a network's cells of one seed."""
    newest = name == files.newest("epsilon")
    for (way, steps), corrections in grid.items():
        for label, correct in corrections.items():
            cell = key(name, way, steps, label)
            quick = newest and seed == 0 and cell.partition(" ")[2] in QUICK
            found = partial(drawn, world, name, way, steps, correct, seed, count)
            bench.cell(f"{cell} {seed}", found, quick=quick)


def drawn(world: World, name: str, way: str, steps: int, correct: Correct, seed: int, count: int) -> Figures:
    return world.judged(samples(net_of(name), way, steps, correct, seed, count))


def signs(world: World, name: str, way: str, steps: int, seed: int) -> Figures:
    real = world.pictures("test", MEASURED, seed)
    found = fitted(net_of(name), way, steps, seed, real, math.inf).before
    return {"j": found.j, "j_error": found.j_error, "v": found.v, "v_error": found.v_error}


def chosen(world: World, steps: int, references: int, split: str, seed: int, count: int) -> Figures:
    """What Auto Correct's rule chooses, and what that is worth."""
    net = net_of(files.newest("epsilon"))
    found = fitted(net, "ddpm", steps, seed, world.pictures(split, references, seed))
    correct = one_by_one(found.correction.methods(WAYS["ddpm"].run(net.variant, steps, seed)))
    figures = world.judged(samples(net, "ddpm", steps, correct, seed, count))
    return figures | {"chosen": str(found.correction)}


def auto(world: World, name: str, seed: int, count: int) -> Figures:
    """DiffIER with the strength that a measurement gives."""
    net, (way, steps), real = net_of(name), AUTO, world.pictures("test", MEASURED, seed)
    run, denoise = WAYS[way].run(net.variant, steps, seed), model(net, MEASURED)
    x = other_state(net, run, seed, MEASURED)
    strength = measured_strength(WAYS[way].sampler, denoise, x, run, real, denoise)
    pictures = samples(net, way, steps, DiffIER(strength=strength).wrap, seed, count)
    return world.judged(pictures) | {"chosen": f"{strength:.2f}"}


TABLE = tuple(photo_training.LEVELS.tolist())
LEARNT = {  # by label: what is trained, and what else is done
    "anti-bias": ("anti-bias", ""),
    "as long": ("as long", ""),
    **{name: (name, "") for name in photo_training.TUNED},
    **{f"{name}, head": (name, "head") for name, k in photo_training.TUNED.items() if k is not None},
    **{
        f"fine-tuned, {k + 1} levels lower": ("fine-tuned", str(k + 1))
        for k in photo_training.TUNED.values()
        if k
    },
}


def learnt(world: World, way: str, steps: int, label: str, seed: int, count: int) -> Figures:
    """What is trained here, sampled."""
    net, correct = net_of(files.newest("epsilon")), plain
    name, more = LEARNT[label]
    if name == "anti-bias":
        correct = AntiBiasPrompt(world.prompt).wrap
    elif name == "as long":
        net = world.as_long
    else:
        tuned = world.tuned(name)
        net = net._replace(network=tuned)
        if more == "head":
            correct = MDSS(tuned.model).wrap
        elif more:
            correct = TimeShift(1.0, levels=float(more), table=TABLE).wrap
    return world.judged(samples(net, way, steps, correct, seed, count))


SHEET = (
    ("without", "plain", plain),
    ("Epsilon Scaling 1.03", "lambda 1.03", EpsilonScaling(1.03).wrap),
    ("Time Shift 0.95", "c 0.95", TimeShift(0.95).wrap),
)
SHEET_PICTURES = 8  # the first ones of seed 0: none is chosen


def draw_sheet(results: Cells, file: Path) -> None:
    """Draw the same seeds without and with a correction, 20 ancestral steps, with the kept distances."""
    from PIL import Image, ImageDraw, ImageFont

    side, margin, text = 4 * SIZE_PX, 12, 28
    size = (margin + SHEET_PICTURES * (side + margin), len(SHEET) * (side + margin + text) + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    net, runs = files.newest("epsilon"), runs_of(results)
    for row, (title, label, correct) in enumerate(SHEET):
        top = margin + row * (side + margin + text)
        if kept := runs.get((int(net.rpartition("_")[2]), "ddpm", 20, label)):
            told = ", ".join(f"{space} {mean_of(kept, space):.3g}" for space in SPACES)
            title += f"    excess FD over real pictures: {told}"
        draw.text((margin, top), title, INK, ImageFont.load_default(16))
        pictures = samples(net_of(net), "ddpm", 20, correct, seed=0, count=SHEET_PICTURES)
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
    figure = Figure(figsize=(12, 4), dpi=DPI, facecolor=PLOT_PAPER, layout="constrained")
    panels = figure.subplots(1, len(FAMILIES), sharex=True, sharey=True)
    for axes, (title, start) in zip(panels, FAMILIES.items(), strict=True):
        for net, sampler, steps in sorted({run[:3] for run in runs if run[3] == "signs"}):
            best = best_of(runs, (net, sampler, steps), start)
            if best is None:
                continue
            plain = runs[net, sampler, steps, "plain"]
            gains = [plain[seed][space] - one[space] for seed, one in runs[best].items()]
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
    for axes in panels[:2]:
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(file)


def main(arguments: list[str]) -> int:
    own = options_of("photos").parse_args(arguments)
    if not 2 <= own.count <= LARGEST:
        raise Stop(f"--count is of 2 to {LARGEST:,}, the unseen pictures that there are; got {own.count}")
    folder = RESULTS if own.count == COUNT else RESULTS / str(own.count)
    bench = Bench("photos", {"count": own.count, "judges": 2}, arguments, folder)
    if own.sheet:
        draw_sheet(bench.results, own.sheet)
    if own.curve:
        draw_curve(bench.results, own.curve)
    if own.sheet or own.curve:
        return 0
    if own.data is None:
        raise Stop("This bench needs --data, CIFAR-10 as a folder, a tar or torchvision's download.")
    count, world = own.count, World(own.data, own.count)
    bench.cell("floor", lambda: {**world.floor})
    newest, nets = files.newest("epsilon"), files.names("epsilon")[::-1]
    for name in (*nets, *files.names("flow")):
        cell = f"{name} sha256"
        if cell in bench.results and bench.results[cell]["figures"] != digest_of(name):
            raise Stop(f"{bench.file.name} has results of another {name}; move that file away.")
        bench.cell(cell, partial(digest_of, name))
    for seed in SEEDS:
        for name in nets:
            cells_of(bench, world, name, CURVE, seed, count)
            for way, steps in (run for run, corrections in CURVE.items() if "plain" in corrections):
                cell = f"{key(name, way, steps, 'signs')} {seed}"
                bench.cell(cell, partial(signs, world, name, way, steps, seed), quick=False)
            cell = f"{key(name, *AUTO, 'DiffIER auto')} {seed}"
            bench.cell(cell, partial(auto, world, name, seed, count), quick=False)
        cells_of(bench, world, newest, MORE, seed, count)
        cells_of(bench, world, files.newest("flow"), FLOW, seed, count)
        for steps, references, split in FITS:
            told = f"fit {references}{' seen' if split == 'train' else ''}"
            found = partial(chosen, world, steps, references, split, seed, count)
            bench.cell(f"{key(newest, 'ddpm', steps, told)} {seed}", found, quick=False)
        for way, steps in TRAINED:
            for label in LEARNT:
                found = partial(learnt, world, way, steps, label, seed, count)
                bench.cell(f"{key(newest, way, steps, label)} {seed}", found, quick=False)
    return bench.run()


if __name__ == "__main__":
    exit_with(main)
