"""The tiny CLIP without open_clip: its captions, its loss, its files; tests/comfyui/test_clip.py loads it."""

import json
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steadydiff.arpo import clip_scorer
from steadydiff.errors import CheckpointError, SteadyDiffError
from steadydiff.tinyworld import clip, files, scenes, text


def words(caption: str) -> set[str]:
    return set(re.findall("[a-z]+", caption))


def test_partial_captions_say_nothing_that_is_not_so_and_often_little():
    many, rng = scenes.sample_scenes(1, 500), np.random.default_rng(0)
    whole = [scenes.caption(many, i) for i in range(500)]
    part = [clip.partial_caption(many, i, rng) for i in range(500)]
    for caption, all_of_it in zip(part, whole, strict=True):
        assert words(caption) - words(all_of_it) <= {"a", "an", "at", "the", "on", "background"}
    assert part == [
        clip.partial_caption(many, i, rng) for rng in (np.random.default_rng(0),) for i in range(500)
    ]
    assert np.mean(["," not in caption for caption in part]) > 0.1  # one phrase
    assert np.mean(["background" in caption.split(",")[0] for caption in part]) > 0.1  # any order


@pytest.mark.parametrize("scale", [5.0, 1e9])  # the second is held at 100
def test_the_loss_of_orthogonal_pairs_is_the_cross_entropy_of_their_similarities(scale: float):
    own = torch.eye(4)  # features of four pictures; every caption has its picture's
    loss = clip.contrastive_loss(own, own[:, None].expand(-1, 2, -1), torch.tensor(math.log(scale)))
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-min(scale, 100.0))), abs=1e-6)


def test_the_loss_knows_which_caption_belongs_to_which_picture():
    texts = F.normalize(torch.randn(3, 1, 8), dim=2)
    losses = [
        clip.contrastive_loss(texts[order, 0], texts, torch.tensor(2.0)) for order in ([0, 1, 2], [1, 2, 0])
    ]
    assert losses[0] < losses[1]


def test_tokens_are_those_of_the_diffusion_models():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(clip.tokenizer_json())
    for caption in ("A Red, star! at the top-left", "", "3 dragons on a mint background"):
        assert tokenizer.encode(caption).ids == text.WordTokenizer()(caption)["input_ids"]


def test_files_are_fp16_and_keep_counters(tmp_path):
    model = nn.BatchNorm1d(2)
    model.num_batches_tracked.fill_(100_000)  # more than fp16 can count
    path = files.save_clip(model, tmp_path / "clip", steps=3)
    stored = files.tensors("open_clip_model", path.parent)
    assert (
        stored["num_batches_tracked"] == 100_000
        and files.header("open_clip_model", path.parent)["steps"] == 3
    )
    config = json.loads((path.parent / "open_clip_config.json").read_text(encoding="utf-8"))
    assert config["model_cfg"]["text_cfg"]["vocab_size"] == len(text.VOCABULARY)


def test_without_open_clip_or_weights_loading_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SteadyDiffError, match="python -m pip install open_clip_torch"):
        files.load_clip()
    monkeypatch.setitem(sys.modules, "open_clip", SimpleNamespace())
    with pytest.raises(CheckpointError, match="open_clip_model.safetensors is not there"):
        files.load_clip(tmp_path)


def test_before_a_search_it_is_said_whether_a_clip_is_here(monkeypatch, tmp_path):
    """With an open_clip that knows one model, and a cache of huggingface.co's that is empty or has it."""
    here: list[str] = []
    monkeypatch.setitem(
        sys.modules,
        "open_clip",
        SimpleNamespace(
            list_models=lambda: ["ViT-L-14"],
            list_pretrained_tags_by_model=lambda model: ["openai"],
            get_pretrained_cfg=lambda model, tag: {"hf_hub": "timm/vit/"},
        ),
    )
    cache = SimpleNamespace(try_to_load_from_cache=lambda repository, name: here[0] if here else None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", cache)
    said, offered = clip_scorer.told_of("ViT-L-14", "openai")
    assert said == "CLIP: ViT-L-14, 1.7 GB from huggingface.co, not on this computer" and offered
    here.append("file")
    assert clip_scorer.told_of("ViT-L-14", "openai") == ("CLIP: ViT-L-14, on this computer", False)
    assert clip_scorer.told_of("ViT-L-14", tmp_path / "mine.pt") == (
        "CLIP: ViT-L-14, on this computer",
        False,
    )
    said, offered = clip_scorer.told_of("ViT-L-14", "nobody's")
    assert "no weights" in said and not offered
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "pip install open_clip_torch" in clip_scorer.told_of("ViT-L-14", "openai")[0]
