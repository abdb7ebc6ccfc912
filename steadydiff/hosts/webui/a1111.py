"""A1111: corrects what `CFGDenoiser.combine_denoised` returns, and calls the model again by its own inputs.

Guidance, prompts joined by AND, skipped negative prompts and masks stay the host's: the correction sits
between guidance and the blending of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...denoiser import Space
from ...files.mdss import Head
from ...networks.xi_head import apply_head, capture
from ..patch import fitting_layer
from .run import CallModel, UnitConversion, full_precision, replaced, timestep_sigma
from .session import Prediction, WebuiSession, bypassed, second_of

FAMILIES = {"is_sdxl": ("SDXL", "SDXL"), "is_sd1": ("SD15", "SD15")}
"""A1111's marks of a model, and the names ComfyUI has for such models and for their latents."""


class A1111Route:
    """One run's hooks on a CFGDenoiser."""

    shows_noise = True

    def __init__(self, model: Any) -> None:
        self.model, self.levels = model, self
        sd_model = self._sd_model
        self.space: Space = "flow" if getattr(sd_model, "is_sd3", False) else "ve"
        self.noise = 1.0
        known = [names for mark, names in FAMILIES.items() if getattr(sd_model, mark, False)]
        family, latents = known[0] if known else (None, None)
        self.facts: dict[str, Any] = {"family": family, "latent_format": latents, "sigma_data": 1.0}
        self._calls: list[tuple[tuple, dict]] = []  # what the network was called with in this call
        self._hooks, self._shift, self._handle = ExitStack(), ExitStack(), None
        self._layer: nn.Module | None = None
        self._head: Head | None = None
        self._captured: Sequence[Tensor] = ()
        self._second: dict[str, Tensor] = {}

    @property
    def _sd_model(self) -> Any:
        return self.model.inner_model.inner_model

    def alphas_cumprod(self) -> Tensor:
        return self._sd_model.alphas_cumprod

    def network(self) -> nn.Module:
        return self._sd_model.model.diffusion_model

    @property
    def sigmas(self) -> Tensor | None:
        """The training levels' sigmas, None where there is no table of them."""
        if self.space == "flow":
            return None
        share = self.alphas_cumprod().double()
        return ((1 - share) / share).sqrt()

    def percent_to_sigma(self, percent: float) -> float:
        """Return the noise level at a share of the run, as ComfyUI and Forge count."""
        if self.space == "flow":
            return 1 - percent
        at = torch.tensor([(1 - percent) * 999.0])
        return float(timestep_sigma(at, self.alphas_cumprod().cpu()))

    def install(self, session: WebuiSession) -> None:
        model = self.model
        combine, edit = model.combine_denoised, model.combine_denoised_for_edit_model

        def new_combine(x_out, conds_list, uncond, cond_scale):
            rows = [i for i, conds in enumerate(conds_list) for _ in conds]
            guidance = _Guidance(
                lambda out, cfg: combine(out, conds_list, uncond, cfg),
                lambda out: _weighted(out, conds_list),
                (*rows, *range(len(conds_list))),
                [conds[0][0] for conds in conds_list],
                cond_scale,
            )
            return self._guarded(session, x_out, guidance)

        def new_edit(x_out, cond_scale):
            firsts = [*range(len(x_out) // 3)]
            guidance = _Guidance(edit, lambda out: out[firsts], (*firsts,) * 3, firsts, cond_scale)
            return self._guarded(session, x_out, guidance)

        self._hooks.enter_context(
            replaced(model, combine_denoised=new_combine, combine_denoised_for_edit_model=new_edit)
        )
        self._hooks.callback(self._unhook)
        self._hook(session)

    def follow(self, session: WebuiSession) -> None:
        self._unhook()
        self._hook(session)
        self._layer = self._head = None  # nothing was trained for the refiner

    def remove(self) -> None:
        self._hooks.close()
        self._calls.clear()
        self._captured, self._second = (), {}

    def _hook(self, session: WebuiSession) -> None:
        inner = self.model.inner_model
        self._handle = inner.register_forward_pre_hook(
            lambda module, args, kwargs: self._calls.append((args, kwargs)), with_kwargs=True
        )
        if not session.shifts_level:
            return
        forward = inner.forward
        whole = hasattr(inner, "predict_eps_from_z_and_v")  # A1111 looks up alphas by whole timesteps there

        def new_forward(x: Tensor, level: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            def call(x: Tensor, level: Tensor) -> Tensor:
                return forward(x, level, *args, **kwargs)

            return session.shifted(session.setup.units, x, level, call, whole)

        self._shift.enter_context(replaced(inner, forward=new_forward))

    def _unhook(self) -> None:
        self._shift.close()
        if self._handle is not None:
            self._handle.remove()

    def partners(self) -> tuple[Any, ...]:
        return self.model.combine_denoised, self.model.combine_denoised_for_edit_model

    def sent_along(self, session: WebuiSession, kwargs: dict[str, Any]) -> dict[str, Any]:
        return kwargs

    def hooked(self, evaluate: CallModel) -> Tensor:
        self._calls.clear()
        self._second = {}
        if self._layer is None:
            return evaluate()
        with capture(self._layer) as self._captured:
            return evaluate()

    def second_output(self, what: str, head: Head, branches: str) -> Callable[[Tensor, Tensor], Tensor]:
        self._layer, self._head = fitting_layer(self.network(), what, head), head
        return lambda x, sigma: second_of(self._second, branches).to(x)

    def _guarded(self, session: WebuiSession, x_out: Tensor, guidance: _Guidance) -> Tensor:
        return session.guarded(
            lambda: self._correct(session, session.setup.units, x_out, guidance),
            lambda: guidance.guide(x_out, guidance.cfg),
        )

    def _correct(
        self, session: WebuiSession, units: UnitConversion, x_out: Tensor, guidance: _Guidance
    ) -> Tensor:
        calls = [*self._calls]
        seen, levels = (torch.cat([args[at] for args, _ in calls]) for at in (0, 1))
        if self._head is not None:
            with session.aside():
                self._second = guidance.both(self._outputs_of(self._head, len(seen)))
        x, sigma = units.state(seen[guidance.firsts], levels[guidance.firsts])
        guided = len(seen) == len(guidance.rows)

        def prediction(x: Tensor, sigma: Tensor, out: Tensor, raw: Tensor) -> Prediction:
            found = [raw]
            if session.wants_branches:
                with session.aside():
                    found.append(guidance.guide(out, 1.0))
                found += [out[-len(x) :]] if guided else []
            return Prediction(float(guidance.cfg), *(units.clean(x, one, sigma) for one in found))

        def again(x: Tensor, sigma: Tensor) -> Prediction:
            out = guidance.filled(self._evaluate(calls, units.back(x, sigma), guidance.rows))
            return prediction(x, sigma, out, guidance.guide(out, guidance.cfg))

        raw = guidance.guide(x_out, guidance.cfg)
        first = prediction(x, sigma, x_out, raw)
        corrected = session.correct(x, sigma, first, again)
        return raw if corrected is first.denoised else units.prediction(x, corrected, sigma).to(raw.dtype)

    def _evaluate(self, calls: list[tuple[tuple, dict]], x: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Put other states to the network, with all else as it was called before."""
        outputs, at = [], 0
        for (old, *more), kwargs in calls:
            which = [*rows[at : at + len(old)]]
            at += len(old)
            outputs.append(self.model.inner_model(x[which].to(old.dtype), *more, **kwargs))
        return torch.cat(outputs)

    def _outputs_of(self, head: Head, count: int) -> Tensor:
        """The second output for what the last layer has read."""
        if sum(map(len, self._captured)) != count:
            raise bypassed()
        weight, bias = (value.to(self._captured[0].device) for value in head)
        with full_precision(weight):
            return torch.cat([apply_head(seen, weight, bias) for seen in self._captured])


class _Guidance:
    """How one call's outputs of the network make one guided prediction per picture.

    guide:  (outputs, cfg) -> guided predictions, as the host does it
    single: outputs -> those of the positive prompts alone
    rows:   of which picture each prediction is; the negative prompts' are last
    firsts: each picture's first prediction
    """

    def __init__(self, guide, single, rows: tuple[int, ...], firsts: list[int], cfg: float) -> None:
        self.guide: Callable[[Tensor, float], Tensor] = guide
        self.single: Callable[[Tensor], Tensor] = single
        self.rows, self.firsts, self.cfg = rows, firsts, cfg

    def filled(self, out: Tensor) -> Tensor:
        """Where the negative prompt was skipped, put the positive one's answer there, as the host does."""
        return torch.cat([out, out[self.firsts]]) if len(out) < len(self.rows) else out

    def both(self, out: Tensor) -> dict[str, Tensor]:
        """Return what each setting of MDSS's `branches` takes."""
        return {"positive": self.single(out), "guided": self.guide(self.filled(out), self.cfg)}


def _weighted(out: Tensor, conds_list: Sequence[Sequence[tuple[int, float]]]) -> Tensor:
    """Mean over each picture's prompts, by their weights."""
    means = []
    for conds in conds_list:
        total = sum(weight for _, weight in conds)
        means.append(sum(out[row] * (weight / total) for row, weight in conds))
    return torch.stack(means)
