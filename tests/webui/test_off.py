"""Off is off: with the pack disabled, neutral, or off again, every sampler draws what it draws without it."""

import pytest

PASSES = {"txt2img": {}, "inpainting": {"kind": "img2img", "inpaint": True}}


@pytest.mark.parametrize("name", PASSES)
def test_neutral_and_off_after_on_change_no_sampler(packed, drawn, on, neutral, name):
    different, unmoved = {}, []
    for sampler in packed.ask("samplers"):
        fields = {"sampler_name": sampler, **PASSES[name]}
        plain, silent = drawn(packed, **fields), drawn(packed, neutral, **fields)
        moved, again = drawn(packed, on, **fields), drawn(packed, **fields)
        if not plain == silent == again:
            different[sampler] = plain, silent, again
        if moved == plain:
            unmoved.append(sampler)
    assert different == {}
    assert unmoved == []
