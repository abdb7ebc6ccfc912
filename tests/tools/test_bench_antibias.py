"""The bench of the anti-bias prompt: samples that no other weights share, and its goal."""

from steadydiff.tinyworld import files
from tools.bench import antibias as bench
from tools.bench.shared import world
from tools.bench.shared.world import Condition


def test_samples_of_other_weights_are_others(tmp_path, monkeypatch):
    (tmp_path / "epsilon.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(bench, "longer", lambda variant: tmp_path)
    condition = Condition("epsilon", "euler", 20, 1.0)
    shipped, own = bench.plain(condition, 0), bench.control(condition, 0)
    assert own.condition == shipped.condition == condition
    assert own.name != shipped.name == "uniform 1.0"  # what `run.py bench drift` keeps stays known
    assert own.guide is world.guide_of(tmp_path) is not shipped.guide is world.guided


def test_the_goal_is_the_ratio_of_means():
    key = "flow euler 10 cfg 1"
    cells = {
        f"{key} {name} {part}": {"frechet_reader": value, "frechet_clip": 2 * value}
        for part in range(3)
        for name, value in {"plain": 4.0, "default": 1.0 + part}.items()
    }
    found = bench.summary(cells)
    assert found == {f"flow 10 steps, {space}, default / plain": 0.5 for space in ("reader", "clip")}
    assert set(bench.RECIPES) == {"default", "phi", "l1", "contrastive", "uncapped"}
    assert set(files.VARIANTS) == {"epsilon", "flow"}
