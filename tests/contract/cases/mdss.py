"""What MDSS is tried with by the contract's tests."""

import torch

from steadydiff.methods.mdss import MDSS, XiModel
from tests.contract.cases import RUNS, Cases


def xi_model(space):
    """A stand-in for a second output."""
    return XiModel(lambda x, sigma: 0.1 * torch.tanh(x), space)


CASES = Cases(
    neutral=(MDSS(xi_model("ve"), 0.0), MDSS(xi_model("flow"), sigma_high=2.0, sigma_low=2.0)),
    active=(
        (MDSS(xi_model("ve")), ("ve", "zsnr")),
        (MDSS(xi_model("flow"), 0.5), ("flow",)),
        (MDSS(xi_model("ve"), sigma_high=0.9, sigma_low=0.1), ("ve",)),
    ),
    refused=((MDSS(xi_model("ve")), RUNS["flow"]), (MDSS(xi_model("flow")), RUNS["ve"])),
)
