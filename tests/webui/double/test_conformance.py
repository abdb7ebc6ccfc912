"""The double answers as a real host has to; `tests/webui/real` asks those the same."""

import json

import pytest


@pytest.mark.parametrize("question", ["names", "events", "calls", "state", "patcher"])
def test_it_answers_as_the_real_host(webui, expected, question):
    before = len(webui.errors.exceptions)
    assert json.loads(json.dumps(webui.facts[question]())) == expected[question]
    failures = webui.errors.exceptions[before:]
    assert len(failures) == (question == "events")  # the script that is to fail
