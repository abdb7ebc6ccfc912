"""The tables of README and docs: what the kept results say, and nothing else."""

import json
import shutil

import pytest

from tools.bench.tables.all import (
    TABLES,
    antibias,
    arpo,
    arpo_cost,
    arpo_negative,
    compared,
    drift_full,
    drift_summary,
    mdss,
    mdss_full,
    put,
    tables,
)
from tools.launch.environment import ROOT


@pytest.mark.slow
def test_the_documents_show_the_kept_results():
    """If this fails: python3 run.py bench tables."""
    for path, text, wanted in tables():
        assert text == wanted, path


@pytest.mark.slow
def test_a_changed_result_is_noticed(tmp_path):
    for file, benches, _ in TABLES.values():
        for name in (file, *(f"benchmarks/{bench}.json" for bench in benches.split())):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    for results in (tmp_path / "benchmarks").rglob("*.json"):
        kept = json.loads(results.read_text())
        for cell in kept["cells"].values():
            numbers = {k: v for k, v in cell["figures"].items() if not isinstance(v, str)}
            cell["figures"] |= {name: 1.5 * (value or 0) + 1 for name, value in numbers.items()}
        results.write_text(json.dumps(kept))
    assert all(text != wanted for _, text, wanted in tables(tmp_path, tmp_path / "benchmarks"))


def floor(*distances):
    """The other real drawings of each part, of one distance in both spaces."""
    figures = [{"frechet_reader": value, "frechet_clip": value} for value in distances]
    return {f"real drawings {part}": {"figures": one} for part, one in enumerate(figures)}


def cells(condition, **schedules):
    """Three parts of each schedule over floors of 0, .5 and .25; the first figure is given, the rest 0.5."""
    found = {f"{condition} grid": {"figures": {"best": 1.02}}, **floor(0, 0.5, 0.25)}
    names = ("frechet_clip", "kid_reader", "kid_clip", "precision_reader", "recall_reader", "found")
    rest = dict.fromkeys((*names, "clip_text", "norm_drift", "variance", "delta", "seconds"), 0.5)
    for name, values in schedules.items():
        for part, value in enumerate(values):
            found[f"{condition} {name} {part}"] = {"figures": {"frechet_reader": value, **rest}}
    return found


def test_a_row_is_mean_and_spread_and_the_difference_of_equal_parts():
    """Above the floor means 2 and 1.9, spread 1 and 0.9; part by part they differ by 0, 0.1 and 0.2."""
    lines = drift_full(cells("flow euler 20 cfg 1", none=[1, 2.5, 3.25], norm=[1, 2.4, 3.05])).splitlines()
    assert lines[0] == "### flow euler 20 cfg 1"
    none, norm, uniform = (
        next(line for line in lines if line.startswith(f"| {label} "))
        for label in ("no correction", "calibrated, norm", "uniform 1.02, best of the grid")
    )
    assert none.split(" | ")[1] == "2.000 ± 1.000"
    assert norm.split(" | ")[1] == "1.900 ± 0.900"
    assert norm.split(" | ")[-2] == "-0.100 ± 0.100"
    assert uniform.count("not run") == 14


def test_the_summary_says_what_was_not_run():
    text = drift_summary(cells("epsilon euler 20 cfg 1", none=[1, 2.5, 3.25]))
    line = next(line for line in text.splitlines() if line.startswith("| no correction"))
    assert line == "| no correction | not run | 2.000 | not run | not run | 0.250 | not run | 0.500 | 0.500 |"


def test_a_table_needs_its_place():
    assert put("a\n<!-- x -->\nold\n<!-- end of x -->\nb", "x", "new") == (
        "a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb"
    )
    with pytest.raises(SystemExit, match="no place for the table"):
        put("a", "x", "new")


def test_a_way_to_a_prompt_is_the_mean_over_its_parts_and_its_standard_error():
    figures = {"recall": [0.5, 0.7, 0.9], "precision": [1, 1, 1]}
    keys = ("0 0", "1 1", "2 2")
    rest = dict.fromkeys(("clip_t", "clip_i", "feature", "found"), 0.25)
    found = {
        f"{start} ARPO 5, dropping {key}": {"figures": {n: v[i] for n, v in figures.items()} | rest}
        for start in ("empty", "wrong")
        for i, key in enumerate(keys)
    }
    text = arpo(found)
    assert text.startswith("60 pictures; ± is the standard error over parts of 20.")
    row = "| ARPO 5, dropping | 0.700 ± 0.115 | 1.000 ± 0.000 | 0.250 ± 0.000 |"
    assert sum(line.startswith(row) for line in text.splitlines()) == 2


def test_a_searchs_cost_is_a_mean_and_its_negative_phrases_are_counted_together():
    rest = dict.fromkeys(("precision", "found", "texts", "pictures", "questions"), 1.0)
    right = [(10, 3, 1.0, 9, 4.0), (30, 5, 1.0, 29, 16.0)]
    names = "negative", "right", "chance_right", "clean", "chance_clean"
    found = {
        f"cost bank {part} {part}": {
            "figures": {"recall": 0.8 + 0.2 * part, "drawings": 2 + part, **rest}
            | dict(zip(names, counted, strict=True))
        }
        for part, counted in enumerate(right)
    }
    assert "| bank | 0.900 ± 0.100 | 1.000 ± 0.000 | 1.000 ± 0.000 | 2.5 | 1.0 |" in arpo_cost(found)
    assert "| bank | 40 | 20.0% | 5.0% | 95.0% | 50.0% |" in arpo_negative(found)


def test_one_part_is_shown_without_a_spread():
    figures = dict.fromkeys(("frechet_clip", "recall_reader", "found", "norm_drift", "variance"), 0.5)
    found = {
        f"flow euler {steps} cfg 1 {name} {part}": {"figures": {"frechet_reader": 1.0 + part} | figures}
        for name in ("plain", "default", "control")
        for steps, parts in ((10, 3), (35, 1))
        for part in range(parts)
    } | floor(0, 0, 0)
    lines = antibias(found).splitlines()
    assert next(line for line in lines if line.startswith("| euler, 10 | default | 2.000 ± 1.000 |"))
    assert next(line for line in lines if line.startswith("| euler, 35 | default | 1.000 | 0.500 |"))
    assert not any("heun" in line for line in lines)


def test_a_training_is_shown_by_what_it_changes_of_plain_training():
    """+.1 and +.6 of the reader's mean excess, 1.5; of a single part without spread; CLIP has no excess."""
    made = floor(4, 3.5)
    for run, parts in (("euler 20", 2), ("euler 50", 1)):
        for part in range(parts):
            for name, factor in (("plain", 1), ("SDSS, head", (1.1, 1.3)[part])):
                own = (4, 3.5)[part] + (part + 1) * factor
                figures = {"frechet_reader": own, "frechet_clip": 4}
                made[f"flow {run} cfg 1 {name} {part}"] = {"figures": figures}
    lines = mdss(made).split("**flow**")[1].splitlines()
    plain, head = (
        next(line for line in lines if line.startswith(f"| {n} ")) for n in ("plain", "SDSS, head")
    )
    assert plain.split(" | ")[2] == "1.50 ± 0.71 / 0.25 ± 0.35"
    assert head.split(" | ")[2] == "+23 ± 24 % / no excess"
    assert head.split(" | ")[3] == "+10 % / no excess"
    assert head.split(" | ")[1] == "– / –"


def test_real_drawings_stand_first_with_the_figures_they_have():
    made = {f"real drawings {part}": {"figures": {"frechet_reader": 1 + part}} for part in range(2)}
    made["flow euler 20 cfg 1 plain 0"] = {"figures": {"frechet_reader": 3, "norm_drift": 0.5}}
    rows = mdss_full(made).split("**flow**")[1].splitlines()[4:]
    assert rows[0].startswith("| *real drawings, the floor* | 1.500 ± 0.707 | – |")
    assert rows[1].startswith("| plain | 2.000 | – |")


def test_methods_are_compared_part_by_part():
    """Of 9 above the floor the reader's distance falls by 1 and by 2; found goes from 0.4 to 0.5."""

    def kept(run, **ways):
        rest = {"frechet_clip": 1.0}
        return floor(1, 1) | {
            f"{variant} {run} {name} {part}": {"figures": {"frechet_reader": fd, "found": found, **rest}}
            for variant in ("epsilon", "flow")
            for name, (distances, found) in ways.items()
            for part, fd in enumerate(distances)
        }

    plain = ([10.0, 10.0], 0.4)
    drift = kept("euler 20 cfg 1", none=plain, norm=([9.0, 8.0], 0.5))
    others = [
        kept("euler 20 cfg 1", plain=plain, control=plain, default=plain),
        kept("euler 20 cfg 1", **{"plain": plain, "MDSS k=4": plain}),
        kept("cfg 4 calls 30", plain=plain, renoise=plain),
    ]
    line = compared(drift, *others).splitlines()[2]
    assert line.startswith("| Epsilon Scaling, calibrated | no correction | -17 ± 8 % | no excess |")
    assert line.split(" | ")[4] == "0.400 → 0.500"
