"""ARPO in a WebUI: its routes draw by the host's own generation, show what they find and can be cancelled."""

# Over 400 lines: all of it shares one running host and its drawings.

import base64
import io
import time

import pytest
from PIL import Image

DRAWING = {"steps": 4, "cfg": 3.0, "width": 64, "height": 64, "sampler_name": "Euler", "seed": 5}
WISH = {
    "search": {"iterations": 2, "prompt": "a cat"},
    "drawing": DRAWING,
    "bank": {"bank": "none", "content": "red\ngreen\nblue"},
}

PREPARED = """
import re
import torch
from modules import shared
from steadydiff_webui.arpo import search as arpo_search

class Scorer:  # places pictures by their mean colour and texts by the colours they name
    class model:
        to = staticmethod(lambda device: None)

    def picture(self, picture):
        mean = picture.mean((0, 1))
        return mean / mean.norm()

    def texts(self, texts):
        rows = [[float(c in text) + 0.01 for c in ("red", "green", "blue")] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    def fits(self, texts):  # CLIP's window, a token for each word and comma
        return [len(re.findall(r"\\w+|,", text)) <= 75 for text in texts]

arpo_search.kept_scorer = lambda **named: Scorer()
shared.cmd_opts.api = True
"""


@pytest.fixture(scope="module")
def arpo(packed):
    """Return a function that asks the routes; the scorer is one whose answers are known."""
    packed.ask("run", source=PREPARED)
    packed.ask("reload_ui")
    packed.ask("run", source="import actions\nactions._CLIENT.clear()")

    def ask(method, path="", body=None):
        answer = packed.ask("http", method=method, path=f"/steadydiff/arpo{path}", body=body)
        return answer["status"], answer["json"]

    return ask


@pytest.fixture(scope="module")
def reference():
    """A green picture, in base64."""
    file = io.BytesIO()
    Image.new("RGB", (32, 48), (20, 220, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def ended(arpo, wish):
    """Begin a search and wait for its end."""
    status, begun = arpo("POST", body=wish)
    assert status == 200, begun
    for _ in range(1200):
        _, seen = arpo("GET", f"/{begun['id']}?images=true")
        if seen["state"] not in ("waiting", "searching"):
            return seen
        time.sleep(0.05)
    raise AssertionError(seen)


def test_a_search_finds_the_phrase_and_tells_all(arpo, reference):
    seen = ended(arpo, {"image": reference, **WISH})
    assert (seen["state"], seen["prompt"].partition(",")[0]) == ("done", "a cat")
    assert seen["steps"][0]["gains"][0][0] == "green"
    absent = seen["negative"].split(", ") if seen["negative"] else []
    assert set(absent) <= {"red", "blue"}
    assert len(seen["steps"]) == 2  # with green there, nothing brings it nearer
    assert "no phrase" in seen["status"]


def test_a_bank_of_the_users_own_is_searched_by_its_name(packed, arpo, reference):
    folder = packed.data / "models" / "steadydiff_banks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.txt").write_text("a red hat\na green hat\na blue hat\n")
    seen = ended(arpo, {**WISH, "image": reference, "bank": {"bank": "none", "more": "mine"}})
    assert seen["steps"][0]["gains"][0][0] == "a green hat"


def test_what_drawings_have_and_the_reference_has_not_is_negative(arpo, reference):
    """Beside a reference that is all of the colour that the first drawing has least of."""
    wish = {**WISH, "search": {**WISH["search"], "iterations": 0}}
    [first] = ended(arpo, {**wish, "image": reference})["steps"]
    drawn = Image.open(io.BytesIO(base64.b64decode(first["image"]))).resize((1, 1), Image.BOX)
    colours = dict(zip(("red", "green", "blue"), drawn.getpixel((0, 0)), strict=True))
    least, _, most = sorted(colours, key=colours.__getitem__)
    file = io.BytesIO()
    Image.new("RGB", (32, 32), least).save(file, "PNG")
    bank = {**WISH["bank"], "most": 1}  # what is proposed is never negative
    seen = ended(arpo, {**WISH, "image": base64.b64encode(file.getvalue()).decode(), "bank": bank})
    assert seen["negative"].split(", ")[0] == most


def test_the_mean_of_several_seeds_counts(arpo, reference):
    wish = {**WISH, "image": reference, "search": {**WISH["search"], "seeds": 2, "iterations": 0}}
    [step], [alone] = (
        ended(arpo, one)["steps"] for one in (wish, {**wish, "search": {"iterations": 0, "prompt": "a cat"}})
    )
    assert len(step["similarities"]) == 2 and step["similarities"][0] != step["similarities"][1]
    assert step["image_similarity"] == pytest.approx(sum(step["similarities"]) / 2)
    assert alone["image_similarity"] == pytest.approx(step["similarities"][0])


def test_several_images_are_searched_one_by_one_or_as_one_theme(arpo, reference):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (30, 20, 220)).save(file, "PNG")
    wish = {**WISH, "images": [reference, base64.b64encode(file.getvalue()).decode()]}
    found = {
        how: ended(arpo, {**wish, "search": {"iterations": 2, "prompt": "a red cat", "combine": how}})
        for how in ("first", "each", "mean")
    }
    assert "\n" not in found["first"]["prompt"] and "green" in found["first"]["prompt"]
    one, other = found["each"]["prompt"].split("\n")
    assert "green" in one and "blue" in other
    gains = [phrase for step in found["mean"]["steps"] for phrase, _ in step["gains"]]
    assert set(gains) == {"green", "blue"}, found["mean"]["status"]


def test_files_that_were_dropped_are_searched_with_the_reference(packed, arpo, reference, tmp_path):
    files = [tmp_path / f"{name}.png" for name in ("blue", "green")]
    for file in files:
        Image.new("RGB", (40, 40), file.stem).save(file)
    source = """
from steadydiff_webui.arpo import tab as arpo_tab
shown = list(arpo_tab.follow(arpo_tab.Searches(), None, wish, files))
result = [s[3] for s in shown if isinstance(s[3], str)][-1], shown[-1][1]
"""
    wish = {**WISH, "search": {"iterations": 1, "prompt": "a red cat", "combine": "each"}}
    found, said = packed.ask("run", source=source, wish=wish, files=[str(file) for file in files])
    one, other = found.split("\n")
    assert "blue" in one and "green" in other, said


def test_a_word_excludes_phrases_that_hold_it_and_words_are_swapped_in_what_is_found(arpo, reference):
    bank = {"bank": "none", "content": "a green hat\ngreenish wool\na green dog"}
    search = {"iterations": 2, "prompt": "a big cat", "exclude": "HAT, wool"}
    seen = ended(arpo, {**WISH, "image": reference, "bank": bank, "search": search})
    assert seen["prompt"] == "a big cat, a green dog"
    search |= {"words": "dog -> owl, big ->, green -> old"}
    seen = ended(arpo, {**WISH, "image": reference, "bank": bank, "search": search})
    assert seen["prompt"] == "a cat, an old owl" and seen["infotext"].startswith("a cat, an old owl\n")
    assert seen["steps"][-1]["phrases"]["content"] == ["a big cat", "a green dog"]  # which was drawn
    status, answer = arpo("POST", body={"image": reference, "search": {"words": "dog"}})
    assert status == 422 and "dog -> cat" in str(answer)


def test_a_prompt_may_grow_over_windows_and_is_drawn_as_the_host_parts_it(packed, arpo, reference):
    long = ", ".join(f"a wall with {number} plain bricks" for number in range(13))
    found = {}
    for most in (75, 150):
        search = {"iterations": 2, "prompt": long, "max_tokens": most, "best_by": "text"}
        found[most] = ended(arpo, {**WISH, "image": reference, "search": search})
    assert found[75]["prompt"] == long and "window is full" in found[75]["status"]
    assert found[150]["prompt"] == f"{long}, green"
    step = found[150]["steps"][-1]
    made = packed.generate(
        prompt=found[150]["prompt"],
        negative_prompt="",
        cfg_scale=DRAWING["cfg"],
        **{k: v for k, v in DRAWING.items() if k != "cfg"},
    )
    assert [packed_digest(decoded(step))] == made["images"]


def decoded(step):
    return Image.open(io.BytesIO(base64.b64decode(step["image"])))


def test_a_chat_server_that_does_not_run_is_told_before_anything_is_drawn(packed, arpo, reference):
    source = """
import base64, io, time
from PIL import Image
from steadydiff_webui.arpo import tab as arpo_tab

picture = Image.open(io.BytesIO(base64.b64decode(reference)))
searches, begun = arpo_tab.Searches(), time.monotonic()
shown = list(arpo_tab.follow(searches, picture, wish))
result = [len(shown), shown[0][1], len(searches._by_id)]
"""
    dead = {"proposer": {"proposer": "chat server"}, "server": {"url": "http://127.0.0.1:1", "model": "one"}}
    count, said, begun = packed.ask("run", source=source, reference=reference, wish=WISH | dead)
    assert (count, begun) == (1, 0) and "127.0.0.1:1" in said and "does not run" in said


def test_the_tab_says_before_the_click_which_clip_there_is(packed):
    source = """
from steadydiff_webui.arpo.helpers import told_of_clip
asked = ("ViT-L-14", "openai", ""), ("tiny world", "", ""), ("other", "", "")
result = [told_of_clip(*one) for one in asked]
"""
    (large, _), tiny, (other, offered) = packed.ask("run", source=source)
    assert "ViT-L-14" in large or "open_clip" in large  # which is no package of every host's
    assert tiny in (["CLIP: clip", False], [large, False]) and "architecture" in other and not offered


def test_the_hosts_own_tagger_writes_the_first_prompt_once_its_file_is_here(packed, arpo, reference):
    """Its weights are 0.6 GB: here its network is exchanged for a small one that knows three tags."""
    wish = {**WISH, "image": reference, "search": {"iterations": 1}, "proposer": {"captioner": "DeepBooru"}}
    status, answer = arpo("POST", body=wish)
    assert status == 422 and "captioner is one of who suggests" in str(answer)
    folder = packed.data / "models" / "torch_deepdanbooru"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.pt").touch()
    source = """
import torch
from modules import deepbooru

class Small(torch.nn.Module):
    tags = ["rating:safe", "green_field", "red_hat", "sky_(blue)"]

    def forward(self, x):
        return torch.tensor([[1.0, 0.9, 0.1, 0.8]])

deepbooru.model.model = Small()
deepbooru.model.start = deepbooru.model.stop = lambda: None
"""
    try:
        packed.ask("run", source=source)
        seen = ended(arpo, wish)
    finally:
        (folder / "small.pt").unlink()
        undo = "from modules import deepbooru as d\nd.model = type(d.model)()"
        packed.ask("run", source=undo)
    first = seen["steps"][0]["phrases"]["content"]
    assert first == ["green field", "sky (blue)"], seen["status"]


def test_the_hosts_own_blip_writes_the_first_prompt_once_its_files_are_here(packed, arpo, reference):
    """By the host's class that loads and asks it. A small network stands for the large one; what it is shown
    is not looked at, as these hosts have a stand-in for torchvision."""
    wish = {**WISH, "image": reference, "search": {"iterations": 1}, "proposer": {"captioner": "BLIP"}}
    status, answer = arpo("POST", body=wish)
    assert status == 422 and "captioner is one of who suggests" in str(answer)
    folder = packed.data / "models" / "BLIP"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.pth").touch()
    words = packed.data / "hub" / "models--bert-base-uncased"
    (words / "snapshots" / "one").mkdir(parents=True, exist_ok=True)
    (words / "refs").mkdir(exist_ok=True)
    (words / "refs" / "main").write_text("one")
    source = """
import pathlib, sys, types
import torch
from huggingface_hub import constants
from modules import paths
from steadydiff_webui.arpo import captioners

class Small(torch.nn.Module):
    def __init__(self, pretrained, image_size, vit, med_config):
        super().__init__()
        self.file = pretrained
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def generate(self, picture, **told):
        return ["a green field, seen by " + pathlib.Path(self.file).name]

blip = types.ModuleType("models.blip")
blip.blip_decoder = Small
sys.modules |= {"models": types.ModuleType("models"), "models.blip": blip}
sys.modules["models"].blip = blip
paths.paths["BLIP"] = "none"
blip.kept, constants.HF_HUB_CACHE = constants.HF_HUB_CACHE, hub
result = captioners.has_blip(captioners.Path(paths.models_path))
"""
    try:
        assert not packed.ask("run", source=source, hub=str(words.parent))  # its tokenizer is not here yet
        (words / "snapshots" / "one" / "vocab.txt").touch()
        seen = ended(arpo, wish)
    finally:
        (folder / "small.pth").unlink()
        undo = """
import sys
from huggingface_hub import constants
from modules import paths
constants.HF_HUB_CACHE = sys.modules["models.blip"].kept
del sys.modules["models"], sys.modules["models.blip"], paths.paths["BLIP"]
"""
        packed.ask("run", source=undo)
    assert seen["state"] == "done", seen["status"]
    assert seen["steps"][0]["phrases"]["content"] == ["a green field", "seen by small.pth"]


def test_txt2imgs_drawing_settings_are_found(packed):
    source = """
from steadydiff_webui.arpo import txt2img
from steadydiff_webui.arpo.settings import drawing_inputs
found = txt2img.components([one.name for one in drawing_inputs()])
result = {name: one.elem_id for name, one in found.items()}
"""
    found = packed.ask("run", source=source)
    assert found.keys() >= {"negative", "sampler_name", "steps", "cfg", "width", "height"}
    assert all(name.startswith("txt2img_") for name in found.values())


def test_what_it_draws_is_what_txt2img_draws(packed, arpo, reference):
    seen = ended(arpo, {"image": reference, **WISH})
    for step in seen["steps"]:
        prompt = ", ".join([*step["phrases"]["content"], *step["phrases"]["style"]])
        made = packed.generate(
            prompt=prompt,
            negative_prompt="",
            **{k: v for k, v in DRAWING.items() if k != "cfg"},
            cfg_scale=DRAWING["cfg"],
        )
        picture = Image.open(io.BytesIO(base64.b64decode(step["image"])))
        assert [packed_digest(picture)] == made["images"]
    assert "Steps: 4, Sampler: Euler" in seen["infotext"]


def packed_digest(picture):
    import hashlib

    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()[:16]


def test_cancel_ends_it_and_the_host_goes_on(packed, drawn, arpo, reference):
    before = drawn(packed)
    slow = {**WISH, "image": reference, "drawing": {**DRAWING, "steps": 150, "width": 512, "height": 512}}
    _, begun = arpo("POST", body=slow)
    while arpo("GET", f"/{begun['id']}")[1]["state"] == "waiting":
        time.sleep(0.01)
    assert arpo("POST", f"/{begun['id']}/cancel") == (200, {})
    for _ in range(600):
        state = arpo("GET", f"/{begun['id']}")[1]["state"]
        if state != "searching":
            break
        time.sleep(0.05)
    assert state == "cancelled"
    assert drawn(packed) == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": "no picture"}, "base64"),
        ({"search": {"iteration": 1}}, "iterations"),
        ({"drawing": {"steps": 0}}, "steps is a whole number"),
        ({"server": {"url": "ftp://x"}, "proposer": {"proposer": "nobody"}}, "phrase bank"),
        ({"colour": {}}, "colour"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arpo, reference, wrong, said):
    status, answer = arpo("POST", body={"image": reference, **wrong})
    assert status == 422 and said in str(answer)


def test_a_search_that_fails_says_why(arpo, reference):
    wish = {**WISH, "image": reference, "bank": {"bank": "none"}}
    seen = ended(arpo, wish)
    assert seen["state"] == "failed" and "phrase bank is empty" in seen["status"]


def test_a_search_in_which_nobody_proposes_anything_has_failed(arpo, reference):
    """With a prompt to begin with, which is drawn; what would come out of it is that very prompt."""
    dead = {"proposer": {"proposer": "chat server"}, "server": {"url": "http://127.0.0.1:1", "model": "one"}}
    seen = ended(arpo, {**WISH, **dead, "image": reference})
    assert seen["state"] == "failed" and seen["status"].startswith("the proposer failed: ")
    assert "127.0.0.1:1" in seen["status"] and len(seen["steps"]) == 1


def test_a_search_is_kept_and_goes_on(packed, arpo, reference):
    wish = {**WISH, "image": reference, "search": {**WISH["search"], "keep_as": "kept", "iterations": 0}}
    assert len(ended(arpo, wish)["steps"]) == 1
    assert (packed.data / "output" / "steadydiff_arpo" / "kept.safetensors").is_file()
    wish["search"]["iterations"] = 2
    assert ended(arpo, wish)["steps"][0]["gains"][0][0] == "green"


def test_the_inputs_are_told_as_the_nodes_name_them(arpo):
    status, told = arpo("GET")
    assert status == 200
    assert {one["name"] for one in told["search"]} >= {"iterations", "prompt", "exclude", "best_by", "drop"}
    assert all(one["tooltip"] for inputs in told.values() for one in inputs)


def test_another_name_or_password_is_not_let_in(packed):
    source = """
from fastapi import FastAPI
from fastapi.testclient import TestClient
from modules import shared
from steadydiff_webui.arpo.routes import PATH, add_routes
from steadydiff_webui.arpo.tab import Searches

app, before = FastAPI(), shared.cmd_opts.api_auth
shared.cmd_opts.api_auth = "me:secret"
add_routes(app, Searches())
shared.cmd_opts.api_auth = before
client = TestClient(app)
result = [client.get(PATH, auth=auth).status_code for auth in (None, ("me", "guess"), ("me", "secret"))]
"""
    assert packed.ask("run", source=source) == [401, 401, 200]


def test_the_tab_shows_a_search_from_beginning_to_end(packed, arpo, reference):
    source = """
import base64, io
from PIL import Image
from steadydiff_webui.arpo import tab as arpo_tab

picture = Image.open(io.BytesIO(base64.b64decode(reference)))
shown = list(arpo_tab.follow(arpo_tab.Searches(), picture, wish))
nothing = list(arpo_tab.follow(arpo_tab.Searches(), None, wish))
galleries = [s[6] for s in shown if isinstance(s[6], list)]
drawn = galleries[-1]
result = {
    "ids": len({s[0] for s in shown}),
    "galleries": [len(g) for g in galleries],
    "captions": [type(p).__name__ + c[:2] for p, c in drawn],
    "status": shown[-1][1],
    "prompt": [s[3] for s in shown if isinstance(s[3], str)][-1],
    "table": [s[7] for s in shown if isinstance(s[7], str)][-1],
    "buttons": [s["interactive"] for s in shown[-1][8:]],
    "nothing": nothing[0][1],
}
"""
    seen = packed.ask("run", source=source, reference=reference, wish=WISH)
    assert (seen["ids"], seen["galleries"][-1], seen["captions"]) == (1, 2, ["Image0:", "Image1:"])
    assert "Done" in seen["status"] and "green" in seen["prompt"] and "<td>green</td>" in seen["table"]
    assert seen["buttons"] == [True, False]
    assert "reference image" in seen["nothing"]
