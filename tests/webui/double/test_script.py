"""The whole extension, loaded by the double as by a host: its script, panels, infotext and callbacks."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ON = {"epsilon_scaling": {"scale": 1.05}, "diffier": {"strength": 0.3, "start_percent": 0.0}}
NEUTRAL = {"epsilon_scaling": {"scale": 1.0}, "diffier": {"strength": 0.0}}
DISC = torch.zeros(1, 1, 8, 8)
DISC[..., 2:6, 2:6] = 1
PASSES = {
    "Euler": {},
    "Heun": {"sampler_name": "Heun"},
    "DDIM": {"sampler_name": "DDIM"},
    "batches": {"n_iter": 2, "batch_size": 2},
    "img2img": {"init_images": [Image.new("RGB", (64, 64), "teal")], "n_iter": 2},
    "inpainting": {"init_images": [Image.new("RGB", (64, 64), "teal")], "mask": 1 - DISC, "nmask": DISC},
    "hires": {"enable_hr": True, "hr_scale": 1.5},
    "AND": {"prompt": "a cat AND a house :0.5"},
    "cfg 1": {"cfg_scale": 1.0},
}


def pixels(processed):
    return [image.tobytes() for image in processed.images]


@pytest.mark.slow
def test_one_script_is_found_and_its_package_has_a_name_of_its_own(webui, script):
    assert [one.title() for one in script.scripts] == ["SteadyDiff"]
    assert "steadydiff_webui.script" in sys.modules
    assert not {"extension", "nodes", "models", "steadydiff_script.py"} & sys.modules.keys()
    labels = [one.label for one in script.inputs[1:]]
    assert len({*labels}) == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_enabled_acts_and_says_so_and_neutral_or_off_is_off(draw, name):
    plain, made = draw(**PASSES[name]), draw(ON, **PASSES[name])
    assert pixels(draw(NEUTRAL, **PASSES[name])) == pixels(draw(**PASSES[name])) == pixels(plain)
    assert all(a != b for a, b in zip(pixels(made), pixels(plain), strict=True))
    for text in made.infotexts:
        assert "SteadyDiff Epsilon Scaling scale: 1.05" in text and "SteadyDiff run:" in text
    assert ("SteadyDiff hires run:" in made.infotexts[0]) == (name == "hires")
    assert "SteadyDiff" not in plain.infotexts[0] and made.comments == ""


def test_a_failure_is_told_and_the_picture_is_as_without_us(draw):
    made = draw({"antibias_prompt": {"file": "gone.safetensors"}})
    assert pixels(made) == pixels(draw())
    assert "gone.safetensors" in made.comments and "gone.safetensors" in made.infotexts[0]


def test_a_reload_registers_everything_once_more_and_never_twice(webui, script):
    before = {kind: len(found) for kind, found in webui.script_callbacks.callback_map.items()}
    webui.scripts.load_scripts(Path(script.scripts[0].filename))
    assert {kind: len(found) for kind, found in webui.script_callbacks.callback_map.items()} == before
    assert before and webui.errors.exceptions == []


def test_the_settings_page_can_be_made(webui, script):
    webui.script_callbacks.call("ui_settings")
    webui.script_callbacks.call("before_ui")
    assert [key for key in webui.shared.opts.data_labels if key.startswith("steadydiff_")]
    assert webui.errors.exceptions == []


@pytest.mark.slow
def test_what_calibrate_finds_is_kept_and_used(webui, script, draw):
    calibration = importlib.import_module("steadydiff_webui.calibration")
    given = {"prompt": "a cat", "negative_prompt": "a dog", "sampler_name": "Euler", "scheduler": "Automatic"}
    settings = {**given, "steps": 3, "cfg_scale": 3.0, "width": 64, "height": 64}
    file = calibration.keep(calibration.calibrate(settings, "norm", 2, 2), " mine.json ")
    norm = {"mode": "norm", "start_percent": 0.0}
    scaled = draw({"epsilon_scaling": {"schedule": "file", "schedule_file": file}})
    pulled = draw({"diffier": {**norm, "measurement": file}})
    pictures = [pixels(one) for one in (draw(), draw({"diffier": norm}), scaled, pulled)]
    assert all(a != b for a, b in itertools.combinations(pictures, 2))
    assert "at 2 of 3 steps" in scaled.infotexts[0]  # in pure noise there is nothing to scale
    assert "norm at 3 of 3 steps" in pulled.infotexts[0]


def test_a_name_that_cannot_be_kept_is_told_before_anything_is_measured(webui, script, monkeypatch):
    calibration = importlib.import_module("steadydiff_webui.calibration")
    monkeypatch.setattr(calibration, "calibrate", lambda *_, **__: pytest.fail("it was measured"))
    given = [None] * len(calibration.SETTINGS), [one.default for one in calibration.CHOICES]
    for name in ("", "a/b", ".."):
        assert "name is that of a file" in calibration.clicked(*given[0], *given[1], name)[-1]
    calibration.MEASUREMENTS.home.parent.mkdir(parents=True, exist_ok=True)
    (calibration.MEASUREMENTS.home.parent / "file").touch()
    blocked = type(calibration.MEASUREMENTS)("file/within", ".json")
    monkeypatch.setattr(calibration, "MEASUREMENTS", blocked)
    assert "cannot be written" in calibration.clicked(*given[0], *given[1], "mine")[-1]


def test_a_calibration_that_cannot_begin_says_why(webui, script, monkeypatch):
    calibration = importlib.import_module("steadydiff_webui.calibration")
    monkeypatch.delattr(webui.shared.sd_model, "sd_checkpoint_info")
    with pytest.raises(AttributeError, match="sd_checkpoint_info"):
        calibration.calibrate({"steps": 3}, "norm", 2, 2)
