"""ComfyUI: takes MDSS's second output from the network's own pass, and subtracts it from the sampler's state.

While the host's network runs for a sampler, what
its last layer reads is noted and the head applied to it beside the network; the network, its LoRAs and
whatever else changes it stay as they are, and its own output is the base model's to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError, SettingsError
from ...files.mdss import Head, MdssCard
from ...methods.mdss import BRANCHES, MDSS, Branches, XiModel
from ...model_names import name_of
from ...networks.xi_head import apply_head, capture, last_layer, patch_of, to_latent
from ..patch import POST_CFG, Patch, fitting_layer, known_layer
from .attach import attach
from .cfg_pp import added_functions
from .host import CALL_KEY, ComfyHost, logger
from .state import CallModel, StateRun, check_fits

PLACES = {"positive": 0, "negative": 1}
"""Of the prompts in a plain guider's call to the network."""


@dataclass(frozen=True)
class LoadedHead:
    """A second head, and what its file says of it."""

    head: Head
    card: MdssCard
    name: str = ""


@dataclass(frozen=True)
class HeadAtWork:
    """A second head at work on one model, a `Resource`.

    channels: of the latents
    branches: whose second output counts
    """

    loaded: LoadedHead
    channels: int
    branches: Branches
    models: Sequence[Any] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        return self.loaded.name

    def wrappers(self, host: ComfyHost) -> dict[str, Callable]:
        """Return the one that records the network's last layer."""
        return {host.apply_model: apply_model}

    def check(self, model: Any) -> None:
        """Raise HostError unless it was trained for a model like this."""
        what = f"the MDSS head of {self.name}"
        check_fits(model, what, self.loaded.card, self.channels)
        fitting_layer(model.get_model_object("diffusion_model"), what, self.loaded.head)

    def begin(self, settings: MDSS, run: StateRun, models: Sequence[Any]) -> tuple[MDSS, CallModel]:
        """Return the settings with the second output of this run's calls, and how those are made.

        Raises:  HostError for latents of another shape, or a guider whose prompts are not known.
        """
        del models
        if run.noise.shape[1] != self.channels:
            raise HostError(
                f"the MDSS head of {self.name} takes latents of {self.channels} channels, this run's have "
                f"{run.noise.shape[1]} (packed video and audio, perhaps); disconnect it for this model"
            )
        started = _Run(self, run)
        return replace(settings, model=replace(settings.model, xi=started.xi)), started.evaluate


def attach_mdss(
    model: Any,
    loaded: LoadedHead | None,
    host: ComfyHost,
    *,
    strength: float = 1.0,
    window: tuple[float, float] = (0.0, 1.0),
    branches: Branches = "positive",
) -> Any:
    """Return a clone of `model` from whose samplers' states the second output is subtracted.

    loaded: None for a file without a head: the model itself is then returned
    window: part of the run in which it acts, in per cent / 100 as the host counts

    Raises: HostError or SettingsError if the head was trained for something else, the model's last layer is
            not known or it has MDSS already, or a setting has no sense.
    """
    if branches not in BRANCHES:
        raise SettingsError(f"branches is one of {', '.join(BRANCHES)}; got {branches!r}")
    if loaded is None:
        logger.info("SteadyDiff: this MDSS file has no second head, so there is nothing to subtract")
        return model
    network, card = model.get_model_object("diffusion_model"), loaded.card
    known_layer(network, name_of(model.model))
    channels = len(loaded.head.bias) // patch_of(network) ** 2
    settings = MDSS(XiModel(_unknown, card.space, card.sigma_data, card.sigma_range), strength)
    return attach(model, Patch(settings, *window, resource=HeadAtWork(loaded, channels, branches)), host)


def _unknown(x: Tensor, sigma: Tensor) -> Tensor:
    raise AssertionError("a run puts its own in this place")


def apply_model(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more
):
    """Call the network, and let the sampler's call that this serves record its last layer."""
    options = transformer_options or {}
    call: _Call | None = options.get(CALL_KEY)
    network = executor.class_obj.diffusion_model
    layer = last_layer(network) if call else None
    if call is None or layer is None:
        return executor(x, t, c_concat, c_crossattn, control, options, **more)
    with capture(layer) as captured:
        denoised = executor(x, t, c_concat, c_crossattn, control, options, **more)
    prompts = list(zip(options.get("uuids", ()), options.get("cond_or_uncond", ()), strict=True))
    call.take(captured, prompts, lambda output: to_latent(network, output, x.shape[-2:]))
    return denoised


@dataclass
class _Call:
    """One of the sampler's calls of the model: the second output for each prompt that ran.

    found: by the prompt's id, and by its place in the guider's call: prompts made from one share its id
    """

    head: Head
    batch: int
    found: dict[Any, dict[int, Tensor]] = field(default_factory=dict)
    mask: Tensor | None = None

    def take(
        self,
        captured: Sequence[Tensor],
        prompts: Sequence[tuple[Any, int]],
        arrange: Callable[[Tensor], Tensor],
    ) -> None:
        """Take what the last layer read for these prompts; nothing if a cache answered in its place.

        Of several passes the first counts, which is the sampler's; the others are some node's own calls.
        """
        if not captured:
            return
        if len(captured[-1]) != self.batch * len(prompts):
            raise HostError(
                f"MDSS expected {self.batch * len(prompts)} samples in one pass of the network and saw "
                f"{len(captured[-1])}; another node splits the batch, and works without MDSS only"
            )
        weight, bias = (value.to(captured[-1].device) for value in self.head)
        parts = arrange(apply_head(captured[-1], weight, bias)).chunk(len(prompts))
        for (prompt, place), xi in zip(prompts, parts, strict=True):
            self.found.setdefault(prompt, {}).setdefault(place, xi)


class _Run:
    """One run: calls the host's model, and knows the second output of the latest call."""

    def __init__(self, head: HeadAtWork, run: StateRun) -> None:
        self._head, self._run, self._guider = head, run, run.guider
        self._call: _Call | None = None
        self._prompts = _prompts_of(run.guider, head.branches)

    def evaluate(self, model: Any, x: Tensor, sigma: Tensor, more: dict, cleaned: Any) -> Tensor:
        """Call with a note of ours among the options, which the network's calls then find."""
        first, call = self._call is None, _Call(self._head.loaded.head, len(x))
        self._call, options = call, {**more.get("model_options", {})}
        options["transformer_options"] = {**options.get("transformer_options", {}), CALL_KEY: call}
        if added := added_functions(more, self._run.extra_args):
            own = len(options[POST_CFG]) - len(added)
            moved = [
                _moved(function, lambda: cleaned.error(x, sigma)) for function in options[POST_CFG][own:]
            ]
            options[POST_CFG] = [*options[POST_CFG][:own], *moved]
        if more.get("denoise_mask") is not None:
            options["denoise_mask_function"] = _noted(options.get("denoise_mask_function"), call)
        denoised = model(x, sigma, **{**more, "model_options": options})
        if first and not call.found:
            raise HostError(
                "MDSS did not see the network's last layer at work: it was compiled before MDSS was "
                "connected, or another node replaced it; connect MDSS before that node"
            )
        return denoised

    def xi(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The latest call's second output, [B, C, *S] in the network's input scaling; 0 where it has none."""
        assert self._call is not None
        xi = self._of("positive", x, sigma)
        if any(self._xi_of("negative", prompt) is not None for prompt in self._prompts.get("negative", ())):
            xi = torch.lerp(
                self._of("negative", x, sigma), xi, float(self._guider.cfg)
            )  # not called at cfg 1
        return xi if self._call.mask is None else xi * self._call.mask.to(xi)

    def _xi_of(self, name: str, prompt: dict) -> Tensor | None:
        """The latest call's second output for one prompt, None if it did not run."""
        assert self._call is not None
        found = self._call.found.get(prompt["uuid"], {})
        if PLACES.keys() >= self._guider.conds.keys():
            return found.get(PLACES[name])
        if len(found) > 1:
            raise HostError(
                f"MDSS cannot tell apart the prompts of a {type(self._guider).__name__} that have areas; use "
                f"CFGGuider, or prompts for the whole picture"
            )
        return next(iter(found.values()), None)

    def _of(self, name: str, x: Tensor, sigma: Tensor) -> Tensor:
        """Mean over prompts, each where and as much as it counts, as the host takes it of clean estimates."""
        total, weight = torch.zeros_like(x), torch.zeros_like(x)
        for prompt in self._prompts[name]:
            xi = self._xi_of(name, prompt)
            part = None if xi is None else self._run.host.area_and_mult(prompt, x, sigma)
            if xi is None or part is None:
                continue
            if xi.shape != part.mult.shape:
                raise HostError(
                    f"MDSS cannot be used with context windows: the network was asked for {[*xi.shape]} of "
                    f"{[*part.mult.shape]}"
                )
            places = total, weight
            for dim in range(len(part.area or ()) // 2):
                size, start = part.area[dim], part.area[dim + len(part.area) // 2]
                places = tuple(place.narrow(dim + 2, start, size) for place in places)
            places[0].add_(xi.to(x) * part.mult)
            places[1].add_(part.mult)
        return total / weight.clamp(min=1e-37)


def _prompts_of(guider: Any, branches: Branches) -> dict[str, Sequence[dict]]:
    """The guider's prompts whose second output counts."""
    prompts = guider.conds
    if "positive" not in prompts:
        raise HostError(
            f"a {type(guider).__name__} has no positive prompt ({', '.join(prompts)}), so MDSS does not know "
            f"whose second output counts; use CFGGuider or BasicGuider"
        )
    if branches == "positive":
        return {"positive": prompts["positive"]}
    if not PLACES.keys() >= prompts.keys():
        raise HostError(
            f"a {type(guider).__name__} guides by more than two prompts ({', '.join(prompts)}), which MDSS "
            f"does not know to combine; set branches to positive"
        )
    return dict(prompts)


def _moved(function: Callable[[dict], Any], error: Callable[[], Tensor]) -> Callable[[dict], Any]:
    """Show a CFG++ sampler branches moved as far as its state will be, so that their noise stays."""

    def shown(args: dict) -> Any:
        moved = {}
        for name in ("cond", "uncond"):
            if args.get(name) is not None:
                moved[f"{name}_denoised"] = args[f"{name}_denoised"] - error()
        return function({**args, **moved})

    return shown


def _noted(function: Callable | None, call: _Call) -> Callable:
    """Let a call know the mask inside which the sampler's state is free."""

    def mask(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        found = function(sigma, denoise_mask, extra_options=extra_options) if function else denoise_mask
        call.mask = found
        return found

    return mask
