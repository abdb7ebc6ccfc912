"""Phrase banks: what files say, what is proposed, and the banks that ship."""

from dataclasses import replace

import pytest
import torch

from steadydiff.arpo.phrase_bank import BANKS, MOST_PHRASES, PhraseBank, read_bank
from steadydiff.arpo.phrases import Phrases
from steadydiff.errors import SettingsError
from steadydiff.tinyworld import scenes
from steadydiff.tinyworld.text import WORDS

LARGE = {"words/n.txt": "\n".join("abcdefghijklmnopqr")}  # each of the next stands for 18³ phrases
LARGE |= {f"{i}.txt": f"{i} __n____n____n__" for i in range(4)}


@pytest.fixture
def folder(tmp_path):
    """Write files {path: text} and return their folder."""

    def write(files):
        for name, text in files.items():
            file = tmp_path / "mine" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path / "mine"

    return write


def test_files_are_lists_of_content_or_style_with_their_wildcards_filled_in(folder):
    lists = read_bank(folder({
        "things.txt": "# said of things\na __size__ __kind__\n\n  a tree \n",
        "style/media.txt": "oil\nOil\nink\n",
        "words/size.txt": "small\nbig\n",
        "words/kind.txt": "cat\n__pet__\n",
        "words/pet.txt": "dog",
    }))  # fmt: skip
    assert lists == (
        Phrases((), ("oil", "ink")),
        Phrases(("a small cat", "a small dog", "a big cat", "a big dog", "a tree")),
    )


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"notes.md": "x"}, "no phrase bank is in mine"),
        ({"a.txt": "__b__"}, r"a\.txt names __b__, but the bank has no b\.txt"),
        ({"a.txt": "__b__", "words/b.txt": "__a__"}, r"a\.txt stands for itself, by way of a, b"),
        ({"a.txt": "__n____n____n____n__", "words/n.txt": "1\n" * 12}, "stands for more than 20000 phrases"),
        (LARGE, "part it"),
        ({"a.txt": b"\xff\xfe\x00"}, r"a\.txt is text in UTF-16"),
        ({"a.txt": "x", "style/a.txt": "y"}, r"two files a\.txt"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(folder, files, sentence):
    with pytest.raises(SettingsError, match=sentence):
        read_bank(folder(files))


class Axes:
    """Every letter of an alphabet is an axis; texts are their first letter, pictures a direction."""

    def picture(self, picture):
        return picture[0, 0]

    def texts(self, texts):
        return torch.eye(3)[["abc".index(text[0]) for text in texts]]

    def fits(self, texts):
        return [True] * len(texts)


def pixel(*direction):
    return torch.tensor(direction).expand(2, 2, 3)


def test_it_proposes_of_each_list_what_the_drawing_lacks_most():
    bank = PhraseBank(
        (Phrases(("a1", "b1", "a2", "b2")), Phrases((), ("c1", "a3"))), Axes(), most=1, against=1.0
    )
    reference = pixel(0.8, 0.6, 0.0)
    assert bank.caption(reference) == Phrases(("a1",))
    assert bank.propose(reference, pixel(0.0, 0.6, 0.8), Phrases()) == Phrases(("a1",), ("a3",))
    # What is in the prompt is not proposed again.
    assert bank.propose(reference, pixel(0.0, 0.6, 0.8), Phrases(("A1", "a3"))) == Phrases(("a2",), ("c1",))
    # The less the drawing counts, the less it matters that it has what the reference has.
    drawn = pixel(0.8, 0.0, 0.6)
    assert bank.propose(reference, drawn, Phrases()).content == ("b1",)
    assert replace(bank, against=0.0).propose(reference, drawn, Phrases()).content == ("a1",)


def test_it_names_what_only_the_drawing_has():
    bank = PhraseBank((Phrases(("a1", "c1", "c2")), Phrases((), ("b1", "c3"))), Axes(), most=1, absent=1)
    found = bank.propose(pixel(0.8, 0.6, 0.0), pixel(0.8, 0.0, 0.6), Phrases(("c1",)))
    assert found == Phrases(("a1",), ("b1",), ("c2", "c3"))


def test_a_bank_of_style_alone_has_a_caption_too():
    assert PhraseBank((Phrases((), ("b", "c")),), Axes()).caption(pixel(0.0, 0.0, 1.0)).style == ("c",)


@pytest.mark.parametrize(("lists", "most"), [((), 16), ((Phrases(),), 16), ((Phrases(("a",)),), 0)])
def test_a_bank_that_could_propose_nothing_is_refused(lists, most):
    with pytest.raises(SettingsError):
        PhraseBank(lists, Axes(), most)


def test_a_drawing_counts_as_much_as_the_reference_at_most():
    for against in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match="against is between 0 and 1"):
            PhraseBank((Phrases(("a",)),), Axes(), against=against)


def test_the_tiny_worlds_bank_says_all_of_a_caption_and_nothing_else():
    lists = read_bank(BANKS / "tinyworld")
    phrases = {phrase for kinds in lists for phrase in kinds.content + kinds.style}
    assert {word for phrase in phrases for word in phrase.split()} == set(WORDS)
    many = scenes.sample_scenes(3, 200)
    for i in range(200):
        style, rest = scenes.caption(many, i).split(" of ", 1)
        rest, ground = rest.rsplit(" on a ", 1)
        if many.count[i] == 2:
            relation = scenes.RELATIONS[many.relation[i]]
            thing, other = rest.split(f" {relation} ")
            other = f"{relation} {other}"
        else:
            thing, place = rest.split(" at the ")
            other = f"at the {place}"
        assert {style, thing, other, f"on a {ground}"} <= phrases


def test_the_general_bank_is_tidy():
    lists = read_bank(BANKS / "general")
    phrases = [phrase for kinds in lists for phrase in kinds.content + kinds.style]
    assert 300 <= len(phrases) <= MOST_PHRASES
    assert len({phrase.casefold() for phrase in phrases}) == len(phrases)  # no phrase in two lists
    assert all(len(phrase) < 50 and phrase == phrase.strip() for phrase in phrases)
