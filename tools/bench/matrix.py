"""Every method in every sampler of ComfyUI, kind of model and way to run; in pairs; with the host's patches.

A cell tries one such group with its samplers on a tiny random model (tools/bench/shared/tries.py says what is
tried) and keeps who was right, who declined and with what sentence, and what went wrong. Wrong cells fail
the command.
"""

import logging
import sys
import warnings

import torch

from tools.bench.shared import tries as matrix
from tools.bench.shared.frame import Bench, Figures
from tools.launch.inprocess import load, prepare_host


def main() -> int:
    prepare_host(cpu=True)
    version = load("comfyui_version").__version__
    bench = Bench("matrix", {"host": f"ComfyUI {version}", "samplers": len(matrix.samplers("plain"))})
    warnings.simplefilter("ignore")  # the host's own, as in its samplers' every run
    logging.disable(logging.INFO)
    quick = ("Epsilon Scaling, plain, epsilon", "Epsilon Scaling and MDSS, flow", "DiffIER with APG, epsilon")
    for name, (trial, samplers) in matrix.groups().items():
        bench.cell(name, lambda trial=trial, samplers=samplers: tried(trial, samplers), quick=name in quick)
    code = bench.run(summary)
    return code or int(any(cell["wrong"] for cell in figures_of(bench)))


def tried(trial: matrix.Trial, samplers: list[str]) -> Figures:
    """What came of a group, by sampler."""
    with torch.inference_mode():
        found = {sampler: trial(sampler) for sampler in samplers}
    refused = {name: said for name, said in found.items() if said.startswith(matrix.REFUSED)}
    wrong = [f"{name}: {said}" for name, said in found.items() if said and name not in refused]
    return {
        "tried": len(found),
        "refused": " ".join(refused),
        "sentence": next(iter(refused.values()), "").removeprefix(matrix.REFUSED),
        "wrong": "; ".join(wrong),
    }


def figures_of(bench: Bench) -> list[Figures]:
    return [result["figures"] for result in bench.results.values()]


def summary(cells: dict[str, Figures]) -> Figures:
    return {
        "tried": sum(int(cell["tried"] or 0) for cell in cells.values()),
        "refused": sum(len(str(cell["refused"]).split()) for cell in cells.values()),
        "groups with something wrong": sum(bool(cell["wrong"]) for cell in cells.values()),
    }


if __name__ == "__main__":
    sys.exit(main())
