"""What an anti-bias network is trained on in ComfyUI: samples with captions of their own."""

import pytest
import torch

from steadydiff.errors import SettingsError
from steadydiff.hosts.comfy.train import Samples, joined
from steadydiff.training.antibias import UNCONDITIONAL


def caption(value, length=4, **more):
    return [(torch.full((1, length, 2), float(value)), {"pooled_output": torch.full((1, 3), value), **more})]


def test_joined_captions_keep_their_rows_and_repeat_shorter_texts():
    masks = [{"attention_mask": torch.ones(1, length), "width": 64} for length in (4, 2)]
    [(texts, more)] = joined([caption(1.0, 4, **masks[0]), caption(2.0, 2, **masks[1])])
    assert texts.shape == (2, 4, 2) and texts[:, :, 0].tolist() == [[1.0] * 4, [2.0] * 4]
    assert more["pooled_output"][:, 0].tolist() == [1.0, 2.0]
    assert more["attention_mask"].shape == (2, 4) and more["width"] == 64


def test_one_caption_for_all_stays_one():
    one = caption(1.0)
    assert joined([one] * 5)[0] is one[0]


def test_captions_that_fit_into_no_batch_are_refused():
    with pytest.raises(SettingsError, match="captions have 7, 11 tokens"):
        joined([caption(1.0, 7), caption(2.0, 11)])


def test_samples_have_one_caption_each_or_one_for_all():
    clean = torch.zeros(8, 4, 8, 8)
    with pytest.raises(SettingsError, match="3 captions for 8 samples"):
        Samples(clean, [caption(1.0)] * 3)
    samples = Samples(clean, [caption(i) for i in range(8)])
    rows, captions = samples.draw(64, torch.Generator())
    [(texts, _)] = samples.conditioning(captions)
    assert texts[:, 0, 0].tolist() == rows.tolist()


@pytest.mark.slow
def test_a_tenth_of_the_captions_is_dropped():
    samples = Samples(torch.zeros(8, 4, 8, 8), [caption(1.0)], caption(0.0))
    _, captions = samples.draw(20_000, torch.Generator())
    [(texts, _)] = samples.conditioning(captions)
    assert 1 - texts[:, 0, 0].mean().item() == pytest.approx(UNCONDITIONAL, abs=0.01)
