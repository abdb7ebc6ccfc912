"""ARPO's bench: what it takes for said and for true. It needs no open_clip for that."""

import pytest

from tools.bench import arpo as bench


@pytest.fixture(scope="module")
def scenes():
    return bench.references(0)[0]


def pair(scenes):
    return next(i for i in range(len(scenes)) if scenes.count[i] == 2)


def test_a_whole_caption_says_exactly_what_is_true(scenes):
    captions = bench.world.captions(scenes)
    for i, caption in enumerate(captions):
        assert bench.said(caption, scenes, i) == bench.truth(scenes, i), caption


def test_a_relation_may_be_told_from_either_side_but_not_of_another_thing(scenes):
    i = pair(scenes)
    relation = next(name for kind, name in bench.truth(scenes, i) if kind == "position")
    first, second = (" ".join(bench.thing(scenes, i, k)) for k in (0, 1))
    for words in (f"{relation} a {second}", f"{bench.INVERSE[relation]} a small {first}"):
        assert ("position", relation) in bench.said(words, scenes, i)
    wrong = bench.said(f"{bench.INVERSE[relation]} a {second}", scenes, i)
    assert ("position", relation) not in wrong and ("position", bench.INVERSE[relation]) in wrong
    other = bench.wrong_thing(0, i).split(" ", 1)[1]
    assert ("position", f"{relation} nothing") in bench.said(f"{relation} a {other}", scenes, i)


def test_left_of_is_no_position_by_itself_and_a_style_needs_a_drawing(scenes):
    assert bench.said("left of nothing, flat", scenes, 0) == set()
    assert bench.said("at the top left, a soft drawing", scenes, 0) == {
        ("position", "top left"), ("style", "soft"),
    }  # fmt: skip


def test_a_wrong_thing_shares_neither_shape_nor_colour(scenes):
    for i in range(len(scenes)):
        said = bench.said(bench.wrong_thing(0, i), scenes, i)
        assert len(said) == 2 and not said & bench.truth(scenes, i)
