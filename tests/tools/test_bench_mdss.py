"""The bench of MDSS: its controls teach what they are named after, and its cells are all there."""

import pytest
import torch
from torch import nn

from steadydiff.networks.xi_head import TwoHeads
from steadydiff.training.mdss import MdssBase, MdssLoss, MdssRecipe
from tools.bench import mdss as bench_mdss
from tools.bench.mdss import CONDITIONS, Perturbed, Plain, ScheduledSampling

SIGMAS = torch.logspace(-1, 1, 20, dtype=torch.float64)


class Off(nn.Module):
    """A network that finds 0.2 too much noise in data that are all 0."""

    def __init__(self):
        super().__init__()
        self.out = nn.Sequential(nn.Identity(), nn.Identity(), nn.Conv2d(1, 1, 1))
        nn.init.zeros_(self.out[2].weight)
        nn.init.constant_(self.out[2].bias, 0.2)

    def forward(self, x, sigma):
        return x / sigma + self.out(x)


@pytest.fixture
def loss_of():
    def evaluate(model, x, at, conditioning):
        sigma = SIGMAS[at].float().view(-1, 1, 1, 1)
        return model(x, sigma / (sigma**2 + 1).sqrt())

    def draw(n, rng):
        return torch.zeros(n, 1, 3, 3), torch.zeros(n, 1)

    base = MdssBase("off", Off(), "ve", "eps", SIGMAS, draw, evaluate)
    return lambda kind, k=0: kind(TwoHeads(base.network, xi=False), base, MdssRecipe(k=k, batch=8), 10)


def test_plain_training_never_carries_errors(loss_of):
    assert loss_of(Plain).ratio() == loss_of(Perturbed).ratio() == 0
    assert loss_of(Plain)(torch.Generator().manual_seed(0), 0)["loss"].item() == pytest.approx(0.04)


def test_input_perturbation_adds_other_noise_and_asks_for_the_first(loss_of):
    x0, eps, at = torch.zeros(4, 1, 3, 3), torch.randn(4, 1, 3, 3), torch.tensor([1, 5, 9, 12])
    loss = loss_of(Perturbed)
    found = loss.noised(x0, eps, at)
    sigma = loss.level(at).sigma.float().view(-1, 1, 1, 1)
    torch.testing.assert_close(found.seen, sigma * (eps + 0.1 * eps[[3, 0, 1, 2]]))
    assert torch.equal(found.eps, eps)


def test_scheduled_sampling_asks_for_the_noise_that_explains_the_state_error_and_all(loss_of):
    x0, eps, at = torch.zeros(3, 1, 3, 3), torch.randn(3, 1, 3, 3), torch.tensor([1, 5, 9])
    loss, ours = loss_of(ScheduledSampling), loss_of(MdssLoss)
    found, own = (one.lesson(x0, eps, at, torch.zeros(3, 1)) for one in (loss, ours))
    sigma = loss.level(at).sigma.float().view(-1, 1, 1, 1)
    torch.testing.assert_close(found.seen, own.seen)
    torch.testing.assert_close(sigma * found.eps, found.seen)
    torch.testing.assert_close(sigma * own.eps, own.seen - own.xi)
    assert not torch.allclose(found.eps, own.eps, atol=1e-3)


def test_every_training_has_its_control_and_every_head_is_off_and_on():
    for variant in ("epsilon", "flow"):
        rows = bench_mdss.rows(variant)
        assert rows[:2] == [("base", False), ("plain", False)]
        for name in ("SDSS", "MDSS k=4", "MDSS k=20"):
            assert (name, False) in rows and (name, True) in rows
    assert {"SS", "MDSS k=4 ddim", "perturbed 0.1"} <= {name for name, _ in bench_mdss.rows("epsilon")}
    assert len(CONDITIONS) == 14
