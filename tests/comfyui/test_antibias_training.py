"""Training an anti-bias model on the host's own model: what it learns, keeps and refuses."""

import sys

import pytest
import torch

from tools.launch.inprocess import PACK, defaults_of
from tools.train.antibias import parser


@pytest.fixture
def folders(host, tmp_path):
    """The host's folders for models and output, in a place of our own."""
    folder_paths = sys.modules["folder_paths"]
    known = folder_paths.folder_names_and_paths["steadydiff_antibias"]
    output, kept = folder_paths.get_output_directory(), list(known[0])
    known[0][:] = [str(tmp_path / "models")]
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path
    known[0][:] = kept
    folder_paths.set_output_directory(output)


@pytest.fixture
def train(pack, host, models, conds, folders):
    """Run the node on a small model and few samples, its widgets at their defaults unless given."""
    node = pack["SteadyDiffTrainAntiBias"]
    widgets = defaults_of(node)
    widgets |= {"name": "made", "steps": 2, "batch_size": 4, "channels": 4, "most_steps": 9}

    def run(kind="epsilon", count=8, lists=None, **changes):
        model = models[kind]
        model.model.model_config = host.supported.BASE({})
        clean = torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(0))
        inputs = {"model": model, "positive": conds["positive"], "samples": {"samples": clean}}
        wrapped = {name: [value] for name, value in (inputs | widgets | changes).items()}
        return node.execute(**(wrapped | (lists or {})))

    return run


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_what_is_trained_is_written_and_corrects_the_model(kind, train, folders, pack, models, sample):
    prompt, losses = train(kind, steps=3)
    assert len(losses["loss"]) == 3 and all(loss > 0 for loss in losses["loss"])
    assert (folders / "models" / "made.safetensors").is_file()
    assert prompt.card.space == ("ve" if kind == "epsilon" else "flow")
    assert (prompt.card.family, prompt.card.latent_format) == ("BASE", "SD15")
    node, widgets = (
        pack["SteadyDiffAntiBiasPrompt"],
        {"start_percent": 0.0, "end_percent": 1.0, "calls": "every"},
    )
    corrected = sample(node.execute(models[kind], prompt, strength=1.0, **widgets)[0])
    assert corrected.isfinite().all() and not torch.equal(corrected, sample(models[kind]))


def test_a_model_that_reads_more_than_the_latent_is_refused(train, models, monkeypatch):
    """As SD1.5's inpainting model does, whose network has 9 channels."""
    monkeypatch.setattr(models["epsilon"].model.diffusion_model, "in_channels", 9)
    with pytest.raises(Exception, match="this BaseModel reads more than the noisy latent"):
        train("epsilon")


def test_it_goes_on_where_it_ended_to_the_bit(train):
    def weights(**changes):
        return train(**changes)[0].patcher.model.state_dict()

    whole = weights(name="whole", steps=3)
    weights(name="broken", steps=1)
    again = weights(name="broken", steps=3)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_cancel_keeps_the_state(train, folders, host, monkeypatch):
    class Cancelled(BaseException):
        """As the host's: no Exception."""

    def cancel():
        raise Cancelled

    monkeypatch.setattr(host.management, "throw_exception_if_processing_interrupted", cancel)
    with pytest.raises(Cancelled):
        train(steps=5)
    assert (folders / "output" / "steadydiff_antibias" / "made.safetensors").is_file()
    called = []
    monkeypatch.setattr(
        host.management,
        "throw_exception_if_processing_interrupted",
        lambda: called.append(1) or (cancel() if len(called) > 5 else None),
    )
    with pytest.raises(Cancelled):  # while it measures what it has learnt
        train(steps=5)
    assert len(called) == 6
    assert not (folders / "models" / "made.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": 3}, "3 samples are too few"),
        ({"name": "../made"}, "that of a file, without folders"),
        ({"fewest_steps": 10}, "fewest_steps is not above most_steps; got 10 and 9"),
        ({"loss": "contrastive"}, "multiple of 16"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(train, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(**changes)


def test_a_state_of_other_settings_is_refused_and_kept(train):
    train()
    with pytest.raises(ValueError, match="other settings .channels was 4, now 8.;"):
        train(channels=8, steps=3)
    train(steps=3)


def test_every_sample_is_asked_with_its_own_caption(pack, host, models, conds, sigmas_of):
    drift = sys.modules[pack["SteadyDiffMeasure"].__module__.replace("measure", "shared.set_up")]
    inside, training = (
        sys.modules[f"custom_nodes_x_SteadyDiff.steadydiff.hosts.comfy.{name}"] for name in ("drift", "train")
    )
    model, euler = models["epsilon"], host.samplers.sampler_object("euler")
    setup = drift.make_setup(
        model, conds["positive"], conds["positive"], euler, sigmas_of(model), 1.0, calls=4
    )
    x, level, found = torch.randn(2, 4, 8, 8), torch.ones(2), []

    def work(inner, _):
        for captions in (["positive", "third"], ["positive"], ["third"]):
            inner.condition(training.joined([conds[name] for name in captions]), x)
            found.append(inner.evaluate_plainly(x, level))

    inside.inside_run(setup, model, torch.randn(1, 4, 8, 8), 0, work)
    both, first, second = found
    torch.testing.assert_close(both, torch.stack((first[0], second[1])))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("given", ["list", "images"])
def test_lists_and_pictures_are_samples_too(given, pack, train, conds, host):
    clean = torch.randn((8, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    if given == "list":  # as ComfyUI's Make Training Dataset gives them
        changes = {
            "samples": [{"samples": one} for one in clean.split(1)],
            "positive": [conds["positive"]] * 8,
        }
        _, losses = train(lists=changes)
        assert losses == train(name="again")[1]
        return
    vae = pack["SteadyDiffTinyWorld"].execute("epsilon").args[2]
    changes = {"images": [torch.rand(8, 64, 64, 3)], "vae": [vae], "empty": [conds["negative"]]}
    _, losses = train(lists={"samples": None, **changes})
    assert len(losses["loss"]) == 2


def test_pictures_are_trained_on_with_their_mirror_images(pack, train, conds):
    module = sys.modules[f"{PACK}.nodes.shared.training"]
    pictures = torch.rand(4, 8, 8, 3)
    both = module.with_mirrored(pictures)
    assert torch.equal(both[::2], pictures) and torch.equal(both[1::2], pictures.flip(2))

    class Vae:
        def encode(self, pixels):
            return pixels.movedim(-1, 1)[:, :1].expand(-1, 4, -1, -1)

    captions = [conds[name] for name in ("positive", "third", "positive", "third")]
    chosen = module.samples_of(captions, None, list(pictures.split(1)), [Vae()], None, [True])
    assert torch.equal(chosen.clean[:, 0], both[..., 0])
    assert [caption is conds["positive"] for caption in chosen.captions] == [True, True, False, False] * 2
    one = module.samples_of(captions[:1], None, [pictures], [Vae()], None, [True])
    assert len(one.captions) == 1 and len(one.clean) == 8
    with pytest.raises(ValueError, match="flip mirrors pictures; connect images"):
        train(flip=True)


def test_plans_come_from_the_widgets_and_old_workflows_get_the_defaults(train):
    widgets = {"accumulate": 2, "warmup": 3, "decay": 0.25, "ema": 0.5, "weight": "vp"}
    training = train(name="chosen", **widgets)[0].card.training
    assert {name: training[name] for name in widgets if name != "weight"} | {
        "weight": training["recipe"]["weight"]
    } == widgets
    plan = sys.modules["custom_nodes_x_SteadyDiff.steadydiff.training.antibias"].PLAN
    absent = dict.fromkeys(widgets, None)  # ComfyUI leaves out what an older workflow does not have
    found = train(name="old", lists=absent)[0].card.training
    assert {name: found[name] for name in plan.facts if name not in ("steps", "lr", "seed")} == {
        name: value for name, value in plan.facts.items() if name not in ("steps", "lr", "seed")
    }
    assert found["recipe"]["weight"] == "ve"


def test_the_card_says_what_was_found_at_each_level(train, caplog, said):
    caplog.set_level("INFO", logger="steadydiff")
    card = train()[0].card
    assert said[-1][1].count(" with its gain of ") == len(card.bands) and "explained " in said[-1][1]
    assert 1 < len(card.bands) <= 16 and card.bands[0].sigma == pytest.approx(card.sigma_range[0])
    assert [band.sigma for band in card.bands] == sorted(band.sigma for band in card.bands)
    assert "with its gain of" in caplog.text


def test_command_line_and_node_share_their_defaults(pack):
    node, options = (
        defaults_of(pack["SteadyDiffTrainAntiBias"]),
        parser().parse_args(["--base", "", "--out", ""]),
    )
    names = {"batch_size": "batch", "learning_rate": "lr"}
    shared = set(node) - {"name", "fewest_steps", "most_steps"}
    assert {name: getattr(options, names.get(name, name)) for name in shared} == {n: node[n] for n in shared}
    assert options.sample_steps == f"{node['fewest_steps']}-{node['most_steps']}"
    assert node["channels"] == 32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"samples": None}, "connect either samples or images"),
        ({"images": [torch.rand(8, 64, 64, 3)]}, "connect either samples or images"),
        ({"samples": None, "images": [torch.rand(8, 64, 64, 3)]}, "images need the vae"),
        ({"samples": [{"samples": torch.zeros(4, 4, 8, n)} for n in (8, 9)]}, "differ in size"),
    ],
    ids=["nothing", "both", "no vae", "sizes"],
)
def test_inputs_that_do_not_fit_are_refused(train, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(lists=changes)


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(train, folders):
    (folders / "models").write_text("")
    with pytest.raises(Exception, match="made.safetensors cannot be written to"):
        train()
    assert not (folders / "output").exists()
