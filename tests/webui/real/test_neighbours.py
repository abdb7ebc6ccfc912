"""Another extension beside ours, loaded by the host itself: it replaces guidance, and undoes that late."""

import shutil

import pytest

NEIGHBOUR = '''
"""As sd-webui-incantations: patches a denoiser in its first call and undoes that behind a batch.

Its argument: "guides" combines the answers of the model by itself, as A1111 would; "passes on" calls what it
has replaced; "takes the model" puts the UNet as it was before us in the place of ours, on the Forge family;
"remembers" moves answers by a running average of its calls, as APG's momentum does, and "remembers steps" by
one of the sampler's calls alone, by the host's count.
"""

import functools

import gradio as gr
from modules import patches, script_callbacks, scripts, shared


def guides(denoiser, x_out, conds_list, uncond, cond_scale):
    negative = x_out[-uncond.shape[0]:]
    result = negative.clone()
    for i, conds in enumerate(conds_list):
        for row, weight in conds:
            result[i] += (x_out[row] - negative[i]) * (weight * cond_scale)
    return result


def remembering(denoiser, by_steps):
    average, before = 0.0, {}

    def guide(denoised):
        nonlocal average
        own = denoiser.step not in before
        moved = denoised - 0.5 * (before.setdefault(denoiser.step, average) if by_steps else average)
        average = moved if own or not by_steps else average
        return moved

    return guide


class Neighbour(scripts.Script):
    def __init__(self):
        self.mode, self.late, self.patched = "", 0, []
        script_callbacks.on_cfg_denoiser(self.on_call)

    def title(self):
        return "Neighbour"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(value="", label="Neighbour mode"), gr.Number(value=0, label="Neighbour late")]

    def process(self, p, mode, late):
        self.mode, self.late = mode, late

    def process_before_every_sampling(self, p, *args, **kwargs):
        if not self.mode.startswith("remembers"):
            return
        denoiser = p.sampler.model_wrap_cfg
        guide = remembering(denoiser, "steps" in self.mode)
        if hasattr(p.sd_model, "forge_objects"):
            unet = p.sd_model.forge_objects.unet = p.sd_model.forge_objects.unet.clone()
            unet.set_model_sampler_post_cfg_function(lambda args: guide(args["denoised"]))
        else:
            guidance = denoiser.combine_denoised
            denoiser.combine_denoised = lambda *asked: guide(guidance(*asked))

    def on_call(self, params):
        denoiser = params.denoiser
        if self.mode.startswith("remembers"):
            return
        if not self.mode or self.patched or denoiser.step < self.late:
            return
        if self.mode == "takes the model":
            loaded = shared.sd_model
            loaded.forge_objects.unet = loaded.forge_objects_after_applying_lora.unet
            return
        names = {"guides": ["combine_denoised"], "passes on": ["combine_denoised", "forward"]}[self.mode]
        for name in filter(functools.partial(hasattr, denoiser), names):
            before = getattr(denoiser, name)
            does = functools.partial(guides, denoiser) if self.mode == "guides" else functools.partial(before)
            patches.patch(__name__, denoiser, name, does)
            self.patched.append((denoiser, name))

    def postprocess_batch(self, p, *args, **kwargs):
        while self.patched:
            patches.undo(__name__, *self.patched.pop())

    def postprocess(self, p, processed, *args):
        self.mode = ""
'''

ON = {"epsilon_scaling": {"scale": 1.05}}
TWO = {"kind": "img2img", "n_iter": 3}


@pytest.fixture(scope="module")
def beside(packed):
    """Return a function that makes pictures with panels' values and the neighbour's arguments."""
    folder = packed.data / "extensions" / "Neighbour"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "neighbour.py").write_text(NEIGHBOUR, encoding="utf-8")
    packed.ask("reload_ui")
    assert packed.ask("titles").count("Neighbour") == 1

    def beside(named, *theirs, **fields):
        made = packed.generate(args={"SteadyDiff": [named], "Neighbour": [*theirs]}, **fields)
        assert made["swallowed"] == []
        return made

    yield beside
    shutil.rmtree(folder)
    packed.ask("reload_ui")


@pytest.fixture
def passing_by(packed):
    """How the neighbour keeps the model's answers from us in this host."""
    return "guides" if packed.kind.name == "A1111" else "takes the model"


@pytest.mark.parametrize("late", [0, 2])
def test_answers_that_pass_us_by_are_told_and_not_claimed(beside, passing_by, late):
    plain, made = beside({}), beside(ON, passing_by, late)
    assert (made["images"] == plain["images"]) is (late == 0)
    said = made["infotexts"][0]
    assert "lambda" not in said and f"Epsilon Scaling acted at {late} of 5 model calls" in said
    for told in (said, made["comments"]):
        assert f"{5 - late} of 5 answers" in told and "another extension replaces guidance" in told


def test_every_batch_of_img2img_is_told_alike_beside_one_that_guides(beside, passing_by):
    plain, made = beside({}, **TWO), beside(ON, passing_by, 0, **TWO)
    assert made["images"] == plain["images"]
    assert [text.count("acted at 0 of") for text in made["infotexts"]] == [1] * len(made["infotexts"])


def test_every_batch_of_img2img_is_corrected_alike_beside_a_late_undo(beside):
    alone, made = beside(ON, **TWO), beside(ON, "passes on", **TWO)
    assert made["images"] == alone["images"] and made["infotexts"] == alone["infotexts"]
    assert made["comments"] == "" and made["images"] != beside({}, **TWO)["images"]


def test_after_a_late_undo_nothing_of_us_is_left(beside):
    plain = beside({}, **TWO)
    beside(ON, "passes on", **TWO)
    assert beside({}, **TWO) | {"seconds": 0} == plain | {"seconds": 0}


@pytest.mark.parametrize("named", [{}, {"diffier": {"strength": 1.0, "start_percent": 0.0}}], ids=str)
def test_a_memory_takes_in_the_samplers_calls_alone(beside, named):
    made, by_steps = (beside(named, mode) for mode in ("remembers", "remembers steps"))
    assert made["images"] == by_steps["images"] != beside(named)["images"]
    assert made["comments"] == "" and made["infotexts"] == by_steps["infotexts"]
