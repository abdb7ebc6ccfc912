"""Auto Correct in ComfyUI: it measures once, keeps what it found, and gives the model on with it."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from steadydiff.drift.recorder import unit_noise
from steadydiff.tinyworld.scenes import SHAPES, render, sample_scenes
from tools.launch.inprocess import PACK, defaults_of, load

STEPS = 3
VAE = SimpleNamespace(first_stage_model=None)


@pytest.fixture(autouse=True)
def here(kept):
    """Nothing is kept outside a folder of the test's own."""


@pytest.fixture
def auto(pack, conds):
    """Run the node, which is handed lists; returns model, info and plot."""
    node = pack["SteadyDiffAuto"]
    ends = {name: conds[name] for name in ("positive", "negative")}
    run = {"steps": STEPS, "cfg": 2.0, "quality": "quick", "batch_size": 8, "scheduler": "simple"}
    latent = {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}

    def auto(model, **inputs):
        given = defaults_of(node) | ends | run | latent | {"model": model} | inputs
        pictures = given.pop("images", [])  # a batch, or some one by one
        lists = {name: [one] for name, one in given.items()}
        return node.execute(**lists, images=pictures if isinstance(pictures, list) else [pictures]).args

    return auto


def lora(model, strength=0.5):
    """A model with a patch of its weights, as a LoRA loader leaves it."""
    name = next(name for name in sorted(model.model.state_dict()) if name.endswith("weight"))
    clone = model.clone()
    assert clone.add_patches({name: (torch.ones_like(model.model.state_dict()[name]),)}, strength)
    return clone


def known(auto, model, **inputs):
    """Whether there is something kept for this model and these inputs; no model call."""
    return not auto(model, measure="never", **inputs)[1].startswith("Not measured")


def test_it_measures_once(auto, counted, conds, kept):
    model, calls = counted
    first = auto(model)
    assert len(calls) > 0 and len([*kept.iterdir()]) == 1
    calls.clear()
    second = auto(model)
    assert not calls and first[1] == second[1]
    for another in ({"positive": conds["negative"]}, {"seed": 7}, {"batch_size": 3}):
        info = auto(model, **another)[1]
        assert not calls and ("Measured with another prompt." in info) == ("positive" in another)
    again = auto(model, measure="again")
    assert calls and again[1] == first[1]


def test_what_another_model_or_run_measures_anew(auto, counted):
    model, calls = counted
    patched = lora(model)
    auto(patched)  # leaves its weights patched in memory
    calls.clear()
    assert known(auto, patched) and known(auto, lora(model))
    scaled = model.clone()
    scaled.set_model_sampler_cfg_function(lambda args: args["uncond"] + 3.0 * (args["cond"] - args["uncond"]))
    for other in (model, lora(model, 0.25), lora(patched), scaled):
        assert not known(auto, other)
    runs = ({"steps": 4}, {"cfg": 2.5}, {"sampler_name": "heun"}, {"scheduler": "karras"})
    for another in (*runs, {"quality": "normal"}):
        assert not known(auto, patched, **another)
    assert not calls


@pytest.mark.parametrize(
    ("name", "values"), [("sag.SelfAttentionGuidance", (0.5, 2.0)), ("tomesd.TomePatchModel", (0.3,))]
)
def test_a_patch_that_changes_while_it_runs_is_measured_once(auto, models, name, values):
    file, node = name.split(".")
    patched, other = (
        getattr(load(f"comfy_extras.nodes_{file}"), node).execute(models["epsilon"], first, *values[1:])[0]
        for first in (values[0], values[0] / 2)
    )
    auto(patched, batch_size=16)
    assert known(auto, patched) and not known(auto, other)


def test_the_tooltip_tells_the_cost(pack, fit_adapter):
    node = pack["SteadyDiffAuto"]
    qualities = sys.modules[node.__module__].QUALITIES.values()
    plans = [fit_adapter.FitPlan(n, settings=rule) for n, rule in qualities]
    costs = [
        [plan.calls(20, n)[1] * plan.batch / 20 for plan, n in zip(plans, counts, strict=True)]
        for counts in ([plan.pictures for plan in plans], [None] * 3)
    ]
    assert [[round(one) for one in some] for some in costs] == [[64, 128, 486], [125, 250, 730]]
    [tooltip] = [one.tooltip for one in node.GET_SCHEMA().inputs if one.id == "quality"]
    assert "the time of 64, 128 or 486 pictures, without images 125, 250 or 730" in tooltip.replace("  ", " ")


def test_never_leaves_the_model_as_it_is(auto, counted, kept):
    model, calls = counted
    given, info, plot = auto(model, measure="never")
    assert given is model and info.startswith("Not measured: measure is never") and plot.ndim == 4
    assert not calls and not kept.exists()


@pytest.fixture
def cancelled(auto, counted, monkeypatch):
    """Run the node, and cancel it after so many model calls; returns how many it made."""
    management = load("comfy.model_management")
    model, calls = counted

    def cancelled(after):
        def stop():
            if len(calls) >= after:
                raise management.InterruptProcessingException

        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(management, "throw_exception_if_processing_interrupted", stop)
            with pytest.raises(management.InterruptProcessingException):
                auto(model)
        return len(calls)

    return cancelled


def test_a_cancelled_measurement_goes_on_where_it_ended(auto, counted, cancelled, kept):
    model, calls = counted
    whole = auto(model)
    [file] = kept.iterdir()
    text, all_calls = file.read_text(encoding="utf-8"), len(calls)
    file.unlink()
    made = 0
    for after in (all_calls // 3, all_calls // 3):  # the second time from where the first ended
        made += cancelled(after)
        assert [one.suffix for one in kept.iterdir()] == [".safetensors"]
    calls.clear()
    assert auto(model)[1] == whole[1]
    assert 0 < len(calls) < 0.6 * all_calls and made + len(calls) < 1.7 * all_calls
    assert [one.read_text(encoding="utf-8") for one in kept.iterdir()] == [text]


def test_another_problem_does_not_go_on_with_what_was_measured(auto, counted, cancelled, conds, kept):
    model, calls = counted
    auto(model, positive=conds["negative"])
    [file] = kept.iterdir()
    text, all_calls = file.read_text(encoding="utf-8"), len(calls)
    file.unlink()
    cancelled(all_calls // 2)
    calls.clear()
    auto(model, positive=conds["negative"])
    assert len(calls) == all_calls and file.read_text(encoding="utf-8") == text


def test_where_there_is_nothing_to_correct_the_model_is_the_very_same(auto, choose, counted):
    choose()
    model, info, _ = auto(counted[0])
    assert model is counted[0] and "Nothing to correct. The model is left as it is." in info


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m"])
@pytest.mark.parametrize(
    "correction", [{"scale": 1.04, "later": True}, {"factor": 0.9}, {"scale": 0.98, "factor": 1.05}]
)
def test_the_corrected_run_is_the_one_that_was_tried(
    auto, choose, sample, sigmas_of, model, correction, name, distance
):
    drawn = choose(**correction)
    given, info, _ = auto(model, sampler_name=name, batch_size=16)
    assert "Corrected: " in info
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        noise = unit_noise((4, 8, 8), range(16))
        ours = sample(given, name, sigmas=sigmas_of(model, STEPS), noise=noise, cfg=2.0, seed=0)
    assert distance(ours, model.model.process_latent_out(drawn[0])) < 1e-4


@pytest.mark.parametrize("name", ["dpm_2", "uni_pc", "euler"])
def test_it_samples_at_ksamplers_levels(auto, choose, models, kept, host, name):
    choose()
    auto(models["epsilon"], sampler_name=name, scheduler="karras")
    [file] = kept.iterdir()
    facts = json.loads(file.read_text(encoding="utf-8"))["made_for"]
    own = host.samplers.KSampler(models["epsilon"], STEPS, "cpu", name, "karras", 1.0)
    assert facts["sigmas"] == own.sigmas.tolist() and facts["scheduler"] == "karras"


def test_a_strength_of_diffier_is_carried_too(auto, choose, models, sample):
    choose(strength=0.3)
    model = auto(models["epsilon"])[0]
    assert not torch.equal(sample(model), sample(models["epsilon"]))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"sampler_name": "dpm_adaptive"}, "cannot be taken step by step"),
        ({"sampler_name": "euler_cfg_pp"}, r"not of the CFG\+\+ kind"),
        ({"images": torch.zeros(8, 8, 8, 3)}, "images need the vae"),
        (
            {"images": torch.zeros(7, 8, 8, 3), "vae": SimpleNamespace(first_stage_model=None)},
            "at least 8 im",
        ),
        ({"latent_image": {"samples": torch.ones(1, 16, 8, 8)}}, "4 channels, got 16"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_model_call(auto, counted, kept, inputs, said):
    model, calls = counted
    with pytest.raises(Exception, match=said) as refused:
        auto(model, **inputs)
    assert type(refused.value).__module__ == "steadydiff"
    assert not calls and not kept.exists()


def test_a_model_with_a_correction_of_ours_is_refused(auto, counted, patched):
    model, calls = counted
    with pytest.raises(Exception, match="carries Epsilon Scaling already"):
        auto(patched(model, scale=1.02))
    assert not calls


def test_a_damaged_file_is_named(auto, counted, kept):
    model, calls = counted
    auto(model)
    [file] = kept.iterdir()
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(Exception, match=f"{file.name} cannot be read .* delete it, or measure again"):
        auto(model)
    auto(model, measure="again")
    assert json.loads(file.read_text(encoding="utf-8"))["format"] == "steadydiff_auto"


@pytest.mark.parametrize("sampler_name", ["ddpm", "dpmpp_sde"])
def test_measuring_leaves_no_trace(auto, models, sample, sampler_name):
    model = models["epsilon"]
    before, options = sample(model), str(model.model_options)
    state = torch.get_rng_state()
    auto(model, sampler_name=sampler_name)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample(model), before) and str(model.model_options) == options


@pytest.fixture
def world(pack):
    """The photos' model with a prompt."""
    model, clip, vae = pack["SteadyDiffTinyWorld"].execute("photos").args
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in ("a horse", ""))
    latent = {"samples": torch.zeros(1, 3, 16, 16)}
    ends = {"positive": positive, "negative": negative}
    return {"model": model, "vae": vae, **ends, "latent_image": latent, "cfg": 1.0}


def test_photos_are_measured_against_images(auto, world):
    pictures, vae, model = torch.rand(9, 40, 48, 4), world["vae"], world.pop("model")
    own = {**world, "images": pictures}
    info = auto(model, **own)[1]
    assert "against 9 connected images" in info and "few-step error" not in info
    encode, vae.encode = vae.encode, None
    assert auto(model, **own)[1] == info
    vae.encode = encode
    assert not known(auto, model, **{**own, "images": pictures.flip(1)})


def test_pictures_that_ship_serve_where_none_are_connected(auto, world):
    model, shipped = world.pop("model"), {**world, "stand_in": "shipped pictures"}
    info = auto(model, **shipped)[1]
    assert info.startswith("Against 16 shipped pictures, which show also what differs")
    assert "Measured on 16 pictures, against 16 shipped pictures." in info
    assert known(auto, model, **shipped) and not known(auto, model, **world)
    assert not known(auto, model, **shipped, images=torch.rand(8, 16, 16, 3))
    with pytest.raises(Exception, match="shipped pictures need the vae that encodes them; connect it"):
        auto(model, **{**shipped, "vae": None})


@pytest.mark.parametrize("variant", ["epsilon", "flow"])
def test_images_of_something_else_than_the_prompt_asks_for_are_refused(auto, pack, kept, variant):
    scenes = sample_scenes(5, 2000)
    scenes = scenes[(scenes.count == 1) & (scenes.shape[:, 0] == SHAPES.index("star"))][:16]
    model, clip, vae = pack["SteadyDiffTinyWorld"].execute(variant).args
    star, heart, none = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for text in ("a star", "a large red heart at the left on a night background", "")
    )
    given = {"images": render(scenes).movedim(1, -1), "vae": vae, "negative": none}
    with pytest.raises(Exception, match="the real pictures are not what the prompt asks for: under it"):
        auto(model, positive=heart, **given)
    assert not [*kept.glob("*.json")] and not known(auto, model, positive=heart, **given)
    assert "against 16 connected images" in auto(model, positive=star, **given)[1]


def test_small_images_are_enlarged_smoothly_and_large_ones_averaged():
    encoded = load(f"{PACK}.nodes.shared.auto_run").encoded
    vae = SimpleNamespace(spacial_compression_encode=lambda: 1, encode=lambda picture: picture.movedim(-1, 1))
    ramp = torch.linspace(0, 1, 8)[None, :, None].expand(8, 8, 3)
    [large] = encoded([ramp], vae, (3, 32, 32))
    steps = large[0, 16].diff()
    assert large.shape == (3, 32, 32) and (steps[4:-4] > 0.01).all() and 0 <= large.min() <= large.max() <= 1
    [small] = encoded([ramp], vae, (3, 4, 4))
    torch.testing.assert_close(small[0, 2], ramp[0, :, 0].unflatten(0, (4, 2)).mean(1))


def test_pictures_of_a_folder_come_one_by_one_in_sizes_of_their_own(pack, auto, world):
    pictures = [torch.rand(1, 24 + i, 40, 3) for i in range(9)]
    info = auto(images=pictures, **world)[1]
    assert "against 9 connected images" in info
    assert auto(images=[*pictures[:4], torch.cat([one[:, :24] for one in pictures[4:]])], **world)[1] != info


def test_the_plot_stays_on_the_node(pack, conds, counted, kept, auto, monkeypatch):
    """The page leaves the last preview of a run over what a node shows by itself: there is none."""
    previews = []
    monkeypatch.setattr(
        load("comfy.utils").ProgressBar, "update_absolute", lambda *values: previews.append(values[3:])
    )
    auto(counted[0])
    assert len(previews) > 10 and set(previews) <= {(), (None,)}
    plots = [*(kept.parent.parent / "temp").iterdir()]
    assert len(plots) == 1 and pack["SteadyDiffAuto"].GET_SCHEMA().has_intermediate_output


def test_the_cost_and_the_time_left_are_said_on_the_node(auto, counted, monkeypatch):
    said = []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: said.append((node_id, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    monkeypatch.setattr(sys.modules[f"{PACK}.nodes.shared.meter"], "SECONDS", 0.0)
    with load("comfy_execution.utils").CurrentNodeContext("prompt", "5"):
        auto(counted[0])
    assert {node_id for node_id, _ in said} == {"5"}
    # Four times the steps for 16 references, 4 levels of the judge on them, and at most three runs, judged.
    least, most = 16 * (4 + 4 / 3 + (1 + 4 / 3)), 16 * (4 + 4 / 3 + 3 * (1 + 4 / 3))
    assert said[0][1].startswith(f"About to measure: the time of {least:.0f} to {most:.0f} pictures.")
    assert said[1][1].startswith(f"Measuring: {8 / 3:.0f} of at most {most:.0f} pictures' time, at most ")
    assert said[-1][1].endswith("left as it is.") or said[-1][1].startswith("Corrected")
