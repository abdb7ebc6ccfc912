"""Auto Correct in the double: its button measures and keeps; then the fit that matches is used."""

import importlib
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from PIL import Image

from steadydiff.drift.correction import PLAIN

STEPS = 3
SETTINGS = {
    "prompt": "a cat",
    "negative_prompt": "a dog",
    "sampler_name": "Euler",
    "scheduler": "Automatic",
    "steps": STEPS,
    "cfg_scale": 3.0,
    "width": 64,
    "height": 64,
}
USE = {"auto_correct": {"quality": "quick"}}


@pytest.fixture(scope="module")
def ours(webui, script):
    """The extension's modules by name."""
    names = ("auto_correct", "folders", "host", "panels.auto_correct", "panels.epsilon_scaling")
    found = {name: importlib.import_module(f"steadydiff_webui.{name}") for name in names}
    return SimpleNamespace(**{name.replace(".", "_"): module for name, module in found.items()})


@pytest.fixture(scope="module")
def press(ours):
    """Press the button; returns all that is shown, one after another."""

    def press(pictures="", again=False, batch_size=8, stand_in="own samples", **changed):
        settings = {**SETTINGS, **changed}
        values = [settings[name] for name in ours.auto_correct.SETTINGS]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours.auto_correct, "POLL_SECONDS", 0.001)  # the tiny run is over in no time
            given = "quick", pictures, batch_size, again, stand_in
            return [*ours.auto_correct.clicked(*values, *given)]

    return press


@pytest.fixture(scope="module")
def measured(ours, press):
    """The name and the text of a fit that was measured."""
    press()
    [file] = ours.folders.FITS.home.iterdir()
    return file.name, file.read_text()


@pytest.fixture(autouse=True)
def kept(ours, measured):
    """The folder of fits, which is empty before and after."""
    home = ours.folders.FITS.home
    for file in home.glob("*"):
        file.unlink()
    yield home
    for file in home.glob("*"):
        file.unlink()


@pytest.fixture
def choose(kept, measured):
    """Keep a fit as it was measured, with another correction; returns its file."""

    def choose(**correction):
        name, text = measured
        data = json.loads(text)
        data["fit"]["correction"] = asdict(replace(PLAIN, **correction))
        (kept / name).write_text(json.dumps(data))
        return kept / name

    return choose


def pixels(processed):
    return [image.tobytes() for image in processed.images]


@pytest.mark.slow
def test_the_button_measures_keeps_and_switches_on(press, kept):
    *_, (switch, curve, said, start, stop) = shown = press()
    [file] = kept.iterdir()
    assert file.name.startswith("tiny_euler_3_cfg3_") and file.name in said and switch is True
    assert "No pictures connected: few-step error only" in said and curve["visible"]
    assert (start["interactive"], stop["interactive"]) == (True, False)
    assert any("About to measure: the time of" in one[2] or "Measuring" in one[2] for one in shown[:-1])
    again = press(prompt="another")[-1][2]
    assert "measured before" in again and len([*kept.iterdir()]) == 1
    assert "measured before" not in press(again=True)[-1][2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "correction", [{"factor": 0.9}, {"scale": 1.04}, {"scale": 1.08, "later": True, "factor": 1.1}], ids=str
)
def test_the_fit_that_matches_is_used_and_said(choose, draw, correction):
    choose(**correction)
    plain, made = draw(), draw(USE)
    assert pixels(made) != pixels(plain) and made.comments == ""
    text = made.infotexts[0]
    assert "SteadyDiff Auto Correct quality: quick" in text and "SteadyDiff run: " in text
    assert ("c 0.9" in text or "c 1.1" in text) == ("factor" in correction)
    assert ("Time Shift noise level times" in text) == ("factor" in correction)
    assert ("Epsilon Scaling lambda" in text) == ("scale" in correction)


@pytest.mark.slow
def test_a_fit_that_corrects_nothing_changes_no_bit(choose, draw):
    choose()
    made = draw(USE)
    assert pixels(made) == pixels(draw()) and made.comments == ""
    assert "SteadyDiff run: the fit leaves this model as it is" in made.infotexts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [{"steps": 4}, {"cfg_scale": 2.0}, {"sampler_name": "Heun"}, {"sampler_name": "DDIM"}], ids=str
)
def test_without_a_match_nothing_is_applied_and_the_run_says_so(choose, draw, other):
    choose(factor=0.9)
    made = draw(USE, **other)
    assert pixels(made) == pixels(draw(**other)) and made.comments == ""
    assert 'SteadyDiff run: "no fit for ' in made.infotexts[0]
    assert pixels(draw(USE)) != pixels(draw())


def test_another_checkpoint_lora_or_quality_is_no_match(webui, choose, draw, ours, monkeypatch):
    choose(factor=0.9)
    p = SimpleNamespace(extra_network_data={"lora": [SimpleNamespace(items=["a", "0.5"])]})
    assert (
        ours.host.weights(p)
        != ours.host.weights(SimpleNamespace())
        == ours.host.weights(
            SimpleNamespace(extra_network_data={"lora": []}, refiner_checkpoint="None", refiner_switch_at=0.8)
        )
    )
    assert "no fit for" in draw({"auto_correct": {"quality": "normal"}}).infotexts[0]
    monkeypatch.setattr(webui.shared.sd_model.sd_checkpoint_info, "model_name", "other")
    assert "no fit for" in draw(USE).infotexts[0]


def test_off_is_off(choose, draw):
    choose(factor=0.9)
    assert pixels(draw({"auto_correct": {"enabled": False}})) == pixels(draw())


@pytest.mark.slow
def test_real_pictures_are_measured_against(press, tmp_path, kept):
    for number in range(9):
        Image.new("RGB", (70, 90 + number), (20 * number, 90, 200)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    said = press(str(tmp_path))[-1][2]
    assert f"against 9 pictures of {tmp_path}" in said and "few-step" not in said
    for same in {}, {"width": 128}, {"batch_size": 3}:
        assert "measured before" in press(str(tmp_path), **same)[-1][2]
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    assert "measured before" not in press(str(tmp_path))[-1][2]
    assert "measured before" not in press()[-1][2]  # its own samples are asked for


@pytest.mark.slow
def test_pictures_that_ship_serve_where_no_folder_is_named(press, tmp_path):
    said = press(stand_in="shipped pictures")[-1][2]
    assert "Against 16 shipped pictures, which show also what differs" in said
    assert "measured before" in press(stand_in="shipped pictures")[-1][2]
    assert "measured before" not in press()[-1][2]
    for number in range(8):
        Image.new("RGB", (64, 64), (20 * number, 90, 200)).save(tmp_path / f"{number}.png")
    assert f"against 8 pictures of {tmp_path}" in press(str(tmp_path), stand_in="shipped pictures")[-1][2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pictures": "/nowhere"}, "has no PNG, JPEG or WebP file"),
        ({"pictures": "~nobody-of-this-name/a"}, "has no PNG, JPEG or WebP file"),
        ({"pictures": "a" * 999}, "has no PNG, JPEG or WebP file"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"sampler_name": "DDIM"}, "the sampler ddim does not go through"),
    ],
)
def test_what_cannot_be_measured_is_told(press, kept, given, said):
    switch, _, told, *_ = press(**given)[-1]
    assert said in told and "class='error'" in told and switch == {"__type__": "update"}
    assert not kept.exists() or not [*kept.iterdir()]


@pytest.mark.slow
def test_stopped_it_says_so_and_goes_on_from_there(webui, press, kept, ours, monkeypatch):
    calls, after = [], 20
    denoiser = importlib.import_module("modules.sd_samplers").CFGDenoiser
    begin = denoiser.begin

    def counted(self):
        calls.append(1)
        if len(calls) == after:
            ours.auto_correct.cancel()
        begin(self)

    monkeypatch.setattr(denoiser, "begin", counted)
    assert "Cancelled. What was measured is kept" in press()[-1][2]
    assert [one.suffix for one in kept.iterdir()] == [".safetensors"] and not webui.shared.state.interrupted
    calls.clear()
    after = -1
    press()
    resumed = len(calls)
    calls.clear()
    press(again=True)
    assert resumed < len(calls) and [one.suffix for one in kept.iterdir()] == [".json"]


def test_stop_ends_what_another_page_started_too(webui, ours, monkeypatch):
    began = []
    monkeypatch.setattr(ours.auto_correct.Measuring, "start", lambda self: began.append(self))
    for _ in range(2):  # two pages; the second waits for the first
        values = [SETTINGS[name] for name in ours.auto_correct.SETTINGS]
        next(ours.auto_correct.clicked(*values, "quick", "", 8, False, "own samples"))
    ours.auto_correct.cancel()
    for one in began:
        one.run()
    assert [one.error[:10] for one in began] == ["Cancelled."] * 2


def test_what_it_found_can_be_chosen_as_a_schedule(choose, draw):
    file = choose(scale=1.04)
    named = {"epsilon_scaling": {"schedule": "file", "schedule_file": f"auto/{file.name}"}}
    assert pixels(draw(named)) == pixels(draw(USE)) != pixels(draw())
    choose(factor=0.9)
    assert "is no schedule; use Auto Correct" in draw(named).comments
