"""ComfyUI's own guidance nodes around a denoiser of ours, for benches that compare with what a user has."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tools.bench.shared.world import Correct
from tools.launch.inprocess import load


class Recording:
    """A stand-in for the host's ModelPatcher that hands a node's functions to us."""

    def __init__(self) -> None:
        self.cfg: Callable | None = None
        self.pre: list[Callable] = []
        self.post: list[Callable] = []

    def clone(self) -> "Recording":
        return self

    def set_model_sampler_cfg_function(self, function: Callable, *_: Any, **__: Any) -> None:
        self.cfg = function

    def set_model_sampler_pre_cfg_function(self, function: Callable, *_: Any, **__: Any) -> None:
        self.pre.append(function)

    def set_model_sampler_post_cfg_function(self, function: Callable, *_: Any, **__: Any) -> None:
        self.post.append(function)


def peers() -> dict[str, Callable[[Any], Any]]:
    """The host's own nodes at their defaults, each a function of a model."""
    cfg = load("comfy_extras.nodes_cfg")
    return {
        "RescaleCFG": lambda m: load("comfy_extras.nodes_model_advanced").RescaleCFG().patch(m, 0.7),
        "APG": lambda m: load("comfy_extras.nodes_apg").APG.execute(m, 1.0, 5.0, 0.0),
        "CFGNorm": lambda m: cfg.CFGNorm.execute(m, 1.0),
        "TCFG": lambda m: load("comfy_extras.nodes_tcfg").TCFG.execute(m),
        "Mahiro": lambda m: load("comfy_extras.nodes_mahiro").Mahiro.execute(m),
    }


def as_host(node: Callable[[Any], Any]) -> Correct:
    """Guide as the host does with this node: its functions on our branches, in the host's order."""

    def correct(denoise, run):
        model = Recording()  # of this run, as some nodes keep state
        node(model)

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            denoise(x, sigma)
            outputs = list(denoise.branches)
            given = {
                "input": x,
                "sigma": sigma,
                "timestep": sigma,
                "cond_scale": denoise.cfg,
                "model": None,
                "model_options": {},
                "conds": [1, 1],
                "cond": 1,
                "uncond": 1,
            }
            for function in model.pre:
                outputs = function({**given, "conds_out": outputs})
            cond, uncond = outputs[:2]
            shown = {**given, "cond_denoised": cond, "uncond_denoised": uncond}
            denoised = uncond + (cond - uncond) * denoise.cfg
            if model.cfg is not None:
                denoised = x - model.cfg({**shown, "cond": x - cond, "uncond": x - uncond})
            for function in model.post:
                denoised = function({**shown, "denoised": denoised})
            return denoised

        return guided

    return correct
