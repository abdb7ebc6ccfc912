"""Taggers as ARPO's captioner: how they are shown a picture, which tags count, what is no tagger."""

import json
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.tagger import Captioned, find_taggers, load_tagger, read_tags, squared, tagged
from steadydiff.errors import SettingsError

TABLE = "tag_id,name,category,count\n1,general,9,5\n2,red_hat,0,4\n3,sky,0,3\n4,miku,4,2\n5,blue_eyes,0,1\n"
RED = torch.tensor([1.0, 0.0, 0.0]).expand(4, 8, 3)


def test_a_picture_lies_on_a_white_square_blue_first():
    made = squared(RED, 16)
    assert made.shape == (1, 16, 16, 3)
    assert made[0, 8, 8].tolist() == pytest.approx([0, 0, 255], abs=0.1)
    assert made[0, 0, 0].tolist() == pytest.approx([255, 255, 255])
    half = squared(RED.half().requires_grad_(), 16)  # as a host may hand it on
    assert torch.equal(torch.from_numpy(half.numpy()), made)


def test_the_surest_tags_of_what_is_shown_are_the_prompt(tmp_path):
    file = tmp_path / "selected_tags.csv"
    file.write_text(TABLE)
    names = read_tags(file)
    chances = torch.tensor([[0.9, 0.5, 0.1, 0.99, 0.8]])
    assert tagged(lambda _: chances, 16, names, RED) == Phrases(("blue eyes", "red hat"))
    with pytest.raises(SettingsError, match="2 outputs and its table 5 tags"):
        tagged(lambda _: chances[:, :2], 16, names, RED)


def test_tags_hold_no_brackets_that_a_host_would_read_as_stress(tmp_path):
    file = tmp_path / "tags.csv"
    file.write_text("name,category\nholding_fan_(object),0\n^_^,0\n;),0\nhat,0\n3d,0\n")
    assert read_tags(file) == ["holding fan object", "", "", "hat", "3d"]


def test_only_the_first_prompt_comes_from_it():
    class Proposer:
        def caption(self, reference):
            raise AssertionError

        def propose(self, reference, generated, current):
            return current + Phrases(("more",))

    made = Captioned(Proposer(), lambda picture: Phrases(("a hat",)))
    first = made.caption(RED)
    assert first == Phrases(("a hat",)) and made.propose(RED, RED, first) == Phrases(("a hat", "more"))


@pytest.fixture
def tagger(tmp_path):
    """A tagger as large as WD's are small: its outputs are means of the colours."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = torch.zeros(3, 5)
    weights[2, 1], weights[0, 2], weights[1, 4] = 1 / 255, 1 / 255, 0.5 / 255  # red hat, sky, blue eyes
    axes = make.make_tensor("axes", onnx.TensorProto.INT64, [2], [1, 2])
    graph = make.make_graph(
        [
            make.make_node("ReduceMean", ["picture", "axes"], ["mean"], keepdims=0),
            make.make_node("MatMul", ["mean", "weights"], ["chances"]),
        ],
        "tagger",
        [make.make_tensor_value_info("picture", kind, ["batch", 16, 16, 3])],
        [make.make_tensor_value_info("chances", kind, ["batch", 5])],
        [make.make_tensor("weights", kind, [3, 5], weights.flatten().tolist()), axes],
    )
    file = tmp_path / "small.onnx"
    onnx.save(make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 18)]), file)
    (tmp_path / "small.csv").write_text(TABLE)
    return file


def test_a_file_is_run_by_onnxruntime(tagger):
    assert find_taggers(tagger.parent) == {"small": tagger}
    square = torch.tensor([0.9, 0.0, 0.0]).expand(8, 8, 3)
    assert load_tagger(tagger)(square) == Phrases(("red hat",))
    assert load_tagger(tagger)(1 - square) == Phrases(("sky", "blue eyes"))


def test_what_is_no_tagger_is_told(tagger):
    tagger.write_bytes(b"no network")
    with pytest.raises(SettingsError, match=r"small\.onnx is no tagger that can be read"):
        load_tagger(tagger)
    tagger.with_suffix(".csv").unlink()
    assert find_taggers(tagger.parent) == {}
    with pytest.raises(SettingsError, match="no table of its tags"):
        load_tagger(tagger)


# --- weights as safetensors, run by timm ------------------------------------------------------------------

SMALL = {
    "vit_tiny_patch16_224": {
        "img_size": 32,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "class_token": False,
        "fc_norm": False,
        "global_pool": "avg",
        "act_layer": "gelu_tanh",
    },
    "swinv2_tiny_window8_256": {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
    },
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "eva02_tiny_patch14_224": {"img_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 2},
}  # one of each kind of WD's, as small as it can be


def published(folder, kind, **more):
    """A network of timm's with random weights in a folder as WD's publish theirs; returns it and its side."""
    timm = pytest.importorskip("timm")
    arguments = SMALL[kind]
    torch.manual_seed(0)
    network = timm.create_model(kind, num_classes=5, **arguments).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "head" in name:
                weight.normal_()
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "selected_tags.csv").write_text(TABLE)
    side = arguments.get("img_size", 32)
    kept = {"input_size": [3, side, side], "mean": [0.5, 0.4, 0.6], "std": [0.5, 0.25, 0.5]}
    config = {"architecture": kind, "num_classes": 5, "model_args": arguments, "pretrained_cfg": kept}
    (folder / "config.json").write_text(json.dumps(config | more))
    return network, side


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SMALL)
def test_weights_are_run_by_timm_as_their_makers_run_them(tmp_path, architecture):
    network, side = published(tmp_path / "wd-small", architecture)
    data = pytest.importorskip("timm.data")
    shown = torch.rand(20, 40, 3, generator=torch.Generator().manual_seed(1))
    white = Image.new("RGB", (40, 40), "white")
    white.paste(as_pil(shown), (0, 10))
    usual = data.create_transform(
        (3, side, side), interpolation="bicubic", crop_pct=1.0, mean=(0.5, 0.4, 0.6), std=(0.5, 0.25, 0.5)
    )
    with torch.no_grad():
        chances = network(usual(white)[None][:, [2, 1, 0]]).sigmoid()
    before = torch.get_rng_state()
    found = load_tagger(tmp_path / "wd-small" / "model.safetensors")(shown)
    assert torch.equal(torch.get_rng_state(), before)
    assert found == tagged(lambda _: chances, side, read_tags(tmp_path / "wd-small/selected_tags.csv"), shown)
    assert 0 < len(found) and find_taggers(tmp_path)["wd-small"].name == "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"architecture": "hf-hub:someone/else"}, "timm knows no 'hf-hub:someone/else'"),
        ({"architecture": None}, "timm knows no None"),
        ({"num_classes": 7}, "size mismatch"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "sets checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "sets pretrained"),
        ({"model_args": {"no_such": 1}}, "no_such"),
        ({"pretrained_cfg": {}}, "input_size"),
    ],
)
def test_what_is_no_tagger_of_timms_is_told(tmp_path, more, sentence):
    published(tmp_path / "small", "vit_tiny_patch16_224", **more)
    with pytest.raises(
        SettingsError, match=rf"(?s)model\.safetensors is no tagger that can be read: .*{sentence}"
    ):
        load_tagger(tmp_path / "small" / "model.safetensors")


@pytest.mark.slow
def test_a_timm_that_cannot_be_loaded_is_told(tmp_path, monkeypatch):
    published(tmp_path / "small", "vit_tiny_patch16_224")

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("steadydiff.arpo.tagger.import_module", broken)
    with pytest.raises(SettingsError, match="nms does not exist"):
        load_tagger(tmp_path / "small" / "model.safetensors")


@pytest.mark.slow
def test_without_timm_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    published(tmp_path / "small", "vit_tiny_patch16_224")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match="python -m pip install timm"):
        load_tagger(tmp_path / "small" / "model.safetensors")
