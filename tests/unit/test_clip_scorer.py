"""The CLIP scorer without a CLIP: what it remembers, what it refuses. Real ones: tests/comfyui."""

import sys
from types import SimpleNamespace

import pytest
import torch

from steadydiff.arpo import clip_scorer
from steadydiff.arpo.clip_scorer import OpenClipScorer, TextMemory, load_scorer
from steadydiff.errors import SettingsError, SteadyDiffError


def test_each_text_is_encoded_once_and_new_ones_together(monkeypatch):
    batches = []

    def encode(texts):
        batches.append(texts)
        return torch.tensor([[3.0 * len(text), 4.0 * len(text)] for text in texts])

    memory = TextMemory(encode)
    first = memory(["a", "bb", "a"])
    assert torch.allclose(first, torch.tensor([0.6, 0.8]).expand(3, 2)) and first.dtype == torch.float32
    memory(["bb", "ccc", "d"])
    assert batches == [["a", "bb"], ["ccc", "d"]]
    monkeypatch.setattr(clip_scorer, "REMEMBERED", 3)
    memory(["a", "e"])
    assert batches[2:] == [["a", "e"]]  # all was forgotten, as there was too much
    monkeypatch.setattr(clip_scorer, "BATCH", 2)
    memory(["f", "g", "h"])
    assert batches[3:] == [["f", "g"], ["h"]]


@pytest.mark.parametrize("end", [0, 9])  # what pads a text: as in CLIP, or its end as in the tiny world
def test_a_text_fits_if_a_larger_window_shows_no_more_of_it(end):
    def tokenizer(texts, context_length):
        rows = [[1, *map(int, text), 9] for text in texts]
        cut = [row if len(row) <= context_length else [*row[: context_length - 1], 9] for row in rows]
        return torch.tensor([row + [end] * (context_length - len(row)) for row in cut])

    scorer = OpenClipScorer(SimpleNamespace(context_length=5), tokenizer, lambda picture: picture)
    assert scorer.fits(["", "2", "234", "2345", "23456", "2" * 40]) == [True] * 3 + [False] * 3
    assert scorer.fits([]) == []


def test_without_open_clip_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SteadyDiffError, match="run: python -m pip install open_clip_torch"):
        load_scorer("ViT-L-14", "openai")


def test_a_folder_without_weights_is_refused(monkeypatch, tmp_path):
    """open_clip would go on with random ones."""
    monkeypatch.setitem(sys.modules, "open_clip", SimpleNamespace())
    with pytest.raises(SettingsError, match="has no weights; put open_clip_model.safetensors there"):
        load_scorer(tmp_path)
