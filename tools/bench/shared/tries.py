"""Every method beside every sampler, kind of model and way to run it, each tried on a tiny model in ComfyUI.

`check` tries one method, `check_pair` two, `check_patch` one with a patch of the host's own, `check_partner`
one with a patch that keeps a memory from call to call. Each returns "" if all is as it should be, REFUSED and
the sentence if the method declines, or else what is wrong.
"""

import atexit
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import combinations, product
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from steadydiff.denoiser import Space
from steadydiff.errors import SteadyDiffError
from steadydiff.files.antibias import AntiBiasCard
from steadydiff.files.mdss import Head, MdssCard
from steadydiff.hosts.comfy.antibias import LoadedPrompt
from steadydiff.hosts.comfy.mdss import LoadedHead
from tools.launch.inprocess import defaults_of, load, load_pack
from tools.launch.tiny_models import (
    cfg_guider,
    conds,
    host,
    initialise,
    make_model,
    sample,
    sigmas_of,
    unet_config,
)

REFUSED = "refused: "
KINDS = ("epsilon", "v", "zsnr", "flow")
METHODS = {  # name -> (node, its widgets when on, when off), others at their defaults
    "Epsilon Scaling": ("EpsilonScaling", {"scale": 1.01}, {"scale": 1.0}),
    "Anti-Bias Prompt": ("AntiBiasPrompt", {}, {"strength": 0.0}),
    "DiffIER": ("DiffIER", {"start_percent": 0.0}, {"strength": 0.0}),
    "MDSS": ("MDSS", {}, {"strength": 0.0}),
    "Time Shift": ("TimeShift", {"factor": 0.95}, {"factor": 1.0}),
    "Band Scaling": ("BandScaling", {"coarse": 1.02, "fine": 0.99}, {"coarse": 1.0, "fine": 1.0}),
}


def _noise(n: int, seed: int) -> Tensor:
    return torch.randn((n, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def _half_mask() -> Tensor:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return mask


SITUATIONS: dict[str, Callable[[Any], dict]] = {  # name -> (model) -> how it is sampled
    "plain": lambda model: {},
    "mask": lambda model: {"mask": _half_mask(), "latent": _noise(1, 2)},
    "img2img": lambda model: {"sigmas": sigmas_of(model, 6)[3:], "latent": _noise(1, 2)},
    "batch 3": lambda model: {"noise": _noise(3, 3)},
    "cfg 1": lambda model: {"cfg": 1.0},
    "CFG++": lambda model: {"cfg": 1.5},
}


def samplers(situation: str) -> list[str]:
    """All of the host's; under CFG++ those that are made for it."""
    return [n for n in host().samplers.SAMPLER_NAMES if situation != "CFG++" or n.endswith("cfg_pp")]


def pairwise() -> Iterator[tuple[str, str, str, str]]:
    """(method, kind, situation, sampler) so that every two values of different columns meet."""
    for_all = [name for name in SITUATIONS if name != "CFG++"]
    again = for_all[: max(len(METHODS) - len(for_all), 0)]  # so that each sampler meets every method
    for j, situation in enumerate([*for_all, *again, "CFG++"]):
        for i, sampler in enumerate(samplers(situation)):
            kind = KINDS[(i + j + i // lcm(len(METHODS), len(KINDS))) % len(KINDS)]
            yield list(METHODS)[(i + j) % len(METHODS)], kind, situation, sampler


# --- models and what is put on them -----------------------------------------------------------------------


@cache
def model_of(kind: str):
    return make_model(kind)


def put(method: str, model, on: bool = True):
    """A clone of the model with a method's node, whose network or head is made up for it."""
    name, widgets, neutral = METHODS[method]
    node = load_pack()[f"SteadyDiff{name}"]
    inputs = defaults_of(node)
    inputs |= {"model": model, **(widgets if on else neutral)}
    flow = isinstance(model.get_model_object("model_sampling"), host().sampling.CONST)
    own = {"AntiBiasPrompt": _antibias, "MDSS": _head}.get(name, lambda space: {})
    return node.execute(**inputs, **own("flow" if flow else "ve"))[0]


class Bump(nn.Module):
    """A small correction of the state's own shape."""

    config = type("Config", (), {"latent_channels": 4})

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * torch.tanh(3 * x)


@cache
def _antibias(space: Space) -> dict:
    device = torch.device("cpu")
    patcher = host().Patcher(Bump(), load_device=device, offload_device=device)
    return {"antibias": LoadedPrompt(patcher, AntiBiasCard(target="phi", space=space), name="made up")}


@cache
def _head(space: Space) -> dict:
    generator = torch.Generator().manual_seed(3)
    head = Head(0.02 * torch.randn((4, 32, 3, 3), generator=generator), 0.02 * torch.ones(4))
    return {"head": LoadedHead(head, MdssCard(form="lora", space=space), "made up")}


# --- one method -------------------------------------------------------------------------------------------


def check(method: str, kind: str, situation: str, sampler: str) -> str:
    """Off changes no bit; on is finite, the same twice, and an interrupted run leaves nothing behind."""
    model = model_of(kind)
    run: dict[str, Any] = {"sampler": sampler, **SITUATIONS[situation](model)}
    plain = sample(model, **run)
    if not plain.isfinite().all():
        return "the host's own run is not finite"
    if not torch.equal(sample(put(method, model, on=False), **run), plain):
        return "off changes the picture"
    return _check_on(put(method, model), {"plain": (model, plain)}, run)


def _check_on(corrected, others: dict[str, tuple[Any, Tensor]], run: dict) -> str:
    """`corrected` gives what nobody of `others` gives, and those give the same again afterwards."""
    try:
        first = sample(corrected, **run)
    except SteadyDiffError as error:
        return f"{REFUSED}{error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    _interrupt(corrected, run)
    for name, (model, before) in others.items():
        if torch.equal(first, before):
            return f"no different from {name}"
        if not torch.equal(sample(model, **run), before):
            return f"leaves something behind: {name}"
    if not first.isfinite().all():
        return "not finite"
    return "" if torch.equal(sample(corrected, **run), first) else "a second run differs"


def _interrupt(model, run: dict) -> None:
    stopped = host().management.InterruptProcessingException

    def stop(step, x0, x, total):
        raise stopped

    try:
        sample(model, **run, callback=stop)
    except stopped:
        return
    raise AssertionError("the run was not interrupted")


# --- two methods ------------------------------------------------------------------------------------------


def check_pair(first: str, second: str, kind: str, sampler: str) -> str:
    """Off together they change no bit; on, the order of their nodes does not matter, and neither is lost."""
    model = model_of(kind)
    run: dict[str, Any] = {"sampler": sampler}
    plain = sample(model, **run)
    if not torch.equal(sample(put(first, put(second, model, on=False), on=False), **run), plain):
        return "off they change the picture"
    alone = {name: put(name, model) for name in (first, second)}
    others = {name: (one, sample(one, **run)) for name, one in alone.items()} | {"plain": (model, plain)}
    for off, on in ((first, second), (second, first)):
        if not torch.equal(sample(put(off, alone[on], on=False), **run), others[on][1]):
            return f"{off}, off, changes what {on} does"
    both, turned = put(first, alone[second]), put(second, alone[first])
    if wrong := _check_on(both, others, run):
        return wrong
    return "" if torch.equal(sample(both, **run), sample(turned, **run)) else "the order of the nodes matters"


# --- a method and a patch of the host's -------------------------------------------------------------------


def _apg(model) -> tuple[Any, dict]:
    return load("comfy_extras.nodes_apg").APG.execute(model, 0.5, 2.0, 0.0)[0], {}


def _pag(model) -> tuple[Any, dict]:
    return load("comfy_extras.nodes_pag").PerturbedAttentionGuidance.execute(model, 2.0)[0], {}


def _easy_cache(model) -> tuple[Any, dict]:
    node = load("comfy_extras.nodes_easycache").EasyCacheNode
    return node.execute(model, 0.5, 0.1, 0.95, False)[0], {"steps": 8}


def _context_windows(model) -> tuple[Any, dict]:
    node = load("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    patched = node.execute(model, 4, 2, "standard_static", 1, False, "pyramid", 0, False)[0]
    return patched, {"noise": _noise(6, 4)}


def _lora(model) -> tuple[Any, dict]:
    layer, generator = "input_blocks.0.0", torch.Generator().manual_seed(5)
    out, *into = model.model.diffusion_model.get_parameter(f"{layer}.weight").shape
    shapes = {"up": (out, 2, 1, 1), "down": (2, *into)}
    lora = {
        f"diffusion_model.{layer}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for side, shape in shapes.items()
    }
    return load("comfy.sd").load_lora_for_models(model, None, lora, 0.2, 0.0)[0], {}


@cache
def _control():
    """A control net of the tiny models' shape."""
    config = {k: v for k, v in unet_config().items() if k not in ("out_channels", "transformer_depth_output")}
    operations = load("comfy.ops").disable_weight_init
    network = load("comfy.cldm.cldm").ControlNet(**config, hint_channels=3, operations=operations)
    initialise(network)
    device = torch.device("cpu")
    control = load("comfy.controlnet").ControlNet(network, load_device=device)
    return control.set_cond_hint(torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(6)), 1.0)


def _control_net(model) -> tuple[Any, dict]:
    def controlled(name: str) -> list:
        return [
            [cond, {**more, "control": _control(), "control_apply_to_uncond": False}]
            for cond, more in conds()[name]
        ]

    prompts = controlled("positive"), controlled("negative")
    return model, {"guider": lambda model: cfg_guider(model, 3.0, *prompts)}


PATCHES: dict[str, Callable[[Any], tuple[Any, dict]]] = {  # name -> (model) -> (patched, how it is sampled)
    "APG": _apg,
    "PAG": _pag,
    "EasyCache": _easy_cache,
    "Context Windows": _context_windows,
    "LoRA": _lora,
    "ControlNet": _control_net,
}


def check_patch(method: str, patch: str, kind: str, sampler: str) -> str:
    """Off changes no bit of what the patch does alone; on acts beside it, before or after it in the graph."""
    model = model_of(kind)
    patched, run = PATCHES[patch](model)
    run: dict[str, Any] = {"sampler": sampler, **run}
    alone, plain = sample(patched, **run), sample(model, **{k: v for k, v in run.items() if k != "guider"})
    if torch.equal(alone, plain):
        return "the patch itself does nothing"
    if not torch.equal(sample(put(method, patched, on=False), **run), alone):
        return "off changes the picture"
    own = put(method, model)
    return next(
        filter(
            None,
            (
                _check_on(both, {"the patch alone": (patched, alone)}, run)
                for both in (put(method, patched), PATCHES[patch](own)[0])
            ),
        ),
        "",
    )


# --- a method and a patch that keeps a memory --------------------------------------------------------------

MOMENTUM = -0.75


def apg_of_momentum(model):
    """The host's own, of eta 1."""
    return load("comfy_extras.nodes_apg").APG.execute(model, 1.0, 0.0, MOMENTUM)[0]


def apg_by_hand(model):
    """The same, by a memory of the sampler's own calls: those that are seen outside all other nodes."""
    own, level = False, 0.0
    average: Tensor | None = None
    before: Tensor | None = None

    def see(executor, x, timestep, model_options, seed):
        nonlocal own
        own = True
        return executor(x, timestep, model_options, seed)

    def guide(args):
        nonlocal own, level, average, before
        cond, uncond = args["conds_out"]
        guidance, sigma = cond - uncond, float(args["sigma"][0])
        if own:
            before = None if sigma > level else average
        moved = guidance if before is None else MOMENTUM * before + guidance
        if own:
            own, level, average = False, sigma, moved
        return [uncond + moved + guidance / args["cond_scale"], uncond]

    clone = model.clone()
    clone.add_wrapper_with_key("predict_noise", "by hand", see)
    clone.set_model_sampler_pre_cfg_function(guide)
    return clone


Put = Callable[[Any], Any]
"""(model) -> a clone with a patch."""

PARTNERS: dict[str, tuple[Put, Put]] = {  # name -> the host's, and the same by hand
    f"APG of momentum {MOMENTUM}": (apg_of_momentum, apg_by_hand),
}


def check_partner(method: str, partner: str, kind: str, sampler: str) -> str:
    """Off changes no bit; on leads where it leads beside a partner that minds the sampler's own calls alone.

    Their distance is at most 1e-3 of the result's spread.
    """
    model, (host_s, by_hand) = model_of(kind), PARTNERS[partner]
    run: dict[str, Any] = {"sampler": sampler, "steps": 8, "cfg": 4.0}
    patched, minding = host_s(model), by_hand(model)
    alone = sample(patched, **run)
    if _are_far(alone, sample(minding, **run)):
        return "the partner by hand is another"
    if not torch.equal(sample(put(method, patched, on=False), **run), alone):
        return "off changes the picture"
    wanted = sample(put(method, minding), **run)
    for both in (put(method, patched), host_s(put(method, model))):
        found = sample(both, **run)
        if torch.equal(found, alone):
            return "no different from the partner alone"
        if _are_far(found, wanted):
            return "calls that are no steps of the sampler's move the partner"
        if not torch.equal(sample(both, **run), found):
            return "a second run differs"
    return "" if torch.equal(sample(patched, **run), alone) else "leaves something behind"


def _are_far(found: Tensor, wanted: Tensor) -> bool:
    return not bool((found - wanted).abs().max() <= 1e-3 * wanted.std())


for kept in (model_of, _antibias, _control):  # the host's patchers end badly after its modules
    atexit.register(kept.cache_clear)


# --- all of it --------------------------------------------------------------------------------------------

SOME_SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_cfg_pp")
"""For pairs and patches: one of each sort."""

Trial = Callable[[str], str]
"""(sampler) -> what one of the checks returns."""


def groups() -> dict[str, tuple[Trial, list[str]]]:
    """All that is to be tried: name -> (trial, its samplers)."""
    found: dict[str, tuple[Trial, list[str]]] = {}
    for method, kind, situation in product(METHODS, KINDS, SITUATIONS):
        found[f"{method}, {situation}, {kind}"] = partial(check, method, kind, situation), samplers(situation)
    for (first, second), kind in product(combinations(METHODS, 2), KINDS):
        found[f"{first} and {second}, {kind}"] = partial(check_pair, first, second, kind), [*SOME_SAMPLERS]
    for method, patch, kind in product(METHODS, PATCHES, KINDS):
        found[f"{method} with {patch}, {kind}"] = partial(check_patch, method, patch, kind), [*SOME_SAMPLERS]
    for method, partner, kind in product(METHODS, PARTNERS, KINDS):
        trial = partial(check_partner, method, partner, kind)
        found[f"{method} with {partner}, {kind}"] = trial, [*SOME_SAMPLERS]
    return found
