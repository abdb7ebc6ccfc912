"""The many ways a run is set up: guiders, masks, parts of runs, batches."""

import pytest
import torch

SCALE = 1.01


@pytest.fixture
def guiders(host, conds):
    """Guiders by name, each a function of the model."""
    positive, third, negative = conds["positive"], conds["third"], conds["negative"]
    custom = host.custom_sampler
    return {
        "dual_cfg": lambda m: custom.DualCFGGuider.execute(m, positive, third, negative, 2.0, 3.0, "regular")[
            0
        ],
        "dual_nested": lambda m: custom.DualCFGGuider.execute(
            m, positive, third, negative, 2.0, 3.0, "nested"
        )[0],
        "dual_model": lambda m: custom.DualModelGuider.execute(m, positive, 3.0, m, negative)[0],
        "perp_neg": lambda m: host.perpneg.PerpNegGuider.execute(m, positive, negative, third, 3.0, 1.0)[0],
        "basic": lambda m: custom.BasicGuider.execute(m, positive)[0],
    }


@pytest.mark.parametrize("sampler_name", ["euler", "euler_cfg_pp"])
@pytest.mark.parametrize("name", ["dual_cfg", "dual_nested", "dual_model", "perp_neg", "basic"])
def test_guiders(name, sampler_name, model, guiders, patched, reference, sample, distance):
    run = {"sampler": sampler_name, "guider": guiders[name]}
    expected = sample(reference(model, SCALE), **run)
    assert distance(sample(patched(model, scale=SCALE), **run), expected) < 1e-5
    assert distance(sample(model, **run), expected) > 1e-3


def part_masked():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return {"mask": mask, "latent": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}


@pytest.mark.parametrize("sampler_name", ["euler", "uni_pc", "euler_ancestral_cfg_pp"])
def test_noise_masks(sampler_name, model, patched, reference, sample, distance):
    ours = sample(patched(model, scale=SCALE), sampler_name, **part_masked())
    assert distance(ours, sample(reference(model, SCALE), sampler_name, **part_masked())) < 1e-5


def test_image_to_image(model, patched, reference, sample, sigmas_of, distance):
    run = {"sigmas": sigmas_of(model, 6)[3:], "latent": part_masked()["latent"]}
    expected = sample(reference(model, SCALE), **run)
    assert distance(sample(patched(model, scale=SCALE), **run), expected) < 1e-5
    assert distance(sample(model, **run), expected) > 1e-3


def test_without_guidance(model, patched, reference, sample, distance):
    ours = sample(patched(model, scale=SCALE), cfg=1.0)
    assert distance(ours, sample(reference(model, SCALE), cfg=1.0)) < 1e-5


def test_split_sigmas_index_their_own_part(model, patched, schedule, sample, sigmas_of, distance):
    sigmas = sigmas_of(model, 6)
    whole = schedule(mode="linear", scale=1.002, slope=0.004, sigmas=sigmas)
    ours = patched(model, schedule=whole)
    first = sample(ours, sigmas=sigmas[:4])
    both = sample(ours, sigmas=sigmas[3:], noise=torch.zeros(1, 4, 8, 8), latent=first)
    assert distance(both, sample(ours, sigmas=sigmas)) < 1e-5
    uncounted = patched(model, scale=1.002, slope=0.004)  # counts each part's own steps
    first = sample(uncounted, sigmas=sigmas[:4])
    both = sample(uncounted, sigmas=sigmas[3:], noise=torch.zeros(1, 4, 8, 8), latent=first)
    assert distance(both, sample(ours, sigmas=sigmas)) > 1e-3


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp"])
def test_a_batch_of_three_equals_three_of_one(sampler_name, model, patched, sample, distance):
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def together_and_apart(model):
        apart = [sample(model, sampler_name, noise=single) for single in noise.split(1)]
        return sample(model, sampler_name, noise=noise), torch.cat(apart)

    assert distance(*together_and_apart(model)) < 1e-5  # the host's part
    ours = patched(model, scale=1.002, slope=0.004, start_percent=0.1, end_percent=0.9)
    assert distance(*together_and_apart(ours)) < 1e-5


def test_video_latents(models, patched, reference, sample, distance):
    """Five dimensions; the tiny network takes frames as channels and rows."""
    model = models["epsilon"].clone()

    def frames_as_rows(apply_model, args):
        x = args["input"]
        flat = x.reshape(*x.shape[:2], -1, x.shape[-1])
        return apply_model(flat, args["timestep"], **args["c"]).reshape(x.shape)

    model.set_model_unet_function_wrapper(frames_as_rows)
    noise = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(4))
    ours = sample(patched(model, scale=SCALE), noise=noise)
    flat = sample(patched(models["epsilon"], scale=SCALE), noise=noise.reshape(1, 4, 16, 8))
    assert distance(ours, flat.reshape(noise.shape)) < 1e-5
