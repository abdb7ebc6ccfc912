"""ARPO with exact scorers: the selection against the paper's algorithm, its cost, the loop, and its log."""

# Over 400 lines: one paper has one test file.

import json
import os
import random
from itertools import pairwise
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadydiff.arpo.log import Log, as_dict, fingerprint, load_log, save_log
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO, drop_phrases, select_phrases
from steadydiff.errors import CheckpointError, ProposerError, SettingsError, ShapeError
from steadydiff.files.checkpoints import save_checkpoint

WORDS = tuple("abcdefgh")


def anything_fits(texts):
    return [True] * len(texts)


# --- phrases ----------------------------------------------------------------------------------------------


def test_a_prompt_is_content_then_style_each_phrase_once():
    phrases = Phrases(("a cat", " A  Cat ,", "", "by a door"), ("oil", "BY A DOOR"))
    assert phrases == Phrases(("a cat", "by a door"), ("oil",))
    assert phrases.prompt == "a cat, by a door, oil"
    assert (phrases - Phrases(style=("A CAT",))).prompt == "by a door, oil"
    assert (phrases + Phrases(("red",), ("Oil", "soft"))).prompt == "a cat, by a door, red, oil, soft"
    assert sum(phrases.each(), Phrases()) == phrases
    absent = phrases + Phrases(negative=("Oil", "text"))
    assert (absent.negative, absent.prompt, len(absent)) == (("text",), phrases.prompt, len(phrases))
    assert (absent - Phrases(("Text",))).negative == ()
    assert (
        Phrases(("a cat on a sofa",), (), ("Cat", "the sofa", "cats", "a dog")).negative_prompt
        == "cats, a dog"
    )


def test_a_prompt_is_parted_at_commas_outside_brackets():
    assert Phrases.of("a cat, (red, soft:1.2),, [x, y], oil").content == (
        "a cat",
        "(red, soft:1.2)",
        "[x, y]",
        "oil",
    )
    assert Phrases.of("").prompt == ""
    assert Phrases.of(")odd, but read").content == (")odd", "but read")


# --- selection --------------------------------------------------------------------------------------------


def algorithm_8(similarity, current, candidates, fits, min_gain):
    """The printed algorithm line by line, one text at a time, with a strict gain; what does not fit fails."""
    current, candidates, added = list(current), list(candidates), []
    most = similarity(", ".join(current))
    while candidates:
        scored = []
        for p in candidates:
            text = ", ".join([*current, *added, p])
            scored.append(similarity(text) if fits([text])[0] else -2.0)
        score = max(scored)
        best = candidates[scored.index(score)]
        if score > most + min_gain:
            added.append(best)
        candidates.remove(best)
        most = max(most, score)
    return added


@st.composite
def instances(draw):
    """Similarities of any prompt, with ties; candidates; a longest prompt that is read."""
    salt, levels = draw(st.integers(0, 10**6)), draw(st.sampled_from((3, 10, 10**6)))
    growth = draw(st.sampled_from((0.0, 0.02)))  # with none, equals are common
    candidates = draw(st.lists(st.sampled_from(WORDS), unique=True))
    current = draw(st.lists(st.sampled_from(("x", "y")), unique=True))

    def similarity(text):
        return crc32(f"{salt} {text}".encode()) % levels / levels + growth * len(text)

    return similarity, current, candidates, draw(st.sampled_from((3, 7, 99))), draw(st.sampled_from((0, 0.1)))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(instances())
def test_the_selection_is_that_of_algorithm_8(instance):
    similarity, current, candidates, longest, min_gain = instance

    def fits(texts):
        return [len(text) <= longest for text in texts]

    chosen = select_phrases(
        lambda texts: [similarity(text) for text in texts],
        Phrases(tuple(current)),
        Phrases(tuple(candidates)),
        fits,
        min_gain,
    )
    assert list(chosen.added.content) == algorithm_8(similarity, current, candidates, fits, min_gain)
    assert [phrase for phrase, _ in chosen.gains] == list(chosen.added.content)
    assert chosen.similarity == similarity(Phrases((*current, *chosen.added.content)).prompt)


def test_eight_useful_of_forty_cost_a_fifth_of_what_is_printed():
    """As printed each similarity encodes a text and the reference, 821 times. Here: the reference once."""
    useful, encoded, batches = {f"u{i}" for i in range(8)}, [], []

    def similarity(text):
        phrases = set(text.split(", "))
        return len(phrases & useful) - 0.1 * len(phrases - useful)

    def similarities(texts):
        batches.append(len(texts))
        return [similarity(text) for text in texts]

    def counted(text):
        encoded.append(text)
        return similarity(text)

    candidates = [*sorted(useful), *(f"n{i}" for i in range(32))]
    random.Random(0).shuffle(candidates)
    chosen = select_phrases(similarities, Phrases(("x",)), Phrases(tuple(candidates)), anything_fits)
    literal = algorithm_8(counted, ["x"], candidates, anything_fits, 0)
    assert list(chosen.added.content) == literal and set(literal) == useful
    assert batches == [1, *range(40, 31, -1)] and len(encoded) == 821
    assert 2 * len(encoded) >= 5 * (sum(batches) + 1)


def test_a_thousand_candidates_are_one_batch():
    batches = []

    def similarities(texts):
        batches.append(len(texts))
        return [float(text == "x, p7") for text in texts]

    chosen = select_phrases(
        similarities, Phrases(("x",)), Phrases(tuple(f"p{i}" for i in range(1000))), anything_fits
    )
    assert chosen.added.prompt == "p7" and batches == [1, 1000, 999]


def test_what_the_text_model_would_not_read_is_not_tried_and_told():
    chosen = select_phrases(
        lambda texts: [len(text) for text in texts],
        Phrases(("x",)),
        Phrases(("long phrase", "s")),
        lambda texts: [len(text) < 8 for text in texts],
    )
    assert chosen.added.prompt == "s" and chosen.full


def test_phrases_that_hinder_are_taken_out_the_worst_first_but_never_the_last():
    cost = {"good": 1.0, "bad": -1.0, "worse": -2.0}

    def similarities(texts):
        return [sum(cost[p] for p in text.split(", ")) for text in texts]

    kept = drop_phrases(similarities, Phrases(("bad", "good"), ("worse",)))
    assert kept.added.prompt == "good" and kept.gains == (("worse", 0.0), ("bad", 1.0))
    assert drop_phrases(similarities, Phrases(("bad", "worse"))).added.prompt == "bad"


# --- search -----------------------------------------------------------------------------------------------

WANTED = ("red", "star", "soft")


class Words:
    """A space with an axis for each word; a picture holds, per word, whether it shows it."""

    WORDS = (*WANTED, "blue", "night")

    def picture(self, picture):
        shown = torch.cat([picture[0, :, 0].double(), torch.tensor([0.3]).double()])
        return shown / shown.norm()

    def texts(self, texts):
        return torch.stack([self.picture(draw(text)) for text in texts])

    def fits(self, texts):
        return [True] * len(texts)


def draw(prompt, seed=0):
    shown = [float(word in prompt.split(", ")) for word in Words.WORDS]
    return torch.tensor(shown).view(1, -1, 1).expand(1, -1, 3)


class OneAtATime:
    """Proposes a word the drawing lacks, and always one that is wrong."""

    def __init__(self):
        self.asked = []

    def caption(self, reference):
        return Phrases(("night",))

    def propose(self, reference, generated, current):
        assert torch.equal(generated, draw(current.prompt))
        self.asked.append(current.prompt)
        lacking = [word for word in WANTED if word not in current.prompt]
        return Phrases((*lacking[:1], "blue"))


REFERENCE = draw(", ".join(WANTED))


def searched(settings, prompt=None, proposer=None, log=None, generate=draw):
    return list(settings.search(REFERENCE, generate, proposer or OneAtATime(), Words(), 3, prompt, log))


def test_a_search_adds_what_is_lacking_until_nothing_is():
    logs = searched(ARPO(iterations=9), Phrases())
    assert [log.steps[-1].phrases.prompt for log in logs] == ["", "red", "red, star", "red, star, soft"]
    assert logs[-1].stopped == "no phrase brings the prompt nearer"
    assert [log.stopped for log in logs[:-1]] == [""] * 3
    steps = logs[-1].steps
    assert logs[-1].best is steps[-1] and steps[-1].image_similarity == pytest.approx(1)
    assert all(a.text_similarity < b.text_similarity for a, b in pairwise(steps))
    assert [[p for p, _ in step.gains] for step in steps] == [["red"], ["star"], ["soft"], []]
    assert set(steps[0].seconds) == {"generate", "propose", "select"}


def test_it_stops_when_it_was_told_to():
    assert [s.phrases.prompt for s in searched(ARPO(2), Phrases())[-1].steps] == ["", "red", "red, star"]
    assert searched(ARPO(2), Phrases())[-1].stopped == "all iterations are done"
    near = searched(ARPO(target=0.8), Phrases())[-1]
    assert near.steps[-1].phrases.prompt == "red, star" and "target" in near.stopped
    assert len(searched(ARPO(0))[-1].steps) == 1


def test_a_wrong_caption_stays_unless_dropping_is_asked_for():
    assert searched(ARPO(5))[-1].best.phrases.prompt == "night, red, star, soft"
    dropped = searched(ARPO(5, drop=True))[-1]
    assert dropped.best.phrases.prompt == "red, star, soft"
    assert [p for p, _ in dropped.steps[0].drops] == ["night"]


def test_excluded_phrases_come_from_nowhere():
    log = searched(ARPO(5, excluded=("RED", "night")))[-1]
    assert log.steps[0].phrases.prompt == ""
    assert [step.candidates.prompt for step in log.steps] == ["blue"]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("red",), "reddish sky, a tired dog, Hot dogs"),
        (("RED", "dogs"), "reddish sky, a tired dog"),
        (("red hat",), "reddish sky, red, a tired dog, Hot dogs"),
        (("",), "a Red hat, reddish sky, red, a tired dog, Hot dogs"),
    ],
)
def test_words_exclude_every_phrase_that_holds_them(words, left):
    phrases = Phrases(("a Red hat", "reddish sky", "red"), ("a tired dog", "Hot dogs"), ("red",))
    assert phrases.without(words).prompt == left
    assert Phrases(("一只黑猫", "狗")).without(("猫",)).prompt == "狗"

    class Hats(OneAtATime):
        def propose(self, reference, generated, current):
            return phrases

    assert searched(ARPO(1, excluded=words), Phrases(), Hats())[-1].steps[0].candidates.prompt == left


def test_every_picture_is_of_the_same_seed():
    seeds = []
    searched(ARPO(3), Phrases(), generate=lambda prompt, seed: seeds.append(seed) or draw(prompt))
    assert seeds == [3] * 4


def test_the_best_is_by_picture_and_by_text():
    """A model that cannot draw "soft": the text goes on growing, the best picture is an earlier one."""

    def generate(prompt, seed):
        return draw("blue" if "soft" in prompt else prompt)

    class Silent(OneAtATime):
        def propose(self, reference, generated, current):
            lacking = [word for word in WANTED if word not in current.prompt]
            return Phrases(tuple(lacking[:1]))

    log = searched(ARPO(9), Phrases(), Silent(), generate=generate)[-1]
    assert log.best.phrases.prompt == "red, star"
    assert log.best_by_text.phrases.prompt == "red, star, soft"


def test_a_failed_proposer_ends_the_search_and_keeps_its_log():
    class Tired(OneAtATime):
        def propose(self, reference, generated, current):
            if len(self.asked) == 2:
                raise ProposerError("the server is gone")
            return super().propose(reference, generated, current)

    log = searched(ARPO(9), Phrases(), Tired())[-1]
    assert log.stopped == "the proposer failed: the server is gone"
    assert log.best.phrases.prompt == "red, star"
    again = searched(ARPO(9), log=log)[-1]
    assert again.best.phrases.prompt == "red, star, soft"


@pytest.mark.parametrize(("answers", "failure"), [(0, "the proposer failed: nobody answers"), (1, "")])
def test_a_search_has_failed_if_its_proposer_never_answered(answers, failure):
    class Dead(OneAtATime):
        def propose(self, reference, generated, current):
            if len(self.asked) == answers:
                raise ProposerError("nobody answers")
            return super().propose(reference, generated, current)

    log = searched(ARPO(9), Phrases(), Dead())[-1]
    assert log.stopped == "the proposer failed: nobody answers" and log.failure == failure
    assert searched(ARPO(0), Phrases(), Dead())[-1].failure == ""


def test_a_cancelled_search_goes_on_where_it_was(tmp_path):
    def interrupted(prompt, seed):
        if prompt == "red, star":
            raise KeyboardInterrupt
        return draw(prompt)

    file, proposer = tmp_path / "log.safetensors", OneAtATime()
    with pytest.raises(KeyboardInterrupt):
        for log in ARPO(9).search(REFERENCE, interrupted, proposer, Words(), 3, Phrases()):
            save_log(log, file)
    kept = load_log(file)
    assert [step.phrases.prompt for step in kept.steps] == [
        "",
        "red",
    ] and kept.following.prompt == "red, star"
    log = searched(ARPO(9), None, proposer, kept)[-1]
    whole = searched(ARPO(9), Phrases())[-1]
    assert [s.phrases for s in log.steps] == [s.phrases for s in whole.steps]
    assert proposer.asked == ["", "red", "red, star", "red, star, soft"]
    more = searched(ARPO(1), Phrases())[-1]
    assert more.stopped == "all iterations are done"
    assert searched(ARPO(9), log=more)[-1].best.phrases == log.best.phrases


class Complaining(OneAtATime):
    """Says too what is to be absent: a thing the drawing has, and one it has not."""

    def caption(self, reference):
        return Phrases(("night",), negative=("text",))

    def propose(self, reference, generated, current):
        found = super().propose(reference, generated, current)
        return found + Phrases(negative=("blue", "star", "NIGHT"))


def test_what_the_drawing_has_and_the_reference_has_not_is_kept_as_negative():
    log = searched(ARPO(9), None, Complaining())[-1]
    assert log.steps[0].candidates.negative == ("star",)  # blue is a candidate itself, night in the prompt
    assert log.negative(log.best) == "text" and log.best.phrases.prompt == "night, red, star, soft"

    class Blue(Complaining):
        def propose(self, reference, generated, current):
            return Phrases(("red",), negative=("blue", "star"))

    log = searched(ARPO(1), Phrases(("star",)), Blue(), generate=lambda p, seed: draw(p + ", blue, night"))[
        -1
    ]
    assert log.negative(log.best) == "blue" and log.best.phrases.prompt == "star, red"
    assert log.steps[0].phrases.negative == () and log.steps[1].phrases.negative == ("blue",)


def test_a_search_that_goes_on_finds_the_same_negatives():
    def generate(prompt, seed):
        return draw(prompt + ", blue")

    class Blue(OneAtATime):
        def propose(self, reference, generated, current):
            return Phrases(tuple(w for w in WANTED if w not in current.prompt)[:1], negative=("blue",))

    whole = searched(ARPO(9), Phrases(), Blue(), generate=generate)[-1]
    again = searched(ARPO(9), None, Blue(), whole, generate)[-1]
    assert whole.negative(whole.best) == "blue" and again.following == whole.following
    assert [s.phrases for s in again.steps] == [s.phrases for s in whole.steps]


def test_a_log_of_before_there_were_negatives_loads(tmp_path):
    log, file = searched(ARPO(1), Phrases())[-1], tmp_path / "log.safetensors"
    save_log(log, file)
    old, head = file.read_bytes(), b'\\"negative\\": []'
    assert head in old
    while head in old:  # of the same length, as the file counts its bytes
        old = old.replace(head, b'\\"nothing!\\": 0 ', 1)
    file.write_bytes(old)
    assert load_log(file).best.phrases == log.best.phrases and load_log(file).following.negative == ()


# --- seeds ------------------------------------------------------------------------------------------------


def lucky(prompt, seed):
    """Seed 3 draws what was not asked for with the shortest prompt; seed 4 and 5 draw the prompt."""
    return draw("red, star, soft" if seed == 3 and prompt == "" else prompt)


def test_the_mean_of_several_seeds_decides_not_one_lucky_drawing():
    alone = searched(ARPO(9), Phrases(), generate=lucky, proposer=Blind())[-1]
    assert alone.best.phrases.prompt == ""
    log = searched(ARPO(9, seeds=3), Phrases(), generate=lucky, proposer=Blind())[-1]
    assert log.best.phrases.prompt == "red, star, soft"
    first, last = log.steps[0], log.steps[-1]
    assert first.image_similarity == pytest.approx(sum(first.similarities) / 3)
    assert first.similarities[0] == pytest.approx(1) and first.spread > 0.2 and last.spread == 0
    assert torch.equal(first.typical, first.others[0]) and len(first.pictures) == 3


class Blind(OneAtATime):
    def propose(self, reference, generated, current):
        return Phrases(tuple(word for word in WANTED if word not in current.prompt)[:1])


def test_the_seeds_are_those_that_follow_and_come_in_their_order():
    seeds = []

    def generate(prompt, seed):
        seeds.append(seed)
        return draw(prompt)

    next(ARPO(0, seeds=3).search(REFERENCE, generate, Blind(), Words(), 2**64 - 2, Phrases()))
    assert seeds == [2**64 - 2, 2**64 - 1, 0]


def test_a_log_keeps_the_drawings_of_all_seeds_and_goes_on_with_as_many(tmp_path):
    log, file = (
        searched(ARPO(1, seeds=2), Phrases(), generate=lucky, proposer=Blind())[-1],
        tmp_path / "l.safetensors",
    )
    save_log(log, file)
    again = load_log(file)
    assert json.dumps(as_dict(again)) == json.dumps(as_dict(log)) and again.seeds == 2
    for ours, theirs in zip(log.steps, again.steps, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.pictures, theirs.pictures, strict=True))
    whole = searched(ARPO(9, seeds=2), Phrases(), generate=lucky, proposer=Blind())[-1]
    further = searched(ARPO(9, seeds=2), None, Blind(), again, lucky)[-1]
    assert [step.phrases for step in further.steps] == [step.phrases for step in whole.steps]
    with pytest.raises(SettingsError, match="drawings of 2 seeds each, now 1 are wanted"):
        searched(ARPO(9), None, Blind(), again)


def test_a_log_from_before_there_were_seeds_is_one_of_one_seed(tmp_path):
    log, file = searched(ARPO(1), Phrases())[-1], tmp_path / "log.safetensors"
    told = as_dict(log)
    assert told.pop("seeds") == 1 and all(step.pop("similarities") == () for step in told["steps"])
    pictures = {f"picture.{i}": (step.picture * 255).byte() for i, step in enumerate(log.steps)}
    save_checkpoint(file, pictures, kind="arpo_log", version=1, log=told)
    again = load_log(file)
    assert again.seeds == 1 and json.dumps(as_dict(again)) == json.dumps(as_dict(log))


# --- themes -----------------------------------------------------------------------------------------------


def test_a_theme_is_what_its_pictures_share():
    """Each shows red and something of its own; the prompt says red first, and is near to the mean."""
    theme = [draw("red, star"), draw("red, soft"), draw("red, night")]
    asked = []

    class Namer(OneAtATime):
        def caption(self, reference):
            return Phrases(("star",)) if torch.equal(reference, theme[0]) else Phrases(("night",))

        def propose(self, reference, generated, current):
            asked.append(next(i for i, one in enumerate(theme) if torch.equal(reference, one)))
            return Phrases((("star", "soft", "night")[asked[-1]], "red", "blue"))

    log = list(ARPO(1).search(theme, draw, Namer(), Words(), 3, Phrases()))[-1]
    assert log.steps[1].phrases.content[0] == "red" and "blue" not in log.steps[1].phrases.content
    assert asked == [0, 1, 2]
    one = list(ARPO(1).search(theme[:1], draw, Namer(), Words(), 3))[-1]
    alone = list(ARPO(1).search(theme[0], draw, Namer(), Words(), 3))[-1]
    assert one.reference == alone.reference == fingerprint(theme[0]) != log.reference
    assert [step.phrases for step in one.steps] == [step.phrases for step in alone.steps]
    with pytest.raises(SettingsError, match="another reference"):
        next(ARPO().search(theme[::-1], draw, Namer(), Words(), 3, log=log))
    with pytest.raises(ShapeError, match="one picture or more"):
        next(ARPO().search([], draw, Namer(), Words(), 3))


def test_the_most_typical_picture_of_a_theme_is_captioned():
    theme = [draw("blue"), draw("red, star"), draw("red, star, soft")]
    captioned = []

    class Namer(OneAtATime):
        def caption(self, reference):
            captioned.append(reference)
            return Phrases(("red",))

    next(ARPO(0).search(theme, draw, Namer(), Words(), 3))
    [typical] = captioned
    assert torch.equal(typical, theme[1]) or torch.equal(typical, theme[2])


# --- log --------------------------------------------------------------------------------------------------


def test_a_log_is_what_was_saved(tmp_path):
    log, file = searched(ARPO(2, drop=True))[-1], tmp_path / "deep" / "log.safetensors"
    save_log(log, file)
    again = load_log(file)
    assert json.dumps(as_dict(again)) == json.dumps(as_dict(log))
    assert all(torch.equal(a.picture, b.picture) for a, b in zip(again.steps, log.steps, strict=True))
    assert os.listdir(file.parent) == ["log.safetensors"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b"steps", b"stips"),
        lambda text: text.replace(b"picture.0", b"picture.9"),
        lambda text: text[:-40],
        lambda text: b"junk",
    ],
)
def test_a_spoiled_log_is_refused(tmp_path, spoil):
    file = tmp_path / "log.safetensors"
    save_log(searched(ARPO(1), Phrases())[-1], file)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"log\.safetensors"):
        load_log(file)


def test_a_log_of_another_search_is_refused():
    log = searched(ARPO(1), Phrases())[-1]
    with pytest.raises(SettingsError, match="another reference picture or seed"):
        next(ARPO().search(REFERENCE, draw, OneAtATime(), Words(), seed=4, log=log))
    with pytest.raises(SettingsError, match="another reference"):
        next(ARPO().search(1 - REFERENCE, draw, OneAtATime(), Words(), seed=3, log=log))
    with pytest.raises(SettingsError, match="nothing has been drawn"):
        Log("", 0, Phrases()).best  # noqa: B018


@pytest.mark.parametrize(
    "settings",
    [{"iterations": -1}, {"seeds": 0}, {"min_gain": -0.1}, {"min_gain": float("nan")}, {"target": 1.1}],
)
def test_settings_are_checked(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        ARPO(**settings)


def test_a_batch_is_no_reference():
    with pytest.raises(ShapeError, match=r"\[H, W, 3\]"):
        next(ARPO().search(torch.zeros(1, 8, 8, 3), draw, OneAtATime(), Words(), 0))
