"""Schedules of the scale λ over a run: functions that compute one, and `Schedule`, which carries it.

Every schedule is a tuple of floats, one λ per sampling step, the noisiest step first: its length is
len(sigmas) - 1, and value i belongs to the step that starts at sigmas[i]. λ = 1 changes nothing, above 1
takes less noise away. Used by `methods/epsilon_scaling.py` and by the schedule node.
"""

from __future__ import annotations

import json
import math
import re
import sys
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from numbers import Real
from typing import Any

from .denoiser import Space, check_space, signal_level
from .errors import SettingsError
from .model_names import PRODUCTS

SCHEDULE_FORMAT = "steadydiff.schedule"
SCHEDULE_VERSION = 1
SCHEDULE_MODES = ("uniform", "linear", "table", "snr", "dcw")

# Two sigmas are the same step when they agree to this relative difference: hosts compute sigmas in float32,
# some of them twice and by different routes, so that the last few bits differ.
SIGMA_TOLERANCE = 1e-5


def uniform_schedule(steps: int, b: float) -> tuple[float, ...]:
    """Return λ = b at every step.

    Raises:  SettingsError if b is not finite and positive.
    Source:  Ning et al., 2023, arXiv 2308.15321, the uniform schedule.
    """
    return linear_schedule(steps, 0.0, b)


def linear_schedule(steps: int, k: float, b: float) -> tuple[float, ...]:
    """Return λ = k·t + b, where t counts the run's own steps and is 0 at the last, least noisy one.

    Units:   k per step; k > 0 makes λ largest at the noisiest step. b is λ at the last step, not the mean:
             the mean is b + k·(steps - 1)/2.
    Raises:  SettingsError if any λ is not finite and positive.
    Source:  Ning et al., 2023, arXiv 2308.15321, λ_t = k·t + b; t as in the authors' code, the index of the
             respaced process. Not to be confused with the training timestep, nor with a count from the
             noisiest step.
    """
    return check_scales(k * (steps - 1 - i) + b for i in range(steps))


TABLE_RANGE = (0.5, 1.5)
"""Of a λ that somebody sets, as of the widget `scale`."""

FORMULA_RANGE = (0.01, 100.0)
"""Of a λ that a formula gives, at the ends of its own widgets."""


def table_schedule(values: str | Iterable[float]) -> tuple[float, ...]:
    """Return the given λs; a text holds numbers parted by commas, semicolons, blanks or new lines.

    Raises:  SettingsError naming the part of the text that is not a number, the λ that is out of TABLE_RANGE,
             or what could be read in two ways.
    """
    if isinstance(values, str):
        if ";" in values and re.search(r"\d,\d", values):
            raise SettingsError(
                "the table has semicolons, and commas that may be decimal ones; write decimal points, e.g. "
                "1.006; 1.005"
            )
        values = [_number(token) for token in re.split(r"[,;\s]+", values) if token]
    scales = check_scales(values, TABLE_RANGE)
    if not scales:
        raise SettingsError("the table holds no number; write one scale per step, the noisiest step first")
    return scales


def snr_scale(snr: float, k: float, s: float) -> float:
    """Return λ = (snr·s²/k + 1) / (snr·s² + 1): 1 in pure noise, 1/k in a clean image.

    Units:   snr = (alpha / sigma)², a power ratio; k < 1 gives λ > 1.
    Source:  Temporal Score Rescaling, 2025, arXiv 2510.01184, equation 6, whose ratio r multiplies eps: λ
             is 1/r.
    """
    if math.isinf(snr):
        return 1 / k
    return (snr * s**2 / k + 1) / (snr * s**2 + 1)


def snr_schedule(
    sigmas: Sequence[float], k: float = 0.95, s: float = 1.0, space: Space = "ve"
) -> tuple[float, ...]:
    """Return the schedule that makes Epsilon Scaling equal Temporal Score Rescaling at every step.

    Units:   k and s as in the paper (`tsr_k` and `tsr_sigma` in ComfyUI); k = 1 changes nothing, larger s
             acts earlier.
    Raises:  SettingsError if k or s is not finite and positive.
    Source:  Temporal Score Rescaling, 2025, arXiv 2510.01184, equation 6.

    A solver that calls the model between two steps gets an interpolated λ there, not the curve's own value.
    """
    check_space(space)
    check_positive("k", k)
    check_positive("s", s)
    return check_scales(snr_scale(_snr(sigma, space), k, s) for sigma in sigmas[:-1])


def dcw_scale(ratio: float, lam: float) -> float:
    """Return the λ that moves one Euler step exactly as the pixel form of DCW does.

    Units:   ratio = sigma_next / sigma; lam is DCW's own weight, 0 changes nothing.
    Source:  DCW, 2026, arXiv 2604.16044, x_next += lam·(x_next - x0); with Euler's step,
             x_next = x0 + ratio·(x - x0), the two agree when λ = (1 - ratio) / (1 - ratio - ratio·lam).
    """
    rest = 1 - ratio - ratio * lam
    return (1 - ratio) / rest if rest else math.inf


def dcw_schedule(sigmas: Sequence[float], lam: float) -> tuple[float, ...]:
    """Return the schedule that makes an Euler run equal DCW in its pixel form.

    Raises:  SettingsError if a step is too short for lam: DCW would push it back beyond its own start, and no
             positive λ does that.
    Source:  DCW, 2026, arXiv 2604.16044; see `dcw_scale`. Exact in space "ve" with eps and in space "flow"
             with the *velocity* scaled; the last step, to sigma 0, is left as it is. Not the wavelet form.
    """
    if not math.isfinite(lam):
        raise SettingsError(f"lam is a finite number; got {lam}")
    scales = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), 1):
        scale = dcw_scale(sigma_next / sigma if sigma else math.inf, lam)
        if not (math.isfinite(scale) and scale > 0):
            raise SettingsError(
                f"step {step} from sigma {sigma:g} to {sigma_next:g} is too short for lam {lam:g}; "
                f"use a lam below {abs(sigma / sigma_next - 1) if sigma_next else 0:g} or fewer steps"
            )
        scales.append(scale)
    return tuple(scales)


def check_scales(values: Iterable[float], bounds: tuple[float, float] = (0.0, math.inf)) -> tuple[float, ...]:
    """Return the λs as floats.

    Raises:  SettingsError naming the first one that is not a finite, positive number within the bounds.
    """
    scales = []
    for step, value in enumerate(values, 1):
        check_positive(f"the scale of step {step}", value)
        if not bounds[0] <= value <= bounds[1]:
            raise SettingsError(
                f"the scale of step {step} is a number from {bounds[0]:g} to {bounds[1]:g}; got {value:g}"
            )
        scales.append(float(value))
    return tuple(scales)


@dataclass(frozen=True)
class MadeFor:
    """What a schedule was made for; None = not known. `sigmas` include the final one."""

    sampler: str | None = None
    scheduler: str | None = None
    steps: int | None = None
    cfg: float | None = None
    model: str | None = None
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))


@dataclass(frozen=True)
class Schedule:
    """λ for every step of a run, how it was made, and what for. In JSON, a STEADYDIFF_SCHEDULE.

    mode:     one of SCHEDULE_MODES
    values:   one λ per step, the noisiest first
    made_for: what it was made for; where the sigmas are known, a run over others reads its λs off by level
    """

    mode: str
    values: tuple[float, ...]
    made_for: MadeFor = field(default_factory=MadeFor)

    def __post_init__(self) -> None:
        if self.mode not in SCHEDULE_MODES:
            raise SettingsError(f"a schedule's mode is one of {', '.join(SCHEDULE_MODES)}; got {self.mode!r}")
        bounds = TABLE_RANGE if self.mode == "table" else FORMULA_RANGE
        object.__setattr__(self, "values", check_scales(self.values, bounds))
        if not self.values:
            raise SettingsError("a schedule holds one scale per step; got none")
        sigmas = self.made_for.sigmas
        if sigmas is not None and len(sigmas) != len(self.values) + 1:
            raise SettingsError(
                f"a schedule of {len(self.values)} scales belongs to {len(self.values) + 1} sigmas, the "
                f"final one included; got {len(sigmas)}"
            )

    def resolve(self, sigmas: Sequence[float], space: Space = "ve") -> tuple[float, ...]:
        """Return the λs of a run over `sigmas`, noisiest first: its own part of the schedule.

        A run whose steps start at a contiguous part of `made_for.sigmas` takes that part, bit for bit; its
        final sigma is not compared, as a host may replace it by 0. Any other run reads its λs off at its own
        levels, linear in `log_ratio` between those of the schedule and constant outside; `differences` then
        names the sigmas. A schedule that does not know its levels is taken one by one.

        Raises:  SettingsError if the levels are not known and the run has another number of steps.
        """
        steps = max(len(sigmas) - 1, 0)
        first = self._find(sigmas[:-1])
        if first is not None:
            return self.values[first : first + steps]
        if self.made_for.sigmas:
            own = reversed([*zip(self.made_for.sigmas, self.values, strict=False)])
            known = sorted({log_ratio(sigma, space): value for sigma, value in own}.items())
            return tuple(_between(log_ratio(sigma, space), known) for sigma in sigmas[:-1])
        if steps == len(self.values):
            return self.values
        raise SettingsError(
            f"the schedule has {len(self.values)} steps, the run has {steps}; make the schedule for "
            f"{steps} steps, or run {len(self.values)}"
        )

    def _find(self, starts: Sequence[float]) -> int | None:
        """Return where the run's steps begin within the steps the schedule was made for."""
        own = (self.made_for.sigmas or ())[:-1]
        for first in range(len(own) - len(starts) + 1):
            if all(_same_sigma(a, b) for a, b in zip(own[first:], starts, strict=False)):
                return first
        return None

    def differences(self, names: Mapping[str, str] | None = None, **facts: Any) -> list[str]:
        """Name what differs from what the schedule was made for, e.g. ["cfg 4.0, made for 7.0"].

        names: what people call the values of facts, where it is something else
        facts: any of MadeFor's fields; what is None on either side never differs, and sigmas that are a part
               of those it was made for do not either. Told as well: where the schedule's levels end before
               the run's.
        """
        found = []
        for name, value in facts.items():
            meant = getattr(self.made_for, name)
            if value is None or meant is None or value == meant:
                continue
            if name != "sigmas":
                now = (names or {}).get(name, value)
                found.append(f"{name} {now}, made for {PRODUCTS.get(str(meant), meant)}")
            elif self._find(value[:-1]) is None:
                found.append(_parted(value, meant) + _uncovered(value, meant))
        return found

    def to_json(self) -> str:
        """Write the schedule as JSON text; what it was made for is listed as far as it is known."""
        known = {name: value for name, value in asdict(self.made_for).items() if value is not None}
        head = {"format": SCHEDULE_FORMAT, "version": SCHEDULE_VERSION, "mode": self.mode}
        return json.dumps({**head, "values": self.values, "made_for": known})

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> Schedule:
        """Read a schedule from JSON text, or from what a JSON parser made of it.

        Facts in `made_for` whose names we do not know are dropped: they describe, they change no λ.
        Raises:  SettingsError if it is no schedule, of another version, or holds a value that is no scale.
        """
        data = parsed(source, "a schedule")
        if data.get("format") != SCHEDULE_FORMAT or data.get("version") != SCHEDULE_VERSION:
            raise SettingsError(
                f"a schedule is JSON of format {SCHEDULE_FORMAT!r}, version {SCHEDULE_VERSION}; got format "
                f"{data.get('format')!r}, version {data.get('version')!r}"
            )
        values, made_for = data.get("values"), data.get("made_for") or {}
        if not isinstance(values, (list, tuple)) or not isinstance(made_for, Mapping):
            raise SettingsError("a schedule's 'values' are a list and its 'made_for' an object")
        names = {entry.name for entry in fields(MadeFor)}
        facts = {name: value for name, value in made_for.items() if name in names}
        if facts.get("sigmas") is not None:
            facts["sigmas"] = tuple(check_sigmas(facts["sigmas"]))
        return cls(str(data.get("mode")), tuple(values), MadeFor(**facts))


def read_table(text: str) -> Schedule:
    """Return the schedule a text holds: numbers, or a whole schedule as JSON."""
    if text.lstrip().startswith("{"):
        return Schedule.from_json(text)
    return Schedule("table", table_schedule(text))


def check_sigmas(sigmas: Any) -> list[float]:
    """Return noise levels as floats.

    Raises:  SettingsError unless they are a list of finite numbers, none negative.
    """
    if not isinstance(sigmas, (list, tuple)) or not all(_is_number(s) and s >= 0 for s in sigmas):
        raise SettingsError("sigmas are a list of finite numbers, none negative")
    return [float(sigma) for sigma in sigmas]


def parsed(source: str | Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return the object that a JSON text holds, or that a JSON parser made of one.

    Raises:  SettingsError, naming `what` it should be, if it is none, or holds half a character.
    """
    if isinstance(source, str):
        try:
            source = json.loads(source)
            json.dumps(source, ensure_ascii=False).encode()  # JSON can hold one, which nobody can print
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{what} is JSON; this is not: {error}") from error
    if not isinstance(source, Mapping):
        raise SettingsError(f"{what} is a JSON object; got {type(source).__name__}")
    return source


def _number(token: str) -> float:
    try:
        if "_" in token:  # Python reads 1_0 as 10
            raise ValueError
        return float(token)
    except ValueError as error:
        raise SettingsError(f"the table holds {token!r}, not a number; write e.g. 1.006, 1.005") from error


def _is_number(value: Any) -> bool:
    """True for a finite number that fits a float, which JSON's integers need not; NaN compares as False."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max  # pyright: ignore[reportOperatorIssue]


def check_positive(name: str, value: Any) -> None:
    """Raise SettingsError unless a setting is a finite number above 0."""
    if not (_is_number(value) and value > 0):
        raise SettingsError(f"{name} is a finite number above 0; got {value!r}")


def log_ratio(sigma: float, space: Space) -> float:
    """Return log(sigma / alpha), along which λ is interpolated: log sigma in "ve".

    In "flow" it is log(sigma / (1 - sigma)), infinite in pure noise: sigma itself is no ratio there.
    """
    alpha = float(signal_level(sigma, space))
    if not sigma:
        return -math.inf
    return math.log(sigma / alpha) if alpha > 0 else math.inf


def _between(at: float, known: Sequence[tuple[float, float]]) -> float:
    """Return the value at a level, of pairs in the order of their levels: linear between two neighbours.

    What stands at an infinite level is valid there only; outside the nearest value holds.
    """
    after = bisect([level for level, _ in known], at)
    (low, value), (high, other) = known[max(after - 1, 0)], known[min(after, len(known) - 1)]
    if at <= low or high == math.inf:
        return value
    if low == -math.inf:
        return other
    return value + (other - value) * ((at - low) / (high - low) if high > low else 0.0)


def _snr(sigma: float, space: Space) -> float:
    return (float(signal_level(sigma, space)) / sigma) ** 2 if sigma else math.inf


def _span(sigmas: Sequence[float]) -> str:
    return f"{sigmas[0]:.4g} to {sigmas[-1]:.4g} in {len(sigmas) - 1} steps" if sigmas else "none"


def _parted(sigmas: Sequence[float], meant: Sequence[float]) -> str:
    """Name how noise levels differ: by their ends, or, where these read the same, at the first that does."""
    ours, theirs = _span(sigmas), _span(meant)
    if ours != theirs:
        return f"sigmas {ours}, made for {theirs}"
    pairs = enumerate(zip(sigmas, meant, strict=True), 1)
    step, (a, b) = next((step, (a, b)) for step, (a, b) in pairs if not _same_sigma(a, b))
    return f"sigmas of step {step} {a:.7g}, made for {b:.7g}, between the same ends"


def _uncovered(sigmas: Sequence[float], meant: Sequence[float]) -> str:
    """Say where steps start outside a schedule's own levels, if some do."""
    starts, own = sorted(sigmas, reverse=True)[:-1], sorted(meant, reverse=True)[:-1]
    beyond = [f"above {own[0]:.4g}"] if starts[0] > own[0] and not _same_sigma(starts[0], own[0]) else []
    beyond += (
        [f"below {own[-1]:.4g}"] if starts[-1] < own[-1] and not _same_sigma(starts[-1], own[-1]) else []
    )
    return f"; {' and '.join(beyond)} it knows no scale and its nearest holds" if beyond else ""


def _same_sigma(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SIGMA_TOLERANCE, abs_tol=1e-9)
