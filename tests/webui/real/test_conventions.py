"""A WebUI's own ways: infotexts pasted back, grids, API by name, settings, presets, translations, reloads."""

import json

import pytest

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

PASTED = """
import gradio
from modules import scripts
from modules.infotext_utils import parse_generation_parameters

script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "SteadyDiff")
found = parse_generation_parameters(infotext)
with gradio.Blocks():
    controls = script.ui(False)
values = {id(control): control.value for control in controls}
for component, key in script.infotext_fields:
    value = key(found) if callable(key) else found.get(key)
    if value is not None:
        values[id(component)] = type(component.value)(value) if isinstance(value, str) else value
result = [values[id(control)] for control in controls]
"""

PASTED_BY_HOST = """
from modules.infotext_utils import parse_generation_parameters

found = parse_generation_parameters(infotext)
names = {"sampler_name": "Sampler", "scheduler": "Schedule type", "steps": "Steps", "cfg_scale": "CFG scale"}
result = {name: found[key] for name, key in names.items() if key in found}
"""

GRID = """
import inspect
from pathlib import Path
from modules import scripts

script = next(s for s in scripts.scripts_data if Path(s.path).name == "xyz_grid.py")
grid = script.module
labels = [o.label for o in grid.axis_options if type(o) is grid.AxisOption or not o.is_img2img]
result = labels, [*inspect.signature(script.script_class.run).parameters][2:]
"""

CALIBRATED = """
from steadydiff_webui import calibration, folders

given = {"prompt": "a cat", "negative_prompt": "a dog", "sampler_name": "Euler", "scheduler": "Automatic"}
given |= {"steps": 4, "cfg_scale": 3.0, "distilled_cfg_scale": 3.5, "width": 64, "height": 64}
settings = [given[name] for name in calibration.SETTINGS]
*_, said = shown = calibration.clicked(*settings, "norm", 2, 2, "mine")
result = shown[0], said, *(list(folder.files()) for folder in (folders.SCHEDULES, folders.MEASUREMENTS))
"""

WORDS = """
import html
import re

from modules import shared

found = set()

def add(*texts):
    found.update(text.strip() for text in texts if isinstance(text, str) and text.strip())

def walk(block, ours):
    ours = ours or "steadydiff" in str(getattr(block, "elem_id", "") or "")
    if ours:
        add(*(getattr(block, name, None) for name in ("label", "info", "webui_tooltip")))
        if type(block).__name__ == "Button":
            add(block.value)
        if type(block).__name__ == "HTML":
            add(*re.split("<[^>]*>", html.unescape(str(block.value or ""))))
    for child in getattr(block, "children", None) or []:
        walk(child, ours)

walk(shared.demo, False)
result = sorted(found)
"""


@pytest.fixture
def plot(packed):
    """Return a function: an API request's fields for a plot of some axes' values, by their labels."""
    labels, names = packed.ask("run", source=GRID)  # the hosts' plots have different arguments

    def plot(**axes):
        given = {f"{one}_type": labels.index("Nothing") for one in "xyz"}
        given |= dict.fromkeys(("x_values", "y_values", "z_values"), "")
        given |= dict.fromkeys(("include_lone_images", "csv_mode"), True)
        given |= {name: [] for name in names if name.endswith("_dropdown")}
        for one, (label, values) in axes.items():
            given |= {f"{one}_type": labels.index(label), f"{one}_values": ", ".join(values)}
        return {"script_name": "x/y/z plot", "script_args": [given.get(name, False) for name in names]}

    return plot


@pytest.fixture
def txt2img(packed):
    """Return a function that asks the host's API for pictures: their hashes and infotexts."""

    def txt2img(**more):
        answer = packed.ask("http", method="POST", path="/sdapi/v1/txt2img", body={**FIELDS, **more})
        assert answer["status"] == 200, answer
        return answer["json"]["digests"], json.loads(answer["json"]["info"])["infotexts"]

    return txt2img


def script(*args):
    return {"alwayson_scripts": {"SteadyDiff": {"args": list(args)}}}


@pytest.mark.parametrize("panel", ["epsilon_scaling", "diffier", "antibias_prompt", "mdss", "time_shift"])
def test_an_infotext_pasted_back_draws_the_same(packed, drawn, txt2img, on, panel):
    named = {panel: on[panel]}
    images, infotexts = txt2img(**script(named))
    values = packed.ask("run", source=PASTED, infotext=infotexts[0])
    assert txt2img(**script(*values))[0] == images
    assert txt2img()[0] != images


def test_an_infotext_without_us_switches_nothing_on(packed, txt2img):
    values = packed.ask("run", source=PASTED, infotext=txt2img()[1][0])
    assert not any(value is True for value in values[:1])
    assert txt2img(**script(*values))[0] == txt2img()[0]


def test_by_name_and_by_place_draw_the_same(txt2img):
    by_name = txt2img(**script({"epsilon_scaling": {"scale": 1.05}}))
    assert by_name == txt2img(**script(True, 1.05))
    assert by_name[0] != txt2img()[0]


def test_a_name_we_do_not_know_is_told(txt2img):
    images, infotexts = txt2img(**script({"epsilon_scaling": {"scales": 1.05}}))
    assert images == txt2img()[0]
    assert "scales" in infotexts[0]


def test_a_grid_of_three_cells_carries_its_values(plot, txt2img):
    values = ("1.0", "1.02", "1.05")
    images, infotexts = txt2img(**plot(x=(SCALE, values)))
    for value, text in zip(values, infotexts[1:], strict=True):
        assert f"SteadyDiff Epsilon Scaling scale: {value}" in text
    assert images[1] == txt2img()[0][0]  # 1 is off
    assert images[3] == txt2img(**script(True, 1.05))[0][0]


def test_a_grid_with_a_value_out_of_range_is_refused(packed, plot):
    body = FIELDS | plot(x=(SCALE, ["7"]))
    answer = packed.ask("http", method="POST", path="/sdapi/v1/txt2img", body=body)
    assert answer["status"] != 200 and "0.5 to 1.5" in str(answer)


BOTH = {"epsilon_scaling": {"scale": 1.05}, "diffier": {"strength": 0.3, "start_percent": 0.0}}
EPS, DIFFIER = "[SteadyDiff] Epsilon Scaling ", "[SteadyDiff] DiffIER "
SCALE = EPS + "scale"
AXES = {
    EPS + "enabled": ("True", "False"),
    SCALE: ("1.05", "1.0"),
    EPS + "slope": ("0.001", "0.0"),
    EPS + "schedule": ("snr", "scale and slope"),
    EPS + "space": ("epsilon", "velocity"),  # the second fails on this model
    EPS + "end_percent": ("0.5", "1.0"),
    DIFFIER + "enabled": ("True", "False"),
    DIFFIER + "mode": ("norm", "renoise"),
    DIFFIER + "strength": ("0.3", "0.0"),
    DIFFIER + "antithetic": ("True", "False"),
    "Sampler": ("Heun", "DDIM"),
    "Schedule type": ("Karras", "Automatic"),
    "Steps": ("2", "4"),
    "CFG Scale": ("1.0", "3.0"),
}


@pytest.fixture
def redrawn(packed, txt2img):
    """Return a function that pastes an infotext into fresh widgets and draws what they then say."""

    def redrawn(infotext):
        host = packed.ask("run", source=PASTED_BY_HOST, infotext=infotext)
        return txt2img(**script(*packed.ask("run", source=PASTED, infotext=infotext)), **host)

    return redrawn


@pytest.mark.parametrize("label", AXES)
def test_a_cells_infotext_pasted_alone_redraws_it_and_says_the_same(plot, txt2img, redrawn, label):
    for values in (AXES[label], AXES[label][::-1]):
        images, infotexts = txt2img(**script(BOTH), **plot(x=(label, values)))
        cells = [*zip(images[1:], infotexts[1:], strict=True)]
        assert len(cells) == 2 and images[1] != images[2]
        for image, infotext in cells:
            assert redrawn(infotext) == ([image], [infotext])


def test_cells_of_three_axes_each_redraw_themselves(plot, txt2img, redrawn):
    axes = {"x": (EPS + "enabled", ("True", "False")), "y": ("Sampler", ("DDIM", "Euler"))}
    images, infotexts = txt2img(**script(BOTH), **plot(**axes, z=(EPS + "slope", ("0.001", "0"))))
    cells = [*zip(images, infotexts, strict=True)][-8:]
    assert ["Epsilon Scaling" in infotext for _, infotext in cells] == [True, False] * 4
    for image, infotext in cells:
        assert redrawn(infotext) == ([image], [infotext])


def test_every_input_but_texts_has_one_axis_also_after_reloads(packed):
    inputs = packed.ask(
        "run",
        source="from steadydiff_webui.panels import PANELS\n"
        "result = [f'[SteadyDiff] {p.title} {i.name}' for p in PANELS for i in p.all_inputs "
        "if i.kind not in ('text', 'line')]",
    )
    packed.ask("reload_ui")
    packed.ask("reload_ui")
    labels, _ = packed.ask("run", source=GRID)
    assert sorted(label for label in labels if "SteadyDiff" in label) == sorted(inputs)
    assert packed.ask("titles").count("SteadyDiff") == 1


def test_what_calibrate_finds_is_kept_and_used(packed, txt2img):
    switch, said, *kept = packed.ask("run", source=CALIBRATED)
    assert (switch, kept) == (True, [["mine.json"], ["mine.json"]]), said
    plain, norm = txt2img()[0], {"mode": "norm", "start_percent": 0.0}
    without = txt2img(**script({"diffier": norm}))[0]
    for named in (
        {"epsilon_scaling": {"schedule": "file", "schedule_file": "mine.json"}},
        {"diffier": {**norm, "measurement": "mine.json"}},
    ):
        images, infotexts = txt2img(**script(named))
        assert images not in (plain, without)
        assert "mine.json" in infotexts[0] and "SteadyDiff run" in infotexts[0]


def test_presets_come_back_and_go(packed, tmp_path):
    source = """
from pathlib import Path
from steadydiff_webui.presets import Presets

presets = Presets(Path(file))
off = presets.get("off")
mine = presets.get("off")
mine["epsilon_scaling"] |= {"enabled": True, "scale": 1.02}
presets.save(" mine ", mine)
again = Presets(Path(file))
names, same = again.names(), again.get("mine") == mine
again.delete("mine")
said = []
for wrong in (lambda: again.get("mine"), lambda: again.save("off", off)):
    try:
        wrong()
    except Exception as error:
        said.append(str(error))
result = [names, same, again.names(), any(values["enabled"] for values in off.values()), said]
"""
    names, same, after, enabled, said = packed.ask("run", source=source, file=str(tmp_path / "presets.json"))
    assert (names, same, after, enabled) == (["off", "mine"], True, ["off"], False)
    assert ["no preset 'mine'" in said[0], "other than off" in said[1]] == [True, True]


def test_a_folder_of_the_settings_page_is_looked_in(packed, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.safetensors").touch()
    source = """
from modules import shared
from steadydiff_webui.folders import ANTIBIAS

before = ANTIBIAS.files()
shared.opts.data[ANTIBIAS.setting] = folder
found = ANTIBIAS.files()
del shared.opts.data[ANTIBIAS.setting]
result = [ANTIBIAS.setting in shared.opts.data_labels, sorted(set(found) - set(before))]
"""
    assert packed.ask("run", source=source, folder=str(tmp_path)) == [True, ["own/mine.safetensors"]]


def test_every_word_is_translated(packed):
    root = packed.data / "extensions" / "SteadyDiff" / "localizations"
    english, chinese = (json.loads((root / f"{n}.json").read_text("utf-8")) for n in ("en", "zh_CN"))
    shown = {word for word in packed.ask("run", source=WORDS) if not word.startswith("Send to ")}
    assert (shown - english.keys(), english.keys() - chinese.keys()) == (set(), set())
