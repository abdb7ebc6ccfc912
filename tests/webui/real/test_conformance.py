"""Real hosts answer what the double in `tests/webui/double` was made to answer."""

import json
from pathlib import Path

import pytest

DOUBLE = Path(__file__).parents[1] / "double"
KNOWN = json.loads((DOUBLE / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("question", ["names", "events", "calls", "state", "patcher"])
def test_the_host_answers_as_recorded(packed, question):
    facts = (DOUBLE / "facts.py").read_text(encoding="utf-8")
    answer = packed.ask("run", source=f"{facts}\nresult = FACTS[{question!r}]()")
    recorded = KNOWN["a1111" if packed.kind.name == "A1111" else "forge"][question]
    own = KNOWN.get(packed.kind.name, {}).get(question, {})  # where a fork differs from Forge
    assert answer == (merged(recorded, own) if own else recorded)


def merged(recorded, own):
    """`recorded` with what `own` says otherwise, at any depth."""
    if not isinstance(own, dict):
        return own
    return recorded | {name: merged(recorded.get(name), value) for name, value in own.items()}
