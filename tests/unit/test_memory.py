"""Where memory runs out in a network of ours: sample by sample, or a sentence; states stay as they were."""

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.memory import OutOfMemory, retry_on_oom
from steadydiff.methods.antibias_prompt import AntiBiasPrompt, PromptModel
from steadydiff.networks.xi_head import apply_head


def narrow(most, seen):
    """A network with room for so many samples, which notes how many it was asked for."""

    def network(x):
        seen.append(len(x))
        if len(x) > most:
            raise OutOfMemory("CUDA out of memory. Tried to allocate 1 GiB")
        return 0.5 * x + x.flatten(1).mean(1).view(-1, 1, 1, 1)

    return network


def test_a_batch_too_large_is_asked_sample_by_sample(latents):
    x, seen = latents((3, 2, 4, 5)), []
    answer = retry_on_oom(narrow(1, seen), "a network")(x)
    assert seen == [3, 1, 1, 1] and torch.equal(answer, narrow(3, [])(x))


def test_no_room_for_one_sample_is_told_in_a_sentence(latents):
    with pytest.raises(OutOfMemory, match=r"not enough memory for a network.*smaller or fewer.*1 GiB"):
        retry_on_oom(narrow(0, []), "a network")(latents((2, 2, 4, 5)))


@pytest.mark.parametrize("most", [0, 1])
def test_a_state_is_corrected_in_full_or_left_as_it_was(most, latents):
    """The correction that is written in place comes after all that can fail."""
    run = Run("ve", (9.0, 3.0, 1.0, 0.0))
    x, sigma = latents((2, 2, 4, 5)), torch.full((2,), 3.0)

    def corrected(room):
        method = AntiBiasPrompt(PromptModel(narrow(room, []), "phi", "ve"))
        denoise, state = method.wrap(lambda x, sigma: x / 2, run), x.clone()
        denoise(state.clone(), torch.full((2,), 9.0))  # the first call is not corrected
        try:
            denoise(state, sigma)
        except OutOfMemory as error:
            assert "the anti-bias model" in str(error)
        return state

    assert torch.equal(corrected(most), corrected(2) if most else x)


def test_mdss_second_head_goes_sample_by_sample_too(latents, monkeypatch):
    seen, weight, bias = latents((3, 2, 4, 5)), latents((2, 2, 3, 3)), latents((2,))
    whole, convolve = apply_head(seen, weight, bias), torch.nn.functional.conv2d

    def one_at_a_time(x, *rest, **more):
        if len(x) > 1:
            raise OutOfMemory("full")
        return convolve(x, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", one_at_a_time)
    assert torch.allclose(apply_head(seen, weight, bias), whole)
