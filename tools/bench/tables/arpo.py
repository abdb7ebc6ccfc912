"""The tables of docs/arpo.md: what every way to a prompt brings back."""

import statistics

from tools.bench.shared.frame import Cells, markdown

STARTS = ("empty", "wrong")
WAYS = (
    "caption only",
    "one-shot, fast",
    "one-shot, classic",
    "one-shot, chain",
    "ARPO 1",
    "ARPO 2",
    "ARPO 5",
    "ARPO 5, best picture",
    "ARPO 5, dropping",
    "true phrases",
    "true caption",
)
COLUMNS = {
    "recall": "recall",
    "precision": "precision",
    "clip_t": "CLIP-T",
    "clip_i": "CLIP-I",
    "feature": "feature",
    "found": "found",
}

SEARCHES = (
    "bank",
    "bank, dropping",
    "bank, dropping, two windows",
    "model",
    "model, without descriptions",
    "model, without selection",
)
COST = {"drawings": "drawings", "texts": "texts", "pictures": "pictures", "questions": "questions"}


def arpo(cells: Cells) -> str:
    """Per first prompt: every figure of every way to a prompt."""
    parts = {key.rsplit(" ", 1)[1] for key in cells if key.startswith(STARTS)}
    done = f"{20 * len(parts)} pictures; ± is the standard error over parts of 20."
    return "\n\n".join([done, *(f"**{start}**\n\n{_arpo(cells, start, COLUMNS)}" for start in STARTS)])


def arpo_attributes(cells: Cells) -> str:
    """Per first prompt: the share of each attribute in every way's prompts."""
    kinds = ("shape", "colour", "size", "position", "background", "style")
    columns = {f"recall_{kind}": kind for kind in kinds}
    return "\n\n".join(f"**{start}**\n\n{_arpo(cells, start, columns)}" for start in STARTS)


def _arpo(cells: Cells, start: str, columns: dict[str, str]) -> str:
    run = {key.rsplit(" ", 2)[0] for key in cells}
    ways = [way for way in WAYS if f"{start} {way}" in run]
    lines = [["way", *columns.values()]]
    for way in ways:
        lines.append([way, *(_over_parts(cells, f"{start} {way}", figure) for figure in columns)])
    return markdown(lines)


def _over_parts(cells: Cells, way: str, figure: str) -> str:
    """Mean over the parts, and its standard error if there are several."""
    found = [cell["figures"][figure] for key, cell in cells.items() if key.rsplit(" ", 2)[0] == way]
    text = f"{statistics.mean(found):.3f}"
    return f"{text} ± {statistics.stdev(found) / len(found) ** 0.5:.3f}" if len(found) > 1 else text


def arpo_cost(cells: Cells) -> str:
    """After a wrong first prompt: what each search brings back, and what it takes for a picture."""
    columns = {name: COLUMNS[name] for name in ("recall", "precision", "found")}
    lines = [["search", *columns.values(), *COST.values()]]
    for name in _run(cells):
        means = [f"{statistics.mean(_figures(cells, name, cost)):.1f}" for cost in COST]
        lines.append([name, *(_over_parts(cells, f"cost {name}", figure) for figure in columns), *means])
    return markdown(lines)


def arpo_negative(cells: Cells) -> str:
    """Which negative phrases are right, beside what any phrase of the same lists would be; cells from before
    short lists named theirs have no such figures."""
    lines = [["search", "negative phrases", "right", "by chance", "clean", "by chance"]]
    for name in _run(cells):
        count, *told = (
            sum(_figures(cells, name, figure))
            for figure in ("negative", "right", "chance_right", "clean", "chance_clean")
        )
        if count:
            lines.append([name, f"{count:.0f}", *(f"{share / count:.1%}" for share in told)])
    return markdown(lines)


def _run(cells: Cells) -> list[str]:
    done = {key.rsplit(" ", 2)[0] for key in cells}
    return [name for name in SEARCHES if f"cost {name}" in done]


def _figures(cells: Cells, name: str, figure: str) -> list[float]:
    found = [cell["figures"] for key, cell in cells.items() if key.rsplit(" ", 2)[0] == f"cost {name}"]
    return [figures[figure] for figures in found if figure in figures]
