"""MDSS in every sampler of the host: neutral is off; on, it moves state and estimate by its second output."""

import functools

import pytest
import torch

from tools.launch.inprocess import defaults_of

REFUSED = ("uni_pc", "uni_pc_bh2")
CFG = 3.0  # of the fixture `sample`


@pytest.fixture(autouse=True)
def in_families(models, host):
    """The suite's models are built without a configuration of a family."""
    for kind in ("epsilon", "flow"):
        models[kind].model.model_config = host.supported.BASE({})


@pytest.fixture
def head_of(host, modules):
    """Return a head for the suite's models: random, or of zeros."""

    def make(model, size=0.02, **card):
        space = "flow" if isinstance(model.get_model_object("model_sampling"), host.sampling.CONST) else "ve"
        generator = torch.Generator().manual_seed(3)
        weight = size * torch.randn((4, 32, 3, 3), generator=generator)
        files = modules["files.mdss"]
        facts = {"form": "lora", "space": space, **card}
        return modules["hosts.comfy.mdss"].LoadedHead(
            files.Head(weight, size * torch.ones(4)), files.MdssCard(**facts), "made for this test"
        )

    return make


@pytest.fixture
def patched(pack, head_of):
    """Return a function that puts our node on a model."""
    node = pack["SteadyDiffMDSS"]
    defaults = defaults_of(node)

    def patch(model, head=None, **widgets):
        return node.execute(model, head or head_of(model), **(defaults | widgets))[0]

    return patch


def test_neutral_settings_and_an_untrained_head_change_no_bit(sampler, model, patched, head_of, sample):
    plain = sample(model, sampler)
    assert torch.equal(sample(patched(model, strength=0.0), sampler), plain)
    assert torch.equal(sample(patched(model, start_percent=0.3, end_percent=0.3), sampler), plain)
    if sampler not in REFUSED:
        assert torch.equal(sample(patched(model, head_of(model, 0.0)), sampler), plain)
        assert not torch.equal(sample(patched(model), sampler), plain)
        return
    with pytest.raises(Exception, match=f"{sampler} does not ask.*so MDSS cannot.*choose euler"):
        sample(patched(model), sampler)


POST_CFG = "sampler_post_cfg_function"


def moved(more, error):
    """What a CFG++ sampler takes of the branches, moved by `error`."""

    def shift(function):
        names = ("cond_denoised", "uncond_denoised")
        return lambda args: function({**args, **{name: args[name] - error() for name in names}})

    options = more.get("model_options", {})
    added = {POST_CFG: [shift(function) for function in options[POST_CFG]]} if POST_CFG in options else {}
    return {**more, "model_options": {**options, **added}}


def test_one_correction_is_that_call_answered_from_the_cleaned_state(
    sampler, model, host, modules, sample, sigmas_of, distance
):
    """At the first call, where every sampler's state is known."""
    own, mdss, state = (
        host.samplers.sampler_object(sampler),
        modules["methods.mdss"],
        modules["hosts.comfy.state"],
    )
    if sampler in REFUSED:
        return
    space = "flow" if isinstance(model.get_model_object("model_sampling"), host.sampling.CONST) else "ve"
    function, run = own.sampler_function, state.Run(space, tuple(sigmas_of(model).tolist()))
    called = []

    def xi(x, sigma):
        called.append(x.clone())
        first = torch.equal(x, called[0])
        return 0.4 * torch.tanh(x) if first else torch.zeros_like(x)

    def call(model, x, sigma, more, cleaned):
        return model(x, sigma, **moved(more, lambda: cleaned.error(x, sigma)))

    def from_there(model, x, sigmas, *args, **kwargs):
        """Begin in the cleaned state, and answer its first call as the uncleaned one, moved as far."""
        error = ((sigmas[0] ** 2 + 1) ** 0.5 if space == "ve" else 1) * 0.4 * torch.tanh(x)
        calls = []

        def prediction(at, sigma, more):
            calls.append(at)
            if len(calls) > 1:
                return model(at, sigma, **more)
            return model(x, sigma, **moved(more, lambda: error)) - error

        stand_in = modules["hosts.comfy.drift"].StandIn(model, prediction)
        return function(stand_in, x - error, sigmas, *args, **kwargs)

    method = mdss.MDSS(mdss.XiModel(xi, space))
    own.sampler_function = state.rectify_states(function, method, run, call)
    corrected = sample(model, own)
    own.sampler_function = functools.wraps(function)(from_there)
    expected = sample(model, own)
    assert distance(corrected, expected) < 1e-4
    own.sampler_function = function
    assert not torch.allclose(corrected, sample(model, own), rtol=1e-3, atol=1e-3)


@pytest.fixture
def displaced(host, modules, head_of, patched, sample):
    """Sample with a head that repeats the last layer, and return how far the state was moved at each call,
    and how far it should be: the suite's networks answer x + 0.3 times their last layer, so that it can be
    read off the host's own clean estimates, however the host combined them.
    """

    def measure(model, which="cond_denoised", widgets=None, after=lambda model: model, **options):
        flow = isinstance(model.get_model_object("model_sampling"), host.sampling.CONST)
        last = model.model.diffusion_model.out[2]
        head = head_of(model)
        head = type(head)(type(head.head)(last.weight.detach(), last.bias.detach()), head.card, "its own")
        expected, found, called = {}, [], []
        euler, shown = host.samplers.sampler_object("euler"), modules["hosts.comfy.drift"].StandIn

        def see(args):
            x, sigma = args["input"], args["sigma"].view(-1, 1, 1, 1)
            scale = 1 if flow else (sigma**2 + 1) ** 0.5
            prediction = (x - args[which]) / sigma
            expected.setdefault(args["sigma"][0].item(), scale * (prediction - x / scale) / 0.3)
            return args["denoised"]

        def watch(model, x, sigmas, *args, **kwargs):
            def call(x, sigma, more):
                called.append(x.clone())
                return model(x, sigma, **more)

            return function(shown(model, call), x, sigmas, *args, **kwargs)

        watched, function = model.clone(), euler.sampler_function
        watched.set_model_sampler_post_cfg_function(see)
        euler.sampler_function = functools.wraps(function)(watch)

        def callback(step, denoised, x, total):
            found.append(called[-1] - x)

        corrected = patched(after(watched), head, **(widgets or {}))
        assert sample(corrected, euler, callback=callback, **options).isfinite().all()
        return found, list(expected.values())  # of each step's first question, which is the sampler's

    return measure


def close(found, expected):
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_the_default_takes_the_positive_prompts_second_output(model, displaced):
    close(*displaced(model))


def test_guided_combines_as_guidance_does(model, displaced):
    close(*displaced(model, "denoised", widgets={"branches": "guided"}))
    close(*displaced(model, "cond_denoised", widgets={"branches": "guided"}, cfg=1.0))


def test_strength_and_window_say_how_far_and_when(model, displaced):
    found, expected = displaced(model, widgets={"strength": 0.5})
    close(found, [value / 2 for value in expected])
    found, _ = displaced(model, widgets={"start_percent": 0.5})
    assert [bool(value.any()) for value in found] == [False, False, True]


def guider_of(host, positive, negative):
    def guider(model):
        made = host.samplers.CFGGuider(model)
        made.set_conds(positive, negative)
        made.set_cfg(CFG)
        return made

    return guider


def test_areas_and_masks_of_prompts_count_as_the_host_counts_them(model, displaced, host, conds):
    mask = torch.linspace(0, 1, 64).view(1, 8, 8)
    (here, _), (there, _), (negative, _) = (conds[name][0] for name in ("positive", "third", "negative"))
    for positive in (
        [[here, {"area": (4, 8, 0, 0), "strength": 1.0}], [there, {"area": (6, 8, 2, 0), "strength": 0.5}]],
        [[here, {"mask": mask, "mask_strength": 1.0}], [there, {"mask": 1 - mask, "mask_strength": 0.7}]],
        [[here, {}], [there, {}]],
    ):
        guider = guider_of(host, positive, [[negative, {}]])
        close(*displaced(model, guider=guider))
        close(*displaced(model, "denoised", widgets={"branches": "guided"}, guider=guider))


@pytest.mark.parametrize("softly", [False, True])
def test_an_inpaint_mask_says_where_the_state_may_move(softly, model, displaced):
    """Also one that the host changes from step to step, as Differential Diffusion does."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3:5], mask[..., 5:] = 0.5, 1
    latent, used = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2)), []

    def soften(sigma, denoise_mask, extra_options):
        used.append((denoise_mask > 0.7).float() if softly else denoise_mask)
        return used[-1]

    changed = model.clone()
    changed.set_model_denoise_mask_function(soften)
    found, expected = displaced(changed, latent=latent, mask=mask)
    assert len(used) == 3 and used[0].min() == 0
    # The estimates tell the second output for the mixed state, which is what the network saw.
    close(found, [value * where for value, where in zip(expected, used, strict=True)])


def test_diffiers_own_calls_do_not_move_the_state(model, displaced, pack):
    node = pack["SteadyDiffDiffIER"]
    defaults = defaults_of(node)
    after = lambda model: node.execute(model=model, **(defaults | {"start_percent": 0.0}))[0]  # noqa: E731
    close(*displaced(model, after=after))


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_2m", "euler_cfg_pp"])
def test_batches_are_as_single_samples(sampler_name, model, patched, sample, distance):
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    both = sample(patched(model), sampler_name, noise=noise)
    alone = torch.cat([sample(patched(model), sampler_name, noise=one[None]) for one in noise])
    assert distance(both, alone) < 1e-4


def test_a_second_run_equals_the_first_and_leaves_the_model_as_it_was(model, patched, sample):
    plain, corrected = sample(model), patched(model)
    first = sample(corrected)
    assert torch.equal(sample(corrected), first) and torch.equal(sample(model), plain)
    assert not model.model.diffusion_model.out[2]._forward_pre_hooks


def test_models_it_was_not_trained_for_are_refused(models, patched, head_of):
    model = models["epsilon"]
    for card, sentence in (
        ({"space": "flow"}, "trained for states of the kind flow, and this model has ve"),
        ({"latent_format": "Flux"}, "latents of the format Flux, and this model has SD15"),
        ({"family": "SDXL"}, "models of the family SDXL, and this model has BASE"),
    ):
        with pytest.raises(Exception, match=sentence):
            patched(model, head_of(model, **card))
    head = head_of(model)
    wide = type(head)(type(head.head)(torch.zeros(4, 320, 3, 3), torch.zeros(4)), head.card, "sd.safetensors")
    with pytest.raises(
        Exception, match=r"sd.safetensors .* that reads \[320, 3, 3\], and this model's reads \[32"
    ):
        patched(model, wide)
    with pytest.raises(Exception, match="MDSS is on this model already"):
        patched(patched(model))


def test_a_file_without_a_head_leaves_the_model_alone(pack, model):
    assert pack["SteadyDiffMDSS"].execute(model, None, 1.0, 0.0, 1.0, "positive")[0] is model


def test_other_guiders(model, patched, sample, host, conds, pack):
    def dual(model):
        guider = host.custom_sampler.Guider_DualCFG(model)
        guider.set_conds(conds["positive"], conds["third"], conds["negative"])
        guider.set_cfg(2.0, 3.0, nested=False)
        return guider

    def basic(model):
        guider = host.custom_sampler.Guider_Basic(model)
        guider.set_conds(conds["positive"])
        return guider

    for guider in (dual, basic):
        assert not torch.equal(sample(patched(model), guider=guider), sample(model, guider=guider))
    with pytest.raises(Exception, match="guides by more than two prompts"):
        sample(patched(model, branches="guided"), guider=dual)
