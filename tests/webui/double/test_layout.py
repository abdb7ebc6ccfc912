"""How the panels are declared to be drawn, what their header says, and starting values among the presets."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from steadydiff.errors import SettingsError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ours(webui, script):
    """The extension's modules by name."""
    names = ("docs", "folders", "layout", "panels", "presets")
    return SimpleNamespace(**{name: importlib.import_module(f"steadydiff_webui.{name}") for name in names})


@pytest.fixture
def values(ours):
    """Every panel's values as they are at first."""
    return {panel.name: panel.defaults() for panel in ours.panels.PANELS}


@pytest.fixture
def presets(ours, tmp_path):
    return ours.presets.Presets(tmp_path / "presets.json")


@pytest.mark.slow
def test_every_panel_is_drawn_once_and_every_input_in_it(ours):
    drawn = [panel.name for row in ours.panels.ROWS for panel in row]
    assert sorted(drawn) == sorted(panel.name for panel in ours.panels.PANELS)
    for panel in ours.panels.PANELS:
        names = [name for row in (*panel.rows, *panel.more) for name in row]
        assert sorted(names) == sorted(one.name for one in panel.inputs)
        assert set(panel.serves) | {*panel.head} <= set(names)
        assert len(panel.hint) <= 60 and (ours.docs.FOLDER / panel.page).is_file()


def test_what_serves_an_option_names_one_the_choice_has(ours):
    for panel in ours.panels.PANELS:
        options = {option for one in panel.inputs if one.name == panel.choice for option in one.options}
        assert set(panel.serves.values()) <= options


def test_what_values_auto_asks_for_is_shown_in_its_mode(ours):
    [diffier] = [panel for panel in ours.panels.PANELS if panel.name == "diffier"]
    assert diffier.shows("measurement", "renoise")


def test_the_header_names_what_is_on(ours, values):
    assert ours.layout.header(values) == "SteadyDiff: off"
    values["epsilon_scaling"]["enabled"] = values["diffier"]["enabled"] = True
    assert ours.layout.header(values) == "SteadyDiff: Epsilon Scaling 1.005, DiffIER 0.5"
    values["epsilon_scaling"] |= {"schedule": "table", "scale": 1.02}
    values["diffier"]["strength"] = None  # an empty box
    assert ours.layout.header(values) == "SteadyDiff: Epsilon Scaling table, DiffIER"


def test_a_folder_says_where_its_first_file_comes_from(ours):
    for folder in ours.folders.FOLDERS:
        assert folder.origin.startswith("No file yet") and (ours.docs.FOLDER / folder.page).is_file()


def test_starting_values_have_a_source_and_are_those_of_the_readme(ours, presets):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, one in ours.presets.STARTING.items():
        assert name.startswith("starting value") and one.source.startswith(f"{one.scale:g} ")
        assert f"| {one.scale:g} |" in readme
        found = presets.get(name)
        assert found["epsilon_scaling"]["enabled"] and found["epsilon_scaling"]["scale"] == one.scale
        assert not any(found[panel]["enabled"] for panel in found if panel != "epsilon_scaling")
    assert ours.presets.choices(presets)[: 1 + len(ours.presets.STARTING)] == ["off", *ours.presets.STARTING]


def test_what_is_built_in_stays_and_what_is_not_there_is_not_deleted(ours, presets):
    starting = next(iter(ours.presets.STARTING))
    for name in ("off", starting):
        with pytest.raises(SettingsError, match="built in"):
            presets.delete(name)
        with pytest.raises(SettingsError, match="other than off"):
            presets.save(name, presets.get("off"))
    with pytest.raises(SettingsError, match="no preset 'gone'"):
        presets.delete("gone")


def test_a_preset_is_replaced_only_when_asked_twice(ours, presets, monkeypatch):
    monkeypatch.setattr(ours.presets, "users", lambda: presets)
    row = ours.presets.Row("presets")
    given = [presets.get("off")[panel][one] for panel, one in ours.presets.PLACES]
    assert "Saved as mine." in str(row._save("mine", "", *given))
    *_, asked = again = row._save("mine", "", *given)
    assert asked == "mine" and "Press again" in str(again)
    assert "Saved as mine." in str(row._save("mine", asked, *given))
    *_, asked = again = row._save(" mine ", "", *given)
    assert asked == "mine" and "Press again" in str(again)
    assert "Saved as mine." in str(row._save(" mine ", asked, *given))
    assert "no preset" not in str(row._use(" mine "))
    assert "Deleted mine." in str(row._delete(" mine "))


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b"\xff\xfe", None])
def test_a_file_of_presets_that_cannot_be_read_is_told_and_leaves_the_page_whole(
    ours, presets, tmp_path, monkeypatch, content
):
    file = tmp_path / "presets.json"
    if content is None:
        file.write_bytes(b"{}")
        monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(PermissionError("no")))
    else:
        file.write_bytes(content)
    assert ours.presets.choices(presets) == ["off", *ours.presets.STARTING]
    with pytest.raises(SettingsError, match=r"presets\.json"):
        presets.get("mine")
