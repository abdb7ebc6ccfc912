"""Editing found prompts: what is swapped, added and taken out, and where the kinds come from."""

import json

import pytest

from steadydiff.arpo.language.editing import edit_phrases, known_phrases
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
)  # fmt: skip
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
