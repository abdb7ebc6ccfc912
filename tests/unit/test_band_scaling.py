"""The Haar split by hand, and Epsilon Scaling in two bands."""

import pytest
import torch

from steadydiff.denoiser import Run
from steadydiff.methods.band_scaling import BandScaling, haar_split
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.samplers import gaussian_denoiser

RUN = Run("flow", (0.9, 0.5, 0.1, 0.0))


def test_split_by_hand():
    x = torch.tensor([[1.0, 3.0, 7.0], [5.0, 7.0, 9.0], [2.0, 4.0, 8.0]])[None, None]
    coarse, fine = haar_split(x)
    expected = torch.tensor([[4.0, 4.0, 8.0], [4.0, 4.0, 8.0], [3.0, 3.0, 8.0]])[None, None]
    assert torch.equal(coarse, expected) and torch.equal(fine, x - expected)
    assert haar_split(torch.tensor([[[1.0, 3.0, 7.0]]]))[0].tolist() == [[[2.0, 2.0, 7.0]]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_bands_add_up_and_keep_their_kind(dtype, shape, latents):
    x = latents(shape, dtype)
    coarse, fine = haar_split(x)
    assert coarse.shape == fine.shape == x.shape and coarse.dtype == fine.dtype == dtype
    torch.testing.assert_close(coarse + fine, x, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 4, 6, 8), (1, 2, 3, 4, 6)], ids=str)
def test_it_is_the_wavelets_low_pass(shape, latents):
    """Bands are orthogonal projections: splitting again changes nothing, and energies add up."""
    x = latents(shape)
    coarse, fine = haar_split(x)
    torch.testing.assert_close(haar_split(coarse)[0], coarse)
    torch.testing.assert_close(haar_split(fine)[0], torch.zeros_like(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(coarse.square().sum() + fine.square().sum(), x.square().sum())
    ranks = {3: 2, 4: 4, 5: 4}  # one coarse number per so many
    assert haar_split(torch.ones(shape).double())[0].eq(1).all()
    assert coarse.unique().numel() == x.numel() // ranks[x.ndim]


def test_frames_of_a_video_are_split_one_by_one(latents):
    x = latents((2, 3, 4, 5, 6))
    for t in range(4):
        torch.testing.assert_close(haar_split(x)[0][:, :, t], haar_split(x[:, :, t])[0], rtol=0, atol=0)


def test_each_band_takes_its_own_scale(shape, latents):
    denoise, x, sigma = gaussian_denoiser(0.3, 0.6, "flow"), latents(shape), torch.tensor([0.5])
    coarse, fine = EpsilonScaling(1.1), EpsilonScaling(0.95, space="velocity")
    found = haar_split(BandScaling(coarse, fine).wrap(denoise, RUN)(x, sigma))
    expected = [haar_split(method.wrap(denoise, RUN)(x, sigma)) for method in (coarse, fine)]
    if all(size % 2 == 0 for size in shape[2:]):  # else an edge block may lean on its neighbour's rounding
        torch.testing.assert_close(found[0], expected[0][0])
    torch.testing.assert_close(sum(found), expected[0][0] + expected[1][1])


def test_equal_settings_are_epsilon_scaling_with_one_model_call(shape, latents, ledger):
    denoise, x, sigma = gaussian_denoiser(0.3, 0.6, "flow"), latents(shape), torch.tensor([0.5])
    method = EpsilonScaling(1.07, 0.01)
    found = BandScaling(method, method).wrap(ledger(denoise), RUN)(x, sigma)
    torch.testing.assert_close(found, method.wrap(denoise, RUN)(x, sigma), rtol=1e-12, atol=1e-12)
    assert len(ledger.calls) == 1


def test_off_is_the_denoiser_itself():
    off, denoise = EpsilonScaling(1.0), gaussian_denoiser()
    assert BandScaling(off, off).wrap(denoise, RUN) is denoise
