"""What goes wrong in a real WebUI: told in a sentence under the picture, which is drawn as without us."""

import json
import os
import re

import pytest

from steadydiff.schedules import MadeFor, Schedule

FIELDS = {
    "prompt": "a cat",
    "seed": 5,
    "steps": 4,
    "cfg_scale": 3.0,
    "width": 64,
    "height": 64,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
    "save_images": False,
}
SCALED = {"epsilon_scaling": {"scale": 1.05}}
NORM = {"mode": "norm", "strength": 0.3, "start_percent": 0.0}
REFINER = {"override_settings": {"sd_model_checkpoint": "refiner"}}
FROM_FILE = {
    "steadydiff_schedules": {"epsilon_scaling": {"schedule": "file", "schedule_file": "x.json"}},
    "steadydiff_measurements": {"diffier": {**NORM, "measurement": "x.json"}},
}

CALIBRATED = """
from steadydiff_webui import calibration

given = {"prompt": "a cat", "negative_prompt": "a dog", "scheduler": "Automatic", "distilled_cfg_scale": 3.5}
given |= {"steps": 4, "cfg_scale": 3.0, "width": 64, "height": 64, "sampler_name": sampler}
settings = [given[name] for name in calibration.SETTINGS]
result = calibration.clicked(*settings, "norm", 2, 2, "mine")[-1]
"""

INTERRUPTED = """
from modules import script_callbacks, shared
from actions import generate

def stop(params):
    shared.state.interrupted = params.denoiser.step == 1

script_callbacks.on_cfg_denoiser(stop, name="stop")
try:
    result = generate(args={"SteadyDiff": [named]})
finally:
    script_callbacks.remove_callbacks_for_function(stop)
    shared.state.interrupted = False
"""

BROKEN = """
from actions import generate
from steadydiff_webui import script
from steadydiff_webui.panels import epsilon_scaling

def fail(*args):
    raise RuntimeError("a mistake of ours")

holder, name = (vars(epsilon_scaling.PANEL), "plan") if where == "plan" else (vars(script), "read")
kept, holder[name] = holder[name], fail
try:
    result = generate(args={"SteadyDiff": [named]})
finally:
    holder[name] = kept
"""

SETTING = """
from modules import shared
from steadydiff_webui.folders import SCHEDULES

shared.opts.data[SCHEDULES.setting] = folder
result = list(SCHEDULES.files())
"""


UNREAD = """
from pathlib import Path
from actions import generate

read, rglob = [], Path.rglob
Path.rglob = lambda path, *args, **more: read.append(str(path)) or rglob(path, *args, **more)
try:
    result = {**generate(args={"SteadyDiff": [named]}), "read": read}
finally:
    Path.rglob = rglob
"""


@pytest.fixture
def post(packed):
    """Return a function: the API's answer to panels' values, None being without us."""

    def post(*args, **fields):
        ours = {"alwayson_scripts": {"SteadyDiff": {"args": [*args]}}} if args else {}
        return packed.ask("http", method="POST", path="/sdapi/v1/txt2img", body={**FIELDS, **ours, **fields})

    return post


@pytest.fixture
def draw(post):
    """Return a function: pictures' hashes, the first infotext and what the API tells of us beside it."""

    def draw(*args, **fields):
        answer = post(*args, **fields)
        assert answer["status"] == 200, answer
        info = json.loads(answer["json"]["info"])
        return answer["json"]["digests"], info["infotexts"][0], info["extra_generation_params"]

    return draw


@pytest.fixture
def kept(packed):
    """Return a function that writes a file among the host's models; it is gone afterwards."""
    written = []

    def keep(content, name="x.json", folder="steadydiff_schedules"):
        file = packed.data / "models" / folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        written.append(file)
        return FROM_FILE[folder]

    yield keep
    for file in written:
        file.unlink(missing_ok=True)


def schedule(values=(1.02, 1.0123456789, 1.005, 1.001), **made_for):
    return Schedule("table", values, MadeFor(**made_for)).to_json()


# --- files and errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FROM_FILE)
@pytest.mark.parametrize("content", [b'{"caf\xe9": 1}', b"[" * 200_000, b"{}"])
def test_a_file_that_cannot_be_read_is_told(draw, kept, folder, content):
    images, infotext, told = draw(kept(content, folder=folder))
    assert images == draw()[0] and told["SteadyDiff error"] in infotext.replace('\\"', '"')
    assert "SteadyDiff run" not in infotext


@pytest.mark.parametrize("folder", FROM_FILE)
def test_a_folder_called_like_a_file_is_told(packed, draw, folder):
    path = packed.data / "models" / folder / "x.json"
    path.mkdir(parents=True)
    try:
        images, _, told = draw(FROM_FILE[folder])
    finally:
        path.rmdir()
    assert images == draw()[0] and "there is no file 'x.json'" in told["SteadyDiff error"]


@pytest.mark.parametrize("where", ["plan", "read"])
def test_an_error_nobody_expected_is_told(packed, where):
    made, plain = packed.ask("run", source=BROKEN, named=SCALED, where=where), packed.generate()
    assert made["images"] == plain["images"] and made["swallowed"] == []
    for said in (made["comments"], made["infotexts"][0]):
        assert "RuntimeError: a mistake of ours" in said


def test_an_interrupted_picture_says_how_far_it_was_corrected(packed):
    made = packed.ask("run", source=INTERRUPTED, named=SCALED)
    assert "acted at 2 of 2 model calls; 2 model calls; interrupted" in made["infotexts"][0]
    assert "interrupted" not in packed.generate(args={"SteadyDiff": [SCALED]})["infotexts"][0]


# --- schedules and what they are made for -----------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["LCM", "DPM++ 3M SDE", "DPM++ 2M SDE", "DPM++ SDE", "Euler a"])
def test_a_sampler_that_adds_noise_is_calibrated(packed, draw, sampler):
    try:
        said = packed.ask("run", source=CALIBRATED, sampler=sampler)
        assert "Kept as mine.json" in said and "4 scales" in said
        replaced = packed.ask("run", source=CALIBRATED, sampler=sampler)
        assert "Kept as mine.json, in the place of another" in replaced
        named = {"epsilon_scaling": {"schedule": "file", "schedule_file": "mine.json"}}
        images, infotext, told = draw(named, sampler_name=sampler)
    finally:
        for file in packed.data.glob("models/steadydiff_*/mine.json"):
            file.unlink()
    assert images != draw(sampler_name=sampler)[0]
    assert "SteadyDiff run" in infotext and told.keys().isdisjoint({"SteadyDiff error", "SteadyDiff warning"})


@pytest.mark.parametrize(
    ("made_for", "fields", "said"),
    [
        ({"model": "tiny", "sampler": "euler", "cfg": 3.0}, {}, ""),
        ({"model": "other"}, {}, "model tiny, made for other"),
        ({"model": "tiny"}, REFINER, "model refiner, made for tiny"),
        ({"cfg": 7.0}, {}, "cfg 3.0, made for 7.0"),
    ],
)
def test_a_schedule_made_for_something_else_acts_with_a_warning(draw, kept, made_for, fields, said):
    images, infotext, told = draw(kept(schedule(**made_for)), **fields)
    assert said in told.get("SteadyDiff warning", "") and bool(said) is ("SteadyDiff warning" in told)
    assert images != draw(**fields)[0] and "SteadyDiff run" in infotext


def test_other_noise_levels_are_told_apart_in_numbers(packed, draw, kept):
    packed.ask("run", source=CALIBRATED, sampler="Euler")
    try:
        named = {"epsilon_scaling": {"schedule": "file", "schedule_file": "mine.json"}}
        told = draw(named, scheduler="Karras")[2]["SteadyDiff warning"]
    finally:
        for file in packed.data.glob("models/steadydiff_*/mine.json"):
            file.unlink()
    ours, theirs = re.fullmatch(r".*sigmas of step \d ([\d.]+), made for ([\d.]+),.*", told).groups()
    assert ours != theirs


def test_each_pass_tells_its_own(packed, kept):
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 1.0, "steps": 4}
    made = packed.generate(args={"SteadyDiff": [kept(schedule(model="other"))]}, **hires)
    first, second = made["comments"].strip().splitlines()
    assert first.startswith("SteadyDiff: ") and second.startswith("SteadyDiff, hires pass: ")
    for key in ("SteadyDiff warning: ", "SteadyDiff hires warning: ", "SteadyDiff hires run: "):
        assert key in made["infotexts"][0]


def test_a_picture_can_be_redrawn_when_its_file_is_another(draw, kept):
    images, infotext, told = draw(kept(schedule()))
    values = told["SteadyDiff Epsilon Scaling schedule_file values"]
    assert values == "1.02, 1.0123456789, 1.005, 1.001" and values in infotext
    kept(schedule((1.1, 1.1, 1.1, 1.1)))
    assert draw(FROM_FILE["steadydiff_schedules"])[0] != images
    assert draw({"epsilon_scaling": {"schedule": "table", "table": values}})[0] == images


def test_the_second_folder_is_found_as_by_a_shell_or_told(packed, draw, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.json").write_text(schedule(), encoding="utf-8")
    chosen = {"epsilon_scaling": {"schedule": "file", "schedule_file": "sub/mine.json"}}
    home = packed.ask("run", source="import os\nresult = os.path.expanduser('~')")
    try:
        (one,) = packed.ask("run", source=SETTING, folder=f"~/{os.path.relpath(tmp_path, home)}")
        assert one == "sub/mine.json" and "SteadyDiff run" in draw(chosen)[1]
        packed.ask("run", source=SETTING, folder=str(tmp_path / "gone"))
        images, infotext, told = draw(SCALED)
        assert "gone', is no folder" in told["SteadyDiff warning"] and images != draw()[0]
        assert "SteadyDiff run" in infotext
        assert "is no folder" in draw(chosen)[2]["SteadyDiff error"]
    finally:
        packed.ask("run", source=SETTING, folder="")


def test_a_chosen_file_is_found_without_reading_the_folder(packed, kept):
    made = packed.ask("run", source=UNREAD, named=kept(schedule((1.02,) * 5)))
    assert made["read"] == [] and "SteadyDiff run" in made["infotexts"][0] and made["comments"] == ""


# --- API --------------------------------------------------------------------------------------------------

WRONG = {
    "unknown": ({"epsilon_scaling": {"scael": 1.05}}, "has no 'scael'; it has enabled, scale"),
    "out of range": ({"epsilon_scaling": {"scale": 9}}, "scale is a number from 0.5 to 1.5"),
    "cut": ({"diffier": {"iterations": 1.7}}, "iterations is a whole number"),
    "a truth": ({"epsilon_scaling": {"scale": True}}, "scale is a number"),
    "no such panel": ({"epsilon": {}}, "there is no 'epsilon'; there are epsilon_scaling"),
    "no file": ({"antibias_prompt": {}}, "choose a file"),
    "found by the run": ({"epsilon_scaling": {"schedule": "table", "table": "1.01"}}, "the run has 4"),
    "too long": ({"epsilon_scaling": {"schedule": "table", "table": "1.005, " * 120_000}}, "at most 20,000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_or_refused_if_strict(post, draw, name):
    wrong, said = WRONG[name]
    images, infotext, told = draw(wrong)
    assert images == draw()[0] and said in told["SteadyDiff error"] and len(infotext) < 3000
    answer = post({"strict": True, **wrong})
    assert answer["status"] == 422 and answer["json"]["detail"].startswith(told["SteadyDiff error"][:500])
    assert draw(SCALED) == draw({"strict": True, **SCALED})  # and the next request is as before


@pytest.mark.parametrize(
    ("args", "same"),
    [
        ([True, SCALED], [SCALED]),  # as ADetailer's
        ([False, SCALED], None),
        ([{"epsilon_scaling": {"enabled": 1, "scale": 1.05}}], [SCALED]),
        ([{"epsilon_scaling": {"enabled": "false", "scale": 1.05}}], None),
        ([{"diffier": {"iterations": 2.0}}], [{"diffier": {"iterations": 2}}]),
    ],
)
def test_every_form_of_a_request_is_read_as_meant(draw, args, same):
    images, infotext, _ = draw(*args)
    assert "SteadyDiff error" not in infotext and images == draw(*(same or []))[0]
    assert (images == draw()[0]) is (same is None)


@pytest.mark.parametrize("args", [[SCALED, SCALED], [True, False, SCALED]])
def test_a_second_object_or_one_in_another_place_is_told(draw, args):
    images, _, told = draw(*args)
    assert images == draw()[0] and "one object of panels" in told["SteadyDiff error"]
