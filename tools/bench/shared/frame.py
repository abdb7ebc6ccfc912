"""The frame every bench shares: cells that are measured one by one, kept, and shown as a table.

    bench = Bench("tinyworld", facts={"weights": digest, "steps": 20})
    prompts = 32 if bench.quick else 512
    for variant in ("epsilon", "flow"):
        bench.cell(variant, lambda variant=variant: accuracy(variant, prompts))
    sys.exit(bench.run())

A cell is a key and a function that returns its figures, {name: number or text}. A full run writes each
finished cell to benchmarks/<name>.json at once and skips it next time, so a run may be stopped at any point;
cells not run are shown as "not run". `--quick` measures the cells marked quick afresh and writes nothing; the
last line printed is one JSON object with all figures. `--again` compares kept cells with new ones. Called as
`run.py bench NAME`; needs only the standard library.
"""

import argparse
import fnmatch
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.launch.environment import ROOT

OWN_OPTIONS: dict[str, dict[str, dict]] = {
    "cost": {
        "--memory": {
            "choices": ("normal", "lowvram", "novram"),
            "default": "normal",
            "help": "where the host keeps weights",
        }
    },
    "mdss": {"--curves": {"action": "store_true", "help": "only the curves of docs/mdss_curves.png"}},
    "photos": {
        "--data": {"type": Path, "help": "CIFAR-10 as a folder, a tar or torchvision's download"},
        "--count": {
            "type": int,
            "default": 512,
            "help": "pictures of a cell; 512, others are kept apart",
        },
        "--sheet": {
            "type": Path,
            "metavar": "FILE",
            "help": "only draw the sheet of docs/time_shift.md",
        },
        "--curve": {"type": Path, "metavar": "FILE", "help": "only draw the curve of docs/which.md"},
    },
    "references": {
        "--data": {"type": Path, "help": "CIFAR-10 as a folder, a tar or torchvision's download"},
    },
}
"""By bench: its options beyond those of all, as add_argument takes them."""

Figures = dict[str, float | int | str | None]
Cells = dict[str, dict]
"""What a bench keeps: by key, {"figures": Figures, "seconds": ...}."""

RESULTS = ROOT / "benchmarks"


def options_of(name: str, text: str | None = None) -> argparse.ArgumentParser:
    """The options of one bench; made without importing it, so that help needs no host and no packages.

    text: what its help says it measures
    """
    parser = argparse.ArgumentParser(prog=f"run.py bench {name}", description=text, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for option, settings in OWN_OPTIONS.get(name, {}).items():
        parser.add_argument(option, **settings)
    parser.add_argument("--quick", action="store_true", help="a short run of the quick cells; keeps nothing")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="only cells whose key matches")
    parser.add_argument("--fresh", action="store_true", help="measure again what has been measured")
    parser.add_argument(
        "--again", action="store_true", help="measure kept cells again and show what differs; keeps nothing"
    )
    return parser


@dataclass(frozen=True)
class Cell:
    """One measurement of a bench."""

    key: str
    measure: Callable[[], Figures]
    quick: bool


class Bench:
    """A named set of cells and their results.

    `facts` says under which conditions figures may be compared (weights, steps, device ...): results kept
    under other facts are dropped. `quick` tells the cells' functions to take few samples.
    """

    def __init__(self, name: str, facts: dict, arguments: list[str] | None = None, results: Path = RESULTS):
        options = options_of(name).parse_args(arguments)
        self.name, self.facts = name, json.loads(json.dumps(facts))
        self.quick, self.only = options.quick, options.only
        self.fresh, self.again = options.fresh, options.again
        self.file = results / f"{name}.json"
        self.cells: list[Cell] = []
        self.results = {} if options.quick else self._kept()

    def cell(self, key: str, measure: Callable[[], Figures], quick: bool = True) -> None:
        """Add a cell; `quick=False` leaves it out of quick runs."""
        self.cells.append(Cell(key, measure, quick))

    def figures(self, key: str) -> Figures:
        """What an earlier cell measured; for cells that build on another one, which is measured first."""
        if key not in self.results:
            self._measure(next(cell for cell in self.cells if cell.key == key))
        return self.results[key]["figures"]

    def run(self, summary: Callable[[dict[str, Figures]], Figures] | None = None) -> int:
        """Measure what is missing, show everything, and return the exit code.

        `summary` gets the figures of the cells that have been measured, by key, and returns the bench's own.
        """
        code = 0
        if self.again:
            return self._compare()
        try:
            for cell in self._due():
                self._measure(cell)
        except KeyboardInterrupt:
            code = 130
        done = {key: result["figures"] for key, result in self.results.items()}
        cells = {cell.key: done.get(cell.key) for cell in self.cells}
        measured = {key: figures for key, figures in cells.items() if figures is not None}
        print(table(cells))
        result = {"bench": self.name, "quick": self.quick, "facts": self.facts, "cells": cells}
        if summary and measured:
            result["summary"] = summary(measured)
        print(json.dumps(result))
        return code

    def _selected(self) -> list[Cell]:
        return [cell for cell in self.cells if fnmatch.fnmatchcase(cell.key, self.only)]

    def _due(self) -> list[Cell]:
        wanted = [cell for cell in self._selected() if cell.quick or not self.quick]
        return [cell for cell in wanted if self.fresh or cell.key not in self.results]

    def _compare(self) -> int:
        """Measure what was kept again; 1 if nothing was. Times are shown too."""
        kept = [cell for cell in self._selected() if cell.key in self.results]
        for cell in kept:
            before, now = self.results[cell.key]["figures"], cell.measure()
            changed = [
                f"{name} {_text(before.get(name))} is {_text(now[name])}"
                for name in now
                if _text(before.get(name)) != _text(now[name])
            ]
            print(f"{cell.key}: {', '.join(changed) or 'the same'}", flush=True)
        return int(not kept)

    def _measure(self, cell: Cell) -> None:
        print(f"{self.name}: {cell.key} ...", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        figures = cell.measure()
        self.results[cell.key] = {"figures": figures, "seconds": round(time.perf_counter() - begun, 2)}
        if not self.quick:
            self._keep()

    def _kept(self) -> dict:
        """Results of earlier runs under the same facts."""
        kept = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        if kept and kept["facts"] != self.facts:
            print(f"{self.name}: results kept under other facts are dropped", file=sys.stderr)
        return kept["cells"] if kept.get("facts") == self.facts else {}

    def _keep(self) -> None:
        """Write all results; the file is replaced in one step, so stopping the run cannot damage it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.results = self._kept() | self.results  # another process may measure other cells meanwhile
        content = {"bench": self.name, "facts": self.facts, "cells": self.results}
        draft = self.file.with_suffix(f".{os.getpid()}.tmp")  # each process its own
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self.file)


def paired_ratio(
    ours: Callable[[], object], reference: Callable[[], object], rounds: int = 1000, warmup: int = 20
) -> Figures:
    """Time two functions in turn and compare them by pairs, so that a busy machine slows both alike.

    Returns the medians in milliseconds and the median of the pairs' ratios. Which goes first alternates. On
    an accelerator the functions must wait for their own work.
    """
    for _ in range(warmup):
        ours()
        reference()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            pairs.append((milliseconds(ours), milliseconds(reference)))
        else:
            pairs.append((milliseconds(reference), milliseconds(ours))[::-1])
    return {
        "ours_ms": statistics.median(first for first, _ in pairs),
        "reference_ms": statistics.median(second for _, second in pairs),
        "ratio": statistics.median(first / second for first, second in pairs),
    }


def milliseconds(function: Callable[[], object]) -> float:
    """The time of one call."""
    begun = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - begun)


def table(rows: dict[str, Figures | None]) -> str:
    """Cells as lines, figures as columns; a cell without figures was not run."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures or {}))
    lines = [["", *names]]
    for key, figures in rows.items():
        lines.append([key, *([_text(figures.get(n)) for n in names] if figures else ["not run"])])
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(names) + 1)]
    return "\n".join("  ".join(_aligned(line, widths)).rstrip() for line in lines)


def markdown(lines: list[list[str]]) -> str:
    """Lines as a Markdown table, the first one its head."""
    rule = ["---"] + ["---:"] * (len(lines[0]) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _aligned(line: list[str], widths: list[int]) -> list[str]:
    """The key to the left, figures to the right; a line may be shorter than the table."""
    pairs = zip(line, widths, strict=False)
    return [text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(pairs)]


def _text(figure: float | int | str | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)
