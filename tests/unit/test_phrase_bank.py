"""Phrase banks: what files say, what is proposed, and the banks that ship."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steadydiff.arpo import phrase_bank
from steadydiff.arpo.bank_files import BANKS, MOST_PHRASES, find_banks, named_lists, read_bank
from steadydiff.arpo.embeddings import identity_of
from steadydiff.arpo.phrase_bank import PhraseBank
from steadydiff.arpo.phrases import Phrases
from steadydiff.arpo.search import ARPO
from steadydiff.arpo.tagger import Captioned
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
    lists = read_bank(
        folder(
            {
                "things.txt": "# said of things\na __size__ __kind__\n\n  a tree \n",
                "style/media.txt": "oil\nOil\nink\n",
                "words/size.txt": "small\nbig\n",
                "words/kind.txt": "cat\n__pet__\n",
                "words/pet.txt": "dog",
            }
        )
    )
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
        ({"a.txt": "1 cat\n" * 20_001}, r"a\.txt has more than 20000 lines; part it into several banks"),
        ({"a.txt": b"\xff\xfe\x00"}, r"a\.txt is text in UTF-16"),
        ({"a.txt": "x", "style/a.txt": "y"}, r"two files a\.txt"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(folder, files, sentence):
    with pytest.raises(SettingsError, match=sentence):
        read_bank(folder(files))


def test_a_folder_that_is_called_like_a_file_is_none(folder):
    bank = folder({"a.txt": "a cat"})
    (bank / "b.txt").mkdir()
    assert read_bank(bank) == (Phrases(("a cat",)),)


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


def test_of_a_list_that_is_proposed_whole_what_only_the_drawing_has_is_negative_too():
    bank = PhraseBank((Phrases(("a", "b", "c")), Phrases((), ("a2", "c2"))), Axes(), absent=1)
    reference, drawn = pixel(0.8, 0.6, 0.0), pixel(0.8, 0.0, 0.6)
    found = bank.propose(reference, drawn, Phrases())
    assert found == Phrases(("b", "a", "c"), ("a2", "c2"))  # all are candidates, so that none is negative
    assert bank.shown(reference, drawn, Phrases()) == ("c", "c2")
    settings, first = ARPO(1, excluded=("c2",)), Phrases(("b",))
    for proposer in (bank, Captioned(bank, lambda picture: Phrases())):
        search = settings.search(reference, lambda *_: drawn, proposer, Axes(), 0, first)
        assert [log.negative(log.best) for log in search][-1] == "c"
    same = ARPO(1).search(reference, lambda *_: reference, bank, Axes(), 0, first)
    assert [log.following.negative for log in same][-1] == ()  # which has nothing too much


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


# --- banks by name ----------------------------------------------------------------------------------------


def test_banks_of_the_user_are_folders_and_single_files_and_may_be_named_in_part(tmp_path):
    for name, text in {
        "banks/mine/style/papers.txt": "on rice paper",
        "banks/mine/animals.txt": "a __size__ newt",
        "banks/mine/words/size.txt": "small\nbig",
        "banks/cars.txt": "a red coupe",
        "banks/.embeddings/x.txt": "x",
        "old/mine/a.txt": "of the elder folder",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    banks = find_banks(tmp_path / "old", tmp_path / "banks", tmp_path / "absent")
    assert {"general", "tinyworld", "cars"} < set(banks) and ".embeddings" not in banks
    animals, papers = Phrases(("a small newt", "a big newt")), Phrases((), ("on rice paper",))
    assert named_lists(banks, "mine") == (animals, papers)
    assert named_lists(banks, "mine", " cars, mine ") == (animals, papers, Phrases(("a red coupe",)))
    assert named_lists(banks, "none", "mine/style, mine/animals") == (papers, animals)
    assert named_lists(banks, "none", "", "a hat\n", "soft") == (Phrases(("a hat",)), Phrases((), ("soft",)))
    assert named_lists(banks, "none") == ()
    with pytest.raises(SettingsError, match=r"there is no phrase bank 'trains'; there are art, "):
        named_lists(banks, "mine", "trains")
    for outside in ("mine/..", "mine/style/../..", "mine//etc", "mine/anim"):
        with pytest.raises(SettingsError, match="mine has no"):
            named_lists(banks, "none", outside)


def test_folders_of_wildcards_are_read_without_what_only_their_programs_understand(tmp_path):
    home = tmp_path / "Pack" / "wildcards"
    for name, text in {
        "hats.txt": "a __colours/warm__ hat\na __warm__ cap\na __cold__ hat\n{a|b} hat\n2::a fez\n# a note\n",
        "colours/warm.txt": "red\norange",
        "deep/colours/warm.txt": "ochre",
        "loop.txt": "__loop__",
        "broken.txt": b"\xff\xfe\x00",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    banks = find_banks(wildcards=[home, tmp_path / "absent" / "wildcards"])
    warm = Phrases(("red", "orange"))
    hats = Phrases(("a red hat", "a orange hat", "a red cap", "a orange cap"))
    assert named_lists(banks, "wildcards Pack") == (warm, Phrases(("ochre",)), hats)
    assert named_lists(banks, "none", "wildcards Pack/colours") == (warm,)


# --- embeddings on disk -----------------------------------------------------------------------------------


class Counted:
    """Numbers as texts; 64 axes. Counts what it embeds."""

    def __init__(self, identity="one"):
        self.identity, self.embedded = identity, 0

    def picture(self, picture):
        return torch.randn(64, generator=torch.Generator().manual_seed(int(picture.sum())))

    def texts(self, texts):
        self.embedded += len(texts)
        made = [torch.randn(64, generator=torch.Generator().manual_seed(int(text))) for text in texts]
        return torch.nn.functional.normalize(torch.stack(made), dim=1)

    def fits(self, texts):
        return [True] * len(texts)


NUMBERS = Phrases(tuple(map(str, range(40)))), Phrases((), ("77", "78"))


def proposed(scorer, cache, lists=NUMBERS):
    bank = PhraseBank(lists, scorer, 5, cache=cache)
    return bank.propose(pixel(1.0, 0.0, 0.0), pixel(0.0, 1.0, 1.0), Phrases(("3",)))


def test_embeddings_of_longer_lists_are_kept_by_scorer_and_by_what_the_list_says(tmp_path):
    scorer = Counted()
    found = proposed(scorer, tmp_path)
    assert found == proposed(Counted(), None) and len(found) == 7 and scorer.embedded == 42
    assert proposed(again := Counted(), tmp_path) == found and again.embedded == 2  # short lists are not kept
    assert proposed(other := Counted("two"), tmp_path) == found and other.embedded == 42
    changed = Phrases((*NUMBERS[0].content[:-1], "99")), NUMBERS[1]
    proposed(edited := Counted(), tmp_path, changed)
    assert edited.embedded == 42 and len(list(tmp_path.iterdir())) == 3
    proposed(nobody := Counted(""), tmp_path)
    assert nobody.embedded > 2 and len(list(tmp_path.iterdir())) == 3  # nobody knows when it has changed


@pytest.mark.parametrize("spoiled", [b"junk", None])
def test_spoiled_embeddings_are_made_again(tmp_path, spoiled):
    found = proposed(Counted(), tmp_path)
    [file] = tmp_path.iterdir()
    if spoiled is None:
        save_file({"embeddings": torch.full((40, 64), float("nan"))}, file, safe_open(file, "pt").metadata())
    else:
        file.write_bytes(spoiled)
    assert proposed(again := Counted(), tmp_path) == found and again.embedded == 42
    assert proposed(after := Counted(), tmp_path) == found and after.embedded == 2


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert proposed(Counted(), tmp_path / "file" / "x") == proposed(Counted(), None)


def test_a_model_is_known_by_its_weights_and_its_tokenizer():
    torch.manual_seed(0)
    one = torch.nn.Linear(8, 300)
    same = torch.nn.Linear(8, 300)
    same.load_state_dict(one.state_dict())
    assert identity_of(one, "a") == identity_of(same, "a") != identity_of(one, "b")
    assert identity_of(one, "a") != identity_of(one.half(), "a")
    with torch.no_grad():
        same.weight.mul_(1.001)
    assert identity_of(same, "a") != identity_of(one.float(), "a")


def test_large_banks_are_ranked_in_chunks_as_at_once(monkeypatch):
    whole = proposed(Counted(), None)
    monkeypatch.setattr(phrase_bank, "CHUNK", 7)
    assert proposed(Counted(), None) == whole
