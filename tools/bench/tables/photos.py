"""The tables of what corrections do to the photos' samples: docs/photos.md and docs/which.md."""

import re
import statistics
from collections import Counter

from tools.bench.shared.frame import Cells, markdown

SPACES = ("classifier", "imagenet", "pixels")
BESIDE = {"kid_imagenet": "KID", "precision": "precision", "recall": "recall"}
PARTS = {  # by table: the ways of sampling, and whether what was trained for the bench is in it
    "ancestral": (("ddpm",), False),
    "guided": (("ddpm_cfg2", "ddpm_cfg4"), False),
    "without noise": (("ddim", "euler", "heun", "flow"), False),
    "trained": (("ddpm", "ddim"), True),
}
LEARNT = ("anti-bias", "as long", "fine-tuned", "SDSS", "MDSS")
DIFFIER_CALLS = {7: 10, 14: 20, 34: 50}  # DiffIER's steps, and plain's of as many calls but for one
FAMILIES = {"Time Shift": "c ", "Epsilon Scaling": "lambda ", "DiffIER": "DiffIER "}
PAPER = (  # sampler, steps, lambda there, FID of plain and of Epsilon Scaling (2308.15321), ours
    ("DDPM", 20, 1.017, 10.36, 5.15, ("ddpm", 20, "clipped lambda 1.017")),
    ("DDPM", 50, 1.017, 4.43, 2.49, ("ddpm", 50, "clipped lambda 1.017")),
    ("DDPM", 100, 1.017, 3.37, 2.17, ("ddpm", 100, "clipped lambda 1.017")),
    ("DDPM, linear", 20, 1.0238, 10.36, 4.31, ("ddpm", 20, "clipped linear 0.0025")),
    ("EDM Euler", 13, 1.0051, 10.66, 6.59, ("euler", 13, "lambda 1.0045")),
    ("EDM Euler", 21, 1.0045, 5.91, 3.74, ("euler", 21, "lambda 1.0045")),
    ("EDM Euler", 35, 1.0035, 3.74, 2.59, ("euler", 35, "lambda 1.0045")),
    ("EDM Heun, 13 calls", 7, 1.007, 6.69, 6.16, ("heun", 7, "lambda 1.0045")),
    ("EDM Heun, 21 calls", 11, 0.9983, 2.17, 2.08, ("heun", 11, "lambda 0.9955")),
)

Seeds = dict[int, dict]
"""A run's figures by seed."""
Runs = dict[tuple[int, str, int, str], Seeds]
"""By steps of training, sampler, steps and label."""


def runs_of(cells: Cells) -> Runs:
    found: Runs = {}
    for name, cell in cells.items():
        if named := re.fullmatch(r"(\d+) (\S+) (\d+) (.+) (\d+)", name):
            run = int(named[1]), named[2], int(named[3]), named[4]
            found.setdefault(run, {})[int(named[5])] = cell["figures"]
    return found


def photos(cells: Cells, part: str) -> str:
    """Of the network most was tried on: mean and spread of each excess distance, and its change."""
    runs, (ways, learnt) = fullest_of(runs_of(cells)), PARTS[part]
    lines = [["sampler, steps", "correction", *SPACES, *BESIDE.values(), "variance"]]
    floor = cells["floor"]["figures"]
    wanted = {run for run in runs if run[0] in ways and run[2] != "signs"}
    wanted = {run for run in wanted if run[2].startswith(LEARNT) == learnt}
    wanted |= {(way, steps, "plain") for way, steps, _ in wanted} & runs.keys()
    for way, steps, label in sorted(wanted, key=place_of):
        figures = runs[way, steps, label]
        plain = {} if label == "plain" else runs.get((way, beside(label, steps), "plain"), {})
        changes = changes_of(figures, plain) or [None] * len(SPACES)
        excess = [_excess(figures, space, change) for space, change in zip(SPACES, changes, strict=True)]
        more = [_mean(figures, name) for name in BESIDE]
        chosen = ", ".join(sorted({one.get("chosen", "") for one in figures.values()}))
        told = f"{label}: {chosen}" if chosen else label
        variance = f"{100 * mean_of(figures, 'variance'):+.0f} %"
        lines.append([f"{way} {steps}", told, *excess, *more, variance])
    lines.append(
        ["floor", "real pictures", *("0" for _ in SPACES), *(_mean({0: floor}, n) for n in BESIDE), "0"]
    )
    return markdown(lines)


def place_of(run: tuple[str, int, str]) -> tuple:
    """Return where a run stands in its table: plain of as many calls first."""
    way, steps, label = run
    numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", label)]
    return way, beside(label, steps), label != "plain", label.rstrip("0123456789.-"), numbers


def beside(label: str, steps: int) -> int:
    """Return the steps of the plain run that makes as many calls."""
    return DIFFIER_CALLS.get(steps, steps) if label.startswith("DiffIER") else steps


def fullest_of(runs: Runs) -> dict[tuple[str, int, str], Seeds]:
    """Return the runs of one network of each kind: what most was tried on, of these the longest trained."""
    tried = Counter((way == "flow", net) for net, way, *_ in runs)
    nets = {flow: net for (flow, net), _ in sorted(tried.items(), key=lambda kept: (kept[1], kept[0]))}
    return {run[1:]: figures for run, figures in runs.items() if run[0] == nets[run[1] == "flow"]}


def photos_paper(cells: Cells) -> str:
    """Epsilon Scaling beside the paper's own figures."""
    runs = fullest_of(runs_of(cells))
    lines = [["CIFAR-10", "steps", "paper: lambda", "FID", "change", "ours: lambda", *SPACES]]
    for told, steps, scale, plain, scaled, (way, ours, label) in PAPER:
        figures = runs.get((way, ours, label), {})
        changes = changes_of(figures, runs.get((way, ours, "plain"), {})) if figures else []
        mine = [f"{change:+.0f} %" for change in changes] or ["–"] * len(SPACES)
        change = f"{100 * (scaled / plain - 1):+.0f} %"
        lines.append([told, str(steps), f"{scale:g}", f"{plain:g} → {scaled:g}", change, label, *mine])
    return markdown(lines)


def photos_curve(cells: Cells) -> str:
    """Of each network and number of steps: what is measured of plain samples, and what a method removes."""
    runs = runs_of(cells)
    lines = [["pictures seen", "steps", "j", "v", "excess FD", *FAMILIES]]
    for net, sampler, steps, label in sorted(runs):
        if label != "signs" or (net, sampler, steps, "plain") not in runs:
            continue
        measured = runs[net, sampler, steps, label]
        signs = [f"{mean_of(measured, sign):+.2f}" for sign in ("j", "v")]
        plain = runs[net, sampler, steps, "plain"]
        excess = " / ".join(f"{mean_of(plain, space):.3g}" for space in SPACES)
        gains = []
        for start in FAMILIES.values():
            best = best_of(runs, (net, sampler, steps), start)
            told = " / ".join(f"{change:+.0f}" for change in changes_of(runs[best], plain)) if best else ""
            gains.append(f"{best[3]}: {told} %" if best else "–")
        lines.append([f"{64 * net:,}", str(steps), *signs, excess, *gains])
    return markdown(lines)


def best_of(runs: Runs, where: tuple[int, str, int], start: str) -> tuple[int, str, int, str] | None:
    """Return the run of a family, of as many calls, that is nearest beside plain; None without one."""
    plain = runs.get((*where, "plain"), {})

    def total(run: tuple[int, str, int, str]) -> float:
        return sum(changes_of(runs[run], plain))

    tried = [run for run in runs if (*run[:2], beside(run[3], run[2])) == where and run[3].startswith(start)]
    return min((run for run in tried if changes_of(runs[run], plain)), key=total, default=None)


def changes_of(figures: Seeds, plain: Seeds) -> list[float]:
    """Return by how many per cent each distance differs from plain's of the same seeds; [] without these."""
    if not figures.keys() <= plain.keys():
        return []
    same = {seed: plain[seed] for seed in figures}
    return [100 * (mean_of(figures, space) / mean_of(same, space) - 1) for space in SPACES]


def mean_of(figures: Seeds, name: str) -> float:
    return statistics.mean(one[name] for one in figures.values())


def _excess(figures: Seeds, space: str, change: float | None) -> str:
    text = f"{mean_of(figures, space):.3g}"
    if len(figures) > 1:
        text += f" ± {statistics.stdev(one[space] for one in figures.values()):.2g}"
    return text if change is None else f"{text} ({change:+.0f} %)"


def _mean(figures: Seeds, name: str) -> str:
    """Return the mean of the seeds that have such a figure."""
    found = [one[name] for one in figures.values() if name in one]
    return f"{statistics.mean(found):.3g}" if found else "–"
