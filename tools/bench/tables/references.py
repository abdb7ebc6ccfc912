"""The tables of docs/drift.md on reference pictures: the planted scale, and the rule's signs."""

import math
import re
import statistics

from steadydiff.drift.fit import FitSettings
from tools.bench.shared.frame import Cells, markdown

ORDER = (
    *(f"{what} of {whose} prompts" for what in ("drawings", "photos") for whose in ("the", "other")),
    "shipped",
    "shipped from 16 px",
    "shipped from 8 px",
    "own fine samples",
    *(
        f"{name}, judged without prompts"
        for name in ("drawings of the prompts", "drawings of other prompts", "shipped")
    ),
)


def references_planted(cells: Cells) -> str:
    """Per network and reference: the scale found for it as it is, with the planted error, and between."""
    found: dict[tuple[str, str], list[dict]] = {}
    for key, cell in cells.items():
        if named := re.fullmatch(r"tiny (\S+): (.+) \d+", key):
            found.setdefault((named[1], named[2]), []).append(cell["figures"])
    lines = [["tiny world", "reference", "scale found", "planted 1.02", "difference"]]
    for name, figures in sorted(found.items(), key=lambda one: (one[0][0], ORDER.index(one[0][1]))):
        columns = [[one[what] for one in figures] for what in ("plain", "planted", "difference")]
        lines.append([*name, *(_spread(values) for values in columns[:2]), f"{_spread(columns[2], '+')}"])
    return markdown(lines)


def references_rule(cells: Cells) -> str:
    """Per samples and reference: both signs with their errors, and what was chosen."""
    lines = [["samples", "reference", "j", "v", "chosen"]]
    for key, cell in cells.items():
        if named := re.fullmatch(r"(rule|photos) (.+): (.+)", key):
            one, samples = cell["figures"], f"{'tiny' if named[1] == 'rule' else 'photos'} {named[2]}"
            shown = [f"{one[name]:+.2f} ± {one[f'{name}_error']:.2f}" for name in "jv"]
            chosen = one["chosen"]
            if samples == "photos real 20":  # nothing was sampled, so nothing could be tried
                samples, chosen = "photos, other unseen ones", "–"
            lines.append([samples, named[3], *shown, chosen])
    return markdown([lines[0], *sorted(lines[1:], key=lambda line: (line[0], ORDER.index(line[1])))])


def references_prompt(cells: Cells) -> str:
    """Per network and reference: what the prompt adds to the model's error, and Auto Correct's answer."""
    lines = [["network", "reference", "error under the prompt against without it", "Auto Correct"]]
    for key, cell in cells.items():
        if named := re.fullmatch(r"prompt (.+): (.+)", key):
            one = cell["figures"]
            less, more = (math.expm1(one["harm"] + side * one["error"]) for side in (-1, 1))
            answer = "refuses" if one["harm"] > FitSettings.trust * one["error"] else "takes them"
            lines.append([*named.groups(), f"{less:+.0%} to {more:+.0%}", answer])
    return markdown([lines[0], *sorted(lines[1:], key=lambda line: (line[0], ORDER.index(line[1])))])


def _spread(values: list[float], sign: str = "") -> str:
    text = f"{statistics.mean(values):{sign}.3f}"
    return f"{text} ± {statistics.stdev(values):.3f}" if len(values) > 1 else text
