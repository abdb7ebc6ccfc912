"""Other extensions beside ours: they replace what we hook, put it back late, or end the run."""

import functools
import importlib

import pytest
from PIL import Image

ON = {"epsilon_scaling": {"scale": 1.05}}


def pixels(processed):
    return [image.tobytes() for image in processed.images]


@pytest.fixture
def denoising(webui):
    """Let a function be called with each call's parameters before the model is asked, as extensions are."""
    found = webui.script_callbacks.callback_map.setdefault("cfg_denoiser", [])
    before = [*found]
    yield lambda function: webui.script_callbacks.on_cfg_denoiser(function)
    found[:] = before


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_answers_that_pass_us_by_are_told_and_not_claimed(webui, draw, denoising, late):
    """As sd-webui-incantations does on A1111; on Forge somebody else's UNet is put in the place of ours."""
    denoiser = importlib.import_module("modules.sd_samplers").A1111

    def replace(params):
        model = params.denoiser
        if model.step < late:
            return
        if webui.flavour == "a1111":
            model.combine_denoised = denoiser.combine_denoised.__get__(model)
        else:
            loaded = webui.shared.sd_model
            loaded.forge_objects.unet = loaded.forge_objects_after_applying_lora.unet

    plain = draw()
    denoising(replace)
    made = draw(ON)
    assert (pixels(made) == pixels(plain)) is (late == 0)
    said = made.infotexts[0]
    assert "lambda" not in said and f"acted at {late} of 3 model calls" in said
    assert f"{3 - late} of 3 answers" in made.comments and "another extension" in made.comments


def test_each_batch_of_img2img_is_treated_alike_beside_a_late_undo(webui, draw, denoising, monkeypatch):
    """Their undo, before the next batch, puts back what they found in the middle of our run: our hooks."""
    kept, given = {}, {"init_images": [Image.new("RGB", (64, 64), "teal")], "n_iter": 3, "steps": 4}

    def replace(params):
        model = params.denoiser
        if not kept:
            for name in ("combine_denoised", "forward"):
                kept[name] = model, ours = model, getattr(model, name)
                setattr(model, name, functools.partial(lambda ours, *args, **more: ours(*args, **more), ours))

    def undo(script, p, *args, **kwargs):
        for name, (model, ours) in kept.items():
            setattr(model, name, ours)
        kept.clear()

    alone = draw(ON, **given)
    denoising(replace)
    monkeypatch.setattr(webui.scripts.Script, "process_batch", undo)
    beside = draw(ON, **given)
    assert pixels(beside) == pixels(alone) and beside.infotexts == alone.infotexts and not beside.comments
