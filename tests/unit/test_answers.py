"""What models really answer, and what a person would write down of it: data/answers.json.

An entry holds the lines of an `answer`, the `content`, `style` and `negative` phrases in it (none if left
out), `asked` if only one kind was asked for, and `refused` if the model did not do what it was asked.
"""

import json
from pathlib import Path

import pytest

from steadydiff.arpo.language.parsing import is_refusal, parse_phrases
from steadydiff.arpo.phrases import Phrases

CORPUS = json.loads((Path(__file__).parent / "data" / "answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", CORPUS, ids=[entry["name"] for entry in CORPUS])
def test_an_answer_gives_the_phrases_that_a_person_would_write_down(entry):
    answer = "\n".join(entry["answer"])
    wanted = Phrases(*(tuple(entry.get(kind, ())) for kind in ("content", "style", "negative")))
    assert parse_phrases(answer, entry.get("asked")) == wanted
    assert is_refusal(answer) == entry.get("refused", False)
