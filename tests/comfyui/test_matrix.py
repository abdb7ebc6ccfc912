"""A part of `run.py bench matrix`: every method, sampler, kind of model and way to run meets every other."""

from itertools import combinations, product

import pytest

from tools.bench.shared import tries as matrix
from tools.launch.inprocess import host_path

ROWS = list(matrix.pairwise()) if host_path() else []
PAIRS = list(combinations(matrix.METHODS, 2))
PATCHED = list(product(matrix.METHODS, matrix.PATCHES))
PARTNERED = list(product(matrix.METHODS, matrix.PARTNERS))
# Whose state a sampler does not share; whose second output a part of the frames would have.
DECLINED = {("Anti-Bias Prompt", "uni_pc"), ("MDSS", "uni_pc"), ("Anti-Bias Prompt", "uni_pc_bh2")}
DECLINED |= {("MDSS", "uni_pc_bh2"), ("MDSS", "Context Windows")}


def said(answer):
    """What is wrong; of a refusal that it is one."""
    return matrix.REFUSED if answer.startswith(matrix.REFUSED) else answer


def expected(method, other):
    return matrix.REFUSED if (method, other) in DECLINED else ""


def test_a_method_more_is_tried(monkeypatch):
    monkeypatch.setitem(matrix.METHODS, "One More", ("OneMore", {}, {}))
    assert {row[0] for row in matrix.pairwise()} == set(matrix.METHODS)


def test_every_two_values_meet():
    for a, b in combinations(range(4), 2):
        values = [set(column) for column in zip(*ROWS, strict=True)]
        met = {(row[a], row[b]) for row in ROWS}
        missing = set(product(values[a], values[b])) - met
        assert all(pair[0] == "CFG++" and not pair[1].endswith("cfg_pp") for pair in missing), missing


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_off_is_off_on_is_reproducible_and_an_interrupted_run_leaves_nothing(row):
    method, _, _, sampler = row
    assert said(matrix.check(*row)) == expected(method, sampler)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_methods_together_in_either_order(pair):
    i = PAIRS.index(pair)
    kind, sampler = matrix.KINDS[i % 4], matrix.SOME_SAMPLERS[i % len(matrix.SOME_SAMPLERS)]
    assert matrix.check_pair(*pair, kind, sampler) == ""


@pytest.mark.parametrize("both", PATCHED, ids=" with ".join)
def test_a_method_beside_a_patch_of_the_hosts(both):
    i = PATCHED.index(both)
    kind, sampler = matrix.KINDS[i % 4], matrix.SOME_SAMPLERS[i % 5]
    assert said(matrix.check_patch(*both, kind, sampler)) == expected(*both)


@pytest.mark.parametrize("both", PARTNERED, ids=" with ".join)
def test_a_method_beside_a_patch_that_keeps_a_memory(both):
    i = PARTNERED.index(both)
    for sampler in matrix.SOME_SAMPLERS if both[0] == "DiffIER" else matrix.SOME_SAMPLERS[i::5]:
        assert matrix.check_partner(*both, matrix.KINDS[i % 4], sampler) == ""


def test_a_method_that_is_not_off_is_seen(monkeypatch):
    monkeypatch.setitem(matrix.METHODS, "DiffIER", ("DiffIER", {}, {"start_percent": 0.0}))
    assert matrix.check("DiffIER", "epsilon", "plain", "euler") == "off changes the picture"
    assert matrix.check_pair("DiffIER", "MDSS", "flow", "euler") == "off they change the picture"
    assert matrix.check_patch("DiffIER", "APG", "flow", "euler") == "off changes the picture"
