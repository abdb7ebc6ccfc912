"""Epsilon Scaling: Ning et al., "Elucidating the Exposure Bias in Diffusion Models", arXiv 2308.15321.

A sampler feeds a network its own outputs, which drift from what it was trained on; the network answers with
too much noise. The method divides the predicted noise by a factor λ (`scale` here) near 1 and leaves the
state alone. `scale_epsilon` is the formula, `EpsilonScaling` the settings; the schedules of λ live in
`..schedules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..denoiser import Denoise, Run, Space, check_same_shape, per_sample, signal_level
from ..errors import SettingsError
from ..schedules import (
    Schedule,
    check_positive,
    dcw_schedule,
    linear_schedule,
    snr_schedule,
    table_schedule,
    uniform_schedule,
)
from .method import Defaults
from .window import EDGE_TOLERANCE, Windowed, check_window, edges

__all__ = [
    "MAX_NOISE_RATIO",
    "EpsilonScaling",
    "Schedule",
    "dcw_schedule",
    "linear_schedule",
    "scale_at",
    "scale_epsilon",
    "snr_schedule",
    "stride_shares",
    "table_schedule",
    "uniform_schedule",
]

Form = Literal["ve", "flow", "velocity"]
SpaceSetting = Literal["auto", "epsilon", "velocity"]
FORMS: tuple[Form, ...] = get_args(Form)
SPACE_SETTINGS: tuple[SpaceSetting, ...] = get_args(SpaceSetting)

# One step from rho = sigma/alpha down to rho' leaves (1 - 1/λ)·(rho - rho') more noise than belongs there, in
# units of the clean sample. Relative to the next state, of size sqrt(rho'² + 1), that is the stride's length
# times 1 - 1/λ. Up to this length the correction acts in full; one step from 14.6 to 0 has 14.6, the longest
# of four steps from 80 has 8. Beyond, it fades: docs/epsilon_scaling.md has the figures.
LONGEST_STRIDE = 16.0

# Levels of a run that are remembered at a time.
MOST_LEVELS = 1000

# DiffIER leaves states alone whose sigma / alpha exceeds this. Here it bounds 1 / alpha in flow, so that half
# precision does not overflow.
MAX_NOISE_RATIO = 4000.0


def scale_epsilon(
    x: Tensor,
    denoised: Tensor,
    scale: Tensor | float,
    *,
    sigma: Tensor | float | None = None,
    space: Form = "ve",
) -> Tensor:
    """Divide the predicted noise by `scale` and return the clean estimate that then follows.

    "ve":       denoised' = x - (x - denoised) / scale
    "flow":     denoised' = denoised / scale + x·(1 - 1/scale) / (1 - sigma)
    "velocity": the "ve" line on a flow model, where x - denoised is sigma times the velocity

    Shapes:  x, denoised, result [B, C, *S]; scale and sigma numbers or [B].
    Units:   x = alpha * x0 + sigma * eps, alpha 1 ("ve") or 1 - sigma ("flow", "velocity"). scale is a ratio:
             1 returns `denoised` bit for bit, above 1 takes less noise away, below 1 more.
    Dtype:   x.dtype and x.device in and out; nothing is changed in place, and no value is read back from the
             device.
    Raises:  SettingsError if a number `scale` is not finite and positive (a tensor is not looked into), if
             "flow" comes without sigma, or for an unknown space; ShapeError if shapes disagree.
    Source:  Ning et al., 2023, arXiv 2308.15321; "flow" follows from x's own equation and is not in the
             paper. There a sample without signal (sigma 1) stays as it is, and 1 / (1 - sigma) is bounded by
             MAX_NOISE_RATIO. What a long stride must not gain, `EpsilonScaling` sees to.

    Not to be confused with CFG rescale, which matches standard deviations.
    """
    check_same_shape(x, denoised)
    _check_form(space, sigma)
    if not isinstance(scale, Tensor):
        check_positive("scale", scale)
        if scale == 1:
            return denoised
    return _lean(x, denoised, *_coefficients(x, 1 - 1 / scale, sigma, space))


_Coefficients = tuple["Tensor | float", "Tensor | float | None"]


def _coefficients(
    x: Tensor, weight: Tensor | float, sigma: Tensor | float | None, space: Form
) -> _Coefficients:
    """Return a weight of 1 - 1/λ as it acts on x, and flow's signal level: numbers, or fit to broadcast."""
    signal = None
    if space == "flow" and sigma is not None:
        inside = sigma < 1
        weight = weight * (inside.to(x.dtype) if isinstance(inside, Tensor) else inside)
        signal = per_sample(_safe_signal(sigma), x)
    return per_sample(weight.to(x), x) if isinstance(weight, Tensor) else weight, signal


def _lean(x: Tensor, denoised: Tensor, weight: Tensor | float, signal: Tensor | float | None) -> Tensor:
    """Let the clean estimate lean towards all of the state."""
    target = x if signal is None else (x / signal).to(x.dtype)
    # One rounding fewer than the lines of `scale_epsilon`, and exact where the weight is 0.
    return torch.lerp(denoised, target, weight)


def scale_at(sigma: Tensor, table: Tensor) -> Tensor:
    """Return λ at any noise level: linear in log sigma between two steps, constant outside them all.

    Shapes:  sigma, result [B]; table [3, steps] as `scale_table` makes it.
    Dtype:   float32; runs on sigma's device without reading it back.
    """
    log_sigmas = table[0]
    level = sigma.to(table.dtype).log().clamp(log_sigmas[0], log_sigmas[-1])
    at, scale, slope = table.index_select(1, torch.bucketize(level, log_sigmas))
    return torch.addcmul(scale, slope, level - at)


def scale_table(scales: tuple[float, ...], sigmas: tuple[float, ...]) -> Tensor:
    """Tabulate λ over log sigma for `scale_at`.

    Shapes:  scales and sigmas one per step, noisiest first; result [3, steps]: log sigma in ascending order,
             λ there, and the slope of λ towards the next quieter step. Of steps that share a sigma the first
             counts, and steps at sigma 0 are dropped: they have no logarithm and the last λ holds there
             anyway.
    """
    steps = reversed(list(zip(sigmas, scales, strict=True)))
    known = {math.log(sigma): scale for sigma, scale in steps if sigma > 0}
    rows, before = [], None
    for at, scale in sorted(known.items()):
        slope = 0.0 if before is None else (scale - before[1]) / (at - before[0])
        before = (at, scale, slope)
        rows.append(before)
    return torch.tensor(rows, dtype=torch.float32).T.contiguous()


@dataclass(frozen=True)
class EpsilonScaling(Windowed, Defaults):
    """Divide the predicted noise by λ at every step of a run.

    scale:      λ at the last, least noisy step; 1 changes nothing, above 1 takes less noise away (more
                texture, in the end grain), below 1 more (smoother)
    slope:      the paper's k: λ grows by this much per step towards the noisiest; counted over the run's own
                steps, so a run over split sigmas that means the whole needs a `schedule` instead
    schedule:   λ step by step; replaces scale and slope
    space:      "epsilon" scales the noise on every model; "velocity" scales the velocity, on flow models
                only; "auto" is "epsilon" unless the schedule imitates DCW on a flow model, which is about the
                velocity
    sigma_high: noise level from which on (downwards) it acts, and
    sigma_low:  down to which; both included, compared in float32; equal bounds switch it off. Percentages are
                a host's business: its adapter turns them into these with `dataclasses.replace`

    Neutral: scale 1 and slope 0, a schedule of ones, or equal bounds; `wrap` then returns the
    denoiser itself.

    Two of them around one denoiser multiply, if both scale the same thing (both noise, or both velocity).
    """

    title: ClassVar[str] = "Epsilon Scaling"
    order: ClassVar[int] = 2  # around DiffIER: the calls DiffIER makes itself are not scaled, its result is
    scales_branch: ClassVar[bool] = True

    scale: float = 1.005
    slope: float = 0.0
    schedule: Schedule | None = None
    space: SpaceSetting = "auto"
    sigma_high: float = math.inf
    sigma_low: float = 0.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        if not math.isfinite(self.slope):
            raise SettingsError(f"slope is a finite number, 0 for one scale at every step; got {self.slope}")
        if self.space not in SPACE_SETTINGS:
            raise SettingsError(f"space is one of {', '.join(SPACE_SETTINGS)}; got {self.space!r}")
        check_window(self.sigma_high, self.sigma_low)

    def __str__(self) -> str:
        what = f"scale {self.scale:g}, slope {self.slope:g}"
        if self.schedule is not None:
            what = f"{self.schedule.mode} schedule of {len(self.schedule.values)} steps"
        return f"{what}, space {self.space}"

    def check(self, space: Space) -> None:
        """Raise SettingsError if these settings cannot work on a model of this space."""
        self.form(space)

    def form(self, space: Space) -> Form:
        """Return what is scaled on a model of this space.

        Raises:  SettingsError for "velocity" on a model that has none.
        """
        if self.space == "velocity" and space != "flow":
            raise SettingsError(
                "space 'velocity' needs a flow model and this is none; set space to auto or epsilon"
            )
        imitates_dcw = self.schedule is not None and self.schedule.mode == "dcw"
        if self.space == "velocity" or (self.space == "auto" and space == "flow" and imitates_dcw):
            return "velocity"
        return space

    def scales(self, run: Run) -> tuple[float, ...]:
        """Return the λ asked for at each step of the run, noisiest first.

        Raises:  SettingsError if the schedule does not fit the run, or slope makes a λ that is not positive.
        """
        if not run.steps:
            return ()
        if self.schedule is not None:
            return self.schedule.resolve(_descending(run), run.space)
        return linear_schedule(run.steps, self.slope, self.scale)

    def effective_scales(self, run: Run) -> tuple[float, ...]:
        """Return the λ in effect at each step: 1 outside the window, nearer to 1 where a stride is long."""
        if self.is_off or not run.steps:
            return (1.0,) * run.steps
        low, high = edges(self.sigma_high, self.sigma_low, run)
        sigmas = _descending(run)[:-1]
        shares = stride_shares(self.form(run.space), run)(torch.tensor(sigmas)).tolist()
        return tuple(
            _effective(scale, share) if low <= sigma <= high else 1.0
            for scale, share, sigma in zip(self.scales(run), shares, sigmas, strict=True)
        )

    def differences(self, **facts: Any) -> list[str]:
        """Say where a run differs from what the schedule was made for."""
        found = [] if self.schedule is None else self.schedule.differences(**facts)
        return [f"the schedule does not fit this run: {'; '.join(found)}"] if found else []

    def summary(self, run: Run) -> str:
        """Say at how many steps which scale is in effect, e.g. "lambda 1.004 to 1.009 at 18 of 20 steps"."""
        scales = self.effective_scales(run)
        used = [scale for scale in scales if f"{scale:.6g}" != "1"]
        if not used:
            return f"left all {len(scales)} steps as they were"
        low, high = min(used), max(used)
        values = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
        return f"lambda {values} at {len(used)} of {len(scales)} steps"

    def wrap(self, denoise: Denoise, run: Run) -> Denoise:
        """Return a denoiser whose clean estimates carry the correction; called once per run.

        Raises:  SettingsError as `form` and `scales` do, before any model call.
        """
        form = self.form(run.space)
        if self.is_off:
            return denoise
        scales = self.scales(run)
        if all(scale == 1 for scale in scales):
            return denoise
        scale_of = self._window(_curve(scales, _descending(run)[:-1]), run)
        shares = stride_shares(form, run)
        fades = form == "flow" or bool((shares(torch.tensor(run.sigmas)) < 1).any())

        def coefficients(x: Tensor, sigma: Tensor) -> _Coefficients:
            weight = 1 - 1 / scale_of(sigma)
            if fades:
                weight = weight * shares(sigma).to(x.dtype)
            return _coefficients(x, weight, sigma, form)

        varies = fades or isinstance(scale_of(torch.tensor(run.sigmas)), Tensor)
        found = _once_per_level(coefficients) if varies else coefficients

        def scaled(x: Tensor, sigma: Tensor) -> Tensor:
            return _lean(x, denoise(x, sigma), *found(x, sigma))

        return scaled

    def _window(self, scale_of: _ScaleOf, run: Run) -> _ScaleOf:
        """Let λ be 1 outside the bounds; bounds that contain the whole run cost nothing."""
        low, high = edges(self.sigma_high, self.sigma_low, run)
        if low == 0 and high == math.inf:
            return scale_of
        return lambda sigma: torch.where((sigma >= low) & (sigma <= high), scale_of(sigma), 1.0)

    @property
    def is_off(self) -> bool:
        """Whether these settings change nothing."""
        neutral = self.schedule is None and self.scale == 1 and self.slope == 0
        return neutral or self.sigma_low == self.sigma_high


_ScaleOf = Callable[[Tensor], "Tensor | float"]


def _curve(scales: tuple[float, ...], sigmas: tuple[float, ...]) -> _ScaleOf:
    """Return λ as a function of sigma [B]: a number if it never changes, else looked up on sigma's device."""
    if len(set(scales)) == 1:
        return lambda sigma: scales[0]
    table = _placed(scale_table(scales, sigmas))
    return lambda sigma: scale_at(sigma, table(sigma.device))


def _once_per_level(find: Callable[[Tensor, Tensor], _Coefficients]) -> Callable[..., _Coefficients]:
    """Return a function of x and sigma that remembers what it found, by the values of sigma.

    On a CPU: on another device reading them would make every step wait for all work before it.
    """
    known: dict[tuple, _Coefficients] = {}

    def found(x: Tensor, sigma: Tensor) -> _Coefficients:
        if sigma.device.type != "cpu":
            return find(x, sigma)
        key = (x.dtype, x.device, x.ndim, *sigma.tolist())
        if key not in known:
            if len(known) >= MOST_LEVELS:  # of a sampler that chooses its own
                known.clear()
            with torch.inference_mode(False), torch.no_grad():  # for later calls with gradients as well
                known[key] = find(x, sigma)
        return known[key]

    return found


def stride_shares(form: Form, run: Run) -> Callable[[Tensor], Tensor]:
    """Return the share of 1 - 1/λ that acts, as a function of sigma [N]: 1 but in a stride that is too long.

    A call's stride goes from its own sigma to the run's next lower one. Calls above the run's first sigma
    ("churn") share as that one does. Below a flow run's first level without signal, calls between levels are
    steps of a sampler that chooses its own, and share in full up to MAX_NOISE_RATIO.
    """
    levels = _placed(torch.tensor(run.sigmas, dtype=torch.float32).unique())

    def shares(sigma: Tensor) -> Tensor:
        table = levels(sigma.device)
        level = torch.minimum(sigma.to(table.dtype), table[-1])
        above = torch.bucketize(level * (1 - EDGE_TOLERANCE), table)
        here, there = (_noise_ratio(at, form) for at in (level, table.take((above - 1).clamp(min=0))))
        stride = (here - there) / torch.hypot(there, torch.ones_like(there))
        share = (LONGEST_STRIDE / stride.clamp(min=LONGEST_STRIDE)) ** 4
        if form == "flow":
            share = torch.where((table.take(above) >= 1) & (here <= MAX_NOISE_RATIO), 1.0, share)
        return share

    return torch.ones_like if form == "velocity" else shares


def _noise_ratio(sigma: Tensor, form: Form) -> Tensor:
    """Return sigma / alpha, finite even where there is no signal."""
    return sigma if form == "ve" else sigma / (1 - sigma).clamp(min=1e-12)


def _effective(scale: float, share: float) -> float:
    """Return the λ whose 1 - 1/λ is this share of a scale's."""
    return scale if share == 1 else 1 / (1 - share * (1 - 1 / scale))


def _placed(table: Tensor) -> Callable[[torch.device], Tensor]:
    """Return a table on a device, moved there once."""
    on_device: dict[torch.device, Tensor] = {}

    def on(device: torch.device) -> Tensor:
        if device not in on_device:
            on_device[device] = table.to(device)
        return on_device[device]

    return on


def _descending(run: Run) -> tuple[float, ...]:
    """Return the run's sigmas, noisiest first, as schedules have them; inverted runs climb."""
    return tuple(sorted(run.sigmas, reverse=True))


def sigma_limit(space: Form) -> float:
    """Return the sigma at which sigma / alpha is MAX_NOISE_RATIO."""
    return MAX_NOISE_RATIO if space == "ve" else MAX_NOISE_RATIO / (1 + MAX_NOISE_RATIO)


def _safe_signal(sigma: Tensor | float) -> Tensor | float:
    """Return flow's alpha, kept from 0."""
    alpha, least = signal_level(sigma, "flow"), 1 / (1 + MAX_NOISE_RATIO)
    return alpha.clamp(min=least) if isinstance(alpha, Tensor) else max(alpha, least)


def _check_form(space: Form, sigma: Tensor | float | None) -> None:
    if space not in FORMS:
        raise SettingsError(f"space is one of {', '.join(FORMS)}; got {space!r}")
    if space == "flow" and sigma is None:
        raise SettingsError("noise in space 'flow' cannot be told from signal without sigma; pass it")
