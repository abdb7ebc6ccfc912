"""Whatever fails in us is a sentence under the picture, and the picture is drawn as without us."""

import importlib
from pathlib import Path

import pytest

DIFFIER = {"mode": "norm", "strength": 0.3, "start_percent": 0.0}
ON = {"epsilon_scaling": {"scale": 1.05}, "diffier": DIFFIER}


def pixels(processed):
    return [image.tobytes() for image in processed.images]


@pytest.fixture
def told(draw):
    """Return a function that draws, sees the picture uncorrected, and returns its comments."""

    def told(named):
        made = draw(named)
        assert pixels(made) == pixels(draw())
        assert made.comments.startswith("SteadyDiff: ") and "SteadyDiff error" in made.infotexts[0]
        return made.comments

    return told


@pytest.fixture(params=["steadydiff_schedules", "steadydiff_measurements"])
def asked_for(request, webui, script):
    """A folder of numbers, and panels' values that want its file x.json."""
    home = Path(importlib.import_module("modules.paths").models_path) / request.param
    home.mkdir(parents=True, exist_ok=True)
    named = {
        "steadydiff_schedules": {"epsilon_scaling": {"schedule": "file", "schedule_file": "x.json"}},
        "steadydiff_measurements": {"diffier": {**DIFFIER, "measurement": "x.json"}},
    }[request.param]
    yield home / "x.json", named
    if (home / "x.json").is_file():
        (home / "x.json").unlink()


@pytest.mark.slow
def test_a_file_that_is_no_text_is_named(told, asked_for):
    file, named = asked_for
    file.write_bytes(b'{"caf\xe9": 1}')
    assert "x.json" in told(named) and "UTF-8" in told(named)


def test_a_folder_is_no_file(told, asked_for):
    file, named = asked_for
    file.mkdir()
    try:
        assert "no file 'x.json'" in told(named)
    finally:
        file.rmdir()


def test_a_file_nobody_can_parse_is_told(told, asked_for):
    file, named = asked_for
    file.write_text("[" * 200_000, encoding="utf-8")
    told(named)


@pytest.mark.parametrize("where", ["plan", "read"])
def test_an_error_nobody_expected_is_told(told, monkeypatch, script, where):
    def fail(*args):
        raise RuntimeError("a mistake of ours")

    if where == "plan":
        panel = importlib.import_module("steadydiff_webui.panels.epsilon_scaling").PANEL
        monkeypatch.setitem(vars(panel), "plan", fail)
    else:
        monkeypatch.setattr(importlib.import_module("steadydiff_webui.script"), "read", fail)
    assert "RuntimeError: a mistake of ours" in told({"epsilon_scaling": {"scale": 1.05}})


def test_an_interrupted_picture_says_how_far_it_was_corrected(webui, draw):
    found = webui.script_callbacks.callback_map.setdefault("cfg_denoiser", [])
    before = [*found]

    def stop(params):
        webui.shared.state.interrupted = params.denoiser.step == 1

    webui.script_callbacks.on_cfg_denoiser(stop)
    try:
        made = draw({"epsilon_scaling": {"scale": 1.05}})
    finally:
        found[:], webui.shared.state.interrupted = before, False
    assert "Epsilon Scaling acted at 2 of 2 model calls; 2 model calls; interrupted" in made.infotexts[0]
