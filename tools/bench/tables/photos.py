"""The table of docs/time_shift.md: what corrections do to the photos' samples."""

import re
import statistics

from tools.bench.shared.frame import Cells, markdown

SPACES = ("classifier", "imagenet", "pixels")
CALLS = {"DiffIER 0.3": 20}  # the plain run of about as many model calls; else that of the same steps


def photos(cells: Cells) -> str:
    """Per sampler, steps and correction: mean and spread of each excess distance, and its change."""
    runs: dict[tuple[str, int, str], list[dict]] = {}
    for name, cell in cells.items():
        if found := re.fullmatch(r"(\S+) (\d+) (.+) (\d+)", name):
            runs.setdefault((found[1], int(found[2]), found[3]), []).append(cell["figures"])
    lines = [["sampler, steps", "correction", *SPACES, "variance"]]
    for (sampler, steps, label), figures in sorted(
        runs.items(), key=lambda run: (run[0][0], CALLS.get(run[0][2], run[0][1]))
    ):
        plain = runs.get((sampler, CALLS.get(label, steps), "plain"), [])
        excess = [_excess(figures, plain, space, label) for space in SPACES]
        variance = 100 * statistics.mean(one["variance"] for one in figures)
        lines.append([f"{sampler} {steps}", label, *excess, f"{variance:+.0f} %"])
    floor = cells["floor"]["figures"]
    told = ", ".join(f"{space} {floor[space]:.3g}" for space in SPACES)
    return f"{markdown(lines)}\n\nFloor, of as many real pictures: {told}."


def _excess(figures: list[dict], plain: list[dict], space: str, label: str) -> str:
    values = [one[space] for one in figures]
    text = f"{statistics.mean(values):.3g}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.2g}"
    if label == "plain" or len(plain) != len(figures):
        return text
    change = statistics.mean(values) / statistics.mean(one[space] for one in plain) - 1
    return f"{text} ({100 * change:+.0f} %)"
