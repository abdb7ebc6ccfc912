"""Prompts of several windows: how they are parted, scored and chosen; of one window nothing changes."""

import pytest
import torch
import torch.nn.functional as F

from steadydiff.arpo.chunks import ChunkedScorer
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO


class Letters:
    """26 axes, one for each letter; reads 6 words. Counts what it is asked."""

    def __init__(self):
        self.looked, self.embedded = [], []

    def picture(self, picture):
        return F.normalize(picture[0, :, 0].float(), dim=0)

    def texts(self, texts):
        self.embedded += texts
        counts = [[text.count(chr(97 + i)) + 1e-3 for i in range(26)] for text in texts]
        return F.normalize(torch.tensor(counts), dim=1)

    def fits(self, texts):
        self.looked += texts
        return [len(text.split()) <= 6 for text in texts]


def test_a_prompt_is_parted_at_commas_as_full_as_windows_are():
    scorer = ChunkedScorer(Letters(), 3)
    text = "a b, c d, e f, g, h i j k l, m"
    assert scorer.chunks(text) == ["a b, c d, e f", "g, h i j k l", "m"]
    assert scorer.chunks("a b, c") == ["a b, c"] and scorer.chunks("") == [""]
    assert scorer.chunks("a, (b, c d e f g:1.2), h") == ["a", "(b, c d e f g:1.2)", "h"]
    long = "a b c d e f g"
    assert scorer.chunks(f"x, {long}, y") == ["x", long, "y"]
    assert scorer.fits([text, "a b", ""]) == [True] * 3
    assert scorer.fits([f"{text}, n o p q r s", f"x, {long}"]) == [False] * 2


def test_its_embedding_is_the_mean_of_its_windows_and_of_one_window_the_same_to_the_bit():
    plain, scorer = Letters(), ChunkedScorer(Letters(), 3)
    text = "a b, c d, e f, g, h i j k l, m"
    parts = plain.texts(["a b, c d, e f", "g, h i j k l", "m"])
    found = scorer.texts([text, "a b, c", ""])
    weights = torch.tensor([6.0, 6.0, 1.0])[:, None]
    assert torch.allclose(found[0], F.normalize((weights * parts).sum(0), dim=0))
    assert torch.equal(found[1:], plain.texts(["a b, c", ""]))


def test_a_window_that_has_just_begun_does_not_hide_a_full_one():
    scorer, wanted = ChunkedScorer(Letters(), 2), Letters().texts(["a b c d e f g h"])[0]
    full, longer = (scorer.texts(["a, b, c, d, e, f", "a, b, c, d, e, f, g"]) @ wanted).tolist()
    assert longer > full


def test_a_long_prompt_is_looked_at_few_times():
    scorer = ChunkedScorer(own := Letters(), 10)
    words = ", ".join(f"{chr(97 + i % 26)}{i}" for i in range(50))
    scorer.chunks(words)
    assert len(own.looked) <= 9 * 7
    before = len(own.looked)
    assert scorer.fits([words]) == [True] and len(own.looked) == before


REFERENCE = torch.zeros(1, 26, 3)
REFERENCE[:, :12] = 1.0


class All:
    def caption(self, reference):
        return Phrases(("a",))

    def propose(self, reference, generated, current):
        return Phrases(tuple("abcdefghijkl"))


def searched(settings):
    def draw(prompt, seed):
        return torch.rand(1, 26, 3, generator=torch.Generator().manual_seed(len(prompt)))

    return list(settings.search(REFERENCE, draw, All(), Letters(), 0))[-1]


def test_the_selection_goes_on_over_windows():
    one, two, same = (searched(ARPO(2, max_tokens=n)) for n in (75, 150, 149))
    assert len(one.best_by_text.phrases) == 6 and one.stopped == "the text model's window is full"
    assert len(two.best_by_text.phrases) == 12
    assert two.best_by_text.text_similarity > one.best_by_text.text_similarity
    assert [step.phrases for step in same.steps] == [step.phrases for step in one.steps]


def test_less_than_a_window_is_refused():
    with pytest.raises(Exception, match="max_tokens is 75 or more; got 74"):
        ARPO(max_tokens=74)
