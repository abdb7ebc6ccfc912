"""The frame of the benches: cells are kept, resumed and shown; ratios are paired."""

import json

import pytest

from steadydiff.errors import SettingsError
from tools.bench.shared import frame as bench_frame
from tools.bench.shared.frame import Bench, paired_ratio, table
from tools.launch.console import Stop, exit_with


@pytest.fixture
def ledger() -> list[str]:
    """The cells measured, in order."""
    return []


@pytest.fixture
def bench(tmp_path, ledger):
    """Makes a bench of the cells a, b and c (the last one not quick)."""

    def make(*arguments: str, facts: dict | None = None, stop_at: str = "") -> Bench:
        made = Bench("example", facts or {"steps": (1, 2)}, list(arguments), results=tmp_path)

        def measure(key: str) -> dict:
            if key == stop_at:
                raise KeyboardInterrupt
            ledger.append(key)
            return {"value": float(len(ledger))}

        for key in "abc":
            made.cell(key, lambda key=key: measure(key), quick=key != "c")
        return made

    return make


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_stopped_run_shows_what_is_missing_and_is_resumed(bench, ledger, capsys):
    assert bench(stop_at="b").run() == 130
    assert last_line(capsys)["cells"] == {"a": {"value": 1.0}, "b": None, "c": None}
    assert bench().run() == 0
    assert ledger == ["a", "b", "c"]
    assert last_line(capsys)["cells"]["c"] == {"value": 3.0}


def test_only_and_fresh_choose_the_cells(bench, ledger):
    bench("--only", "b").run()
    bench("--only", "[ab]").run()
    bench("--only", "b", "--fresh").run()
    assert ledger == ["b", "a", "b"]


def test_kept_cells_are_measured_again_and_compared(bench, ledger, tmp_path, capsys):
    bench("--only", "[ab]").run()
    kept = (tmp_path / "example.json").read_text()
    ledger.pop()
    assert bench("--again").run() == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["a: value 1 is 2", "b: value 2 is 3"]
    assert (tmp_path / "example.json").read_text() == kept
    ledger.clear()
    assert bench("--again", "--only", "a").run() == 0
    assert capsys.readouterr().out == "a: the same\n"
    assert bench("--again", "--only", "c").run() == 1


def test_a_quick_run_keeps_nothing_and_uses_nothing_kept(bench, ledger, tmp_path):
    bench("--quick").run()
    assert ledger == ["a", "b"] and not list(tmp_path.iterdir())
    bench().run()
    bench("--quick").run()
    assert ledger == ["a", "b", "a", "b", "c", "a", "b"]


def test_results_under_other_facts_are_dropped(bench, ledger):
    bench().run()
    bench(facts={"steps": [1, 3]}).run()
    assert ledger == list("abcabc")


def test_the_last_line_is_json_with_the_summary_of_what_was_measured(bench, capsys):
    bench("--quick").run(summary=lambda cells: {"cells": "".join(cells)})
    result = last_line(capsys)
    assert result["bench"] == "example" and result["quick"] and result["summary"] == {"cells": "ab"}


def test_the_table_aligns_figures_and_says_not_run():
    rows = {"short": {"value": 1.23456, "note": "x"}, "much longer": None, "other": {"value": 10}}
    assert table(rows).splitlines() == [
        "               value  note",
        "short          1.235     x",
        "much longer  not run",
        "other             10     -",
    ]


def test_ratios_are_taken_pair_by_pair_in_alternating_order(monkeypatch):
    order, times = [], iter([2, 4, 9, 3, 2, 6])  # ms; the second pair has "ours" first

    def timed(function) -> float:
        function()
        return next(times)

    monkeypatch.setattr(bench_frame, "milliseconds", timed)
    figures = paired_ratio(lambda: order.append("o"), lambda: order.append("r"), rounds=3, warmup=0)
    assert "".join(order) == "roorro"
    assert figures == {"ours_ms": 6, "reference_ms": 2, "ratio": 3}


@pytest.mark.parametrize("error", [Stop("so it is"), SettingsError("so it is")])
def test_a_command_ends_with_the_sentence_of_our_errors_alone(error):
    def main(arguments, error):
        raise error

    with pytest.raises(SystemExit, match="so it is"):
        exit_with(main, error)
    with pytest.raises(KeyError):
        exit_with(main, KeyError("a fault"))
