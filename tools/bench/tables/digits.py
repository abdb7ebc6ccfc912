"""The tables of docs/digits.md: corrections on the digits, and what the rule of drift/fit.py chooses.

T is the geometric mean of both Fréchet distances to held-out pictures, floor included.
"""

import math
import re
import statistics

from tools.bench.shared.frame import Cells, markdown

SPACES = ("classifier", "pixels")
HARM = 1.02  # T over plain's that counts as worse, where the spread is smaller
LITTLE = 0.98  # T over plain's of the grid's best, above which there was hardly anything to gain


def digits_prompt(cells: Cells) -> str:
    """Per size of a set: how many Auto Correct refuses, by what the pictures show."""
    kinds = {"right": "the digit asked for", "other": "another digit", "mixed": "all digits"}
    lines = [["pictures", *kinds.values()]]
    for key, cell in cells.items():
        if named := re.fullmatch(r"prompt (\d+)", key):
            one = cell["figures"]
            lines.append([named[1], *(f"{one[kind]} of {one[f'{kind} sets']}" for kind in kinds)])
    return markdown(lines)


def _truth(cells: Cells, figures: dict, name: str = "") -> float:
    floor = cells["floor"]["figures"]
    return math.sqrt(math.prod(figures[f"{name}{space}"] + floor[space] for space in SPACES))


def _grid(
    cells: Cells, pattern: str = r"(\S+ \d+ cfg \S+) (.+) (\d)"
) -> dict[str, dict[str, dict[int, float]]]:
    """T by condition, correction and seed."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for key, cell in cells.items():
        match = re.fullmatch(pattern, key)
        if match and not match[2].startswith("fit"):
            by_seed = found.setdefault(match[1], {}).setdefault(match[2], {})
            by_seed[int(match[3])] = _truth(cells, cell["figures"])
    return found


def _quotients(own: dict[int, float], plain: dict[int, float]) -> list[float]:
    return [own[seed] / plain[seed] for seed in own if seed in plain]


def _told(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def digits(cells: Cells) -> str:
    """Per condition plain's excess distances, and each correction's T over plain's: mean ± spread."""
    grid = {run: own for run, own in _grid(cells).items() if "c 0.9" in own}
    names = [name for name in next(iter(grid.values())) if name != "plain" and name[0] in "lc"]
    lines = [["sampler, steps", *(f"plain, {space}" for space in SPACES), *names]]
    for run, own in grid.items():
        plain = [cells[f"{run} plain {seed}"]["figures"] for seed in own["plain"]]
        excess = [_told([one[space] for one in plain]) for space in SPACES]
        lines.append([run, *excess, *(_told(_quotients(own.get(n, {}), own["plain"])) for n in names)])
    floor = cells["floor"]["figures"]
    told = ", ".join(f"{space} {floor[space]:.2f}" for space in SPACES)
    return f"{markdown(lines)}\n\nFloor, of as many training pictures: {told}."


def digits_more(cells: Cells) -> str:
    """DiffIER at 30 calls with its control, and norms met, at 20 steps: T over that of plain at 20 steps."""
    grid = _grid(cells)
    names = ("DiffIER -0.2", "DiffIER 0.2", "DiffIER 0.5", "norms")
    lines = [["sampler", "plain, 30 steps", *names]]
    for run, own in grid.items():
        if " 20 cfg" in run and "norms" in own:
            longer = grid.get(run.replace(" 20 ", " 30 "), {}).get("plain", {})
            shown = [longer, *(own.get(name, {}) for name in names)]
            lines.append([run, *(_told(_quotients(one, own["plain"])) for one in shown)])
    return markdown(lines)


def digits_trained(cells: Cells) -> str:
    """T over plain's of each trained method and its controls, a row each: mean ± spread over seeds."""
    grid = {run: own for run, own in _grid(cells, r"(\S+ \d+) (.+) (\d)").items() if "anti-bias" in own}
    lines = [["", *grid]]
    for name in next(iter(grid.values())):
        lines.append([name, *(_told(_quotients(own.get(name, {}), own["plain"])) for own in grid.values())])
    return markdown(lines)


def digits_auto(cells: Cells) -> str:
    """The strength DiffIER is given by a measurement at 20 steps, and what becomes of T."""
    grid = _grid(cells, r"(\S+ \d+) (.+) (\d)")
    lines = [["sampler", "strength", "DiffIER auto"]]
    for run, own in grid.items():
        if "auto" in own:
            strengths = [cells[f"{run} auto {seed}"]["figures"]["strength"] for seed in own["auto"]]
            lines.append([run, _told(strengths), _told(_quotients(own["auto"], own.get("plain", {})))])
    return markdown(lines)


def digits_fit(cells: Cells) -> str:
    """What the rule reaches: T over plain's, short and thorough, beside the best of the grid.

    A condition's share is its mean log gain over that of the grid's best; the rule may find better than it.
    """
    grid, ways = _grid(cells), ("short", "thorough")
    gains: dict[str, list[float]] = {way: [] for way in (*ways, "best")}
    means: dict[str, list[float]] = {way: [] for way in gains}  # of each condition
    harms, two, count = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0), 0
    lines = [["sampler, steps", "short", "thorough", "best of the grid", "left off"]]
    for run, own in grid.items():
        fits = {
            key: cells[key]["figures"] for key in cells if re.fullmatch(rf"{re.escape(run)} fit \d \d", key)
        }
        if not fits:
            continue
        plain, found, off = own["plain"], {way: [] for way in (*ways, "best")}, 0
        spread = statistics.stdev(plain.values()) / statistics.mean(plain.values())
        best = min(
            (name for name in own if name[0] in "lcp"), key=lambda name: sum(_quotients(own[name], plain))
        )
        for key, figures in fits.items():
            seed = int(key[-1])
            for way in ways:
                quotient = _truth(cells, figures, f"{way} ") / plain[seed]
                found[way].append(quotient)
                harms[way] += quotient > 1 + spread
                two[way] += quotient > HARM
            found["best"].append(own[best][seed] / plain[seed])
            off += figures["short"] == figures["thorough"] == "plain"
        count += len(fits)
        for way, values in found.items():
            logs = [math.log(value) for value in values]
            gains[way] += logs
            means[way].append(statistics.mean(logs))
        lines.append([run, *(f"{statistics.mean(found[way]):.2f}" for way in found), f"{off} of {len(fits)}"])
    told = "; ".join(
        f"{way}: {_percent(sum(gains[way]) / sum(gains['best']))} of the grid's log gain, worse than "
        f"plain by more than the spread in {100 * harms[way] / count:.1f} %, by more than 2 % in "
        f"{100 * two[way] / count:.1f} % of {count} batches. {_own_shares(means[way], means['best'])}"
        for way in ways
    )
    return f"{markdown(lines)}\n\n{told}."


def _own_shares(gained: list[float], best: list[float]) -> str:
    shares = [(own / most, most) for own, most in zip(gained, best, strict=True) if most < 0]
    much = [share for share, most in shares if most < math.log(LITTLE)]
    if not much:
        return "Nowhere does the grid gain more than 2 %"
    capped = statistics.mean(min(share, 1.0) for share, _ in shares)
    return (
        f"The mean of the conditions' own shares is {_percent(statistics.mean(much))} of the {len(much)} "
        f"where the grid gains more than 2 %, {_percent(statistics.mean(share for share, _ in shares))} of "
        f"all {len(shares)} where it gains, {_percent(capped)} if each counts as 100 % at most"
    )


def _percent(share: float) -> str:
    return f"{100 * share + 0.0:.0f} %"
