"""The tables of what corrections do to the photos' samples: docs/time_shift.md and docs/which.md."""

import re
import statistics

from tools.bench.shared.frame import Cells, markdown

SPACES = ("classifier", "imagenet", "pixels")
CALLS = {"DiffIER 0.3": 20}  # the plain run of about as many model calls; else that of the same steps
FAMILIES = {"Time Shift": "c ", "Epsilon Scaling": "lambda "}

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


def photos(cells: Cells) -> str:
    """Of the network trained longest: mean and spread of each excess distance, and its change."""
    runs = runs_of(cells)
    newest = max(net for net, *_ in runs)
    mine = [(sampler, steps, label) for net, sampler, steps, label in runs if net == newest]
    lines = [["sampler, steps", "correction", *SPACES, "variance"]]
    for sampler, steps, label in sorted(mine, key=lambda run: (run[0], CALLS.get(run[2], run[1]))):
        if label == "signs":
            continue
        figures = runs[newest, sampler, steps, label]
        plain = {} if label == "plain" else runs.get((newest, sampler, CALLS.get(label, steps), "plain"), {})
        changes = changes_of(figures, plain) or [None] * len(SPACES)
        excess = [_excess(figures, space, change) for space, change in zip(SPACES, changes, strict=True)]
        variance = 100 * mean_of(figures, "variance")
        chosen = ", ".join(sorted({one.get("chosen", "") for one in figures.values()}))
        told = f"{label}: {chosen}" if chosen else label
        lines.append([f"{sampler} {steps}", told, *excess, f"{variance:+.0f} %"])
    floor = cells["floor"]["figures"]
    told = ", ".join(f"{space} {floor[space]:.3g}" for space in SPACES)
    return f"{markdown(lines)}\n\nFloor, of as many real pictures: {told}."


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
            label, changes = best_of(runs, (net, sampler, steps), start) or ("–", [])
            told = " / ".join(f"{change:+.0f}" for change in changes)
            gains.append(f"{label}: {told} %" if told else label)
        lines.append([f"{64 * net:,}", str(steps), *signs, excess, *gains])
    return markdown(lines)


def best_of(runs: Runs, where: tuple[int, str, int], start: str) -> tuple[str, list[float]] | None:
    """Return the strength of a family that lowers the distances most, and by how many per cent each changes.

    None if none was tried beside plain.
    """
    plain = runs.get((*where, "plain"), {})
    tried = {
        run[3]: changes
        for run, figures in runs.items()
        if run[:3] == where and run[3].startswith(start) and (changes := changes_of(figures, plain))
    }
    return min(tried.items(), key=lambda one: sum(one[1]), default=None)


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
