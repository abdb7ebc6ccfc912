"""ARPO's nodes in a real ComfyUI: the tiny world finds the prompts of its own drawings, offline."""

# Over 400 lines: one node file has one test file.

import copy
import inspect
import json
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy
import pytest
import torch
import torch.nn.functional as F

from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import select_phrases
from steadydiff.tinyworld.scenes import render, sample_scenes
from tools.launch import arpo as command
from tools.launch.arpo_host import checkpoint_graph, with_pictures
from tools.launch.inprocess import PACK, defaults_of, load


@pytest.fixture(scope="module")
def execute(pack):
    """Run one of our nodes with its defaults unless given, and return its outputs."""

    def run(name, **inputs):
        node = pack[name]
        defaults = defaults_of(node)
        return node.execute(**(defaults | inputs)).result

    return run


@cache
def reference():
    """A dotted drawing of a small purple square at the right on a sky background."""
    return render(sample_scenes(1_000_005, 12)[1:2])[0].permute(1, 2, 0)[None]


@pytest.fixture(scope="module")
def scorer(execute):
    return execute("SteadyDiffCLIPScorer", model="tiny world")[0]


@pytest.fixture(scope="module")
def inputs(execute, scorer):
    with torch.inference_mode():
        model, clip, vae = execute("SteadyDiffTinyWorld")
        proposer = execute("SteadyDiffPhraseBank", scorer=scorer, bank="tinyworld")[0]
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    return {
        **{"image": reference(), "model": model, "clip": clip, "vae": vae, "negative": negative},
        **{"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "proposer": proposer, "scorer": scorer},
        **{"seed": 7, "steps": 8, "cfg": 4.0, "iterations": 2, "prompt": "a blue star"},
    }


def test_it_finds_what_is_in_the_picture_and_returns_what_it_drew(execute, inputs, host):
    prompt, image, images, report, plot, _ = execute("SteadyDiffARPO", **inputs, best_by="text")
    assert all(phrase in prompt for phrase in ("a blue star", "a small purple", "at the right", "sky"))
    told = json.loads(report)
    steps = told["log"]["steps"]
    assert told["summary"]["prompt"] == prompt and len(images) == len(steps) >= 2
    assert steps[-1]["text_similarity"] > steps[0]["text_similarity"] + 0.2
    assert image.shape == (1, 64, 64, 3) and plot.shape[-1] == 3
    [edited, _] = execute("SteadyDiffEditPrompt", prompt=prompt, report=report, style="a soft drawing")
    assert "a small purple" in edited and edited.endswith("a soft drawing")

    # The picture is what KSampler draws of that prompt.
    positive = inputs["clip"].encode_from_tokens_scheduled(inputs["clip"].tokenize(prompt))
    sampled = load("nodes").common_ksampler(
        inputs["model"], 7, 8, 4.0, "euler", "normal", positive, inputs["negative"], inputs["latent_image"]
    )[0]["samples"]
    assert torch.equal(inputs["vae"].decode(sampled), image)


def test_the_same_inputs_give_the_same_and_no_state_stays(execute, inputs):
    first, second = (execute("SteadyDiffARPO", **inputs | {"iterations": 1}) for _ in range(2))
    assert first[0] == second[0] and torch.equal(first[2], second[2])


def test_an_empty_prompt_begins_with_a_caption_and_exclusions_hold(execute, inputs):
    widgets = {"iterations": 0, "prompt": " "}
    assert "purple" in execute("SteadyDiffARPO", **inputs | widgets)[0]
    excluded = execute("SteadyDiffARPO", **inputs | {"iterations": 1, "exclude": "AT the right\nat the top"})
    assert "at the right" not in excluded[3] and "at the bottom" in excluded[3]


class Dead:
    """A proposer whose server does not answer, from the given call on."""

    def __init__(self, own, answers):
        self._own, self._answers = own, answers
        self._error = sys.modules[f"{PACK}.steadydiff.errors"].ProposerError

    def caption(self, reference):
        return self._own.caption(reference)

    def propose(self, reference, generated, current):
        if not self._answers:
            raise self._error("nobody answers at http://127.0.0.1:1")
        self._answers -= 1
        return self._own.propose(reference, generated, current)


def test_a_search_in_which_nobody_proposes_anything_fails(execute, inputs):
    with pytest.raises(Exception, match="the proposer failed: nobody answers at http://127.0.0.1:1"):
        execute("SteadyDiffARPO", **inputs | {"proposer": Dead(inputs["proposer"], answers=0)})


def test_what_was_found_before_a_proposer_failed_is_kept(execute, inputs):
    found = execute("SteadyDiffARPO", **inputs | {"proposer": Dead(inputs["proposer"], answers=1)})
    assert len(found[2]) == 2 and "nobody answers" in json.loads(found[3])["summary"]["stopped"]


def test_progress_counts_every_step_and_shows_every_drawing(execute, inputs, host, monkeypatch):
    shown = []
    utils = load("comfy.utils")
    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", lambda *told, **_: shown.append(told))
    images = execute("SteadyDiffARPO", **inputs | {"iterations": 1})[2]
    values = [value for value, *_ in shown]
    assert values == sorted(values) and values[-1] <= 16 and {total for _, total, _ in shown} == {16}
    drawn = [preview for value, _, preview in shown if value % 8 == 0 and preview]
    assert len(drawn) >= len(images)


def test_cancel_takes_one_step_and_a_kept_search_goes_on(execute, inputs, host, monkeypatch, tmp_path):
    monkeypatch.setattr(load("folder_paths"), "get_output_directory", lambda: str(tmp_path))
    told, cancel, bars = [], host.management.interrupt_current_processing, load("comfy.utils")

    def hook(value, total, preview, **_):
        told.append(value)
        if value >= 8 + 3 and len([v for v in told if v >= 8 + 3]) == 1:
            cancel()

    monkeypatch.setattr(bars, "PROGRESS_BAR_HOOK", hook)
    with pytest.raises(host.management.InterruptProcessingException):
        execute("SteadyDiffARPO", **inputs, keep_as="mine")
    late = [value for value in told if value >= 8 + 3]
    assert max(late) <= late[0] + 1
    [kept] = (tmp_path / "steadydiff_arpo").iterdir()
    monkeypatch.setattr(bars, "PROGRESS_BAR_HOOK", None)
    resumed = execute("SteadyDiffARPO", **inputs, keep_as="mine")
    whole = execute("SteadyDiffARPO", **inputs)
    assert resumed[0] == whole[0] and len(resumed[2]) == len(whole[2])
    with pytest.raises(Exception, match="another reference picture or seed"):
        execute("SteadyDiffARPO", **inputs | {"seed": 8}, keep_as=kept.stem)
    with pytest.raises(Exception, match="without folders"):
        execute("SteadyDiffARPO", **inputs, keep_as="../mine")


# --- negative prompts and words ---------------------------------------------------------------------------


WRONG = "a large green moon at the left on a night background"  # of which the tiny world draws another shape


def test_a_tagger_writes_the_first_prompt_once_its_files_and_onnxruntime_are_here(
    execute, inputs, pack, monkeypatch, tmp_path
):
    """Its network is a small one of ours, which no onnxruntime runs."""

    def options():
        return next(
            one.options for one in pack["SteadyDiffARPO"].GET_SCHEMA().inputs if one.id == "captioner"
        )

    class Session:
        def __init__(self, file, providers):
            self.get_inputs = lambda: [SimpleNamespace(name="picture", shape=["batch", 16, 16, 3])]

        def run(self, outputs, given):
            return [numpy.array([[0.9, 0.1, 0.8]], "float32")]

    monkeypatch.setattr(load("folder_paths"), "models_dir", str(tmp_path))
    assert options() == ["proposer"]
    folder = tmp_path / "steadydiff_taggers"
    folder.mkdir()
    (folder / "small.onnx").touch()
    (folder / "small.csv").write_text("name,category\na_small_star,0\nred_hat,0\nby_night,0\n")
    runtime = ModuleType("onnxruntime")
    runtime.__spec__, runtime.InferenceSession = ModuleSpec("onnxruntime", None), Session
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert options() == ["proposer", "small"]
    none = inputs | {"prompt": "", "iterations": 0}
    assert execute("SteadyDiffARPO", **none, captioner="small")[0] == "a small star, by night"
    assert execute("SteadyDiffARPO", **none)[0] not in ("", "a small star, by night")
    assert execute("SteadyDiffARPO", **none | {"prompt": "a cat"}, captioner="small")[0] == "a cat"


def test_what_the_drawings_have_and_the_image_has_not_is_the_negative_prompt(execute, inputs):
    found = execute("SteadyDiffARPO", **inputs | {"prompt": WRONG, "iterations": 1})
    negative, told = found[5], json.loads(found[3])
    assert "large green" in negative and "purple" not in negative and "at the right" not in negative
    assert told["summary"]["negative"] == negative
    assert set(negative.split(", ")) <= set(told["log"]["following"]["negative"])
    assert not any(phrase in found[0] for phrase in negative.split(", "))


def test_a_models_no_goes_to_the_negative_prompt(execute, inputs):
    class Model(Dead):
        def propose(self, reference, generated, current):
            language = sys.modules[f"{PACK}.steadydiff.arpo.language.parsing"]
            return language.parse_phrases(
                "- a small purple square\n- no large green diamond\n- not at the right"
            )

    given = {"proposer": Model(inputs["proposer"], 1), "prompt": WRONG, "iterations": 1}
    found = execute("SteadyDiffARPO", **inputs | given)
    assert found[0] == f"{WRONG}, a small purple square"
    assert found[5] == "large green diamond"  # the reference's thing is at the right: measured, not believed


def test_a_negative_prompt_is_kept_with_the_search(execute, inputs, monkeypatch, tmp_path):
    monkeypatch.setattr(load("folder_paths"), "get_output_directory", lambda: str(tmp_path))
    whole = execute("SteadyDiffARPO", **inputs | {"iterations": 1}, keep_as="mine")
    again = execute("SteadyDiffARPO", **inputs | {"iterations": 1}, keep_as="mine")
    assert whole[5] and again[5] == whole[5] and again[0] == whole[0]


def test_a_word_excludes_all_phrases_that_hold_it(execute, inputs):
    found = execute("SteadyDiffARPO", **inputs | {"iterations": 1, "exclude": "PURPLE, square"})
    said = json.loads(found[3])["log"]["steps"][0]["candidates"]
    assert said["content"] and not any("purple" in p or "square" in p for p in said["content"])


def test_edit_prompt_exchanges_words_and_keeps_the_negative_prompt_apart(execute):
    edited = execute(
        "SteadyDiffEditPrompt",
        prompt="a dog on a red sofa, Dog toys, hotdog",
        negative="cat, text, the sea",
        words="dog -> cat\nred ->",
        content="the sea",
        edit="add",
    )
    assert edited == ("a cat on a sofa, Cat toys, hotdog, the sea", "text")
    assert execute("SteadyDiffEditPrompt", prompt="a dog") == ("a dog", "")
    with pytest.raises(Exception, match="words must be like 'dog -> cat'"):
        execute("SteadyDiffEditPrompt", prompt="a dog", words="dog")


def test_edit_prompt_edits_each_of_the_prompts_of_several_images(execute):
    found = {"content": ["a red dog"], "style": ["oil painting"]}, {"content": ["a cat"], "style": ["ink"]}
    made = execute(
        "SteadyDiffEditPrompt",
        prompt="a red dog, oil painting\na cat, ink",
        negative="a hat, text\n",
        report=json.dumps({"searches": [{"log": {"steps": [{"phrases": one}]}} for one in found]}),
        edit="swap",
        content="",
        style="watercolour",
        remove="",
        words="dog -> hat",
    )
    assert tuple(made) == ("a red hat, watercolour\na cat, watercolour", "text\n")


def test_several_seeds_draw_what_the_sampler_draws_of_each(execute, inputs):
    prompt, image, images, report, *_ = execute("SteadyDiffARPO", **inputs | {"iterations": 1}, seeds=3)
    log = json.loads(report)["log"]
    steps = log["steps"]
    assert image.shape == (3, 64, 64, 3) and len(images) == 3 * len(steps) and log["seeds"] == 3
    near = [step["image_similarity"] for step in steps]
    assert json.loads(report)["summary"]["prompt"] == prompt == best_prompt(steps, near)
    assert json.loads(report)["summary"]["spread"] > 0
    positive = inputs["clip"].encode_from_tokens_scheduled(inputs["clip"].tokenize(prompt))
    for k in range(3):
        drawn = load("nodes").common_ksampler(
            inputs["model"],
            7 + k,
            8,
            4.0,
            "euler",
            "normal",
            positive,
            inputs["negative"],
            inputs["latent_image"],
        )[0]["samples"]
        assert torch.equal(inputs["vae"].decode(drawn)[0], image[k])


def best_prompt(steps, near):
    kinds = steps[near.index(max(near))]["phrases"]
    return ", ".join([*kinds["content"], *kinds["style"]])


def test_a_prompt_may_grow_over_the_encoders_windows(execute, inputs, scorer):
    long = inputs | {
        "prompt": "a small red star, a large blue ring, a green heart, on a mint background, a teal cross"
    }
    short = execute("SteadyDiffARPO", **long)
    grown = execute("SteadyDiffARPO", **long, max_tokens=150, best_by="text")
    assert scorer.fits([short[0]]) == [True] and scorer.fits([grown[0]]) == [False]
    assert "a small purple" in grown[0] and len(grown[0].split()) > len(short[0].split())
    positive = inputs["clip"].encode_from_tokens_scheduled(inputs["clip"].tokenize(grown[0]))
    drawn = load("nodes").common_ksampler(
        inputs["model"], 7, 8, 4.0, "euler", "normal", positive, inputs["negative"], inputs["latent_image"]
    )[0]["samples"]
    assert torch.equal(inputs["vae"].decode(drawn), grown[1])


def test_of_several_images_the_first_each_or_what_they_share_is_searched_for(
    execute, inputs, monkeypatch, tmp_path
):
    monkeypatch.setattr(load("folder_paths"), "get_output_directory", lambda: str(tmp_path))
    scenes = render(sample_scenes(1_000_005, 12)[1:3]).permute(0, 2, 3, 1)
    several = inputs | {"image": scenes, "iterations": 1}
    first, second = (execute("SteadyDiffARPO", **several | {"image": scenes[i : i + 1]}) for i in range(2))
    default = execute("SteadyDiffARPO", **several)
    assert default[0] == first[0] and torch.equal(default[2], first[2])
    each = execute("SteadyDiffARPO", **several, combine="each", keep_as="both")
    assert each[0] == f"{first[0]}\n{second[0]}" and first[0] != second[0]
    assert torch.equal(each[1], torch.cat([first[1], second[1]]))
    assert torch.equal(each[2], torch.cat([first[2], second[2]]))
    assert [one["summary"]["prompt"] for one in json.loads(each[3])["searches"]] == each[0].split("\n")
    assert len(each[4]) == 2
    kept = sorted(file.name for file in (tmp_path / "steadydiff_arpo").iterdir())
    assert kept == ["both_0.safetensors", "both_1.safetensors"]
    shared = execute("SteadyDiffARPO", **several, combine="mean")
    scorer, both = inputs["scorer"], [inputs["scorer"].picture(scene) for scene in scenes]
    near = {
        prompt: (scorer.texts([prompt])[0] @ sum(both)).item() for prompt in (shared[0], first[0], second[0])
    }
    assert near[shared[0]] > max(near[first[0]], near[second[0]])


@pytest.mark.parametrize("words", [[], ["--server", "http://localhost:1/v1"]])
def test_the_graph_of_run_py_arpo_gives_our_nodes_what_they_take(pack, words):
    told = command.parser().parse_args(["x.png", "--checkpoint", "x", "--comfyui", "1", *words])
    graph = with_pictures(checkpoint_graph(told, (64, 64)), ["a", "b"], told)
    ours = [node for node in graph.values() if node["class_type"] in pack]
    assert len(ours) == 3
    for node in ours:
        taken = {one.id: one for one in pack[node["class_type"]].GET_SCHEMA().inputs}
        given = node["inputs"]
        assert {name for name, one in taken.items() if not one.optional} <= set(given) <= set(taken)
        for name, value in given.items():
            options = getattr(taken[name], "options", None)
            assert not options or value in options, (name, value)


def test_graphs_from_before_which_lack_what_is_new_are_valid(pack):
    before = {
        "SteadyDiffPhraseBank": {"scorer", "bank", "most", "against", "content", "style"},
        "SteadyDiffARPO": {
            "image",
            "model",
            "clip",
            "vae",
            "negative",
            "latent_image",
            "proposer",
            "scorer",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "iterations",
            "prompt",
            "exclude",
            "best_by",
            "drop",
            "min_gain",
            "target",
            "keep_as",
        },
    }
    for name, required in before.items():
        inputs = pack[name].GET_SCHEMA().inputs
        assert {one.id for one in inputs if not one.optional} == required
        order = [one.id in required for one in inputs]
        assert order == sorted(order, reverse=True)  # so that kept values of widgets stay theirs


# --- scorers ----------------------------------------------------------------------------------------------


def test_the_tiny_clip_reads_22_words(scorer):
    assert scorer.fits(["red " * n for n in (21, 22, 23, 60)]) == [True, True, False, False]


def test_one_batch_chooses_as_one_text_at_a_time_does(scorer):
    wanted = scorer.picture(reference()[0])
    candidates = Phrases(
        (
            "a small purple square",
            "at the right",
            "a red star",
            "on a sky background",
            "at the top",
        ),
        ("a soft drawing", "a dotted drawing"),
    )

    def one_by_one(texts):
        return [float(F.normalize(scorer._encode_texts([text])[0], dim=0) @ wanted) for text in texts]

    def in_one(texts):
        return (scorer.texts(texts) @ wanted).tolist()

    alone, together = (
        select_phrases(similar, Phrases(), candidates, scorer.fits) for similar in (one_by_one, in_one)
    )
    assert together.added == alone.added and "a small purple square" in alone.added.prompt
    assert "a red star" not in alone.added.prompt


def test_without_open_clip_the_node_names_the_command(execute, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Exception, match="python -m pip install open_clip_torch"):
        execute("SteadyDiffCLIPScorer", model="tiny world")


def test_what_is_not_here_is_not_fetched_unasked(execute):
    with pytest.raises(Exception, match="not on this computer; allow the download"):
        execute("SteadyDiffCLIPScorer")
    with pytest.raises(Exception, match="it has openai, laion"):
        execute("SteadyDiffCLIPScorer", weights="../../etc/passwd")
    with pytest.raises(Exception, match="name its architecture"):
        execute("SteadyDiffCLIPScorer", model="other")
    with pytest.raises(Exception, match="connect clip and clip_vision"):
        execute("SteadyDiffCLIPScorer", model="connected")


@pytest.fixture
def vision(host):
    """A random image encoder that projects to as many numbers as the tiny world's text encoder is wide."""
    made = load("comfy.clip_vision").ClipVisionModel(
        {
            **{"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
            **{"model_type": "clip_vision_model", "projection_dim": 64, "image_size": 28, "patch_size": 14},
            **{"hidden_act": "gelu", "num_channels": 3},
        }
    )
    for weight in made.model.parameters():
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    return made


def test_the_hosts_clip_is_refused_without_its_projection_and_used_with_it(execute, inputs, vision):
    with torch.inference_mode(False):
        clip = execute("SteadyDiffTinyWorld")[1]
    with pytest.raises(Exception, match="clip_l came without its projection"):
        execute("SteadyDiffCLIPScorer", model="connected", clip=clip, clip_vision=vision)
    projection = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    projection.data = torch.randn(projection.shape, generator=torch.Generator().manual_seed(1))
    [scorer] = execute("SteadyDiffCLIPScorer", model="connected", clip=clip, clip_vision=vision)
    embedded = scorer.texts(["a red star", "a blue ring", "a red star"])
    assert embedded.shape == (3, 64) and torch.equal(embedded[0], embedded[2])
    pooled = clip.encode_from_tokens(clip.tokenize("a blue ring"), return_pooled=True)[1]
    torch.testing.assert_close(embedded[1], F.normalize(pooled.float(), dim=-1)[0])
    assert scorer.fits(["red " * 22, "red " * 23]) == [True, False]
    assert scorer.picture(reference()[0]).norm().item() == pytest.approx(1)
    vision.model.visual_projection = torch.nn.Identity()
    with pytest.raises(Exception, match="CLIP_VISION has no projection"):
        execute("SteadyDiffCLIPScorer", model="connected", clip=clip, clip_vision=vision)


def test_an_empty_latent_is_drawn_in_the_models_size(execute, inputs):
    fix = load("comfy.sample").fix_empty_latent_channels
    if "downscale_ratio_spacial" not in inspect.signature(fix).parameters:
        pytest.skip("this host's empty latents do not say it")
    model = inputs["model"].clone()
    coarse = copy.copy(model.get_model_object("latent_format"))
    coarse.spacial_downscale_ratio = 16
    model.add_object_patch("latent_format", coarse)
    empty = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8}
    image = execute("SteadyDiffARPO", **(inputs | {"model": model, "latent_image": empty, "iterations": 1}))[
        1
    ]
    assert image.shape == (1, 64, 64, 3)


# --- banks ------------------------------------------------------------------------------------------------


@pytest.fixture
def models(monkeypatch, tmp_path):
    """An empty folder of models, with nobody else's wildcards."""
    folders = load("folder_paths")
    monkeypatch.setattr(folders, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folders.folder_names_and_paths, "custom_nodes", ([str(tmp_path / "packs")], set()))
    return tmp_path / "models"


def test_banks_of_the_user_and_of_wildcards_propose_and_their_embeddings_are_kept(
    execute, scorer, models, pack
):
    shapes = ["square", "circle", "triangle", "star", "heart", "ring", "cross", "diamond"]
    for file, lines in {
        models / "steadydiff_banks" / "mine" / "shapes.txt": [f"a {c} {s}" for c in "abcdef" for s in shapes],
        models / "steadydiff_banks" / "short.txt": ["a small purple square"],
        models.parent / "packs" / "Wild" / "wildcards" / "style" / "ways.txt": ["a dotted drawing"],
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    [options] = [one.options for one in pack["SteadyDiffPhraseBank"].GET_SCHEMA().inputs if one.id == "bank"]
    assert {"general", "art", "mine", "short", "wildcards Wild", "none"} <= set(options)
    bank = {"scorer": scorer, "bank": "mine", "more": "short, wildcards Wild"}
    [proposer] = execute("SteadyDiffPhraseBank", **bank)
    found = proposer.propose(reference()[0], torch.zeros(64, 64, 3), Phrases())
    assert {"a small purple square", "a dotted drawing"} <= {*found.content, *found.style}
    [kept] = (models / "steadydiff_banks" / ".embeddings").iterdir()
    written = kept.stat().st_mtime_ns
    [again] = execute("SteadyDiffPhraseBank", **bank)
    assert again.propose(reference()[0], torch.zeros(64, 64, 3), Phrases()) == found
    assert kept.stat().st_mtime_ns == written
    node, before = pack["SteadyDiffPhraseBank"], None
    assert (before := node.fingerprint_inputs("mine", "short")) == node.fingerprint_inputs("mine", "short")
    (models / "steadydiff_banks" / "short.txt").write_text("a red star and more")
    assert node.fingerprint_inputs("mine", "short") != before
    with pytest.raises(Exception, match="there is no phrase bank 'absent'; there are art,"):
        execute("SteadyDiffPhraseBank", scorer=scorer, more="absent")
