"""MDSS on the host's own models: what is asked and trained, which files come of it, and what is refused."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from steadydiff.files.mdss import load_head
from steadydiff.networks.xi_head import TwoHeads, apply_head, capture, last_layer, patch_of, to_latent
from steadydiff.training.mdss import PLAN, MdssRequest
from tools.launch import tiny_families
from tools.launch.inprocess import PACK, defaults_of, load
from tools.train.mdss import main

LINEAR = {"in_features": 16, "out_features": 64}
CONFIGS = {  # small models of the host's own classes; SD15's is the suite's
    "SD3": {
        **{"in_channels": 16, "patch_size": 2, "depth": 1, "adm_in_channels": 32, "num_patches": 64},
        **{"context_embedder_config": {"target": "torch.nn.Linear", "params": LINEAR}},
        **{"input_size": None, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None},
    },
    "Flux": {
        **{"in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 16, "hidden_size": 32},
        **{"mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6]},
        **{"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []},
    },
    "AuraFlow": {
        **{"cond_seq_dim": 16, "max_seq": 64, "n_layers": 1, "n_double_layers": 1, "dim": 64, "n_heads": 2},
        **{"global_conddim": 64},
    },
}
FAMILIES = ("SD15", "SD3", "Flux", "Chroma", "Lumina2", "ZImage")


@pytest.fixture(scope="session")
def families(host, small_unet):
    """Small models of the families that can be trained, and of one that cannot; built when asked for."""

    class Families(dict):
        def __missing__(self, name):
            config = getattr(load("comfy.supported_models"), name)({})
            more = next((one.network for one in tiny_families.FAMILIES if one.name == name), small_unet)
            config.unet_config = {**CONFIGS.get(name, more), "dtype": torch.float32}
            model = config.get_model({}, "")
            generator = torch.Generator().manual_seed(0)
            network = model.diffusion_model
            for weight in (*network.parameters(), *network.buffers()):
                weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
            cpu = torch.device("cpu")
            self[name] = host.Patcher(model, load_device=cpu, offload_device=cpu)
            return self[name]

    return Families()


@pytest.fixture
def node(pack):
    return importlib.import_module(f"{PACK}.nodes.shared.mdss_training")


@pytest.fixture
def finetune(pack):
    return sys.modules[f"{PACK}.steadydiff.hosts.comfy.finetune"]


@pytest.fixture
def samples_of(node):
    """Latents of an odd size, and a caption for each."""

    def make(model, count=8):
        generator = torch.Generator().manual_seed(1)
        clean = torch.randn(count, model.get_model_object("latent_format").latent_channels, 7, 8)
        pooled = torch.randn(count, 1, 32, generator=generator)
        texts = torch.randn(count, 1, 6, 16, generator=generator)
        captions = [[[text, {"pooled_output": pool}]] for text, pool in zip(texts, pooled, strict=True)]
        return node.Samples(clean, captions, captions[0])

    return make


@pytest.fixture
def base_of(node, finetune, samples_of):
    def make(model, checkpointing=False):
        fresh = finetune.rebuilt(model, torch.float32, torch.device("cpu"))
        if checkpointing:
            finetune.checkpoint_blocks(fresh.diffusion_model)
        schedule = finetune.schedule_of(model)
        return finetune.finetune_base(
            model, "small", schedule, samples_of(model), node.HOST, node.prepare, fresh
        )

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_answers_as_the_hosts_own_model(family, families, node, base_of, samples_of):
    model = families[family]
    with node.training(0):
        base = base_of(model)
        heads, at, captions = TwoHeads(base.network), torch.tensor([3, 500, 998]), torch.tensor([0, 5, -1])
        layer = last_layer(base.network)
        heads.xi.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        x = torch.randn(3, *samples_of(model).clean.shape[1:])
        with torch.no_grad():
            answer, again = base.evaluate(heads, x, at, captions)
        torch.testing.assert_close(again, answer)  # the second head stands where the first does
        sigma = base.sigmas[at].float()
        state = x * (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5 if base.space == "ve" else x
        [prompt] = node.prepare(model, samples_of(model).conditioning(captions), state)
        part = node.HOST.area_and_mult(prompt, state, sigma).conditioning
        conds = {key: cond.concat([]) for key, cond in part.items()}
        with torch.no_grad():
            denoised = model.model.apply_model(state, sigma, **conds)
        torch.testing.assert_close(denoised, state - sigma.view(-1, 1, 1, 1) * answer)
    assert len(base.sigmas) == 1000 and base.prediction == ("eps" if family == "SD15" else "velocity")


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_blocks_have_the_same_gradients(family, families, node, base_of, samples_of):
    found = []
    for checkpointing in (False, True):
        with node.training(0):
            base = base_of(families[family], checkpointing)
            heads = TwoHeads(base.network)
            x = torch.randn(2, *samples_of(families[family]).clean.shape[1:])
            answer, _ = base.evaluate(heads, x, torch.tensor([50, 700]), torch.tensor([1, 2]))
            answer.square().mean().backward()
            found.append({name: w.grad for name, w in base.network.named_parameters() if w.grad is not None})
    assert len(found[0]) > 20
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_weights_become_a_checkpoint_and_the_model_stays_as_it_is(
    family, families, node, samples_of, tmp_path
):
    model, file = families[family], tmp_path / "made.safetensors"
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    plan = replace(PLAN, steps=2, lr=0.01)
    wanted = MdssRequest(None, 4, 4, True, 0, False)
    state = tmp_path / "state.safetensors"
    node.train(model, lambda: samples_of(model), family, wanted, plan, file, state, {})
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    made, (head, card) = load_file(file), load_head(file)
    assert head is not None and head.weight.any() and card.family == family and card.form == "checkpoint"
    assert card.variant == ("posterior" if family == "SD15" else "flow") and card.k == 4
    names = {f"model.{name}" for name in before if name.startswith("diffusion_model.")}
    assert names == {name for name in made if not name.startswith("steadydiff.")}
    assert not load("comfy.model_management").in_training


@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_makes_a_lora_of_lists_of_latents_and_captions(
    family, families, pack, node, samples_of, tmp_path, monkeypatch
):
    model, schema = families[family], pack["SteadyDiffTrainMDSS"].GET_SCHEMA()
    paths = tmp_path / "made.safetensors", tmp_path / "state.safetensors"
    monkeypatch.setattr(
        sys.modules[f"{PACK}.nodes.shared.model_folder"].ModelFolder, "paths", lambda self, name: paths
    )
    samples, widgets = samples_of(model), {i.id: i.default for i in schema.inputs if hasattr(i, "default")}
    widgets |= {"base": "tinyworld:flow", "steps": 1, "batch_size": 4, "lora_rank": 2, "model": model}
    inputs = {name: [value] for name, value in widgets.items()}
    inputs |= {"positive": samples.captions, "samples": [{"samples": one[None]} for one in samples.clean]}
    patched, head, losses = pack["SteadyDiffTrainMDSS"].execute(**inputs).args
    assert len(losses["loss"]) == 1 and head.card.form == "lora" and head.card.family == family
    layers = [name for name in load_file(paths[0]) if name.endswith(".alpha")]
    assert len(patched.patches) == len(layers) > 5
    with pytest.raises(Exception, match="trained with captions; connect positive"):
        pack["SteadyDiffTrainMDSS"].execute(**{**inputs, "positive": None})


def test_the_sampling_node_takes_heads_of_transformers(families, pack, host):
    """Zero changes no bit; another moves the picture; a head of a UNet is refused."""
    model, files = families["SD3"], sys.modules[f"{PACK}.steadydiff.files.mdss"]
    loaded = sys.modules[f"{PACK}.steadydiff.hosts.comfy.mdss"].LoadedHead
    cond = [[torch.randn(1, 6, 16), {"pooled_output": torch.randn(1, 32)}]]

    def drawn(size, shape=(64, 64)):
        head = files.Head(size * torch.ones(shape), torch.zeros(shape[0]))
        card = files.MdssCard(form="lora", space="flow", family="SD3", latent_format="SD3")
        patched = pack["SteadyDiffMDSS"].execute(
            model, loaded(head, card, "made"), 1.0, 0.0, 1.0, "positive"
        )[0]
        return sample(patched)

    def sample(model):
        guider, noise = host.samplers.CFGGuider(model), torch.ones(1, 16, 7, 8)
        guider.set_conds(cond, cond)
        guider.set_cfg(2.0)
        sigmas = host.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
        euler = host.samplers.sampler_object("euler")
        return guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=1)

    plain = sample(model)
    assert torch.equal(drawn(0.0), plain) and not torch.equal(drawn(0.02), plain)
    with pytest.raises(Exception, match="latent channels: 4, and this model has 16"):
        drawn(0.0, (16, 64))


def test_tokens_of_reference_pictures_are_left_out(families):
    network = families["Flux"].model.diffusion_model
    x, more = torch.randn(1, 16, 6, 5), {"y": torch.zeros(1, 32), "guidance": torch.ones(1)}
    layer, context = last_layer(network), torch.randn(1, 6, 16)
    with capture(layer) as recorded:
        answer = network(x, torch.tensor([0.5]), context, ref_latents=[torch.randn(1, 16, 4, 4)], **more)
    assert recorded[0].shape[1] == 3 * 3 + 2 * 2 and patch_of(network) == 2
    found = to_latent(network, apply_head(recorded[0], layer.weight, layer.bias), x.shape[-2:])
    torch.testing.assert_close(found, answer)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("epsilon", "eps"),
        ("flow", "velocity"),
        ("v", "v"),
        ("zsnr", "v"),
        ("edm", "EDM"),
        ("cosmos", "COSMOS"),
    ],
)
def test_what_a_network_answers_is_known_or_refused_by_name(kind, answer, models, node, finetune):
    model = models[kind]
    if answer.islower():
        assert finetune.schedule_of(model).prediction == answer
        return
    with pytest.raises(
        Exception, match=f"predict noise, v or a flow's velocity; this one is of the kind {answer}"
    ):
        finetune.schedule_of(model)


def test_models_that_cannot_be_trained_are_refused_by_name(families, node, finetune, samples_of):
    with pytest.raises(
        Exception, match="does not know the last layer of a AuraFlow; it knows UNets as in SD1"
    ):
        finetune.schedule_of(families["AuraFlow"])
    network = families["SD15"].model.diffusion_model
    network.register_buffer("scaled_fp8", torch.zeros(()))  # as in files with 8 bits and scales
    with pytest.raises(Exception, match="weights of this SD15 are quantised or changed .* in 16 or 32"):
        finetune.rebuilt(families["SD15"], torch.float32, torch.device("cpu"))
    del network.scaled_fp8
    model = families["SD15"].clone()
    model.patches = {"diffusion_model.out.2.weight": []}
    with pytest.raises(Exception, match="this model carries LoRAs"):
        finetune.schedule_of(model)
    wanted = MdssRequest("flow", 4, 2, True, 0, False)
    for change, sentence in (
        ({}, "small takes the variant posterior or ddim"),
        ({"k": 999}, "has 1000, so k is"),
    ):
        called = replace(wanted, **({"variant": None} if change else {}), **change)
        with pytest.raises(Exception, match=sentence):
            node.train(families["SD15"], pytest.fail, "small", called, PLAN, None, None, {})


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64), (20 * i, 90, 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a picture", encoding="utf-8")
    return folder


@pytest.fixture
def train(small_sd1, tmp_path, images):
    def run(*more):
        out = tmp_path / "made.safetensors"
        fixed = ["--base", str(small_sd1), "--images", str(images), "--size", "64", "--out", str(out)]
        return main([*fixed, "--work", str(tmp_path / "work"), "--steps", "1", "--batch", "2", *more]), out

    return run


def test_a_checkpoint_stays_whole_but_for_its_network(train, small_sd1):
    code, out = train("--lr", "0.01")
    assert code == 0
    before, after = load_file(small_sd1), load_file(out)
    head, card = load_head(out)
    assert head is not None and card.family == "SD15" and card.base == small_sd1.name and card.base_sha256
    assert before.keys() == {name for name in after if not name.startswith("steadydiff.")}
    network = "model.diffusion_model."
    same = {name: torch.equal(after[name], value) for name, value in before.items()}
    assert all(same[name] for name in before if not name.startswith(network))
    assert not same[f"{network}out.2.weight"]
    stock = load("comfy.sd").load_checkpoint_guess_config(str(out))
    assert all(part is not None for part in stock[:3])
    known = stock[0].model.diffusion_model.state_dict()["out.2.weight"]
    torch.testing.assert_close(known.float(), after[f"{network}out.2.weight"].float())


def test_a_lora_is_what_the_stock_loader_makes_of_it(train, small_sd1, tmp_path, images, capsys):
    (images / "0.txt").unlink()
    (images / "7.txt").unlink()
    code, out = train("--lora", "2")
    assert code == 1 and not out.exists() and not (tmp_path / "work").exists()
    assert "2 of 8 pictures have no caption (0.png, 7.png); write them" in capsys.readouterr().err
    rows = "".join(f'{{"file_name": "{i}.png", "text": "picture"}}\n' for i in range(8))
    (tmp_path / "metadata.jsonl").write_text(rows, encoding="utf-8")
    assert train("--lora", "2", "--captions", str(tmp_path / "metadata.jsonl"))[0] == 0
    model = load("comfy.sd").load_checkpoint_guess_config(
        str(small_sd1), output_vae=False, output_clip=False
    )[0]
    stored = {k: v for k, v in load_file(out).items() if not k.startswith("steadydiff.")}
    patched, _ = load("comfy.sd").load_lora_for_models(model, None, stored, 1.0, 0.0)
    assert len(patched.patches) == len(stored) / 3


def test_it_begins_with_what_a_computer_at_home_can_train(pack):
    begins = defaults_of(pack["SteadyDiffTrainMDSS"])
    assert (begins["lora_rank"], begins["batch_size"]) == (16, 4)


def test_a_training_says_how_long_it_takes(pack, said):
    progress = sys.modules[f"{PACK}.nodes.shared.training"].progress
    on_step = progress(101, iter([0.0, 6.0, 6.1, 20.0]).__next__)
    for done in (1, 2, 3, 11):
        on_step(done, 0.25)
    assert said == [
        ("7", "Training: 2 steps, loss 0.25, at most 10 min left. Cancel keeps what is learnt."),
        ("7", "Training: 11 steps, loss 0.25, at most 3 min left. Cancel keeps what is learnt."),
    ]
