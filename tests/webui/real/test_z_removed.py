"""Last: the pack's folder is taken away, the host started again, and it is as if the pack had never been."""

import json

import pytest


@pytest.mark.parametrize("name", ["txt2img", "inpainting"])
def test_every_sampler_draws_what_it_drew_with_the_pack_off(bare, drawn, name):
    assert "SteadyDiff" not in bare.ask("titles") and bare.ask("swallowed") == []
    file = bare.data / f"drawn-{name}.json"
    if not file.is_file():
        pytest.skip("test_off.py has not been run before it")
    before = json.loads(file.read_text(encoding="utf-8"))
    now = {sampler: [fields, drawn(bare, **fields)] for sampler, (fields, _) in before.items()}
    assert now == before
