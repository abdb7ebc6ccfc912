"""A1111: corrects what `CFGDenoiser.combine_denoised` returns, and asks the model again by its own inputs.

Guidance, prompts joined by AND, skipped negative prompts and masks stay the host's: the correction sits
between guidance and the blending of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Space, eps_from_denoised, per_sample
from .webui import Answer, Session, replaced, timestep_sigma


class A1111Route:
    """One run's hooks on a CFGDenoiser."""

    def __init__(self, model: Any) -> None:
        self.model, self._calls = model, []
        self.space: Space = "flow" if getattr(self._sd_model, "is_sd3", False) else "ve"
        self.levels: Any = self
        self._vp = hasattr(model, "alphas")  # the timestep samplers': x is VP, the answer eps

    @property
    def _sd_model(self) -> Any:
        return self.model.inner_model.inner_model

    def alphas_cumprod(self) -> Tensor:
        """The model's own."""
        return self._sd_model.alphas_cumprod

    def percent_to_sigma(self, percent: float) -> float:
        """Return the noise level at a share of the run, as ComfyUI and Forge count."""
        if self.space == "flow":
            return 1 - percent
        share = torch.tensor([(1 - percent) * 999.0])
        sigmas = (1 / self.alphas_cumprod().float().cpu() - 1).sqrt()
        low = share.floor().long()
        high = (low + 1).clamp(max=len(sigmas) - 1)
        return float(torch.lerp(sigmas[low].log(), sigmas[high].log(), share - low).exp())

    @contextmanager
    def installed(self, session: Session) -> Iterator[None]:
        """Let the denoiser's answers go through the session."""
        model = self.model
        forward, combine, edit = model.forward, model.combine_denoised, model.combine_denoised_for_edit_model
        update, listener = model.update_inner_model, _Listener(self._calls)

        def new_forward(*args, **kwargs):
            self._calls.clear()
            return forward(*args, **kwargs)

        def new_combine(x_out, conds_list, uncond, cond_scale):
            rows = [i for i, conds in enumerate(conds_list) for _ in conds]
            firsts = [conds[0][0] for conds in conds_list]

            def guide(out: Tensor, cfg: float) -> Tensor:
                return combine(out, conds_list, uncond, cfg)

            return self._correct(session, x_out, (*rows, *range(len(firsts))), firsts, guide, cond_scale)

        def new_edit(x_out, cond_scale):
            count = len(x_out) // 3
            return self._correct(session, x_out, (*range(count),) * 3, [*range(count)], edit, cond_scale)

        def new_update():  # the refiner brings another model
            update()
            listener.listen(model.inner_model)

        hooks = {
            "forward": new_forward, "combine_denoised": new_combine,
            "combine_denoised_for_edit_model": new_edit, "update_inner_model": new_update,
        }  # fmt: skip
        listener.listen(model.inner_model)
        try:
            with replaced(model, **hooks):
                yield
        finally:
            listener.close()
            self._calls.clear()

    def _correct(
        self,
        session: Session,
        x_out: Tensor,
        rows: tuple[int, ...],
        firsts: list[int],
        guide: Callable[[Tensor, float], Tensor],
        cfg: float,
    ) -> Tensor:
        """Guide the network's answers, and correct the result.

        rows:   of which picture each row of x_out is
        firsts: each picture's first row
        """
        calls = [*self._calls]
        seen, levels = (torch.cat([call[0][at] for call in calls]) for at in (0, 1))
        raw = guide(x_out, cfg)
        x, sigma = self._as_ve(seen[firsts], levels[firsts])

        def again(x: Tensor, sigma: Tensor) -> Answer:
            out = self._ask(calls, self._from_ve(x, sigma), rows)
            if len(out) < len(rows):  # the negative prompt was skipped; the host puts the answer in its place
                out = torch.cat([out, out[firsts]])
            return self._answer(x, sigma, out, guide, cfg, len(seen) == len(rows))

        answer = self._answer(x, sigma, x_out, guide, cfg, len(seen) == len(rows), raw)
        corrected = session.correct(x, sigma, answer, again)
        if corrected is answer.denoised:
            return raw
        return eps_from_denoised(x, corrected, sigma).to(raw.dtype) if self._vp else corrected

    def _answer(self, x, sigma, out, guide, cfg, guided, raw=None) -> Answer:
        raw = guide(out, cfg) if raw is None else raw
        cond = self._clean(x, guide(out, 1.0), sigma)
        uncond = self._clean(x, out[-len(x) :], sigma) if guided else None
        return Answer(self._clean(x, raw, sigma), cond, uncond, float(cfg))

    def _ask(self, calls: list, x: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Put other states to the network, with all else as it was asked before."""
        answers, at = [], 0
        for (old, *more), kwargs in calls:
            which = [*rows[at : at + len(old)]]
            at += len(old)
            answers.append(self.model.inner_model(x[which].to(old.dtype), *more, **kwargs))
        return torch.cat(answers)

    def _as_ve(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """A state as x0 + sigma * eps with its sigma."""
        if not self._vp:
            return x, level
        sigma = timestep_sigma(level.float(), self.alphas_cumprod().to(level.device).float())
        return x * per_sample((sigma**2 + 1).sqrt().to(x.dtype), x), sigma

    def _from_ve(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / per_sample((sigma**2 + 1).sqrt().to(x.dtype), x) if self._vp else x

    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return x - per_sample(sigma.to(x.dtype), x) * out if self._vp else out


class _Listener:
    """Notes with what the network is asked."""

    def __init__(self, calls: list) -> None:
        self._calls, self._handle = calls, None

    def listen(self, module: torch.nn.Module) -> None:
        self.close()
        self._handle = module.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self._calls.append((args, kwargs))

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
