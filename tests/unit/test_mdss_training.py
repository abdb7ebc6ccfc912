"""Training by MDSS: what it is shown, on planted errors with a known answer, and that nothing is lost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from steadydiff.errors import SettingsError
from steadydiff.methods.mdss import rollout, scheduled_ratio
from steadydiff.networks.xi_head import TwoHeads
from steadydiff.training.mdss import PLAN, MdssBase, MdssLoss, MdssRecipe, places, train_mdss

SIGMAS = torch.logspace(-1.5, 1.0, 40, dtype=torch.float64)
FLOW = torch.arange(1, 41).double() / 40


class Planted(nn.Module):
    """An exact network for data that are all 0.5, but for an error that is the same everywhere."""

    def __init__(self, flow: bool, error: float):
        super().__init__()
        self.flow, self.error = flow, error
        self.out = nn.Sequential(nn.Identity(), nn.Identity(), nn.Conv2d(2, 2, 1))
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x, alpha, sigma):
        prediction = (x - alpha * 0.5) / sigma
        return prediction - (0.5 if self.flow else 0) + self.error + self.out(x)


def base_of(space="ve", error=0.3):
    flow = space == "flow"
    sigmas = FLOW if flow else SIGMAS
    network = Planted(flow, error)

    def evaluate(model, x, at, conditioning):
        sigma = sigmas[at].float().view(-1, 1, 1, 1)
        scale = 1 if flow else (sigma**2 + 1).sqrt()
        return model(x, (1 - sigma if flow else 1) / scale, sigma / scale)

    def draw(n, rng):
        return torch.full((n, 2, 4, 4), 0.5), torch.zeros(n, 1)

    return MdssBase("planted", network, space, "velocity" if flow else "eps", sigmas, draw, evaluate)


def loss_of(base, recipe, step=0, total=100, **heads):
    return MdssLoss(TwoHeads(base.network, **heads), base, recipe, total, lambda: step)


@pytest.mark.parametrize(("space", "variant"), [("ve", "posterior"), ("ve", "ddim"), ("flow", "flow")])
@pytest.mark.parametrize("k", [0, 4])
def test_a_known_error_of_the_model_becomes_a_known_error_of_the_state(space, variant, k):
    base = base_of(space)
    loss = loss_of(base, MdssRecipe(variant, k, 3))
    at, x0, eps = torch.tensor([1, 20, 30]), torch.full((3, 2, 4, 4), 0.5), torch.randn(3, 2, 4, 4)
    found = loss.lesson(x0, eps, at, torch.zeros(3, 1))
    top, above, now = (loss.level(at + up) for up in (k + 1, k, 0))
    off = -0.3 * top.sigma / (top.alpha if space == "ve" else 1)  # of the clean estimate
    xi = off * rollout(top, above, variant)[1] * rollout(above, now, variant)[0]
    torch.testing.assert_close(found.xi, xi.float().view(-1, 1, 1, 1).expand_as(x0), rtol=1e-3, atol=1e-6)


def test_the_share_of_samples_with_errors_grows_as_the_thesis_says():
    base = base_of()
    for step, total in ((0, 100), (40, 100), (95, 100)):
        loss, carried = loss_of(base, MdssRecipe(batch=400), step, total), []
        loss.lesson = lambda x0, eps, at, c, loss=loss, carried=carried: (
            carried.append(len(at)) or MdssLoss.lesson(loss, x0, eps, at, c)
        )
        loss(torch.Generator().manual_seed(1), 0)
        assert carried[0] / 400 == pytest.approx(scheduled_ratio(step, total), abs=0.06)


def test_levels_are_all_those_that_leave_room_for_the_errors():
    base, seen = base_of(), []
    loss = loss_of(base, MdssRecipe(k=7, batch=4000), 95)
    loss.lesson = lambda x0, eps, at, c: seen.append(at) or MdssLoss.lesson(loss, x0, eps, at, c)
    loss(torch.Generator().manual_seed(1), 0)
    assert (seen[0].min(), seen[0].max()) == (0, 40 - 7 - 2)
    low, high = MdssRecipe(k=7).sigma_range(base)
    assert (low, high) == (SIGMAS[0].item(), SIGMAS[31].item())


def test_no_draw_rounds_to_a_level_above_the_last():
    largest = 1 - 2.0**-24  # of what torch.rand gives
    at = places(torch.full((256,), largest), torch.tensor([1000] * 255 + [979]))
    assert at[-1] == 978 and at.diff()[:-1].min() > 0


@pytest.mark.slow
def test_samples_without_errors_teach_the_head_nothing():
    base = base_of()
    loss = loss_of(base, MdssRecipe(batch=64))
    loss.ratio = lambda: 0.0
    figures = loss(torch.Generator().manual_seed(1), 0)
    figures["loss"].backward()
    assert figures["xi"] == figures["error"] == 0 and not loss.model.xi.bias.grad.any()
    assert figures["eps"].item() == pytest.approx(0.09, rel=1e-3)  # the planted error's square


@pytest.mark.slow
@pytest.mark.parametrize(("space", "variant"), [("ve", "posterior"), ("flow", "flow")])
def test_both_heads_learn_the_planted_error(space, variant, tmp_path):
    """The network unlearns it; until then the head tells it from the state."""
    base, recipe = base_of(space), MdssRecipe(variant, 1, 16)
    model, plan = TwoHeads(base.network), replace(PLAN, steps=30, lr=0.05, warmup=1, ema=0.5)
    before = loss_of(base, recipe, 90)(torch.Generator().manual_seed(2), 0)["eps"].item()
    train_mdss(model, base, recipe, plan, tmp_path / "state.safetensors")
    after = loss_of(base, recipe, 90)(torch.Generator().manual_seed(2), 0)["eps"].item()
    assert after < 0.3 * before

    frozen = base_of(space)
    model = TwoHeads(frozen.network, rank=0)
    frozen.network.requires_grad_(False)
    train_mdss(model, frozen, recipe, plan, tmp_path / "head.safetensors")
    model_loss = MdssLoss(model, frozen, recipe, 100, lambda: 90)
    figures = model_loss(torch.Generator().manual_seed(2), 0)
    assert figures["xi"] < 0.5 * figures["error"]


@pytest.mark.parametrize("heads", [{}, {"xi": False}, {"rank": 2}], ids=str)
def test_resumed_training_equals_unbroken_training_to_the_bit(heads, tmp_path):
    def trained(name, *all_steps):
        base = base_of()
        for steps in all_steps:
            torch.manual_seed(0)
            base = base_of()
            model, plan = TwoHeads(base.network, **heads), replace(PLAN, steps=6, lr=0.01)
            state = tmp_path / f"{name}.safetensors"
            try:
                train_mdss(model, base, MdssRecipe(batch=4), plan, state, loss=stopping_after(steps))
            except KeyboardInterrupt:
                continue
        return model.state_dict()

    whole, broken = trained("whole", 6), trained("broken", 2, 6)
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


def test_the_share_of_errors_grows_by_steps_not_by_their_batches(tmp_path):
    seen, state = [], tmp_path / "state.safetensors"

    class Watched(MdssLoss):
        def ratio(self):
            seen.append(self._step)
            return super().ratio()

    for steps in (2, 3):
        plan = replace(PLAN, steps=steps, accumulate=2)
        train_mdss(TwoHeads(base_of().network), base_of(), MdssRecipe(batch=2), plan, state, loss=Watched)
    assert seen == [0, 0, 1, 1, 2, 2]


def stopping_after(steps):
    class Stopping(MdssLoss):
        def __call__(self, rng, seed):
            if self._step + 1 == steps:
                raise KeyboardInterrupt
            return super().__call__(rng, seed)

    Stopping.__name__ = "MdssLoss"
    return Stopping


def test_a_state_of_another_recipe_is_refused_and_kept(tmp_path):
    path, plan = tmp_path / "state.safetensors", replace(PLAN, steps=1)
    train_mdss(TwoHeads(base_of().network), base_of(), MdssRecipe(batch=2), plan, path)
    kept = path.read_bytes()
    for changed, heads, told in (
        ({"batch": 3}, {}, "batch_size was 2, now 3"),
        ({}, {"xi": False}, "second_head was True, now False"),
        ({}, {"rank": 2}, "lora_rank was 0, now 2"),
        ({"k": 0}, {}, "k was 4, now 0"),
    ):
        base = base_of()
        with pytest.raises(SettingsError, match=f"state of a training with other settings .{told}.;"):
            train_mdss(
                TwoHeads(base.network, **heads), base, MdssRecipe(**{"batch": 2} | changed), plan, path
            )
    assert path.read_bytes() == kept


@pytest.mark.parametrize(
    ("space", "recipe", "sentence"),
    [
        ("ve", {"k": 39}, "has 40, so k is at most 38; got 39"),
        ("ve", {"variant": "flow"}, "planted takes the variant posterior or ddim; got flow"),
        ("flow", {"variant": "ddim"}, "planted takes the variant flow; got ddim"),
        ("ve", {"variant": "heun"}, "variant is one of posterior, ddim, flow; got 'heun'"),
        ("ve", {"k": -1}, "k is 0 or more"),
        ("ve", {"batch": 0}, "batch 1 or more"),
    ],
    ids=str,
)
def test_recipes_without_sense_are_refused(space, recipe, sentence):
    with pytest.raises(SettingsError, match=sentence):
        loss_of(base_of(space), MdssRecipe(**recipe))
