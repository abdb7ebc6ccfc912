"""`run.py arpo`: what it refuses, says and writes here, and what graph it queues in a ComfyUI."""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

import run
from steadydiff.arpo.language.proposer import VisionProposer
from steadydiff.arpo.language.server import ChatServer
from steadydiff.arpo.phrase_bank import PhraseBank
from steadydiff.arpo.phrases import Phrases
from tools.launch import arpo, arpo_host
from tools.launch.comfy_client import ComfyError, ComfyRefusal
from tools.launch.console import Stop

QUICK = ["--iterations", "0", "--prompt", "a red star"]


@pytest.fixture
def output(monkeypatch, tmp_path):
    monkeypatch.setattr(arpo, "OUTPUT", tmp_path / "output")
    return tmp_path / "output"


def picture(file, size, colour="teal"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def options(*words):
    return arpo.parser().parse_args(["picture.png", *words])


@pytest.mark.slow
def test_a_photo_is_refused_where_only_the_tiny_world_draws(tmp_path, output, capsys):
    photo = str(picture(tmp_path / "photo.png", (640, 480)))
    assert arpo.main([photo, *QUICK]) == 1
    said = capsys.readouterr()
    assert "draws with: the tiny world. It draws one or two of 10 shapes" in said.out
    assert "photo.png has 640 x 480 pixels and is no drawing of the tiny world" in said.err
    assert "--comfyui ADDRESS --checkpoint NAME" in said.err and not output.exists()
    assert arpo.main([photo, *QUICK, "--force"]) == 0
    assert "prompt: a red star" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folders_prompts_are_written_beside_its_pictures(tmp_path, output, capsys):
    for name in ("a.png", "b.jpg", "sub/c.png"):
        picture(tmp_path / "set" / name, (64, 64))
    picture(tmp_path / "set" / "photo.webp", (100, 50))
    (tmp_path / "set" / "b.txt").write_text("mine")
    (tmp_path / "set" / "damaged.png").write_bytes(b"no picture")
    assert arpo.main([str(tmp_path / "set"), *QUICK]) == 1
    said = capsys.readouterr()
    assert (tmp_path / "set" / "a.txt").read_text() == "a red star\n"
    assert (tmp_path / "set" / "b.txt").read_text() == "mine" and "--overwrite finds it anew" in said.out
    assert "damaged.png cannot be read" in said.err and "photo.webp has 100 x 50 pixels" in said.err
    assert sorted(file.name for file in (tmp_path / "set").rglob("*.txt")) == ["a.txt", "b.txt"]
    arpo.main([str(tmp_path / "set"), *QUICK, "--overwrite"])
    assert (tmp_path / "set" / "b.txt").read_text() == "a red star\n"
    with pytest.raises(Stop, match="there are scene:0 to scene:999"):
        arpo.references("scene:1000")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stop, match="has no pictures"):
        arpo.references(str(tmp_path / "empty"))


def test_paths_are_meant_from_where_the_command_was_given(tmp_path, monkeypatch, capfd):
    picture(tmp_path / "photo.png", (80, 60))
    monkeypatch.chdir(tmp_path)
    assert run.main(["arpo", "photo.png", "--comfyui", "1", "--python", sys.executable]) == 1
    assert "photo.png has 80 x 60 pixels" in capfd.readouterr().err


def test_a_folder_ends_at_a_comfyui_that_does_not_answer(tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "set" / name, (64, 64))
    assert arpo.main([str(tmp_path / "set"), "--comfyui", "1", "--checkpoint", "x"]) == 1
    said = capsys.readouterr().err
    assert said.count("The ComfyUI at 127.0.0.1:1") == 1 and "nothing listens there; start it" in said


@pytest.mark.slow
@pytest.mark.parametrize("where", [[], ["--comfyui", "1", "--checkpoint", "x"]])
def test_a_folder_ends_at_a_chat_server_that_does_not_run(tmp_path, output, capsys, where):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "set" / name, (64, 64))
    assert arpo.main([str(tmp_path / "set"), *where, "--server", "http://127.0.0.1:1/v1"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert "the chat server http://127.0.0.1:1 (model qwen3-vl:8b) does not run" in said
    assert not output.exists()


@pytest.mark.slow
def test_a_key_that_is_missing_is_told_before_anything_is_drawn(tmp_path, output, capsys):
    picture(tmp_path / "set" / "a.png", (64, 64))
    words = ["--server", "http://127.0.0.1:1/v1", "--key-name", "NO_SUCH_KEY_OF_MINE"]
    assert arpo.main([str(tmp_path / "set"), *words]) == 1
    assert "there is no key NO_SUCH_KEY_OF_MINE" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize(
    ("error", "alone"),
    [
        (ComfyError("node arpo (SteadyDiffARPO) failed: the proposer failed: it refuses"), True),
        (ComfyError("node steadydiff_reference (LoadImage) failed: no picture"), True),
        (ComfyError("ComfyUI answered 413 to the picture a.png"), True),
        (
            ComfyError("node scorer (SteadyDiffCLIPScorer) failed: the weights are not on this computer"),
            False,
        ),
        (ComfyRefusal("node arpo (SteadyDiffARPO): Value not in list"), False),
        (ConnectionRefusedError(), False),
    ],
)
def test_what_any_picture_would_meet_ends_a_folder(error, alone):
    assert arpo_host.of_a_picture(error) == alone


@pytest.mark.slow
def test_a_tagger_writes_the_first_prompt(output, monkeypatch):
    monkeypatch.setattr(arpo, "load_tagger", lambda file: lambda picture: Phrases((f"by {file.stem}",)))
    assert arpo.main(["scene:7", "--iterations", "0", "--tagger", "taggers/mine.onnx"]) == 0
    told = json.loads((output / "scene_7" / "log.json").read_text(encoding="utf-8"))
    assert told["steps"][0]["phrases"]["content"] == ["by mine"]
    named = options("--checkpoint", "x", "--tagger", "mine")
    graph = arpo_host.with_pictures(arpo_host.checkpoint_graph(named, (64, 64)), ["a"], named)
    assert graph["arpo"]["inputs"]["captioner"] == "mine"


class Refusing(BaseHTTPRequestHandler):
    """Runs, and has no model."""

    def do_POST(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_caption_that_nobody_improved_is_not_written(tmp_path, output, capsys):
    picture(tmp_path / "set" / "a.png", (64, 64))
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        dead = ["--server", url, "--prompt", "a red star", "--iterations", "1"]
        assert arpo.main([str(tmp_path / "set"), *dead]) == 1
        server.shutdown()
    assert "the proposer failed" in capsys.readouterr().err and not list((tmp_path / "set").glob("*.txt"))


@pytest.mark.slow
def test_a_folder_that_was_stopped_is_resumed_where_it_was(tmp_path, output, capsys, monkeypatch):
    for name, colour in (("a", "teal"), ("b", "red"), ("c", "blue")):
        picture(tmp_path / "set" / f"{name}.png", (64, 64), colour)
    words = [str(tmp_path / "set"), "--iterations", "1", "--prompt", "a red star"]
    draw, drawn = arpo.draw, []

    def draws(prompts, seed):
        drawn.extend(prompts)
        if len(drawn) == 4:  # the second one of b
            raise KeyboardInterrupt
        return draw(prompts, seed)

    monkeypatch.setattr(arpo, "draw", draws)
    assert arpo.main(words) == 130
    assert capsys.readouterr().err == "Stopped; --resume goes on from the last whole iteration.\n"
    assert [file.name for file in (tmp_path / "set").glob("*.txt")] == ["a.txt"]
    del drawn[:]
    arpo.main(["scene:7", *QUICK])  # whose log takes the place of c's, as of a namesake
    (output / "scene_7").rename(output / "c")
    drawn[:] = ["again"] * 10
    assert arpo.main([*words, "--resume"]) == 0, capsys.readouterr().err
    assert len(drawn) == 10 + 3  # b's second one, and c's two
    assert len(list((tmp_path / "set").glob("*.txt"))) == 3


@pytest.mark.slow
def test_a_search_that_was_stopped_before_its_first_drawing_begins_anew(output, capsys):
    assert arpo.main(["scene:7", *QUICK, "--resume"]) == 0
    assert "no log of an earlier search is in" in capsys.readouterr().out
    assert (output / "scene_7" / "log.safetensors").is_file()


@pytest.mark.slow
def test_a_folder_may_be_one_theme(tmp_path, output, capsys):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "set" / name, (64, 64))
    assert arpo.main([str(tmp_path / "set"), *QUICK, "--combine"]) == 0
    assert "3 pictures as one theme" in capsys.readouterr().out
    assert not list((tmp_path / "set").glob("*.txt"))
    assert (output / "set_theme" / "sheet.png").is_file()
    told = options("--checkpoint", "x")
    graph = arpo_host.with_pictures(arpo_host.checkpoint_graph(told, (64, 64)), ["a", "b", "c"], told)
    last, inputs = graph["arpo"]["inputs"]["image"][0], graph["arpo"]["inputs"]
    assert inputs["combine"] == "mean" and graph[last]["class_type"] == "ImageBatch"
    first = graph[last]["inputs"]["image1"][0]
    loaded = [graph[graph[at]["inputs"][f"image{k}"][0]] for at, k in ((first, 1), (first, 2), (last, 2))]
    assert [one["inputs"]["image"] for one in loaded] == ["a", "b", "c"]


@pytest.mark.slow
def test_banks_are_named_or_folders_and_files(tmp_path, output):
    (tmp_path / "own.txt").write_text("a red star\na blue ring")
    made = arpo.named_proposer(options("--bank", f"art/style/prints, {tmp_path / 'own.txt'}"), arpo.scorer())
    assert isinstance(made, PhraseBank)
    assert [len(one) for one in made.lists][1:] == [2] and len(made.lists[0]) > 150
    assert arpo.main(["scene:7", *QUICK, "--bank", "absent"]) == 1


@pytest.mark.slow
def test_a_banks_name_means_the_bank_though_a_folder_of_that_name_is_here(tmp_path, monkeypatch):
    (tmp_path / "general").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(arpo.named_proposer(options("--bank", "general"), arpo.scorer()).lists) > 5


@pytest.mark.slow
def test_a_chat_server_sees_with_one_model_and_may_write_with_another():
    words = "--server", "http://localhost:1/v1", "--text-model", "large", "--model", "eyes"
    made = arpo.named_proposer(options(*words), arpo.scorer())
    assert isinstance(made, VisionProposer)
    assert isinstance(made.see, ChatServer) and isinstance(made.write, ChatServer)
    assert (made.see.model, made.write.model, made.see.url) == ("eyes", "large", "http://localhost:1/v1")
    assert len(made.sessions) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--checkpoint", "x.safetensors"], "say which one by --comfyui ADDRESS"),
        (["--comfyui", "https://host:1"], "is no address of a ComfyUI"),
        (["--comfyui", "host"], "is no address of a ComfyUI"),
        (["--comfyui", "1:99999"], "is no address of a ComfyUI"),
        (["--comfyui", "1", "--workflow", "absent.json"], r"absent\.json cannot be read as a workflow"),
        (["--comfyui", "1", "--checkpoint", "x"], "The ComfyUI at 127.0.0.1:1 did not find a prompt"),
        (["--comfyui", "1"], "is no drawing of the tiny world"),
        (["--iterations", "-1"], r"^iterations is 0 or more; got -1\n$"),
        pytest.param(["--bank", ","], "the phrase bank is empty", marks=pytest.mark.slow),  # needs open_clip
    ],
)
def test_what_cannot_be_drawn_with_is_refused(tmp_path, capsys, words, sentence):
    photo = picture(tmp_path / "photo.png", (80, 60))
    assert arpo.main([str(photo), *words]) == 1
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["p.png", "--comfyui", "1", "--resume"], "--resume is for searches without a ComfyUI"),
        (["scene:7", "--comfyui", "1"], "scene:7 has no file that a ComfyUI could load"),
        (["p.png", "--comfyui", "1", "--bank", "art"], "a workflow has its own settings; --bank is for"),
        (["scene:7", "--steps", "30"], "--steps is for drawing in a ComfyUI"),
        (["scene:7", "--negative", "text", "--size", "64"], "--size, --negative is for drawing in a ComfyUI"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(capsys, words, sentence):
    assert arpo.main(words) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["8188", "127.0.0.1:8188", "http://127.0.0.1:8188/"])
def test_an_address_is_a_port_with_or_without_its_host(text):
    assert arpo_host.address_of(text) == (8188, "127.0.0.1")


def test_the_graph_of_a_checkpoint_draws_in_the_references_proportions():
    told = options("--checkpoint", "x.safetensors", "--bank", "art,mine", "--negative", "blur", "--drop")
    graph = arpo_host.with_pictures(arpo_host.checkpoint_graph(told, (1200, 800)), ["in/p.png"], told)
    inputs = {key: node["inputs"] for key, node in graph.items()}
    assert inputs["size"] == {"width": 640, "height": 448, "batch_size": 1}
    assert inputs["model"] == {"ckpt_name": "x.safetensors"} and inputs["negative"]["text"] == "blur"
    assert (inputs["proposer"]["bank"], inputs["proposer"]["more"]) == ("none", "art,mine")
    assert (inputs["scorer"]["model"], inputs["scorer"]["weights"]) == ("ViT-L-14", "openai")
    assert inputs["arpo"]["drop"] is True and inputs["arpo"]["image"] == ["steadydiff_reference", 0]
    wires = [v for given in inputs.values() for v in given.values() if isinstance(v, list)]
    assert all(key in graph for key, _ in wires)


def test_it_says_what_a_workflow_draws_with(tmp_path):
    file = tmp_path / "mine.json"
    ours = json.loads((Path(arpo_host.ROOT) / "workflows" / "api" / "arpo.json").read_text(encoding="utf-8"))
    ours["world"] = {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}}
    file.write_text(json.dumps(ours))
    host = arpo_host.HostSearch.of(options("--comfyui", "1", "--workflow", str(file)))
    assert (host.draws_with, host.tiny) == ("flux.safetensors", False)
    assert arpo_host.HostSearch.of(options("--port", "1")).tiny
    file.write_text("{}")
    with pytest.raises(Stop, match=r"with one SteadyDiffARPO node is needed; mine\.json has 0"):
        arpo_host.HostSearch.of(options("--comfyui", "1", "--workflow", str(file)))
