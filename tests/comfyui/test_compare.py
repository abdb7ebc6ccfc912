"""Compare in ComfyUI: its pictures are those of the host's own KSampler, its figures are true of them."""

import pytest
import torch
from PIL import Image

from tools.launch.inprocess import defaults_of, load

PROMPT = "a hatched drawing of a medium green moon above a large blue circle on a cream background"
NOTHING = "identical: nothing acted"
RUN = {"seed": 5, "steps": 4, "cfg": 4.0}


@pytest.fixture(autouse=True)
def temporary(host, monkeypatch, tmp_path):
    """Where the node's preview goes."""
    monkeypatch.setattr(load("folder_paths"), "temp_directory", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def world(pack):
    """MODEL, VAE, and the two prompts of the tiny world."""
    with torch.inference_mode():
        model, clip, vae = pack["SteadyDiffTinyWorld"].execute("epsilon").args
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (PROMPT, ""))
    return {"model": model, "vae": vae, "positive": positive, "negative": negative}


@pytest.fixture
def compared(pack, world):
    """Run our node at its defaults unless given; the model is the tiny world's own."""
    node = pack["SteadyDiffCompare"]

    def run(**inputs):
        latent = {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}
        return node.execute(**(defaults_of(node) | world | latent | RUN | inputs))

    return run


@pytest.fixture
def drawn(world):
    """What core's KSampler and VAE Decode draw."""

    def draw(model, latent=None, sampler="euler", denoise=1.0):
        latent = latent or {"samples": torch.zeros(1, 4, 8, 8)}
        [sampled] = load("nodes").common_ksampler(
            model, 5, 4, 4.0, sampler, "normal", world["positive"], world["negative"], latent, denoise
        )
        return load("nodes").VAEDecode().decode(world["vae"], sampled)[0]

    return draw


@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral", "dpmpp_2m_sde", "ddpm", "lcm"])
def test_it_draws_what_two_ksamplers_draw(compared, drawn, world, patched, sampler_name):
    scaled = patched(world["model"], scale=1.05)
    before, after, *_ = compared(model=scaled, sampler_name=sampler_name)
    assert torch.equal(before, drawn(world["model"], sampler=sampler_name))
    assert torch.equal(after, drawn(scaled, sampler=sampler_name))
    assert not torch.equal(before, after)


def test_a_batch_with_a_mask_is_drawn_as_ksampler_draws_it(compared, drawn, world, patched):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": mask, "batch_index": [3, 1]}
    scaled = patched(world["model"], scale=1.05)
    before, after, *_ = compared(model=scaled, latent_image=latent, denoise=0.75)
    assert before.shape == after.shape == (2, 64, 64, 3)
    assert torch.equal(before, drawn(world["model"], latent, denoise=0.75))
    assert torch.equal(after, drawn(scaled, latent, denoise=0.75))
    assert not torch.equal(before[0], before[1])


def test_it_says_by_how_much_the_pictures_differ(compared, world, patched):
    before, after, apart, _, info = compared(model=patched(world["model"], scale=1.05))
    error = 255 * (after.double() - before.double()).abs()
    psnr = 10 * torch.log10(255**2 / (error**2).mean())
    assert info == (
        f"mean difference {error.mean():.2g} of 255, largest {error.max():.3g}, PSNR {psnr:.1f} dB"
    )
    torch.testing.assert_close(apart, (0.5 + 8 * (after - before)).clamp(0, 1))


def test_an_unwired_model_is_told_and_drawn_once(compared, world, monkeypatch):
    import comfy.sample

    calls, sample = [], comfy.sample.sample
    monkeypatch.setattr(comfy.sample, "sample", lambda *a, **more: calls.append(a) or sample(*a, **more))
    before, after, apart, _, info = compared()
    assert info == NOTHING and len(calls) == 1
    assert torch.equal(before, after) and (apart == 0.5).all()


def test_a_neutral_node_is_told(compared, world, patched):
    assert compared(model=patched(world["model"], scale=1.0, slope=0.0))[4] == NOTHING


@pytest.mark.parametrize("method", ["BandScaling", "TimeShift", "DiffIER", "AntiBiasPrompt", "MDSS"])
def test_every_correction_is_left_out_of_the_first_picture(compared, drawn, pack, world, method):
    node = pack[f"SteadyDiff{method}"]
    model, more = world["model"], {}
    if method == "AntiBiasPrompt":
        more["antibias"] = pack["SteadyDiffLoadAntiBias"].execute("tinyworld/antibias_epsilon.safetensors")[0]
    if method == "MDSS":
        load_mdss = pack["SteadyDiffLoadMDSS"].execute
        model, more["head"] = load_mdss("tinyworld/mdss_epsilon_k4.safetensors", model).args
    if method == "TimeShift":
        more["factor"] = 0.9
    before, after, *_ = compared(model=node.execute(model=model, **(defaults_of(node) | more))[0])
    assert torch.equal(before, drawn(model))
    assert not torch.equal(before, after)


def test_scales_make_a_picture_each(compared, drawn, world, patched):
    output = compared(scales="1, 1.01 1.05", show_difference=True)
    before, after, apart, sheet, info = output.result
    assert torch.equal(before, drawn(world["model"]))
    assert torch.equal(after, drawn(patched(world["model"], scale=1.05)))
    lines = info.splitlines()
    assert [line.split(":")[0] for line in lines] == ["compared with scale 1", "scale 1.01", "scale 1.05"]
    assert "mean difference" in lines[1] and "mean difference" in lines[2]
    assert sheet.shape[2] > 4 * 256 and sheet.shape[1] < 1.5 * 256  # a line, not one per scale


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ("1.005", "2 to 12"),
        ("1, 1", "2 to 12"),
        ("1, 1.0000000001", "2 to 12"),
        ("1, x", "'x'"),
        ("1, 3", "0.5 to 1.5"),
        (",", "no number"),
    ],
)
def test_scales_that_make_no_sheet_are_refused(compared, scales, said):
    with pytest.raises(Exception, match=said) as refused:
        compared(scales=scales)
    assert type(refused.value).__name__ == "SettingsError"


def test_scales_may_come_over_a_wire(pack):
    assert pack["SteadyDiffCompare"].validate_inputs(scales=None) is True


def test_the_sheet_holds_the_pictures_and_is_shown_on_the_node(compared, world, patched, temporary):
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    output = compared(model=patched(world["model"], scale=1.05), latent_image=latent, show_difference=True)
    before, after, apart, sheet, _ = output.result
    pixels = (sheet[0] * 255).round()
    for picture in (*before, *after, *apart):
        large = (picture * 255).round().repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert holds(pixels, large)
    [shown] = output.ui.as_dict()["images"]
    with Image.open(temporary / shown["filename"]) as picture:
        assert picture.size == (sheet.shape[2], sheet.shape[1])


def holds(sheet, picture):
    """Whether a picture lies somewhere on a sheet."""
    corner = (sheet == picture[0, 0]).all(-1).nonzero()
    height, width = picture.shape[:2]
    return any(torch.equal(sheet[y : y + height, x : x + width], picture) for y, x in corner.tolist())
