"""`bench photos`: what its cells are of."""

import json

import pytest
import torch

from steadydiff.tinyworld.photos import files
from steadydiff.tinyworld.photos.words import CLASSES
from tools.bench import photos
from tools.bench.shared.frame import RESULTS


def test_the_kept_results_are_of_the_weights_that_ship():
    cells = json.loads((RESULTS / "photos.json").read_text(encoding="utf-8"))["cells"]
    for net in files.names("epsilon"):
        assert cells[f"{net} sha256"]["figures"] == photos.digest_of(net)


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


def test_the_noise_is_the_same_whatever_corrects(small):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    plain = photos.samples(small, "ddpm", 2, photos.plain, 5, 2)
    assert torch.rand(1) == expected  # and so the state is another one now
    assert torch.equal(photos.samples(small, "ddpm", 2, photos.plain, 5, 2), plain)
    assert not torch.equal(plain, photos.samples(small, "ddpm", 2, photos.plain, 6, 2))
