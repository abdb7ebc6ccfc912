"""Auto Correct's button and the fit that matches, and Time Shift, in real WebUIs."""

import json

import pytest

PRESSED = """
from pathlib import Path

from steadydiff_webui import auto_correct, folders

given = {"prompt": "a cat", "negative_prompt": "a dog", "sampler_name": "Euler", "scheduler": "Automatic"}
given |= {"steps": 3, "cfg_scale": 3.0, "distilled_cfg_scale": 3.5, "width": 64, "height": 64, **changed}
settings = [given[name] for name in auto_correct.SETTINGS]
shown = [one for one in auto_correct.clicked(*settings, "quick", pictures, 8, again, stand_in)]
result = [one[2] for one in shown], shown[-1][0] is True, sorted(map(str, folders.FITS.home.glob("*.json")))
"""
USE = {"auto_correct": {"quality": "quick"}}
FIELDS = {
    "sampler_name": "Euler",
    "steps": 3,
    "cfg_scale": 3.0,
    "prompt": "a cat",
    "negative_prompt": "a dog",
}


@pytest.fixture
def press(packed):
    """Press the button; returns what was said at last, whether use was switched on, and the kept files."""
    yield lambda pictures="", again=False, stand_in="own samples", **changed: packed.ask(
        "run", source=PRESSED, pictures=pictures, again=again, stand_in=stand_in, changed=changed
    )
    for file in packed.data.glob("models/steadydiff_schedules/auto/*"):
        file.unlink()


@pytest.fixture
def draw(packed):
    """Make a picture; returns its hashes and its infotext."""

    def draw(named=None, **changed):
        args = {"SteadyDiff": [named]} if named else {}
        made = packed.generate(args=args, **{**FIELDS, **changed})
        assert made["swallowed"] == []
        return made["images"], made["infotexts"][0]

    return draw


def rewritten(file, correction):
    with open(file, encoding="utf-8") as stream:
        data = json.load(stream)
    data["fit"]["correction"] = {
        "scale": 1.0,
        "later": False,
        "factor": 1.0,
        "strength": 0.0,
        "s_noise": 1.0,
        **correction,
    }
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(data, stream)


def test_what_the_button_finds_is_used_where_it_matches(press, draw):
    said, switched, [file] = press()
    assert switched and "few-step error only" in said[-1] and "measured before" not in said[-1]
    assert "measured before" in press(prompt="another")[0][-1]
    plain = draw()[0]
    rewritten(file, {"scale": 1.08, "later": True, "factor": 0.9})
    images, infotext = draw(USE)
    assert images != plain and "SteadyDiff error" not in infotext and "SteadyDiff warning" not in infotext
    assert "SteadyDiff Auto Correct quality: quick" in infotext
    assert "fit lambda 1.08 in the later half, c 0.9; Time Shift noise level times 0.9 at 3 of 3" in infotext
    rewritten(file, {})
    images, infotext = draw(USE)
    assert images == plain and "the fit leaves this model as it is" in infotext


@pytest.mark.parametrize("other", [{"steps": 4}, {"cfg_scale": 2.0}, {"sampler_name": "DDIM"}], ids=str)
def test_without_a_match_nothing_is_applied_and_the_run_says_so(draw, other):
    images, infotext = draw(USE, **other)
    assert images == draw(**other)[0] and "SteadyDiff run: " in infotext and "no fit for " in infotext


def test_the_same_correction_by_hand_draws_the_same(press, draw):
    *_, [file] = press()
    rewritten(file, {"factor": 0.9})
    assert draw(USE)[0] == draw({"time_shift": {"factor": 0.9}})[0]


def test_real_pictures_and_what_cannot_be_measured(press, tmp_path):
    from PIL import Image

    for number in range(8):
        Image.new("RGB", (70, 90), (20 * number, 90, 200)).save(tmp_path / f"{number}.png")
    assert f"against 8 pictures of {tmp_path}" in press(str(tmp_path))[0][-1]
    assert "against 16 shipped pictures" in press(stand_in="shipped pictures")[0][-1]
    assert f"against 8 pictures of {tmp_path}" in press(str(tmp_path), stand_in="shipped pictures")[0][-1]
    assert "does not go through" in press(sampler_name="DDIM")[0][-1]


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "Heun", "DDIM", "PLMS", "UniPC", "LCM"])
def test_time_shift_acts_in_every_kind_of_sampler(packed, draw, sampler):
    if sampler not in packed.ask("samplers"):
        pytest.skip(f"this host has no {sampler}")
    changed = {"sampler_name": sampler, "steps": 4}
    images, infotext = draw({"time_shift": {"factor": 0.9}}, **changed)
    plain = draw(**changed)[0]
    assert images != plain and "SteadyDiff error" not in infotext
    assert "Time Shift noise level times 0.9 at " in infotext
    assert draw({"time_shift": {"factor": 1.0}}, **changed)[0] == plain
    levels = {"time_shift": {"factor": 1.0, "levels": 21.0}}
    assert draw(levels, **changed)[0] not in (plain, images)
