"""Phrases out of answers: every shape models fall into gives the same phrases, and no text breaks it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.arpo.language.parsing import MAX_LETTERS, MAX_WORDS, parse_phrases, without_thoughts
from steadydiff.arpo.phrases import Phrases

CAT = ("a black cat", "blue bow tie", "the cat's green eyes")
OIL = ("oil painting", "soft light")
BOTH = Phrases(CAT, OIL)
SAYS = json.dumps({"content": CAT, "style": OIL})


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(CAT),
        json.dumps(CAT, indent=2),
        str(list(CAT)),
        f"[{', '.join(CAT)}]",  # as the paper prints it
        f"{{ {'; '.join(CAT)} }}",  # as its text does
        ", ".join(CAT),
        ".\n".join(CAT),
        "\n".join(f"- {phrase}" for phrase in CAT),
        "\n".join(f"* **{phrase}**" for phrase in CAT),
        "\n".join(f'{i}. "{phrase}"' for i, phrase in enumerate(CAT, 1)),
        "\n".join(f"{i}) Subject: {phrase}" for i, phrase in enumerate(CAT, 1)),
        f"Sure! Here are the phrases:\n\n```json\n{json.dumps(CAT)}\n```\nI hope this helps, happy drawing!",
        f"Sure, here is your list: {CAT!r}".replace("(", "[").replace(")", "]"),
        f"<think>Maybe [a dog, a hat]?\n- a dog</think>{json.dumps(CAT)}",
        f"so the answer is [a dog]</think>\n\n{json.dumps(CAT)}",
        json.dumps([{"phrase": phrase, "reason": "it is in Image 1"} for phrase in CAT]),
        json.dumps({"phrases": CAT + CAT[:1] + ("A BLACK CAT",)}),
        json.dumps(CAT)[:-1],
        json.dumps(CAT)[:-2] + ',"',
        json.dumps(CAT).replace("'", "\\u2019"),
    ],
)
def test_every_shape_of_a_list_gives_its_phrases(answer):
    assert parse_phrases(answer) == Phrases(CAT)
    assert parse_phrases(answer, "style") == Phrases((), CAT)


@pytest.mark.parametrize(
    "answer",
    [
        SAYS,
        f"```\n{SAYS}\n```",
        SAYS[:-1],
        SAYS.replace(": [", ":["),
        str({"content": list(CAT), "style": list(OIL)}),
        f"Content: {list(CAT)}\nStyle: {list(OIL)}",
        f"Content phrases: {', '.join(CAT)}\n**Art style:** {', '.join(OIL)}",
        "\n- ".join(("## Content:", *CAT)) + "\n\n" + "\n- ".join(("## Style:", *OIL)),
        json.dumps([{"text": p, "kind": k} for k, ps in (("content", CAT), ("Style", OIL)) for p in ps]),
        json.dumps([{"style": p} for p in OIL] + [{"content": p} for p in CAT]),
    ],
)
def test_content_and_style_are_told_apart(answer):
    assert parse_phrases(answer) == BOTH


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        *(
            "",
            " \n",
            "[]",
            "{}",
            '{"content": [], "style": []}',
            "None",
            "<think>a cat, a dog",
            "```",
            "[[[[",
            "3, 4",
        ),
        "I'm sorry, I cannot help with that.",
        "There are no differences between the two.",
        "Image 1 depicts a cat, while Image 2 shows a dog.",
        "[" * 100_000,
        '{"a":' * 100_000,
        "a " * 50_000,
    ],
)
def test_what_holds_no_phrases_gives_none(answer):
    assert parse_phrases(answer) == Phrases()


def test_prose_of_one_sentence_is_a_phrase():
    assert parse_phrases("The image shows a black cat on a sofa.").content == ("a black cat on a sofa",)


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        ("(a cat:1.9)", "a cat 1.9"),
        ("<lora:evil:1> a cat", "lora evil 1 a cat"),
        ("embedding:../../evil", "embedding ../../evil"),
        ("a cat AND a dog BREAK", "a cat and a dog break"),
        ("__animals__", "animals"),
        ("{red|blue}", "red blue"),
        ("a cat\x00\x1b\u202e\ud800", "a cat"),
        ("caf\u00e9 \uff48\uff41\uff54", "café hat"),
    ],
)
def test_no_syntax_of_a_host_comes_through(answer, phrase):
    found = parse_phrases(answer).content
    assert phrase in found
    assert not set("".join(found)) & set("()[]{}<>|\\:_\n\0\x1b\u202e")


def test_a_thought_ends_where_its_tag_does():
    assert without_thoughts("<think>a</think>b<THINK>c</THINK>d") == "bd"
    assert without_thoughts("a<think>b") == "a"
    assert without_thoughts("a</think>b</think>c") == "c"
    assert without_thoughts("a<think>b</think>c</think>d") == "d"


def test_the_number_of_phrases_is_limited():
    assert parse_phrases("\n".join(f"- cat {i}" for i in range(99)), limit=7).content[6:] == ("cat 6",)


FRAGMENTS = st.sampled_from(
    ["[", "]", "{", "}", '"', "'", ",", ":", "\n", "- ", "1. ", "```", "```json\n", "<think>", "</think>"]
    + ["\0", "\\", "content", "style:", '"content": [', "a red cat", "soft light", "\\u12", "\ud800", "，"]
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=4)), max_size=30).map("".join)))
def test_any_text_gives_tidy_phrases(answer):
    for kind in ("content", "style"):
        found = parse_phrases(answer, kind, limit=5)
        assert len(found.content) <= 5 and len(found.style) <= 5
        for phrase in found.content + found.style:
            assert 0 < len(phrase) <= MAX_LETTERS and len(phrase.split()) <= MAX_WORDS
            assert phrase == " ".join(phrase.split()) and not set(phrase) & set(',;()[]{}<>|\\:_"`*')
            assert any(letter.isalpha() for letter in phrase)
            phrase.encode()  # no lone surrogates
        assert parse_phrases(json.dumps(found.content), "content") == Phrases(found.content)


WORDS = (
    st.lists(st.text("abcdefghjklmopqrstuvwxyz", min_size=2, max_size=6), min_size=1, max_size=4)
    .map(" ".join)
    .filter(lambda words: not parse_phrases(words).negative)  # "delete", of our source
)


@settings(max_examples=15, deadline=None)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6))
def test_what_is_said_as_asked_comes_back(content, style):
    expected = Phrases(tuple(content), tuple(style))
    expected = Phrases(
        *(tuple(p for p in kind if parse_phrases(p)) for kind in (expected.content, expected.style))
    )
    assert parse_phrases(json.dumps({"content": content, "style": style})) == expected


@pytest.mark.parametrize(
    "phrase",
    [
        "a painting not yet finished",
        "a door not fully closed",
        "a city not far from the sea",
        "a not quite round moon",
        "a house no longer used",
        "not only red but also blue",
    ],
)
def test_a_not_that_denies_nothing_stays_in_its_phrase(phrase):
    found = parse_phrases(phrase)
    assert (found.content + found.style, found.negative) == ((phrase,), ())


def test_a_not_that_denies_still_parts_a_phrase():
    found = parse_phrases("a man not wearing a hat\nsharp, not blurry")
    assert (found.content, found.negative) == (("a man", "sharp"), ("wearing a hat", "blurry"))
