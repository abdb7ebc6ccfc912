"""`bench photos`: what its cells are of."""

import json
from functools import partial

import pytest
import torch

from steadydiff.drift.recorder import unit_noise
from steadydiff.methods.diffier import LARGEST_MEASURED, DiffIER
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.methods.time_shift import TimeShift
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.samplers import sample_ddpm
from steadydiff.tinyworld.photos import files
from steadydiff.tinyworld.photos.words import CLASSES
from tools.bench import photos
from tools.bench.shared import photo_grid as grid
from tools.bench.shared.frame import RESULTS
from tools.bench.shared.strength import measured_strength
from tools.bench.shared.two_outputs import Recorded
from tools.bench.tables.photos import beside
from tools.launch.console import Stop


def test_the_kept_results_are_of_the_weights_that_ship():
    cells = json.loads((RESULTS / "photos.json").read_text(encoding="utf-8"))["cells"]
    for net in (net for variant in files.VARIANTS for net in files.names(variant)):
        assert cells[f"{net} sha256"]["figures"] == photos.digest_of(net)


def test_what_other_counts_give_is_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "RESULTS", tmp_path)
    net = files.newest("epsilon")
    photos.main(["--data", str(tmp_path), "--only", f"{net} sha256", "--count", "7"])
    cells = json.loads((tmp_path / "7" / "photos.json").read_text())["cells"]
    assert [*cells] == [f"{net} sha256"] and not (tmp_path / "photos.json").exists()


def test_unseen_pictures_are_of_every_class_in_turn_and_others_of_each_seed(tmp_path):
    class Small(photos.World):
        def real(self, split):
            labels = torch.arange(400) % len(CLASSES)
            return torch.arange(400).view(400, 1, 1, 1).to(torch.uint8).expand(-1, 3, 2, 2), labels

    world = Small(tmp_path, 8)
    first, second = ((world.pictures("test", 16, seed) + 1) * 127.5 for seed in (0, 1))
    places = first[:, 0, 0, 0].round().long()
    assert (places % 10).tolist() == [i % 10 for i in range(16)] and len(set(places.tolist())) == 16
    assert not set(places.tolist()) & set(second[:, 0, 0, 0].round().long().tolist())


@pytest.fixture
def small(monkeypatch):
    """A network that answers by the prompt alone, and its text encoder."""

    def network(x, t, context):
        return context.mean((1, 2)).view(-1, 1, 1, 1).expand_as(x).sign()

    contexts = torch.ones(2, 3, 4), -torch.ones(2, 3, 4)
    monkeypatch.setattr(photos.sampling, "embed", lambda text, prompts: contexts)
    return photos.Net("epsilon", network, torch.nn.Identity())


def test_guidance_is_of_clipped_branches(small):
    x, sigma = torch.full((2, 3, 4, 4), 0.5), torch.ones(2)
    cond, guided = (photos.model(small, 2, cfg=cfg)(x, sigma) for cfg in (1.0, 3.0))
    assert cond.unique().tolist() == [-0.5]  # x - sigma
    assert guided.unique().tolist() == [1.0 + 3 * (-0.5 - 1)]  # without the prompt x + sigma, clipped to 1


def test_a_seed_has_its_own_noise_and_the_callers_stays(small):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    plain = photos.samples(small, "ddpm", 2, photos.plain, 5, 2)
    assert torch.rand(1) == expected  # and so the state is another one now
    assert torch.equal(photos.samples(small, "ddpm", 2, photos.plain, 5, 2), plain)
    assert not torch.equal(plain, photos.samples(small, "ddpm", 2, photos.plain, 6, 2))


@pytest.mark.parametrize(
    "method", [DiffIER(strength=0.3, mode="renoise"), TimeShift(0.9), EpsilonScaling(1.1)]
)
def test_the_noise_is_the_same_whatever_corrects(method, monkeypatch):
    monkeypatch.setattr(photos, "model", lambda *_: lambda x, sigma: torch.full_like(x, 0.25))

    def noise(correct):
        seen = []

        def noted(denoise, run):
            corrected = correct(denoise, run)

            def denoised(x, sigma):
                seen.append(x)
                corrected(x, sigma)
                return torch.full_like(x, 0.25)

            return denoised

        photos.samples(photos.Net("epsilon", None, None), "ddpm", 6, noted, 5, 2)
        return torch.stack(seen)

    assert torch.equal(noise(method.wrap), noise(photos.plain))


def test_a_measured_strength_is_the_same_whatever_was_drawn_before():
    run, x = grid.WAYS["ddpm"].run("epsilon", 10, 0), 157.0 * unit_noise((3, 8, 8), range(16))
    real = 0.38 * unit_noise((3, 8, 8), range(100, 116))

    def denoise(x, sigma):  # of wider data than the real one, whose samples of few steps are narrower
        return x * (0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2))

    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(measured_strength(sample_ddpm, denoise, x, run, real, denoise))
    assert 0 < found[0] == found[1] < LARGEST_MEASURED


def test_the_floor_is_of_other_pictures_of_every_class_in_turn(tmp_path):
    class Small(photos.World):
        seen = ()

        def real(self, split):
            labels = torch.arange(10_000) // 1000
            return torch.arange(10_000).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), labels

        def features(self, pictures):
            self.seen += (((pictures[:, 0, 0, 0] + 1) * 127.5).round().long().tolist(),)
            return {}

        def distances(self, features):
            return {}

        beside = distances

    for count, sets in ((512, 8), (3333, 2), (5000, 2), (10_000, 1)):
        world = Small(tmp_path, count)
        assert world.floor == {} and len(world.seen) == sets
        assert len(set().union(*world.seen)) == sets * count
        assert all([place // 1000 for place in one[:20]] == [*range(10)] * 2 for one in world.seen)


def test_a_count_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(Stop, match="of 2 to 10,000, the unseen pictures that there are; got 10001"):
        photos.main(["--data", str(tmp_path), "--count", "10001"])


def test_results_of_other_weights_are_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "RESULTS", tmp_path)
    net = files.newest("epsilon")
    arguments = ["--data", str(tmp_path), "--only", f"{net} sha256"]
    photos.main(arguments)
    kept = (tmp_path / "photos.json").read_text().replace(str(photos.digest_of(net)["sha256"]), "0")
    (tmp_path / "photos.json").write_text(kept)
    with pytest.raises(Stop, match=f"photos.json has results of another {net}; move that file away"):
        photos.main(arguments)


def test_edms_levels_are_even_in_their_seventh_root():
    sigmas = grid.edm_sigmas(5, 80.0, 0.01)
    roots = torch.tensor(sigmas[:-1], dtype=torch.float64) ** (1 / 7)
    assert sigmas[0] == pytest.approx(80) and sigmas[-2:] == (pytest.approx(0.01), 0.0)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(4))


@pytest.mark.parametrize(("variant", "spread"), [("epsilon", 157.0), ("flow", 1.0)])
def test_a_run_begins_at_its_first_level_and_a_flow_without_a_picture(variant, spread):
    run = grid.WAYS["flow"].run(variant, 10, 0)
    assert len(run.sigmas) == 11 and run.space == ("ve" if variant == "epsilon" else "flow")
    assert photos.first_state(photos.Net(variant, None, None), run, 8).std() == pytest.approx(
        spread, rel=0.03
    )


def test_methods_are_wrapped_from_the_innermost_on():
    said = []

    class Named:
        def __init__(self, name):
            self.name = name

        def wrap(self, denoise, run):
            def denoised(x, sigma):
                said.append(self.name)
                return denoise(x, sigma)

            return denoised

    grid.one_by_one([Named("inner"), Named("outer")])(lambda x, sigma: x, None)(0, 0)
    assert said == ["outer", "inner"]


def test_every_way_of_the_grid_is_known_and_has_plain_beside_it():
    known = grid.CURVE.keys() | grid.MORE.keys() | grid.FLOW.keys()
    assert {way for way, _ in known} <= grid.WAYS.keys()
    tried = [grid.CURVE, grid.MORE, grid.FLOW]
    plain = {run for one in tried for run, corrections in one.items() if "plain" in corrections}
    for way, steps in known:
        labels = {label for one in tried for label in one.get((way, steps), ())}
        assert {(way, beside(label, steps)) for label in labels} <= plain


def test_pictures_like_the_real_ones_have_no_kernel_distance_and_are_within_their_reach(tmp_path):
    class Small(photos.World):
        judges = {name: lambda x: x.flatten(1) for name in photos.SPACES}
        near = {name: torch.randn(400, 4) for name in photos.SPACES}

    world = Small(tmp_path, 8)
    like, far = (world.beside(world.features(shift + torch.randn(400, 4, 1, 1))) for shift in (0, 9))
    assert abs(like["kid_imagenet"]) < 0.05 < far["kid_imagenet"]
    assert like["precision"] > 0.9 < like["recall"] and far["precision"] == far["recall"] == 0


def test_a_fine_tuned_network_shows_its_second_output_within_the_levels_of_its_training():
    heads = TwoHeads(photos.files.PhotoNet(), xi=True)
    torch.nn.init.constant_(heads.xi.bias, 0.5)
    levels = photos.photo_training.LEVELS
    net = Recorded(partial(photos.photo_training.in_half, heads), levels, 4)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert net(x, torch.tensor([3, 5]), torch.zeros(2, 3, 64)).shape == x.shape
    torch.testing.assert_close(net.model.xi(x, torch.ones(2)), torch.full_like(x, 0.5))
    assert net.model.sigma_range == (float(levels[0]), float(levels[1000 - 6]))
