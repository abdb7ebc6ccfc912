"""What requests send as script arguments: every form is read as meant, or refused in one sentence."""

import importlib
from types import SimpleNamespace

import pytest

from steadydiff.errors import SteadyDiffError

SCALED = {"epsilon_scaling": {"scale": 1.05}}


def pixels(processed):
    return [image.tobytes() for image in processed.images]


@pytest.fixture(scope="module")
def read(webui, script):
    """Return a function from script arguments to the values of the panels that are on."""
    arguments = importlib.import_module("steadydiff_webui.arguments")
    return lambda *args: {
        panel.name: values for panel, values in arguments.enabled(arguments.read(SimpleNamespace(), args))
    }


@pytest.mark.slow
def test_a_whole_number_is_not_cut_and_a_truth_is_no_number(read):
    assert read({"diffier": {"iterations": 2.0}})["diffier"]["iterations"] == 2
    for given in ({"diffier": {"iterations": 1.7}}, {"diffier": {"iterations": "1.7"}}):
        with pytest.raises(SteadyDiffError, match="iterations is a whole number from 0 to 100; got"):
            read(given)
    for given in ({"epsilon_scaling": {"scale": True}}, {"diffier": {"iterations": True}}):
        with pytest.raises(SteadyDiffError, match="is a (whole )?number from .*; got True"):
            read(given)


@pytest.mark.parametrize(("given", "on"), [(1, True), (0, False), ("true", True), ("FALSE", False)])
def test_a_switch_takes_what_means_true_or_false(read, given, on):
    assert ("epsilon_scaling" in read({"epsilon_scaling": {"enabled": given}})) is on


@pytest.mark.parametrize("given", [2, "yes", None, 0.5])
def test_a_switch_takes_nothing_else(read, given):
    with pytest.raises(SteadyDiffError, match="enabled is True or False; got"):
        read({"epsilon_scaling": {"enabled": given}})


def test_one_switch_may_stand_before_the_object(read):
    assert read(True, SCALED)["epsilon_scaling"]["scale"] == 1.05
    assert read(False, SCALED) == {}


@pytest.mark.parametrize(
    "idle",
    [
        {"diffier": {"enabled": False, "strength": None}},  # an emptied box
        {"mdss": {"enabled": False, "file": "gone.safetensors"}},
        {"epsilon_scaling": {"scale": 1.05, "tsr_k": None, "schedule_file": "gone.json"}},  # hidden
    ],
)
def test_what_is_off_or_hidden_keeps_nothing_from_acting(read, draw, idle):
    assert read({**SCALED, **idle}) == read(SCALED)
    assert pixels(draw({**SCALED, **idle})) == pixels(draw(SCALED)) != pixels(draw())


@pytest.mark.parametrize("args", [(SCALED, SCALED), (True, SCALED, SCALED), (True, False, SCALED)])
def test_a_second_object_or_one_in_another_place_is_refused(read, args):
    with pytest.raises(SteadyDiffError, match="one object of panels, alone or after one switch"):
        read(*args)


def test_an_unknown_input_is_answered_with_the_panels_own(read):
    with pytest.raises(SteadyDiffError, match="epsilon_scaling has no 'scael'; it has enabled, scale, slope"):
        read({"epsilon_scaling": {"scael": 1.05}})
    with pytest.raises(SteadyDiffError, match="there is no 'epsilon'; there are epsilon_scaling, diffier"):
        read({"epsilon": {"scale": 1.05}})
    with pytest.raises(SteadyDiffError, match=r"epsilon_scaling is an object of its inputs.*; got 1\.05"):
        read({"epsilon_scaling": 1.05})


def test_a_text_is_a_text_of_a_sensible_length(read):
    with pytest.raises(SteadyDiffError, match=r"table is a text; got \[1\.0\]"):
        read({"epsilon_scaling": {"schedule": "table", "table": [1.0]}})
    assert read({"epsilon_scaling": {"table": 1.01}})["epsilon_scaling"]["table"] == "1.01"


def test_what_is_too_long_is_neither_taken_nor_told_in_full(draw):
    table = "1.005, " * 120_000
    made = draw({"epsilon_scaling": {"schedule": "table", "table": table}})
    assert "table is a text of at most 20,000 characters; got 840,000" in made.comments
    made = draw({"epsilon_scaling": {"schedule": table}})
    assert "schedule is one of" in made.comments and len(made.infotexts[0]) < 2000
    assert len(made.comments) < 1000


WRONG = (
    {"epsilon_scaling": {"scale": 9}},
    {"antibias_prompt": {}},  # no file chosen
    {
        "epsilon_scaling": {"schedule": "table", "table": "1.01"}
    },  # of another number of steps: told by the run
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_strict_request_fails_instead_of_drawing_without_us(draw, wrong):
    loose = draw(wrong)
    assert pixels(loose) == pixels(draw()) and "SteadyDiff error" in loose.infotexts[0]
    with pytest.raises(SteadyDiffError) as told:
        draw({"strict": True, **wrong})
    assert str(told.value) in loose.comments
    assert vars(told.value) == {"status_code": 422, "detail": str(told.value)}  # what the hosts' API answers


def test_strict_changes_nothing_where_all_is_well(draw):
    assert pixels(draw({"strict": True, **SCALED})) == pixels(draw(SCALED))
    with pytest.raises(SteadyDiffError, match="strict is True or False; got 'perhaps'"):
        draw({"strict": "perhaps", **SCALED})
    with pytest.raises(SteadyDiffError, match="scale is a number"):
        draw({"strict": True, "epsilon_scaling": {"scale": [1]}})
