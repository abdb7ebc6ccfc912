"""What AntiBiasPrompt is tried with by the contract's tests."""

import torch

from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from tests.contract.cases import RUNS, Cases


def prompt_model(space, target="phi"):
    """A stand-in for a trained network: one that pulls large values in a little."""
    return PromptModel(lambda x: -0.1 * torch.tanh(x), target, space)


CASES = Cases(
    neutral=(
        AntiBiasPrompt(prompt_model("ve"), 0.0),
        AntiBiasPrompt(prompt_model("flow"), sigma_high=2.0, sigma_low=2.0),
    ),
    active=(
        (AntiBiasPrompt(prompt_model("ve")), ("ve", "zsnr")),
        (AntiBiasPrompt(prompt_model("flow", "residual"), 0.5), ("flow",)),
        (AntiBiasPrompt(prompt_model("ve"), calls=(2,)), ("ve",)),
    ),
    refused=(
        (AntiBiasPrompt(prompt_model("ve")), RUNS["flow"]),
        (AntiBiasPrompt(prompt_model("flow")), RUNS["ve"]),
    ),
)
