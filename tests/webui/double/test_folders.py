"""The second folder of a kind of files: found as by a shell, told if it is none, not read in vain."""

import importlib
from pathlib import Path

import pytest

from steadydiff.errors import SettingsError
from steadydiff.schedules import Schedule

TEXT = Schedule("table", (1.02, 1.01, 1.001)).to_json()
CHOSEN = {"epsilon_scaling": {"schedule": "file", "schedule_file": "sub/mine.json"}}


@pytest.fixture
def schedules(webui, script):
    """The folder of schedules, without a second one afterwards."""
    folder = importlib.import_module("steadydiff_webui.folders").SCHEDULES
    yield folder
    webui.shared.opts.data[folder.setting] = ""


@pytest.fixture
def second(webui, schedules, tmp_path):
    """A second folder with one file, in the settings."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.json").write_text(TEXT, encoding="utf-8")
    webui.shared.opts.data[schedules.setting] = str(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_tilde_is_the_users_home(webui, schedules, second, monkeypatch):
    monkeypatch.setenv("HOME", str(second.parent))
    monkeypatch.setenv("USERPROFILE", str(second.parent))
    webui.shared.opts.data[schedules.setting] = f"~/{second.name}"
    assert "sub/mine.json" in schedules.files()
    assert schedules.path_of("sub/mine.json") == second / "sub" / "mine.json"


def test_a_wrong_folder_is_told(webui, schedules, draw, tmp_path):
    webui.shared.opts.data[schedules.setting] = str(tmp_path / "gone")
    said = f"the settings' other folder for steadydiff_schedules, {str(tmp_path / 'gone')!r}, is no folder"
    made = draw({"epsilon_scaling": {"scale": 1.05}})
    assert said in made.comments and "SteadyDiff run" in made.infotexts[0]
    with pytest.raises(SettingsError, match="is no folder"):
        schedules.path_of("sub/mine.json")
    assert draw({"diffier": {"strength": 0.3}}).comments == ""  # another's


def test_a_chosen_file_is_found_without_reading_the_folder(schedules, second, draw, monkeypatch):
    def rglob(*args):
        raise AssertionError("the whole folder is read")

    monkeypatch.setattr(Path, "rglob", rglob)
    made = draw(CHOSEN)
    assert made.comments == "" and "SteadyDiff run" in made.infotexts[0]


@pytest.mark.parametrize(
    "name", ["../secret.json", "sub/../../secret.json", "sub/mine.txt", "a\0.json", "", f"{'a' * 999}.json"]
)
def test_nothing_but_the_folders_own_files_is_found(schedules, second, name):
    (second.parent / "secret.json").write_text(TEXT)
    (second / "sub" / "mine.txt").write_text(TEXT)
    for given in (name, str(second / "sub" / "mine.json")):
        with pytest.raises(SettingsError, match="there is no file"):
            schedules.path_of(given)
