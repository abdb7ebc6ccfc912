"""Every way through the host: what acts says so, failures are told, and the next picture is as before."""

import pytest

HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5}
REFINER = {"refiner_checkpoint": "refiner.safetensors", "refiner_switch_at": 0.5}
PASSES = {
    "hires": HIRES,
    "hires by DDIM": HIRES | {"sampler_name": "DDIM"},
    "img2img in two batches": {"kind": "img2img", "n_iter": 2},
    "two at once": {"batch_size": 2},
    "inpainting by DDIM": {"kind": "img2img", "inpaint": True, "sampler_name": "DDIM"},
    "AND": {"prompt": "a cat AND a house :0.5"},
    "cfg 1": {"cfg_scale": 1.0},
    "refiner": REFINER,
    "churn": {"options": {"s_churn": 5.0, "s_noise": 1.003}},
    "skip early": {"options": {"skip_early_cond": 0.5}},
}

NESTED = """
from copy import copy
from pathlib import Path
from modules import processing, scripts, shared

images = []

def postprocess_image(self, p, pp, *args):
    original(self, p, pp, *args)
    if getattr(p, "_ad_inner", False):
        return
    fields = {"prompt": "a face", "seed": 1, "steps": 3, "cfg_scale": 3.0, "width": 64, "height": 64}
    inner = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model, init_images=[pp.image], denoising_strength=0.5, sampler_name="Euler",
        do_not_save_samples=True, do_not_save_grid=True, **fields)
    inner._ad_inner, inner.is_api = True, True
    inner.scripts, inner.script_args = copy(p.scripts), list(p.script_args)  # as ADetailer does
    if listed is not None:
        ours = [s for s in p.scripts.alwayson_scripts if Path(s.filename).stem in listed]
        inner.scripts.alwayson_scripts = ours
    images.extend(processing.process_images(inner).infotexts)

original = scripts.ScriptRunner.postprocess_image
scripts.ScriptRunner.postprocess_image = postprocess_image
try:
    from actions import generate
    made = generate(args={"SteadyDiff": [named]})
finally:
    scripts.ScriptRunner.postprocess_image = original
result = {**made, "inner": images}
"""

IMPORT = """
import sys, time
from modules import scripts

path = next(s.path for s in scripts.scripts_data if s.path.endswith("steadydiff_script.py"))
root = __import__("pathlib").Path(path).parents[1]
ours = {name: sys.modules.pop(name) for name in [*sys.modules]
        if name.partition(".")[0] in ("steadydiff", "steadydiff_webui")}
before, sys.path = sys.path, [str(root / "extension"), str(root), *sys.path]
began = time.process_time()
import steadydiff_webui.script  # without registering, where the host looks at its whole call stack
seconds = time.process_time() - began
sys.path = before
for name in [*sys.modules]:
    if name.partition(".")[0] in ("steadydiff", "steadydiff_webui"):
        del sys.modules[name]
sys.modules.update(ours)
result = seconds
"""


def runs(text):
    return text.count("SteadyDiff run:") + text.count("SteadyDiff hires run:")


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_is_corrected_and_the_next_is_not(packed, on, name):
    fields = PASSES[name]
    plain = packed.generate(**fields)
    for panel, values in on.items():
        made = packed.generate(args={"SteadyDiff": [{panel: values}]}, **fields)
        assert made["swallowed"] == [] and made["comments"] == plain["comments"], (panel, made)
        assert all(a != b for a, b in zip(made["images"], plain["images"], strict=True)), panel
        expected = 1 + bool(fields.get("enable_hr"))
        assert [runs(text) for text in made["infotexts"]] == [expected] * len(made["infotexts"]), panel
        again = packed.generate(args={"SteadyDiff": [{panel: values}]}, **fields)
        assert again["images"] == made["images"] and again["infotexts"] == made["infotexts"], panel
        assert packed.generate(**fields)["images"] == plain["images"], panel


def test_a_failure_is_told_in_comments_and_infotext(packed):
    plain = packed.generate()
    made = packed.generate(args={"SteadyDiff": [{"antibias_prompt": {"file": "gone.safetensors"}}]})
    assert made["images"] == plain["images"] and made["swallowed"] == []
    assert "gone.safetensors" in made["comments"] and "gone.safetensors" in made["infotexts"][0]


def test_a_generation_inside_another_is_corrected_by_itself(packed, on):
    for panel, values in on.items():
        alone = packed.generate(args={"SteadyDiff": [{panel: values}]})
        made = packed.ask("run", source=NESTED, named={panel: values}, listed=None)
        assert made["images"] == alone["images"] and made["swallowed"] == []
        assert [runs(text) for text in made["inner"]] == [1]
    assert packed.generate()["images"] == packed.ask("run", source=NESTED, named={}, listed=None)["images"]


@pytest.mark.parametrize(("listed", "expected"), [(["lora"], 0), (["lora", "steadydiff_script"], 1)])
def test_a_generation_inside_that_passes_on_listed_scripts_needs_our_name(packed, on, listed, expected):
    """ADetailer's way; docs/webui.md says what to add to its list."""
    made = packed.ask("run", source=NESTED, named=on, listed=listed)
    assert made["swallowed"] == [] and [runs(text) for text in made["inner"]] == [expected]


def test_reloading_the_ui_twice_changes_nothing(packed, on):
    named = {"SteadyDiff": [on]}
    before = [packed.generate(**given)["images"] for given in ({}, {"args": named})]
    titles = packed.ask("titles")
    for _ in range(2):
        packed.ask("reload_ui")
    assert packed.ask("titles") == titles
    assert [packed.generate(**given)["images"] for given in ({}, {"args": named})] == before


def test_its_import_takes_a_fifth_of_a_second_at_most(packed):
    seconds = min(packed.ask("run", source=IMPORT) for _ in range(3))
    assert seconds <= 0.2
