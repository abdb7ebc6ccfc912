"""A schedule's origin: what it was made for is compared, and what a file held is told in the infotext."""

import importlib

import pytest

from steadydiff.schedules import MadeFor, Schedule

STEPS = 3
NORM = {"mode": "norm", "start_percent": 0.0}


@pytest.fixture
def folders(webui, script):
    return importlib.import_module("steadydiff_webui.folders")


@pytest.fixture
def kept(folders):
    """Return a function that keeps a schedule as a file and chooses it."""

    def keep(name="mine", values=(1.02, 1.0123456789, 1.001), **facts):
        folders.SCHEDULES.home.mkdir(exist_ok=True, parents=True)
        text = Schedule("table", values, MadeFor(**facts)).to_json()
        (folders.SCHEDULES.home / f"{name}.json").write_text(text, encoding="utf-8")
        return {"epsilon_scaling": {"schedule": "file", "schedule_file": f"{name}.json"}}

    return keep


@pytest.mark.slow
def test_a_schedule_of_another_checkpoint_is_warned_of(draw, kept):
    assert draw(kept(model="tiny")).comments == ""
    made = draw(kept(model="other"))
    assert "the schedule does not fit this run: model tiny, made for other" in made.comments
    assert "SteadyDiff warning" in made.infotexts[0] and "SteadyDiff run" in made.infotexts[0]


def test_each_pass_tells_its_own(draw, kept):
    made = draw(kept(model="other"), enable_hr=True, hr_scale=1.5, denoising_strength=1.0)
    first, second = made.comments.splitlines()
    assert first.startswith("SteadyDiff: ") and second.startswith("SteadyDiff, hires pass: ")


def test_a_files_values_are_told_so_that_they_redraw_the_picture_when_it_is_gone(draw, kept):
    first = draw(kept())
    told = 'SteadyDiff Epsilon Scaling schedule_file values: "1.02, 1.0123456789, 1.001"'
    assert told in first.infotexts[0]
    again = draw({"epsilon_scaling": {"schedule": "table", "table": "1.02, 1.0123456789, 1.001"}})
    assert [one.tobytes() for one in again.images] == [one.tobytes() for one in first.images]
    other = draw(kept(values=(1.1, 1.1, 1.1)))
    assert 'schedule_file values: "1.1, 1.1, 1.1"' in other.infotexts[0]
    assert "values:" not in draw({"epsilon_scaling": {"schedule_file": "mine.json"}}).infotexts[0]  # not used


def test_a_measurements_hash_and_checkpoint_are_told(webui, script, draw, folders):
    calibration = importlib.import_module("steadydiff_webui.calibration")
    given = {"prompt": "a cat", "negative_prompt": "", "sampler_name": "Euler", "scheduler": "Automatic"}
    settings = {**given, "steps": STEPS, "cfg_scale": 3.0, "width": 64, "height": 64}
    file = calibration.keep(calibration.calibrate(settings, "norm", 2, 2), "one")
    made = draw({"diffier": {**NORM, "measurement": file}})
    start = made.infotexts[0].index("SteadyDiff DiffIER measurement hash: ")
    assert made.comments == ""
    path = folders.MEASUREMENTS.home / file
    path.write_text(path.read_text().replace('"model": "tiny"', '"model": "other"'))
    changed = draw({"diffier": {**NORM, "measurement": file}})
    assert changed.infotexts[0][start:][:50] != made.infotexts[0][start:][:50]
    assert "the measurement was made on other, this is tiny" in changed.comments


def test_a_file_that_cannot_be_read_is_told_once(draw, kept, folders):
    kept("bad")
    (folders.SCHEDULES.home / "bad.json").write_text("{")
    made = draw({"epsilon_scaling": {"schedule": "file", "schedule_file": "bad.json"}})
    assert len(made.comments.splitlines()) == 1 and "a schedule is JSON" in made.comments


@pytest.mark.slow
def test_measure_says_what_it_replaced(webui, script):
    calibration = importlib.import_module("steadydiff_webui.calibration")
    given = {"prompt": "a cat", "negative_prompt": "", "sampler_name": "Euler", "scheduler": "Automatic"}
    given |= {"steps": STEPS, "cfg_scale": 3.0, "width": 64, "height": 64}
    settings = [given.get(name) for name in calibration.SETTINGS]
    first, second = (calibration.clicked(*settings, "uniform", 2, 1, "twice")[-1] for _ in range(2))
    assert "Kept as twice.json, and chosen" in first
    assert "Kept as twice.json, in the place of another, and chosen" in second
