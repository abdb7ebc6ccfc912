"""MDSS's files in the host: stock nodes open them as plain models, ours finds the head, training writes."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from tools.launch.inprocess import PACK, defaults_of

PROMPT = "a hatched drawing of a small red star on a sky background"


@pytest.fixture
def folders(host, pack, tmp_path):
    """The host's folders for our files, checkpoints, LoRAs and output, in a place of our own."""
    folder_paths = sys.modules["folder_paths"]
    names = ("steadydiff_mdss", "checkpoints", "loras")
    kept = {name: list(folder_paths.folder_names_and_paths[name][0]) for name in names}
    output = folder_paths.get_output_directory()
    for name in names:
        folder_paths.folder_names_and_paths[name][0][:] = [str(tmp_path)]
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path
    for name in names:
        folder_paths.folder_names_and_paths[name][0][:] = kept[name]
    folder_paths.set_output_directory(output)


@pytest.fixture
def world(pack):
    return lambda variant="epsilon": pack["SteadyDiffTinyWorld"].execute(variant).args


@pytest.fixture
def train(pack, folders):
    """Run the node on a few cached latents, its widgets at their defaults unless given."""
    node = pack["SteadyDiffTrainMDSS"]
    widgets = defaults_of(node) | {"lora_rank": 0}
    latents, tokens = torch.randn(16, 4, 8, 8).half(), torch.ones(16, 4, 24, dtype=torch.uint8)
    (folders / "output" / "steadydiff_mdss").mkdir(parents=True)
    save_file(
        {"latents": latents, "tokens": tokens}, folders / "output" / "steadydiff_mdss" / "latents.safetensors"
    )
    small = {"base": "tinyworld:epsilon", "name": "made", "steps": 2, "batch_size": 4}
    return lambda **changes: (
        node.execute(**{name: [value] for name, value in (widgets | small | changes).items()}).args
    )


def drawn(model, clip, sampler="euler"):
    import nodes as core

    positive, negative = (core.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, ""))
    latent = core.EmptyLatentImage().generate(64, 64, 1)[0]
    return core.KSampler().sample(model, 1, 4, 4.0, sampler, "normal", positive, negative, latent)[0][
        "samples"
    ]


def sd15(rows=4):
    """A checkpoint of SD1.5's family by its shapes, of one level and with random weights."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
    import comfy.ops

    torch.manual_seed(0)
    unet = openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=rows,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1],
        transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        context_dim=768,
        legacy=False,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    return {
        f"model.diffusion_model.{name}": 0.02 * torch.randn(value.shape, dtype=torch.float16)
        for name, value in unet.state_dict().items()
    }


def test_a_converted_checkpoint_opens_in_the_stock_loader_as_the_plain_model_it_is(pack, host, folders):
    import comfy.sd

    from steadydiff.files.mdss import MdssCard, convert

    save_file(sd15(rows=8), folders / "wide.safetensors")
    convert(
        folders / "wide.safetensors", folders / "made.safetensors", MdssCard(form="checkpoint", space="ve")
    )
    stock = comfy.sd.load_checkpoint_guess_config(
        str(folders / "made.safetensors"), output_vae=False, output_clip=False
    )[0]
    assert type(stock.model.model_config).__name__ == "SD15"
    assert stock.model.diffusion_model.out[2].weight.shape[0] == 4
    ours, head = pack["SteadyDiffLoadMDSS"].execute("made.safetensors").args
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 768)
    at = torch.tensor([3.0])
    predictions = [one.model.apply_model(x, at, c_crossattn=context) for one in (stock, ours)]
    assert torch.equal(*predictions) and head.head.weight.shape == (4, 320, 3, 3)
    corrected = pack["SteadyDiffMDSS"].execute(ours, head, 1.0, 0.0, 1.0, "positive")[0]
    assert corrected is not ours


def test_a_trained_checkpoint_is_a_plain_model_to_others_and_has_a_head_for_us(train, pack, world, folders):
    import comfy.utils

    model, head, losses = train()
    assert len(losses["loss"]) == 2 and all(loss > 0 for loss in losses["loss"])
    shipped, clip, _ = world()
    stored = comfy.utils.load_torch_file(str(folders / "made.safetensors"))
    plain = sys.modules[f"{PACK}.nodes.shared.tinyworld"].build_model("epsilon", stored)
    assert torch.equal(drawn(plain, clip), drawn(model, clip))
    assert not torch.equal(drawn(model, clip), drawn(shipped, clip))
    again, found = pack["SteadyDiffLoadMDSS"].execute("made.safetensors").args
    assert torch.equal(drawn(again, clip), drawn(model, clip))
    assert torch.equal(found.head.weight, head.head.weight) and head.head.weight.any()
    node = pack["SteadyDiffMDSS"]
    moved = node.execute(model, head, 1.0, 0.0, 1.0, "positive")[0]
    assert not torch.equal(drawn(moved, clip), drawn(model, clip))
    off = node.execute(model, head, 0.0, 0.0, 1.0, "positive")[0]
    assert torch.equal(drawn(off, clip), drawn(model, clip))


@pytest.mark.parametrize("variant", ["epsilon", "flow"])
def test_a_trained_lora_is_what_the_stock_loader_makes_of_it(variant, train, pack, world, folders, caplog):
    import nodes as core

    model, head, _ = train(base=f"tinyworld:{variant}", lora_rank=4, learning_rate=0.01)
    shipped, clip, _ = world(variant)
    stock, _ = core.LoraLoader().load_lora(shipped, clip, "made.safetensors", 1.0, 1.0)
    assert torch.equal(drawn(stock, clip), drawn(model, clip))
    assert not torch.equal(drawn(model, clip), drawn(shipped, clip))
    ignored = [message for message in caplog.messages if "lora key not loaded" in message]
    assert all("steadydiff.xi." in message for message in ignored)
    assert head is not None


def test_loras_say_what_they_need(train, pack, world, folders):
    train(lora_rank=4, second_head=False)
    load = pack["SteadyDiffLoadMDSS"].execute
    assert load("made.safetensors", world()[0]).args[1] is None
    with pytest.raises(Exception, match="made.safetensors is a LoRA; connect to model .* tinyworld:epsilon"):
        load("made.safetensors")
    with pytest.raises(Exception, match="made.safetensors was trained for states of the kind ve.* has flow"):
        load("made.safetensors", world("flow")[0])
    train(name="whole")
    with pytest.raises(Exception, match="whole.safetensors is a whole checkpoint; disconnect model"):
        load("whole.safetensors", world()[0])


def test_cancel_keeps_the_state_and_the_same_settings_go_on(train, folders, host, monkeypatch):
    class Cancelled(BaseException):
        """As the host's: no Exception."""

    calls = []

    def cancel():
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(host.management, "throw_exception_if_processing_interrupted", cancel)
        with pytest.raises(Cancelled):
            train(lora_rank=2)
    assert (folders / "output" / "steadydiff_mdss" / "made.safetensors").is_file()
    assert not (folders / "made.safetensors").exists()
    _, head, losses = train(lora_rank=2)
    _, whole, of_whole = train(lora_rank=2, name="whole")
    assert losses == of_whole and len(losses["loss"]) == 2
    assert torch.equal(head.head.weight, whole.head.weight)
