"""Off is off: with the pack disabled, neutral, or off again, every sampler draws what it draws without it."""

import json

import pytest
import torch

PASSES = {"txt2img": {}, "inpainting": {"kind": "img2img", "inpaint": True}}
FILE = "drawn-{}.json"
"""How a host drew with the pack in it and off, kept in its data folder for `test_z_removed.py`."""
CANNOT = {("reForge", "inpainting"): ["DPM++ 2S Ancestral CFG++ Intern"]}  # asks at half the size of the mask


@pytest.mark.parametrize("name", PASSES)
def test_neutral_and_off_after_on_change_no_sampler(packed, drawn, on, neutral, tmp_path, name):
    drew, different, unmoved, failed = {}, {}, [], []
    for sampler in packed.ask("samplers"):
        fields = {"sampler_name": sampler, "steps": 6, **PASSES[name]}
        plain, silent = drawn(packed, **fields), drawn(packed, neutral, **fields)
        moved, again = drawn(packed, on, **fields), drawn(packed, **fields)
        if not plain == silent == again:
            different[sampler] = plain, silent, again
        if moved == plain and isinstance(plain, str):
            failed.append(sampler)
        elif moved == plain and draws(packed, tmp_path / "latents.pt", fields):
            unmoved.append(sampler)
        drew[sampler] = fields, plain
    (packed.data / FILE.format(name)).write_text(json.dumps(drew), encoding="utf-8")
    assert different == {}
    assert (unmoved, failed) == ([], CANNOT.get((packed.kind.name, name), []))


def draws(host, file, fields):
    """Whether a sampler's latents are numbers; those made for flow models draw nothing above sigma 1."""
    host.generate(latents=str(file), **fields)
    return all(latents.isfinite().all() for latents in torch.load(file))
