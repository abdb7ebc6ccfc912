"""Write the tables of docs/ from benchmarks/*.json; measures nothing.

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`, and a test compares it with the results.
"""

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from tools.bench.shared.frame import RESULTS, Cells, markdown
from tools.bench.tables.arpo import arpo, arpo_attributes, arpo_cost, arpo_negative
from tools.bench.tables.digits import (
    digits,
    digits_auto,
    digits_fit,
    digits_more,
    digits_prompt,
    digits_trained,
)
from tools.bench.tables.matrix import matrix, matrix_pairs, matrix_patches
from tools.bench.tables.photos import PARTS as PHOTOS
from tools.bench.tables.photos import photos, photos_curve, photos_paper
from tools.bench.tables.references import references_planted, references_prompt, references_rule
from tools.launch.environment import ROOT

PARTS = range(3)
FLOOR = "real drawings"
STEPS = (10, 20, 50)
LABELS = {
    "none": "no correction",
    "core 1.005": "ComfyUI's own node, 1.005",
    "uniform": "uniform, best of a grid",
    "linear": "linear fit of `norm`",
    "snr": "snr (TSR 0.95)",
    "dcw": "dcw 0.005",
    "norm": "calibrated, norm",
    "variance": "calibrated, variance",
    "bands": "per band (DCW's port)",
}
COLUMNS = {
    "frechet_reader": "excess FD reader",
    "frechet_clip": "excess FD CLIP",
    "kid_reader": "KID reader",
    "kid_clip": "KID CLIP",
    "precision_reader": "precision",
    "recall_reader": "recall",
    "found": "found",
    "clip_text": "CLIP-T",
    "norm_drift": "norm error",
    "variance": "variance error",
    "delta": "δ",
    "seconds": "seconds",
}
DIGITS = {"frechet_reader": 3, "frechet_clip": 3, "kid_reader": 4, "kid_clip": 4, "seconds": 0}


COMPARED = (  # method, what it is compared with, bench, its run, the names of both there
    ("Epsilon Scaling, calibrated", "no correction", "drift", "euler 20 cfg 1", "norm", "none"),
    ("Anti-Bias Prompt", "no correction", "antibias", "euler 20 cfg 1", "default", "plain"),
    ("the same", "as much training of the model", "antibias", "euler 20 cfg 1", "default", "control"),
    ("MDSS, k = 4", "as much plain training", "mdss", "euler 20 cfg 1", "MDSS k=4", "plain"),
    ("DiffIER, renoise", "as many plain calls", "diffier", "cfg 4 calls 30", "renoise", "plain"),
)


def compared(*benches: Cells) -> str:
    """Per method and variant: the change of both excess Fréchet distances, and found before and after."""
    of: dict[str, Cells] = dict(zip(("drift", "antibias", "mdss", "diffier"), benches, strict=True))
    columns = [
        f"{figure}, {variant}"
        for variant in ("epsilon", "flow")
        for figure in ("excess FD reader", "excess FD CLIP", "found")
    ]
    lines = [["method", "against", *columns]]
    for method, against, bench, run, name, other in COMPARED:
        line = [method, against]
        for variant in ("epsilon", "flow"):
            at = of[bench], f"{variant} {run}", name
            line += [_change(*at, f"frechet_{space}", other) for space in ("reader", "clip")]
            found = (_by_part(of[bench], at[1], one, "found").values() for one in (other, name))
            line.append(" → ".join(f"{statistics.mean(values):.3f}" for values in found))
        lines.append(line)
    return markdown(lines)


def drift_summary(cells: Cells) -> str:
    """Per variant: both Fréchet distances at 10, 20 and 50 Euler steps, and three more figures at 20."""
    return "\n\n".join(f"**{variant}**\n\n{_summary(cells, variant)}" for variant in ("epsilon", "flow"))


def _summary(cells: Cells, variant: str) -> str:
    head = [f"excess FD {space}, {steps}" for space in ("reader", "CLIP") for steps in STEPS]
    real = [_mean(cells, "real", "drawings", f) for f in ("frechet_reader", "frechet_clip", "found")]
    lines = [["schedule", *head, "found, 20", "norm error, 20"]]
    lines.append(
        ["*other drawings, the floor*", *[real[0]] * len(STEPS), *[real[1]] * len(STEPS), real[2], "–"]
    )
    for name, label in LABELS.items():
        line = [label]
        for figure, steps in [(f"frechet_{space}", s) for space in ("reader", "clip") for s in STEPS]:
            line.append(_mean(cells, f"{variant} euler {steps} cfg 1", name, figure))
        line += [_mean(cells, f"{variant} euler 20 cfg 1", name, f) for f in ("found", "norm_drift")]
        lines.append(line)
    return markdown(lines)


def drift_full(cells: Cells) -> str:
    """Per condition: every figure of every schedule, mean ± spread over the three parts."""
    conditions = dict.fromkeys(re.sub(r" grid$", "", key) for key in cells if key.endswith(" grid"))
    return "\n\n".join(f"### {condition}\n\n{_condition(cells, condition)}" for condition in conditions)


def _condition(cells: Cells, condition: str) -> str:
    lines = [["schedule", *COLUMNS.values(), "FD reader, difference", "FD CLIP, difference"]]
    real = [_mean(cells, "real", "drawings", figure, spread=True) for figure in COLUMNS]
    lines.append(["*other drawings, the floor*", *real, "–", "–"])
    for name, label in LABELS.items():
        if name == "uniform":
            label = f"uniform {cells[f'{condition} grid']['figures']['best']:g}, best of the grid"
        figures = [_mean(cells, condition, name, figure, spread=True) for figure in COLUMNS]
        changes = [_mean(cells, condition, name, f"frechet_{s}", True, "none") for s in ("reader", "clip")]
        lines.append([label, *figures, *changes])
    return markdown(lines)


ANTIBIAS_COLUMNS = ("frechet_reader", "frechet_clip", "recall_reader", "found", "norm_drift", "variance")


def antibias(cells: Cells) -> str:
    """Per variant and sampler: no network, the default one, and the control; mean ± spread over three parts,
    or the first alone.
    """
    blocks = []
    for variant in ("epsilon", "flow"):
        lines = [["sampler, steps", "", *(COLUMNS[figure] for figure in ANTIBIAS_COLUMNS)]]
        for sampler, steps in itertools.product(("euler", "heun", "dpmpp_2m"), (10, 20, 35)):
            condition = f"{variant} {sampler} {steps} cfg 1"
            whole = f"{condition} control 2" in cells
            for name in ("plain", "default", "control"):
                key = f"{condition} {name} 0"
                if key in cells:
                    figures = (
                        _mean(cells, condition, name, f, spread=True) if whole else _one(cells, key, f, 3)
                        for f in ANTIBIAS_COLUMNS
                    )
                    lines.append([f"{sampler}, {steps}", name, *figures])
        blocks.append(f"**{variant}**\n\n{markdown(lines)}")
    return "\n\n".join(blocks)


def antibias_recipes(cells: Cells) -> str:
    """What the shorter trainings do, on the first part of epsilon at 20 Euler steps."""
    lines = [["recipe", *(COLUMNS[figure] for figure in ANTIBIAS_COLUMNS)]]
    for key in cells:
        if found := re.fullmatch(r"epsilon euler 20 cfg 1 (plain|\w+ short) 0", key):
            lines.append(
                [found[1].removesuffix(" short"), *(_one(cells, key, f, 3) for f in ANTIBIAS_COLUMNS)]
            )
    return markdown(lines)


MDSS_RUNS = (
    ("euler", 10),
    ("euler", 20),
    ("euler", 50),
    ("ddpm", 10),
    ("ddpm", 20),
    ("ddpm", 50),
    ("dpmpp_2m", 20),
)


def mdss(cells: Cells) -> str:
    """Per variant: both excess Fréchet distances after more plain training, and what others change of it."""
    blocks = []
    for variant in ("epsilon", "flow"):
        runs = {f"{sampler}, {steps}": f"{variant} {sampler} {steps} cfg 1" for sampler, steps in MDSS_RUNS}
        lines = [["excess FD reader / FD CLIP", *runs]]
        lines.append(["plain", *(_pair(cells, run, "plain", _distance) for run in runs.values())])
        names = [name for name in _mdss_ways(cells, variant) if name != "plain"]
        lines += [[name, *(_pair(cells, run, name, _change) for run in runs.values())] for name in names]
        blocks.append(f"**{variant}**\n\n{markdown(lines)}")
    return "\n\n".join(blocks)


def _mdss_ways(cells: Cells, variant: str) -> list[str]:
    found = (re.fullmatch(rf"{variant} euler 20 cfg 1 (.+) \d", key) for key in cells)
    return list(dict.fromkeys(match[1] for match in found if match))


def _pair(cells: Cells, run: str, name: str, show: Callable[[Cells, str, str, str], str]) -> str:
    return " / ".join(show(cells, run, name, f"frechet_{space}") for space in ("reader", "clip"))


def _distance(cells: Cells, run: str, name: str, figure: str) -> str:
    return _with_spread(_by_part(cells, run, name, figure).values(), ".2f")


def _change(cells: Cells, run: str, name: str, figure: str, other: str = "plain") -> str:
    """Per cent of another's mean excess on the same parts; one within the floor's spread is none."""
    plain, own = (_by_part(cells, run, one, figure) for one in (other, name))
    parts = [part for part in own if part in plain]
    if not parts:
        return "–"
    whole = statistics.mean(plain[part] for part in parts)
    if whole <= statistics.stdev(_by_part(cells, "real", "drawings", figure).values()):
        return "no excess"
    return _with_spread([100 * (own[part] - plain[part]) / whole for part in parts], "+.0f", " %")


def _by_part(cells: Cells, run: str, name: str, figure: str) -> dict[int, float]:
    found = {part: _figure(cells, f"{run} {name} {part}", figure) for part in PARTS}
    return {part: value for part, value in found.items() if value is not None}


def _figure(cells: Cells, key: str, figure: str) -> float | None:
    """A cell's figure; of a Fréchet distance the excess over the floor: what other real drawings have."""
    value = cells.get(key, {}).get("figures", {}).get(figure)
    if value is None or not figure.startswith("frechet") or key.startswith(FLOOR):
        return value
    return value - cells[f"{FLOOR} {key.split()[-1]}"]["figures"][figure]


def _with_spread(values: Iterable[float], form: str, unit: str = "") -> str:
    """Mean ± spread over the parts; of one part the value alone, of none a dash."""
    found = list(values)
    if not found:
        return "–"
    text = f"{statistics.mean(found):{form}}"
    return f"{text} ± {statistics.stdev(found):{form.lstrip('+')}}{unit}" if found[1:] else f"{text}{unit}"


def mdss_full(cells: Cells) -> str:
    """Per variant: every figure at 20 Euler steps."""
    blocks = []
    for variant in ("epsilon", "flow"):
        lines = [["training", *COLUMNS.values()]]
        euler = f"{variant} euler 20 cfg 1"
        for run, name in [("real", "drawings"), *((euler, name) for name in _mdss_ways(cells, variant))]:
            figures = {figure: _by_part(cells, run, name, figure).values() for figure in COLUMNS}
            shown = [_with_spread(v, f".{DIGITS.get(figure, 3)}f") for figure, v in figures.items()]
            lines.append(["*real drawings, the floor*" if run == "real" else name, *shown])
        blocks.append(f"**{variant}**\n\n{markdown(lines)}")
    return "\n\n".join(blocks)


DIFFIER_COLUMNS = {
    "frechet_reader": "excess FD reader",
    "frechet_clip": "excess FD CLIP",
    "precision_reader": "precision",
    "recall_reader": "recall",
    "found": "found",
    "clip_text": "CLIP-T",
    "saturation": "saturation",
    "norm_drift": "norm error",
    "variance": "variance error",
}


def diffier_compared(cells: Cells) -> str:
    """Per variant and guidance weight: every way to spend 30 calls, on the first part's prompts."""
    blocks = []
    for variant in ("epsilon", "flow"):
        for cfg in ("2", "4"):
            condition = f"{variant} cfg {cfg} calls 30"
            lines = [["way", *DIFFIER_COLUMNS.values()]]
            lines.append(["*real drawings, the floor*", *_line(cells, "real drawings 0")])
            found = re.compile(rf"{re.escape(condition)} (.+) 0")
            names = [match[1] for key in cells if (match := found.fullmatch(key))]
            lines += [[name, *_line(cells, f"{condition} {name} 0")] for name in names]
            blocks.append(f"**{variant}, CFG {cfg}, 30 calls**\n\n{markdown(lines)}")
    return "\n\n".join(blocks)


def _line(cells: Cells, key: str) -> list[str]:
    return [_one(cells, key, figure) for figure in DIFFIER_COLUMNS]


def diffier_grid(cells: Cells) -> str:
    """Per variant: both Fréchet distances and what was found, over guidance weights, at 20 to 80 calls."""
    blocks, weights = [], ("1", "2", "4", "8", "16")
    for variant in ("epsilon", "flow"):
        lines = [["calls", "", *(f"CFG {cfg}" for cfg in weights)]]
        for calls in (20, 30, 40, 80):
            for name in ("plain", "renoise", "norm"):
                keys = [f"{variant} cfg {cfg} calls {calls} {name} 0" for cfg in weights]
                if name == "norm" and not any(key in cells for key in keys):
                    continue
                line = [
                    " / ".join(_one(cells, key, f) for f in ("frechet_reader", "frechet_clip", "found"))
                    if key in cells
                    else "not run"
                    for key in keys
                ]
                lines.append([str(calls), name, *line])
        blocks.append(f"**{variant}** (excess FD reader / FD CLIP / found)\n\n{markdown(lines)}")
    return "\n\n".join(blocks)


def _one(cells: Cells, key: str, figure: str, digits: int | None = None) -> str:
    value = _figure(cells, key, figure)
    digits = digits or (2 if figure.startswith("frechet") else 3)
    return "–" if value is None else f"{value:.{digits}f}"


def _mean(
    cells: Cells, condition: str, name: str, figure: str, spread: bool = False, beside: str | None = None
) -> str:
    """Mean over the parts, with `beside` of the difference from another schedule's on the same part; "–" for
    a figure that makes no sense here.
    """
    keys = [f"{condition} {one} {part}" for one in (name, beside or name) for part in PARTS]
    if not all(key in cells for key in keys):
        return "not run"
    values = _by_part(cells, condition, name, figure)
    if beside:
        other = _by_part(cells, condition, beside, figure)
        values = {part: value - other[part] for part, value in values.items()}
    form = f"{'+' if beside else ''}.{DIGITS.get(figure, 3)}f"
    return _with_spread(values.values() if spread or not values else [statistics.mean(values.values())], form)


def cost(scaling: Cells, prompt: Cells, mdss: Cells, diffier: Cells) -> str:
    """Per method: its operations and its own time, beside a guided call of an SD1.5-sized network."""
    scaled = [cell["figures"]["ours_ms"] for key, cell in scaling.items() if key.startswith("own time")]
    network = prompt["cost"]["figures"]
    head, own = mdss["cost in sampling"]["figures"], diffier["own time"]["figures"]
    lines = [["method", "operations more", "own time, ms"]]
    lines.append(["Epsilon Scaling", "0 %", f"{min(scaled):.2f} to {max(scaled):.2f}"])
    lines.append(["Anti-Bias Prompt", f"{network['percent']:.2f} %", f"{network['network_ms']:.0f}"])
    lines.append(["MDSS", f"{head['more_operations_percent']:.3f} %", f"{head['own_ms']:.1f}"])
    lines.append(["DiffIER, renoise, at a corrected step", "100 %", f"{own['renoise_ms']:.2f}, and a call"])
    lines.append(["DiffIER, norm", "0 %", f"{own['norm_ms']:.2f}"])
    call, operations = diffier["guided SD1.5 call"]["figures"]["call_ms"], network["guided_call_gflop"]
    lines.append(["*the guided call itself*", f"*{operations:,.0f} GFLOP*", f"*{call:,.0f}*"])
    return markdown(lines)


# table -> (file it stands in, benches it is of, how it is made)
TABLES: dict[str, tuple[str, str, Callable[..., str]]] = {
    "compared": ("docs/results.md", "drift antibias mdss diffier", compared),
    "drift summary": ("docs/results.md", "drift", drift_summary),
    "drift": ("docs/drift.md", "drift", drift_full),
    "antibias": ("docs/antibias_prompt.md", "antibias", antibias),
    "antibias recipes": ("docs/antibias_prompt.md", "antibias", antibias_recipes),
    "mdss": ("docs/mdss.md", "mdss", mdss),
    "mdss full": ("docs/mdss.md", "mdss", mdss_full),
    "diffier": ("docs/diffier.md", "diffier", diffier_compared),
    "diffier grid": ("docs/diffier.md", "diffier", diffier_grid),
    "arpo": ("docs/arpo.md", "arpo", arpo),
    "arpo attributes": ("docs/arpo.md", "arpo", arpo_attributes),
    "arpo cost": ("docs/arpo.md", "arpo", arpo_cost),
    "arpo negative": ("docs/arpo.md", "arpo", arpo_negative),
    "cost": ("docs/which.md", "epsilon_scaling antibias mdss diffier", cost),
    **{f"photos {part}": ("docs/photos.md", "photos", partial(photos, part=part)) for part in PHOTOS},
    "photos 5000": ("docs/photos.md", "5000/photos", partial(photos, part="ancestral")),
    "photos paper": ("docs/photos.md", "photos", photos_paper),
    "photos curve": ("docs/which.md", "photos", photos_curve),
    "references planted": ("docs/drift.md", "references", references_planted),
    "references rule": ("docs/drift.md", "references", references_rule),
    "references prompt": ("docs/drift.md", "references", references_prompt),
    "digits": ("docs/digits.md", "digits", digits),
    "digits more": ("docs/digits.md", "digits", digits_more),
    "digits prompt": ("docs/drift.md", "digits", digits_prompt),
    "digits fit": ("docs/digits.md", "digits", digits_fit),
    "digits trained": ("docs/digits.md", "digits_trained", digits_trained),
    "digits auto": ("docs/digits.md", "digits_trained", digits_auto),
    "digits second": ("docs/digits.md", "digits_second", digits),
    "digits second fit": ("docs/digits.md", "digits_second", digits_fit),
    "matrix": ("docs/matrix.md", "matrix", matrix),
    "matrix pairs": ("docs/matrix.md", "matrix", matrix_pairs),
    "matrix patches": ("docs/matrix.md", "matrix", matrix_patches),
}


def tables(root: Path = ROOT, results: Path = RESULTS) -> Iterator[tuple[Path, str, str]]:
    """(file, its text, its text with the tables as they should be), for every table."""
    for name, (file, benches, make) in TABLES.items():
        path = root / file
        text = path.read_text(encoding="utf-8")
        kept = [(results / f"{bench}.json").read_text(encoding="utf-8") for bench in benches.split()]
        yield path, text, put(text, name, make(*(json.loads(one)["cells"] for one in kept)))


def put(text: str, name: str, table: str) -> str:
    """Replace what stands between a table's marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"no place for the table: {begin.strip()} and {end} mark one")
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="run.py bench tables", description=__doc__).parse_args(arguments)
    for path, text, wanted in tables():
        if text != wanted:
            path.write_text(wanted, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
