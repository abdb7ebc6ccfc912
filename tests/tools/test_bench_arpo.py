"""ARPO's bench: what it takes for said and for true. It needs no open_clip for that."""

import pytest

from steadydiff.arpo.phrases import Phrases
from steadydiff.tinyworld.reader import attributes
from tools.bench import arpo as bench
from tools.bench.shared.teller import Teller, phrases_of, scenes_of


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
        ("position", "top left"),
        ("style", "soft"),
    }


def test_a_wrong_thing_shares_neither_shape_nor_colour(scenes):
    for i in range(len(scenes)):
        said = bench.said(bench.wrong_thing(0, i), scenes, i)
        assert len(said) == 2 and not said & bench.truth(scenes, i)


def test_a_phrase_is_shown_only_as_a_whole_and_of_one_thing(scenes):
    i = pair(scenes)
    for phrase in phrases_of(scenes)[i]:
        assert bench.shows(scenes, i, phrase), phrase
    (_, first), (colour, second) = bench.thing(scenes, i, 0), bench.thing(scenes, i, 1)
    assert first != second and not bench.shows(scenes, i, f"a {colour} {first}")
    relation = next(name for kind, name in bench.truth(scenes, i) if kind == "position")
    assert not bench.shows(scenes, i, f"{bench.INVERSE[relation]} a {colour} {second}")


def test_the_readers_answers_make_the_scene_they_are_of(scenes):
    """But for the thing that a pair's caption begins with, which they do not tell."""
    again = scenes_of(attributes(scenes))
    for i in range(len(scenes)):
        told = bench.truth(again, i)
        same = {pair for pair in bench.truth(scenes, i) if pair[0] != "position" or scenes.count[i] == 1}
        assert told >= same
        assert all(bench.shows(scenes, i, phrase) for phrase in phrases_of(again)[i])


@pytest.mark.slow
def test_a_teller_without_errors_tells_what_the_reader_sees_in_every_framework(scenes):
    first, second = bench.references(0)[1][:2]
    seen = [phrases_of(Teller().seen([one]))[0] for one in (first, second)]
    wanted = {phrase for phrase in seen[0] if phrase not in seen[1]}
    for framework in ("enhanced", "vanilla"):
        found = Teller().proposer(framework).propose(first, second, Phrases())
        assert set(found.content + found.style) == wanted
        assert Teller().proposer(framework).propose(first, first, Phrases()) == Phrases()


@pytest.mark.slow
def test_a_tellers_errors_are_as_many_as_it_is_told_and_the_same_for_the_same_pictures(scenes):
    pictures = list(bench.references(0)[1])
    right = Teller().seen(pictures).background
    told = Teller(0.5).seen(pictures).background
    assert 0.2 < (told == right).mean() < 0.9 and (told == Teller(0.5).seen(pictures).background).all()
    swapped = Teller(0, 1).seen(pictures[:2])
    assert swapped.background.tolist() == right[:2].tolist()[::-1]


@pytest.mark.slow
def test_what_was_proposed_is_added_while_clip_reads_it():
    many = Phrases(tuple(f"a {colour} circle" for colour in bench.COLOURS))
    text = bench.filled_up(Phrases(), many).prompt
    assert bench.scorer().fits([text]) == [True] and 3 < len(Phrases.of(text)) < len(many)
