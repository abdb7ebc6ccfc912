"""Kept fits: the same key for the same thing in every session, files that are read back or refused."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from steadydiff.drift import saved_fit
from steadydiff.drift.correction import PLAIN, Correction
from steadydiff.drift.digest import described, digest
from steadydiff.drift.fit import Fit, Signs
from steadydiff.drift.saved_fit import SavedFit, Unfinished
from steadydiff.errors import SettingsError
from steadydiff.plots import fit_figure, pixels
from steadydiff.schedules import MadeFor

EASY = Signs(-0.5, 0.1, -0.3, 0.1)
LIKE = Signs(0.1, 0.1, 0.1, 0.1)
VARIED = Signs(0.1, 0.1, 0.3, 0.1)
GUIDED = Signs(-0.5, 0.1, 0.3, 0.1)
TORN = Signs(0.5, 0.1, -0.3, 0.1)


def kept(correction=PLAIN, before=EASY, references="16 connected images", cfg=1.0):
    scores = {"plain": (1.0, 0.0), "c 0.9": (0.8, 0.05), str(correction): (0.8, 0.05)}
    reason = f"{correction} brings samples 20% nearer to the real pictures"
    fit = Fit(correction, reason, before, LIKE, scores, 120, 3)
    made_for = MadeFor("ddpm", "normal", 3, cfg, "PhotoModel", (2.0, 1.0, 0.5, 0.0))
    return SavedFit("k", fit, made_for, 16, references, "p", (4, 8, 8))


def test_the_reason_has_no_letters_that_the_headline_has_in_words():
    lines = kept(Correction(factor=0.9)).report().splitlines()
    assert lines[1] == "Why: it brings samples 20% nearer to the references."


def guide(scale):
    kernel = torch.zeros(3)

    def patched(x):
        return x * scale + kernel

    return patched


class Holder:
    def __init__(self, strength):
        self.strength = strength
        self.cache = None

    def set(self, cache):
        self.cache = cache


@pytest.mark.slow
def test_a_digest_is_the_same_in_another_process():
    """Where a set of so many words is in another order."""
    code = (
        "import torch; from steadydiff.drift.digest import digest; "
        "print(digest({'b': 1, 'a': {2.5, *'abcdefghijklmnopqrstuvwxyz'}}, [torch.arange(9.0), None, print]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip()
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert said == digest({"a": {*letters, 2.5}, "b": 1}, [torch.arange(9.0), None, print]).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.5),
        ("1", 1),
        (True, 1),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"b": 1}),
        (torch.zeros(9), torch.zeros(9, 1)),
        (torch.zeros(9), torch.zeros(9).half()),
        (torch.zeros(9), torch.tensor([0.0] * 8 + [1])),
        (guide(1.0), guide(2.0)),
        (Holder(1), Holder(2)),
        (Holder(1).set, Holder(2).set),
        (partial(max, 1), partial(max, 2)),
    ],
)
def test_what_differs_has_another_digest(one, other):
    assert digest(one) == digest(one) != digest(other)


def test_what_a_run_leaves_in_other_packs_objects_does_not_count():
    def settings(thing):
        return described(thing, tensors=False)

    used, fresh = Holder(1), Holder(1)
    used.set(torch.zeros(3))
    assert settings(used) == settings(fresh) != settings(Holder(2))
    assert settings(used.set) == settings(fresh.set) != settings(Holder(2).set)
    assert settings(guide(1.0)) == settings(guide(1.0)) != settings(guide(2.0))


def test_what_a_function_writes_itself_does_not_count():
    def patches(strength):
        calls, undo = 0, None

        def merge(x):
            nonlocal calls, undo
            calls += 1
            undo = lambda: x  # noqa: E731
            return strength * x

        return {"merge": merge, "unmerge": [lambda x: undo() if undo else x * calls]}

    used, fresh = patches(2), patches(2)
    used["merge"](1)
    other = described(patches(3), tensors=False)
    assert described(used, tensors=False) == described(fresh, tensors=False) != other


def test_things_that_hold_themselves_come_to_an_end():
    loop = Holder(1)
    loop.cache = [loop]
    assert digest(loop) == digest(loop)


def test_a_fit_is_read_back_as_it_was(tmp_path):
    file, found = tmp_path / "auto" / "a.json", kept(Correction(scale=1.04, later=True))
    assert saved_fit.load(file, "k") is None
    saved_fit.save(file, found)
    assert saved_fit.load(file, "k") == found
    assert saved_fit.load(file, "another") is None
    file.write_text("\ufeff" + file.read_text(encoding="utf-8"), encoding="utf-8")  # as some editors save it
    assert saved_fit.load(file, "k") == found


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('"steadydiff_auto"', '"other"'),
        ('"version": 1', '"version": 2'),
        ("{", "["),
        ('"fit"', '"fi"'),
        ('"scale": 1.0', '"scale": "much"'),
        ('"j": -0.5', '"j": null'),
        ('"shape"', '"shap"'),
        ('"strength": 0.0', '"strength": null'),
        ('"scale": 1.0', '"scale": NaN'),
        ('"factor": 1.0', f'"factor": 1{"0" * 400}'),
        ('"later": false', '"later": "no"'),
        ('"shape": [\n  4', '"shape": [\n  "4"'),
    ],
)
def test_what_is_no_kept_fit_is_refused_by_name(tmp_path, was, becomes):
    file, text = tmp_path / "a.json", kept().to_json()
    assert was in text
    file.write_text(text.replace(was, becomes), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"a\.json cannot be read .* delete it, or measure again"):
        saved_fit.load(file, "k")


@pytest.mark.parametrize(
    ("correction", "before", "said"),
    [
        (Correction(factor=0.9), EASY, "Corrected: Time Shift 0.9."),
        (
            Correction(scale=1.08, later=True, factor=1.1),
            EASY,
            "Corrected: Time Shift 1.1 and Epsilon Scaling 1.08 in the later half.",
        ),
        (PLAIN, LIKE, "Nothing to correct. The model is left as it is."),
        (PLAIN, TORN, "Judge and variance disagree. The model is left as it is."),
        (PLAIN, EASY, "Nothing that was tried helps. The model is left as it is."),
        (PLAIN, VARIED, "Nothing that was tried helps. The model is left as it is."),
        (PLAIN, GUIDED, "Nothing that was tried helps. The model is left as it is."),
    ],
)
def test_the_headline_says_what_was_found(correction, before, said):
    assert kept(correction, before).report().startswith(said)
    own = kept(correction, before, "own samples of 80 steps").report()
    assert own.startswith("No pictures connected: few-step error only, not the model's own bias. " + said)
    shipped = kept(correction, before, "32 shipped pictures").report().splitlines()
    assert shipped[0].startswith("Against 32 shipped pictures, which show also what differs")
    assert shipped[0].endswith("not only drift. " + said)


def test_signs_are_told_in_words():
    report = kept(Correction(factor=0.9)).report()
    assert "j -0.500 ± 0.100 (too easy for the model), variance v -0.300 ± 0.100 (they vary too lit" in report
    assert "Corrected pictures: difficulty j +0.100 ± 0.100 (unclear), variance v" in report


def test_a_disagreement_has_two_possible_reasons():
    said = kept(before=TORN, cfg=7.0).report()
    assert (
        "too hard though they vary less: chance in few pictures; images that the model was trained on" in said
    )
    assert "finer steps do not have" in kept(before=TORN, references="own samples of 80 steps").report()
    assert "Two possible reasons" not in kept(before=GUIDED, cfg=7.0).report()
    assert "Two possible reasons" not in kept().report()


def test_another_prompt_or_size_is_told():
    assert kept().remarks("p", (4, 8, 8)) == kept().remarks("p", (4, 16, 16)) == []
    assert kept().remarks("q", (4, 32, 8)) == ["Measured with another prompt."]
    assert "another size" in kept().remarks("p", (4, 32, 32))[0]


def test_what_was_measured_is_found_again_for_the_same_problem_only(tmp_path):
    file, first = tmp_path / "auto" / "a.safetensors", Unfinished(tmp_path / "auto" / "a.safetensors", "p")
    assert first.own is None and first.done == {}
    first.own = torch.randn(2, 4, 8, 8)
    first.done["lambda 1.04 in the later half"] = {"loss": torch.randn(5, 2), "calls": torch.tensor(3)}
    first.save()
    again = Unfinished(file, "p")
    assert torch.equal(again.own, first.own)
    [(name, found)] = again.done.items()
    assert name == "lambda 1.04 in the later half" and int(found["calls"]) == 3
    assert torch.equal(found["loss"], first.done[name]["loss"])
    other = Unfinished(file, "q")
    assert other.own is None and other.done == {}
    again.end()
    again.end()
    assert not file.exists()


def test_a_damaged_file_of_what_was_measured_begins_anew(tmp_path, caplog):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"no tensors")
    assert Unfinished(file, "p").done == {}
    assert "measuring begins anew" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("scores", [{"plain": (1.0, 0.0)}, {"plain": (1.0, 0.0), "c 0.9": (0.8, 0.05)}])
@pytest.mark.parametrize("correction", [PLAIN, Correction(factor=0.9)])
def test_the_plot_shows_signs_and_what_was_tried(correction, scores):
    pytest.importorskip("matplotlib")
    found = kept(correction)
    figure = fit_figure(replace(found, fit=replace(found.fit, scores=scores)))
    assert len(figure.axes) == min(len(scores), 2)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == (["plain"] if correction == PLAIN else ["plain", "corrected"])
    assert pixels(figure).std() > 0
