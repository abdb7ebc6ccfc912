"""Presets, files, grid axes and what ARPO's tab and routes read and write; real hosts: tests/webui/real."""

import base64
import importlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from steadydiff.arpo.log import Log, Step
from steadydiff.arpo.phrases import Phrases
from steadydiff.errors import SettingsError


@pytest.fixture(scope="module")
def ours(webui):
    """The extension's modules by name."""
    names = ("arpo.routes", "arpo.search", "arpo.tab", "folders", "panels", "presets", "xyz")
    found = {name: importlib.import_module(f"steadydiff_webui.{name}") for name in names}
    return SimpleNamespace(**{name.replace(".", "_"): module for name, module in found.items()})


# --- presets ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_preset_comes_back_after_the_program_was_closed(ours, tmp_path):
    file = tmp_path / "presets.json"
    mine = ours.presets.Presets(file).get("off")
    mine["epsilon_scaling"] |= {"enabled": True, "scale": 1.02}
    ours.presets.Presets(file).save(" sämtlich ", mine)
    again = ours.presets.Presets(file)
    assert again.names() == ["off", "sämtlich"] and again.get("sämtlich") == mine
    again.delete("sämtlich")
    assert again.names() == ["off"]


def test_what_a_preset_has_wrongly_is_as_at_first(ours, tmp_path):
    file = tmp_path / "presets.json"
    file.write_text('{"old": {"epsilon_scaling": {"scale": 99, "slope": 0.01}, "gone": {"x": 1}}}')
    values = ours.presets.Presets(file).get("old")
    assert (values["epsilon_scaling"]["scale"], values["epsilon_scaling"]["slope"]) == (1.005, 0.01)
    assert values.keys() == {panel.name for panel in ours.panels.PANELS}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_a_damaged_file_of_presets_is_told_and_kept(ours, tmp_path, text):
    file = tmp_path / "presets.json"
    file.write_text(text)
    presets = ours.presets.Presets(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        presets.save("new", presets.get("off"))
    assert file.read_text() == text and ours.presets.known(presets) == ["off"]


# --- files and axes ---------------------------------------------------------------------------------------


def test_of_equal_names_the_hosts_own_file_is_taken(webui, ours, tmp_path):
    folder = ours.folders.WebuiFolder("steadydiff_test")
    for root, name in ((folder.home, "a"), (tmp_path, "a"), (tmp_path / "sub", "b"), (tmp_path, "c.ckpt")):
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.safetensors".replace(".ckpt.safetensors", ".ckpt")).touch()
    webui.shared.opts.data[folder.setting] = str(tmp_path)
    assert folder.files() == {
        "a.safetensors": folder.home / "a.safetensors",
        "sub/b.safetensors": tmp_path / "sub" / "b.safetensors",
    }
    with pytest.raises(SettingsError, match="it has: a.safetensors, sub/b.safetensors"):
        ours.folders.File("file", folder, "").read("d.safetensors")


def test_a_cell_switches_its_panel_on_unless_an_axis_says_otherwise(ours):
    panel = ours.panels.PANELS[0]
    scale, enabled = (ours.xyz.setter(panel, name) for name in ("scale", "enabled"))
    cells = SimpleNamespace(), SimpleNamespace()
    scale(cells[0], 1.02, [])
    enabled(cells[1], "False", [])
    scale(cells[1], 1.02, [])
    assert vars(cells[0]) == {
        f"steadydiff_{panel.name}_scale": 1.02,
        f"steadydiff_{panel.name}_enabled": True,
    }
    assert getattr(cells[1], f"steadydiff_{panel.name}_enabled") == "False"


def test_a_grid_refuses_values_before_it_begins(ours):
    def option(label, kind, apply, **more):
        return SimpleNamespace(label=label, **more)

    found = {one.label: one for one in ours.xyz.axes(option)}
    found["[SteadyDiff] Epsilon Scaling scale"].confirm(None, [1.0, 1.5])
    with pytest.raises(SettingsError, match="0.5 to 1.5"):
        found["[SteadyDiff] Epsilon Scaling scale"].confirm(None, [1.0, 2.0])
    assert found["[SteadyDiff] DiffIER mode"].choices()[0] == "renoise"


# --- ARPO -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"colour": {}}, "there is no colour"),
        ({"search": {"iteration": 1}}, "iterations"),
        ({"search": [1]}, "an object"),
        ({"drawing": {"steps": 0}}, "drawing: steps"),
        ({"proposer": {"proposer": "nobody"}}, "phrase bank, chat server"),
    ],
)
def test_settings_that_cannot_be_are_refused(ours, given, said):
    with pytest.raises(SettingsError, match=said):
        ours.arpo_search.read_settings(given)


def test_what_is_not_said_is_as_by_default_and_the_servers_as_the_settings_page_says(webui, ours):
    webui.shared.opts.data["steadydiff_server_model"] = "mine"
    read = ours.arpo_search.read_settings({"drawing": {"steps": 7}})
    assert (read["drawing"]["steps"], read["drawing"]["cfg"], read["server"]["model"]) == (7, 7.0, "mine")
    assert read["search"]["iterations"] == 3


def test_the_infotext_is_what_the_host_reads(ours):
    drawing = ours.arpo_search.read_settings({"drawing": {"negative": "blur", "width": 96}})["drawing"]
    prompt, negative, fields = ours.arpo_search.infotext(drawing, "a cat", 5).splitlines()
    assert (prompt, negative) == ("a cat", "Negative prompt: blur")
    assert fields.startswith("Steps: 20, Sampler: Euler")
    assert fields.endswith("CFG scale: 7.0, Seed: 5, Size: 96x512")


@pytest.mark.parametrize(("size", "wanted"), [((32, 32), (512, 512)), ((200, 100), (728, 360))])
def test_the_drawing_takes_the_references_proportions(ours, size, wanted):
    found = ours.arpo_tab.fitting(SimpleNamespace(width=size[0], height=size[1], size=size), 512, 512)
    assert tuple(found) == wanted


def test_a_picture_sent_to_the_api_is_read_as_people_see_it(ours):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.array([[32768, 32768, 0]], np.uint16)).save(file, "PNG", exif=exif)
    data = base64.b64encode(file.getvalue()).decode()
    for sent in (data, "data:image/png;base64," + data):
        seen = ours.arpo_search.as_tensor(ours.arpo_routes.decoded(sent))
        assert seen[:, 0, 0].tolist() == pytest.approx([0.5, 0.5, 0], abs=1 / 255)
    half = base64.b64encode(file.getvalue()[:50]).decode()
    with pytest.raises(SettingsError, match="image cannot be read as a picture"):
        ours.arpo_routes.decoded(half)


def test_a_search_that_ends_while_it_is_read_is_not_told_as_done_without_its_steps(ours):
    class Ending:
        state, status, best = "searching", "", None

        @property
        def log(self):
            found = Log("", 0, Phrases(()), (Step(Phrases(("a cat",)), None, 0.1, 0.2),))
            ended, self.state = self.state == "done", "done"
            return found if ended else None

    seen = ours.arpo_routes.as_json(Ending(), images=False)
    assert (seen["state"], len(seen["steps"])) in (("searching", 0), ("done", 1))


def test_what_a_model_says_cannot_write_into_the_page(ours):
    step = Step(Phrases(("<script>",)), None, 0.1, 0.2, gains=(("<img>", 0.3),))
    shown = ours.arpo_tab.table((step,))
    assert "&lt;script&gt;" in shown and "&lt;img&gt;" in shown and "<script>" not in shown
    assert "taken out" not in shown
