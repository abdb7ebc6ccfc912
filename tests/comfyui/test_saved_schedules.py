"""Save Schedule and Load Schedule: what is kept is what is loaded, and nothing is lost unasked."""

import sys

import pytest

from steadydiff.schedules import MadeFor, Schedule
from tools.launch.inprocess import PACK, load

MADE_FOR = MadeFor("ddpm", "normal", 4, 7.0, "BaseModel", (8.0, 4.0, 2.0, 1.0, 0.0))
SCHEDULE = Schedule("table", (1.01, 1.02, 1.0, 0.99), MADE_FOR).to_json()


@pytest.fixture(autouse=True)
def folder(host, monkeypatch, tmp_path):
    monkeypatch.setattr(load("folder_paths"), "models_dir", str(tmp_path))
    return tmp_path / "steadydiff_schedules"


@pytest.fixture
def save(pack):
    return lambda name, text=SCHEDULE, overwrite=False: pack["SteadyDiffSaveSchedule"].execute(
        text, name, overwrite
    )


@pytest.fixture
def loaded(pack):
    return lambda name: pack["SteadyDiffLoadSchedule"].execute(name).args


def names(pack):
    [widget] = pack["SteadyDiffLoadSchedule"].define_schema().inputs
    return widget.options


def test_what_was_saved_is_listed_and_loaded(pack, folder, save, loaded):
    assert names(pack) == ["none kept yet"]
    assert save(" 漂移.json")[0] == SCHEDULE
    save("b")
    assert names(pack) == ["b", "漂移"] and (folder / "漂移.json").read_text(encoding="utf-8") == SCHEDULE
    assert loaded("漂移") == (SCHEDULE, SCHEDULE)


def test_nothing_is_overwritten_unasked(save, loaded):
    other = Schedule("uniform", (1.03,)).to_json()
    save("a")
    save("a")  # the very same
    with pytest.raises(Exception, match="called 'a' already; choose another name, or turn overwrite on"):
        save("a", other)
    assert loaded("a")[0] == SCHEDULE
    save("a", other, overwrite=True)
    assert loaded("a")[0] == other


@pytest.mark.parametrize("name", ["", "../a", "b/a", "auto/a", "/a", ".a", "a\\b", "a:b", "a\0b", "ä" * 118])
def test_a_name_is_a_files(folder, save, name):
    with pytest.raises(Exception, match="name is that of a file, without folders"):
        save(name)
    assert not folder.exists()


def test_a_mark_that_some_editors_put_before_a_text_does_no_harm(folder, loaded):
    folder.mkdir()
    (folder / "a.json").write_text("\ufeff" + SCHEDULE, encoding="utf-8")
    assert loaded("a")[0] == SCHEDULE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "'a' cannot be read"),
        (b"{}", "a: a schedule is JSON of format"),
        (b"1.0", "object"),
        (SCHEDULE.replace("1.02", "1.9").encode(), "a: the scale of step 2 is a number from 0.5 to 1.5"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(folder, loaded, content, said):
    folder.mkdir()
    (folder / "a.json").write_bytes(content)
    with pytest.raises(Exception, match=said):
        loaded("a")


def test_a_schedule_that_is_gone_is_named(loaded):
    with pytest.raises(Exception, match="there is no schedule called 'a'; keep one with Save Schedule"):
        loaded("a")


def test_what_auto_correct_found_is_a_schedule_if_it_is_lambda(pack, folder, loaded):
    kept = sys.modules[f"{PACK}.steadydiff.drift.saved_fit"]
    schedules, signs = sys.modules[f"{PACK}.steadydiff.schedules"], kept.Signs(-0.5, 0.1, -0.3, 0.1)
    made_for = schedules.Schedule.from_json(SCHEDULE).made_for
    for name, found in (("later", {"scale": 1.04, "later": True}), ("shift", {"factor": 0.9}), ("none", {})):
        fit = kept.Fit(kept.Correction(**found), "why", signs, signs, {"plain": (1.0, 0.0)}, 1, 1)
        one = kept.SavedFit("k", fit, made_for, 16, "16 connected images", "p", (4, 8, 8))
        kept.save(folder / "auto" / f"{name}.json", one)
    assert names(pack) == ["auto/later", "auto/none", "auto/shift"]
    assert Schedule.from_json(loaded("auto/later")[0]) == Schedule("table", (1.0, 1.0, 1.04, 1.04), MADE_FOR)
    for name, said in (("shift", "found c 0.9 there, which is no schedule"), ("none", "found plain there")):
        with pytest.raises(Exception, match=said):
            loaded(f"auto/{name}")
