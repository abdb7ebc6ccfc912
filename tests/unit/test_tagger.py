"""Taggers as ARPO's captioner: how they are shown a picture, which tags count, what is no tagger."""

import pytest
import torch

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


def test_the_surest_tags_of_what_is_shown_are_the_prompt(tmp_path):
    file = tmp_path / "selected_tags.csv"
    file.write_text(TABLE)
    names = read_tags(file)
    chances = torch.tensor([[0.9, 0.5, 0.1, 0.99, 0.8]])
    assert tagged(lambda _: chances, 16, names, RED) == Phrases(("blue eyes", "red hat"))
    with pytest.raises(SettingsError, match="2 outputs and its table 5 tags"):
        tagged(lambda _: chances[:, :2], 16, names, RED)


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
