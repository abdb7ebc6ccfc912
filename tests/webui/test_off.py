"""Off is off: with the pack disabled, neutral, or off again, every sampler draws what it draws without it."""

import json

import pytest

PASSES = {"txt2img": {}, "inpainting": {"kind": "img2img", "inpaint": True}}
FILE = "drawn-{}.json"
"""What a host drew with the pack in it and off, kept in its data folder for `test_z_removed.py`."""


@pytest.mark.parametrize("name", PASSES)
def test_neutral_and_off_after_on_change_no_sampler(packed, drawn, on, neutral, name):
    plains, different, unmoved = {}, {}, []
    for sampler in packed.ask("samplers"):
        fields = {"sampler_name": sampler, "steps": 6, **PASSES[name]}
        plain, silent = drawn(packed, **fields), drawn(packed, neutral, **fields)
        moved, again = drawn(packed, on, **fields), drawn(packed, **fields)
        if not plain == silent == again:
            different[sampler] = plain, silent, again
        if moved == plain:
            unmoved.append(sampler)
        plains[sampler] = plain
    (packed.data / FILE.format(name)).write_text(json.dumps(plains), encoding="utf-8")
    assert different == {}
    assert unmoved == []
