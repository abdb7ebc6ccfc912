"""The tables of docs/matrix.md: who was tried with what, who declined, and what went wrong."""

import itertools

from steadydiff.methods import SAMPLING_METHODS
from tools.bench.shared.frame import Cells, markdown

METHODS = tuple(method.title for method in SAMPLING_METHODS)
MODELS = ("epsilon", "v", "zsnr", "flow")


def matrix(cells: Cells) -> str:
    """Per method and kind of model: in how many samplers all was right, by the way to run."""
    ways = list(dict.fromkeys(name.split(", ")[1] for name in cells if name.count(", ") == 2))
    lines = [["method, model", *ways]]
    for method, model in itertools.product(METHODS, MODELS):
        lines.append([f"{method}, {model}", *(_tried(cells, f"{method}, {way}, {model}") for way in ways)])
    return f"{_counted(cells)}\n\n{markdown(lines)}\n\n{_refusals(cells, ', ')}".strip()


def _counted(cells: Cells) -> str:
    every = [cell["figures"] for cell in cells.values()]
    tried, refused = sum(f["tried"] for f in every), sum(len(f["refused"].split()) for f in every)
    wrong = sum(bool(f["wrong"]) for f in every)
    return f"In all tables: {tried:,} tried, {refused} declined with a sentence, {wrong} groups with a fault."


def matrix_pairs(cells: Cells) -> str:
    """The same for two methods together."""
    return _by_model(cells, " and ")


def matrix_patches(cells: Cells) -> str:
    """The same for a method and a patch of the host's."""
    return f"{_by_model(cells, ' with ')}\n\n{_refusals(cells, ' with ')}".strip()


def _by_model(cells: Cells, word: str) -> str:
    both = sorted({name.split(", ")[0] for name in cells if word in name})
    lines = [["together", *MODELS]]
    lines += [[name, *(_tried(cells, f"{name}, {model}") for model in MODELS)] for name in both]
    return markdown(lines)


def _tried(cells: Cells, name: str) -> str:
    """How many samplers of how many; what is wrong, if anything is."""
    if name not in cells:
        return "not run"
    found = cells[name]["figures"]
    if found["wrong"]:
        return f"**wrong**: {found['wrong']}"
    return f"{found['tried'] - len(found['refused'].split())} of {found['tried']}"


def _refusals(cells: Cells, word: str) -> str:
    """Who declines what, and with which sentence, as the first of its group hears it."""
    said: dict[str, str] = {}
    for name, cell in cells.items():
        figures = cell["figures"]
        if word in name and figures["refused"] and not (word == ", " and name.count(", ") < 2):
            who = name.split(", ")[0]
            refused = figures["refused"].split()
            at = "" if len(refused) == figures["tried"] else f" in {', '.join(refused)}"
            said.setdefault(f"{who}{at}", figures["sentence"])
    return "\n".join(f"* {who}: “{sentence}”" for who, sentence in said.items())
