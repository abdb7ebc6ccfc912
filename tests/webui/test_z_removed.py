"""Last: the pack's folder is taken away, the host started again, and it is as if the pack had never been."""

import json

import pytest

FIELDS = {"txt2img": {}, "inpainting": {"kind": "img2img", "inpaint": True}}


@pytest.mark.parametrize("name", FIELDS)
def test_every_sampler_draws_what_it_drew_with_the_pack_off(bare, drawn, name):
    assert "SteadyDiff" not in bare.ask("titles") and bare.ask("swallowed") == []
    file = bare.data / f"drawn-{name}.json"
    if not file.is_file():
        pytest.skip("test_off.py has not been run before it")
    before = json.loads(file.read_text(encoding="utf-8"))
    now = {sampler: drawn(bare, sampler_name=sampler, steps=6, **FIELDS[name]) for sampler in before}
    assert now == before
