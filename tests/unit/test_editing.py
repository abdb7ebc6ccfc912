"""Editing found prompts: what is swapped, added and taken out, and where the kinds come from."""

import json

import pytest

from steadydiff.arpo.language.editing import edit_phrases, exchange_words, known_phrases, read_exchanges
from steadydiff.arpo.phrases import Phrases
from steadydiff.errors import SettingsError

FOUND = Phrases(("a cat", "blue bow tie"), ("oil painting", "soft light"))


@pytest.mark.parametrize(
    ("change", "edit", "prompt"),
    [
        (Phrases(), "swap", "a cat, blue bow tie, oil painting, soft light"),
        (Phrases(), "add", "a cat, blue bow tie, oil painting, soft light"),
        (Phrases(("a dog",)), "swap", "a dog, oil painting, soft light"),
        (Phrases((), ("ink",)), "swap", "a cat, blue bow tie, ink"),
        (Phrases(("a dog",), ("ink",)), "swap", "a dog, ink"),
        (Phrases(("hat", "A Cat")), "add", "a cat, blue bow tie, hat, oil painting, soft light"),
        (Phrases((), ("ink",)), "add", "a cat, blue bow tie, oil painting, soft light, ink"),
    ],
)
def test_phrases_of_either_kind_are_swapped_or_added(change, edit, prompt):
    assert edit_phrases(FOUND, change, edit).prompt == prompt


def test_phrases_are_taken_out_before_others_come_in():
    without = Phrases.of("Oil Painting, a cat, a whale")
    assert (
        edit_phrases(FOUND, Phrases(("a cat",)), "add", without).prompt == "blue bow tie, a cat, soft light"
    )


def test_there_is_no_other_edit():
    with pytest.raises(SettingsError, match="swap, add; got 'drop'"):
        edit_phrases(FOUND, Phrases(), "drop")


def test_kinds_come_from_the_report():
    other = {"content": ["a dog"], "style": []}
    report = json.dumps({"steps": [{"phrases": other}, {"phrases": vars(FOUND)}], "best": 0.3})
    assert known_phrases(FOUND.prompt, report) == FOUND
    assert known_phrases("a dog", report) == Phrases(("a dog",))


@pytest.mark.parametrize(
    "report", ["", "{", "3", "null", '{"content": ["a cat"]}', '{"content": [1], "style": 2}']
)
def test_a_report_of_something_else_is_refused(report):
    with pytest.raises(SettingsError, match="the report does not hold this prompt"):
        known_phrases("a cat", report)


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "words", "edited"),
    [
        (
            "a dog, a hot dog stand, dogs, soft light",
            "dog -> cat",
            "a cat, a hot cat stand, dogs, soft light",
        ),
        ("Dog on a sofa, DOG", "dog -> cat", "Cat on a sofa, Cat"),
        ("a dog and a cat", "dog -> cat, cat -> dog", "a cat and a dog"),
        ("a red hat", "hat -> straw hat\nred -> blue", "a blue straw hat"),
        (
            "a dog's bone, dog-eared book, a doghouse",
            "dog -> cat",
            "a cat's bone, cat-eared book, a doghouse",
        ),
        ("a red hat, a hat", "red -> ", "a hat"),
        ("a red hat, red", "red ->", "a hat"),
        ("a straw hat", "hat -> cap, straw hat -> crown", "a crown"),
        ("een café, a caf", "café => bar", "een bar, a caf"),
        ("一只黑猫, 猫", "猫 → 狗", "一只黑狗, 狗"),
        ("a.b, axb", "a.b -> c", "c, axb"),
        ("a dog", r"dog -> \1", r"a \1"),
        ("A dog, an old owl, the dog", "dog -> eagle, owl -> cat", "An eagle, an old cat, the eagle"),
        ("an eagle, a vitamin", "eagle -> dog, vitamin -> orange", "a dog, an orange"),
        ("a dog, a cat", "dog -> unicorn, cat -> hourglass", "a unicorn, an hourglass"),
        ("a red apple, a red", "red ->", "an apple"),
        ("a dog", "a dog -> an owl", "an owl"),
        ("a dog", "", "a dog"),
    ],
)
def test_words_are_exchanged_within_every_phrase(prompt, words, edited):
    assert exchange_words(Phrases.of(prompt), read_exchanges(words)).prompt == edited


def test_words_are_exchanged_in_either_kind_and_what_comes_in_is_not_negative():
    found = exchange_words(Phrases(("a dog",), ("dog style",), ("grey cat", "cattle")), {"dog": "cat"})
    assert found == Phrases(("a cat",), ("cat style",), ("cattle",))


@pytest.mark.parametrize("words", ["dog", "dog -> cat -> fox", "-> cat"])
def test_words_without_what_takes_their_place_are_refused(words):
    with pytest.raises(SettingsError, match="words must be like 'dog -> cat'"):
        read_exchanges(words)


def test_what_is_shown_now_leaves_the_negative_prompt():
    found = Phrases(("a dog",), ("oil",), ("a cat", "text", "ink"))
    assert edit_phrases(found, Phrases(("A cat",), ("ink",)), "swap").negative == ("text",)
    assert edit_phrases(found, Phrases(), "swap", Phrases.of("text")).negative == found.negative
