"""What `run.py bench cost` will do on a GPU, done here with networks that are small."""

import pytest
import torch

from tools.bench import cost
from tools.bench.shared.frame import Bench
from tools.bench.shared.tries import METHODS
from tools.launch import tiny_families

pytestmark = pytest.mark.usefixtures("pack")


def small(name, **more):
    family = next(family for family in tiny_families.FAMILIES if family.name == name)
    return cost.Size(name, family.network, family.shape, family.text, more)


SMALL = {
    "SD1.5": small("SD15"),
    "SD3": small("SD3", pooled_output=16),
    "Flux": small("Flux", pooled_output=16),
}


READ = {"DiffIER": 1, "Anti-Bias Prompt": 2, "MDSS": 2}
"""Values that are read before the model is called, where samplers read theirs and nothing is waited for."""


@pytest.fixture(params=SMALL)
def size(request):
    return SMALL[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_a_call_is_timed_with_and_without(method, size):
    figures = cost.cost(size, method, 2, batch=2)
    assert all(figures[name] > 0 for name in ("plain_ms", "ours_ms", "ratio"))
    assert figures["more_waits"] <= READ.get(method, 0)


def test_a_wait_is_seen():
    x = torch.ones(2)
    assert cost.waits(lambda: [float(x.sum()), bool(x.any())]) == 2 and cost.waits(lambda: x + x) == 0


def test_weights_of_8_bits_are_cast_for_each_call(size):
    model = cost.make(size, torch.float8_e4m3fn)
    assert {w.dtype for w in model.model.diffusion_model.parameters()} == {torch.float8_e4m3fn}
    assert cost.cost(size, "Epsilon Scaling", 2, weights=torch.float8_e4m3fn)["ours_ms"] > 0


@pytest.fixture(scope="module")
def compiled(pack):
    return cost.compiled(SMALL["Flux"], "eager")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_ours_is_compiled_or_breaks_what_is(method, compiled):
    found = cost.recompiled(compiled, method, SMALL["Flux"], calls=3)
    if method == "MDSS":
        assert "compiled" in found["refused"]
    else:
        assert found["graphs"] >= 1
        assert found["more_graphs"] == found["more_breaks"] == 0


@pytest.mark.parametrize(("rank", "checkpointing"), [(4, False), (0, True)])
def test_whole_training_steps_are_timed(rank, checkpointing, size):
    figures = cost.training(size, rank, checkpointing, batch=2, steps=3)
    assert figures["pictures_a_second"] == pytest.approx(4000 / figures["ms_a_step"])


def test_a_gpu_gets_all_cells_a_cpu_one_size(tmp_path):
    def cells(cuda, prefix=""):
        bench = Bench("cost", {}, [], tmp_path)
        cost.add_cells(bench, cuda, prefix)
        return [cell.key for cell in bench.cells]

    assert len(cells(False)) == len(METHODS)
    for wanted in (
        "Flux, batch 4, MDSS",
        "SDXL, 8 bits, DiffIER",
        "SD3, compiled, Time Shift",
        "train MDSS, SDXL, whole, checkpointed",
    ):
        assert wanted in cells(True)
    assert all(key.startswith("novram, ") for key in cells(True, "novram, "))
