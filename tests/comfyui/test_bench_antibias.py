"""The bench of the anti-bias prompt spends as much on its control. Counting operations loads slowly."""

import pytest

from steadydiff.tinyworld.train import BATCH
from steadydiff.training.antibias import AntiBiasRecipe
from tools.bench import antibias as bench


def test_the_control_takes_as_many_operations():
    base, network = bench.flops_of_base(), bench.flops_of_network()
    ours = bench.STEPS * AntiBiasRecipe.batch * (base + 3 * network)
    assert bench.control_steps() * BATCH["diffusion"] * 3 * base == pytest.approx(ours, rel=1e-3)
    assert base > network > base / 10
