"""Auto Correct with the model alone connected: it measures when a sampler runs, as that is set."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tools.launch import tiny_models
from tools.launch.inprocess import defaults_of, load

STEPS = 3


@pytest.fixture(autouse=True)
def here(kept):
    """Nothing is kept outside a folder of the test's own."""


@pytest.fixture
def auto(pack):
    """Run the node, which is handed lists; returns model, info and plot."""
    node = pack["SteadyDiffAuto"]

    def auto(model, **inputs):
        given = defaults_of(node) | {"model": model, "quality": "quick", "batch_size": 8} | inputs
        return node.execute(**{name: [one] for name, one in given.items()}).args

    return auto


def test_a_sampler_measures_once_for_itself_and_takes_what_is_kept(auto, counted, sample, kept):
    model, calls = counted
    given, info, _ = auto(model)
    assert not (kept.parent.parent / "temp").exists()  # no plot on the node, as there is none yet
    assert not calls and info.startswith("Measures when a sampler first runs") and "250 pictures" not in info
    first = sample(given)
    [file] = kept.iterdir()
    measured, written = len(calls), file.stat().st_mtime_ns
    for again in (given, auto(model)[0]):
        calls.clear()
        assert torch.equal(sample(again), first) and len(calls) <= 2 * STEPS < measured
    sample(given, seed=8)
    assert [*kept.iterdir()] == [file] and file.stat().st_mtime_ns == written
    calls.clear()
    sample(given, cfg=2.0)  # a second sampler with the same model
    assert len(calls) > 2 * STEPS and len([*kept.iterdir()]) == 2
    sample(auto(model, measure="never")[0], cfg=2.0)


def test_pictures_that_ship_serve_a_run_at_its_own_size(auto, models, sample, kept):
    def encode(picture):
        assert picture.shape == (1, 64, 64, 3)
        return torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8)[:, [0, 1, 2, 0]] - 0.5

    vae = SimpleNamespace(encode=encode, spacial_compression_encode=lambda: 8, first_stage_model=None)
    sample(auto(models["epsilon"], vae=vae, stand_in="shipped pictures")[0])
    [file] = kept.iterdir()
    assert '"references": "16 shipped pictures"' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("correction", [{"scale": 1.04, "later": True}, {"factor": 0.9}, {"strength": 0.3}])
def test_it_corrects_as_with_everything_connected(
    auto, choose, counted, conds, sample, said, correction, host
):
    choose(**correction)
    model, calls = counted
    given = auto(model)[0]
    sigmas = host.samplers.KSampler(model, STEPS, "cpu", "euler", "simple", 1.0).sigmas
    drawn = sample(given, sigmas=sigmas, cfg=2.0)
    calls.clear()
    ends = {name: conds[name] for name in ("positive", "negative")}
    run = {"steps": STEPS, "cfg": 2.0, "scheduler": "simple", "measure": "never"}
    connected, info, _ = auto(model, latent_image={"samples": torch.zeros(1, 4, 8, 8)}, **ends, **run)
    assert not calls and info.startswith("No pictures connected") and "another prompt" not in info
    assert torch.equal(drawn, sample(connected, sigmas=sigmas, cfg=2.0))
    assert not torch.equal(drawn, sample(model, sigmas=sigmas, cfg=2.0))


@pytest.mark.parametrize("name", ["euler", "ddpm", "dpmpp_sde", "uni_pc"])
def test_where_nothing_helps_the_run_is_exactly_the_plain_one(auto, choose, models, sample, name):
    choose()
    given, options = auto(models["epsilon"])[0], str(models["epsilon"].model_options)
    state = torch.get_rng_state()
    plain, after = sample(models["epsilon"], name), torch.get_rng_state()
    torch.set_rng_state(state)
    assert torch.equal(sample(given, name), plain)
    assert torch.equal(torch.get_rng_state(), after) and str(models["epsilon"].model_options) == options
    assert torch.equal(sample(models["epsilon"], name), plain)


def basic(model, conds):
    guider = load("comfy_extras.nodes_custom_sampler").Guider_Basic(model)
    guider.set_conds(conds["positive"])
    return guider


def test_every_sampler_node_of_the_host_is_followed(auto, choose, models, conds, kept, host):
    choose(scale=1.05)
    model, nodes, custom = (
        auto(models["epsilon"])[0],
        load("nodes"),
        load("comfy_extras.nodes_custom_sampler"),
    )
    positive, negative = conds["positive"], conds["negative"]
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    euler = host.samplers.sampler_object("euler")
    sigmas = host.samplers.KSampler(model, STEPS, "cpu", "euler", "karras", 1.0).sigmas

    def drawn(model):
        noise = custom.Noise_RandomNoise(4)
        yield nodes.KSampler().sample(model, 4, STEPS, 2.0, "euler", "karras", positive, negative, latent)[0][
            "samples"
        ]
        yield nodes.KSamplerAdvanced().sample(
            model, "enable", 4, STEPS, 2.0, "euler", "karras", positive, negative, latent, 0, 10000, "disable"
        )[0]["samples"]
        yield custom.SamplerCustom.execute(
            model, True, 4, 2.0, positive, negative, euler, sigmas, latent
        ).args[0]["samples"]
        yield custom.SamplerCustomAdvanced.execute(noise, basic(model, conds), euler, sigmas, latent).args[0][
            "samples"
        ]

    with_it, without = [*drawn(model)], [*drawn(models["epsilon"])]
    assert not any(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert all(torch.equal(one, with_it[0]) for one in with_it[:3])
    assert len([*kept.iterdir()]) == 2  # the basic guider has CFG 1


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"sigmas": slice(2, None)}, "so it is a part of a run"),
        ({"sigmas": slice(0, 3)}, "not at 0, so it is a part of a run"),
        ({"mask": torch.ones(1, 1, 8, 8)}, "a mask keeps a part of the picture"),
    ],
)
def test_a_run_that_cannot_be_measured_is_left_as_it_is_and_says_so(
    auto, counted, kept, sample, sigmas_of, said, how, why
):
    model, calls = counted
    given = auto(model)[0]
    run = dict(how)
    if "sigmas" in run:
        run["sigmas"] = sigmas_of(model, 4)[run["sigmas"]]
    drawn = sample(given, **run)
    assert len(calls) <= 8 and not kept.exists() and torch.equal(drawn, sample(model, **run))
    assert any("Auto Correct leaves this run as it is" in one and why in one for _, one in said)


def two_scales(model):
    conds = tiny_models.conds()
    guider = load("comfy_extras.nodes_custom_sampler").Guider_DualCFG(model)
    guider.set_cfg(2.0, 1.5)
    guider.set_conds(conds["positive"], conds["positive"], conds["negative"])
    return guider


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"sampler": "euler_cfg_pp"}, r"not of the CFG\+\+ kind"),
        ({"sampler": "dpm_adaptive"}, "cannot be taken step by step"),
        ({"guider": two_scales}, "a Guider_DualCFG has more"),
    ],
)
def test_a_run_that_is_set_so_that_it_cannot_be_measured_is_refused(auto, counted, sample, how, why):
    model, calls = counted
    with pytest.raises(Exception, match=why) as refused:
        sample(auto(model)[0], **how)
    assert type(refused.value).__module__ == "steadydiff" and not calls
    assert "take Auto Correct away" in str(refused.value)  # it is the sampler's node that turns red


def test_half_of_what_it_measures_with_is_refused(auto, models, conds):
    with pytest.raises(Exception, match="negative and latent_image must be connected as well, or none of"):
        auto(models["epsilon"], positive=conds["positive"])


def test_a_cancelled_sampler_keeps_what_is_measured(auto, counted, sample, kept, monkeypatch):
    model, calls = counted
    given, management = auto(model)[0], load("comfy.model_management")
    whole = sample(given)
    [file] = kept.iterdir()
    text, all_calls = file.read_text(encoding="utf-8"), len(calls)
    file.unlink()
    calls.clear()

    def stop():
        if len(calls) >= all_calls // 2:
            raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(management, "throw_exception_if_processing_interrupted", stop)
        with pytest.raises(management.InterruptProcessingException):
            sample(given)
    assert [one.suffix for one in kept.iterdir()] == [".safetensors"]
    calls.clear()
    assert torch.equal(sample(given), whole) and len(calls) < 0.8 * all_calls
    assert [one.read_text(encoding="utf-8") for one in kept.iterdir()] == [text]


def test_again_measures_once_more_and_never_not_at_all(auto, choose, counted, sample, kept, said):
    drawn, (model, _) = choose(scale=1.05), counted
    plain = sample(model)
    assert torch.equal(sample(auto(model, measure="never")[0]), plain) and not drawn and not kept.exists()
    assert any(one.startswith("Not measured: measure is never") for _, one in said)
    for count in (1, 2):
        given = auto(model, measure="again")[0]
        sample(given)
        sample(given, seed=8)
        assert len(drawn) == count


def test_what_stands_behind_it_acts_beside_it(auto, choose, patched, models, sample, distance):
    choose(scale=1.05)
    model = models["epsilon"]
    both = sample(patched(auto(model)[0], scale=1.02))
    assert distance(both, sample(patched(patched(model, scale=1.05), scale=1.02))) < 1e-6
    with pytest.raises(Exception, match="carries Epsilon Scaling already"):
        auto(patched(model, scale=1.02))


def test_what_measures_by_itself_wants_the_model_before_it(auto, pack, models, conds, host):
    model, node = auto(models["epsilon"])[0], pack["SteadyDiffMeasure"]
    given = {"positive": conds["positive"], "negative": conds["negative"], "model": model}
    given |= {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "sigmas": torch.tensor([14.6, 1.0, 0.0])}
    given |= {"sampler": host.samplers.sampler_object("euler")}
    with pytest.raises(Exception, match="connect the model from before it here"):
        node.execute(**defaults_of(node) | given)


def test_it_is_told_on_its_own_node_and_by_compare(auto, choose, models, conds, pack, monkeypatch):
    choose(scale=1.05)
    told = []
    server = SimpleNamespace(send_progress_text=lambda text, node_id: told.append((node_id, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    context = load("comfy_execution.utils").CurrentNodeContext
    with context("prompt", "5"):
        model, info, _ = auto(models["epsilon"])
    assert told == [("5", info)]
    node, vae = pack["SteadyDiffCompare"], SimpleNamespace(decode=lambda z: z[:, :3].movedim(1, -1))
    ends = {name: conds[name] for name in ("positive", "negative")}
    given = {"model": model, "vae": vae, "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "steps": STEPS}
    with context("prompt", "7"):
        *_, info = node.execute(**defaults_of(node) | ends | given).args
    assert "mean difference" in info and "Corrected: Epsilon Scaling 1.05." in info and "Kept in " in info
    assert "identical" not in info
    assert [node for node, text in told if "Corrected: Epsilon Scaling 1.05" in text][:2] == ["7", "5"]
    assert "About to measure" in told[1][1] and told[1][0] == "7"
