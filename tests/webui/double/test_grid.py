"""Cells of an X/Y/Z plot: copies of one processing object, whose infotext they share in the host."""

import copy
import importlib
import itertools

import pytest

ON = {"epsilon_scaling": {"scale": 1.05}, "diffier": {"strength": 0.3, "start_percent": 0.0}}
EPS, DIFFIER = "[SteadyDiff] Epsilon Scaling ", "[SteadyDiff] DiffIER "
AXES = {
    EPS + "enabled": (True, False),
    EPS + "scale": (1.05, 1.0),
    EPS + "slope": (0.001, 0.0),
    EPS + "schedule": ("snr", "scale and slope"),
    EPS + "tsr_k": (0.9, 0.95),
    EPS + "space": ("epsilon", "velocity"),  # the second fails on this model
    EPS + "start_percent": (0.5, 0.0),
    EPS + "end_percent": (0.5, 1.0),
    DIFFIER + "enabled": (True, False),
    DIFFIER + "mode": ("norm", "renoise"),
    DIFFIER + "strength": (0.3, 0.0),
    DIFFIER + "end_percent": (0.3, 1.0),
    DIFFIER + "antithetic": (True, False),
    "sampler_name": ("Heun", "DDIM"),
    "steps": (2, 4),
    "cfg_scale": (1.0, 3.0),
}


@pytest.fixture
def cells(webui, draw, script):
    """Return a function that draws one cell after the other, with values by axis on top of panels' values."""
    xyz = importlib.import_module("steadydiff_webui.xyz")
    axes = {label: put for label, _, put in xyz.axes(lambda label, kind, put, **more: (label, kind, put))}

    def drawn(named, *values):
        base = webui.processing.StableDiffusionProcessingTxt2Img(
            prompt="a cat", seed=5, steps=3, cfg_scale=3.0
        )
        base.scripts, base.script_args = script, [one.value if one else 0 for one in script.inputs]
        base.script_args[1] = named
        for given in values:
            cell = copy.copy(base)
            for label, value in given.items():
                axes[label](cell, value, None) if label in axes else setattr(cell, label, value)
            yield webui.processing.process_images(cell), dict(cell.extra_generation_params)

    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("label", AXES)
def test_a_cells_infotext_is_its_own(cells, label):
    """In either order each cell says what it says when drawn alone."""
    values = [{label: value} for value in AXES[label]]
    alone = [next(cells(ON, value))[0] for value in values]
    for order in itertools.permutations(range(2)):
        made = [one for one, _ in cells(ON, *(values[at] for at in order))]
        assert [one.infotexts for one in made] == [alone[at].infotexts for at in order]
        assert [one.comments for one in made] == [alone[at].comments for at in order]


@pytest.mark.slow
@pytest.mark.parametrize("label", AXES)
def test_a_cells_infotext_pasted_alone_redraws_it(cells, draw, label):
    panels = importlib.import_module("steadydiff_webui.panels").PANELS
    for order in (AXES[label], AXES[label][::-1]):
        for value, (cell, said) in zip(order, cells(ON, *({label: value} for value in order)), strict=True):
            pasted = {
                panel.name: {one.name: panel.pasted(one, said) for one in panel.inputs}
                for panel in panels
                if panel.mentioned(said)
            }
            host = {label: value} if "[" not in label else {}
            again = draw(pasted, negative_prompt="", **host)
            assert again.images[0].tobytes() == cell.images[0].tobytes()
