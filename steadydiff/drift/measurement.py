"""The drift of a model while it samples, as `recorder` measures it: its curves and their file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..denoiser import Run, Space, check_space
from ..errors import SettingsError
from ..metrics.norms import norm_quotient
from ..metrics.paper import PAPER_CURVES
from ..metrics.spectrum import ring_count
from ..references import OTHER_KIND, OWN, is_shipped
from ..schedules import MadeFor, parsed

MEASUREMENT_FORMAT = "steadydiff.measurement"
MEASUREMENT_VERSION = 1
CURVES = (
    "sampling_norm",
    "training_norm",
    "sampling_rms",
    "training_rms",
    "state_variance",
    "expected_variance",
)
OWN_SAMPLES = OWN
FEW_STEP_ONLY = "few-step error only, not the model's own bias"
"""What a model's own samples show as reference: the bias that made them is in them, and cancels."""

MOST_KEPT = 256
"""Of so many samples a measurement holds the norms one by one."""


@dataclass(frozen=True)
class Measurement:
    """What a model predicts while it samples, beside what it predicts on noised clean samples.

    space, sigmas: the run, the final sigma included
    count, shape:  how many samples, and the shape [C, *S] of one
    seed:          of the first sample's noise; sample j has seed + j
    reference:     where the clean samples came from, in words
    sampling_norm: mean L2 norm of the predicted noise at each step of the run, and
    training_norm: on clean samples noised to the same sigma
    sampling_rms:  as sampling_norm, but the root of the mean square, and
    training_rms:  as training_norm, likewise
    state_variance:    variance of the sampler's states, mean over elements, the final one included, and
    expected_variance: of noised clean samples, alpha² Var(x0) + sigma²
    clean_spectrum:    `spectrum` of the clean samples, [C][R], and
    training_norms:    the norms behind training_norm, [N][steps], of the first MOST_KEPT samples; both empty
                       in measurements of earlier versions
    delta:          `delta_paper` of the states of runs that begin at noised clean samples, the final one
                    included, in the units of x; this and the next two are empty unless asked for
    step_delta:     `single_step_error` after one ancestral step from a truly noised sample, at each step, and
    estimate_error: e, root mean square error of the clean estimate there
    standard_errors: of norms, "quotient", "variance_error" and the three above, by name, over the samples;
                    empty in measurements of earlier versions
    label:         what corrected the model, in words; "" = nothing of ours
    made_for:      sampler, cfg and model it was measured with
    """

    space: Space
    sigmas: tuple[float, ...]
    count: int
    shape: tuple[int, ...]
    seed: int
    reference: str
    sampling_norm: tuple[float, ...]
    training_norm: tuple[float, ...]
    sampling_rms: tuple[float, ...]
    training_rms: tuple[float, ...]
    state_variance: tuple[float, ...]
    expected_variance: tuple[float, ...]
    clean_spectrum: tuple[tuple[float, ...], ...] = ()
    training_norms: tuple[tuple[float, ...], ...] = ()
    delta: tuple[float, ...] = ()
    step_delta: tuple[float, ...] = ()
    estimate_error: tuple[float, ...] = ()
    standard_errors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    label: str = ""
    made_for: MadeFor = field(default_factory=MadeFor)

    def __post_init__(self) -> None:
        Run(self.space, self.sigmas)
        numbers, texts = (self.seed, self.count, *self.shape), (self.reference, self.label)
        if not all(type(n) is int for n in numbers) or len(self.shape) < 2 or min(numbers[1:]) < 1:
            raise SettingsError(f"seed, count and shape [C, *S] are whole numbers; got {numbers}")
        if not all(type(text) is str for text in texts):
            raise SettingsError("a measurement's reference and label are texts")
        for name in (*CURVES, *PAPER_CURVES):
            values = getattr(self, name)
            given = values or name in CURVES
            object.__setattr__(self, name, self._checked(name, values) if given else ())
        errors = {name: self._checked(name, values) for name, values in self.standard_errors.items()}
        object.__setattr__(self, "standard_errors", errors)
        self._check_rows("clean_spectrum", self.shape[0], ring_count(self.shape))
        self._check_rows("training_norms", min(self.count, MOST_KEPT), len(self.sigmas) - 1)

    def _checked(self, name: str, values: Sequence[float]) -> tuple[float, ...]:
        """A curve's values; those of states have one more than the run has steps."""
        of_states = name.endswith("variance") or name in ("delta", "variance_error")
        expected = len(self.sigmas) - (not of_states)
        values = tuple(float(value) for value in values)
        if len(values) != expected or not all(map(math.isfinite, values)):
            raise SettingsError(
                f"a measurement of {len(self.sigmas) - 1} steps has {expected} finite values of {name}; "
                f"got {len(values)}"
            )
        return values

    def _check_rows(self, name: str, count: int, length: int) -> None:
        rows = tuple(tuple(float(value) for value in row) for row in getattr(self, name))
        if rows and len(rows) != count or any(len(row) != length for row in rows):
            raise SettingsError(f"{name} of this measurement has {count} rows of {length} values")
        if not all(math.isfinite(value) and value >= 0 for row in rows for value in row):
            raise SettingsError(f"{name} holds finite values, none negative")
        object.__setattr__(self, name, rows)

    @property
    def run(self) -> Run:
        """The run that was measured."""
        return Run(self.space, self.sigmas, self.seed)

    @property
    def is_own(self) -> bool:
        """Whether the clean samples were the model's own."""
        return self.reference.startswith(OWN_SAMPLES)

    @property
    def shows(self) -> str:
        """What the curves show with this reference, in words."""
        if self.is_own:
            return FEW_STEP_ONLY
        told = "few-step error and the model's own bias"
        return f"{told}, against {self.reference}, which {OTHER_KIND}" if is_shipped(self.reference) else told

    @property
    def quotient(self) -> tuple[float, ...]:
        """ΔN per step, see `norm_quotient`."""
        return norm_quotient(self.sampling_norm, self.training_norm)

    @property
    def variance_error(self) -> tuple[float, ...]:
        """Variance of the states over what it should be, minus 1; one more value than steps."""
        pairs = zip(self.state_variance, self.expected_variance, strict=True)
        return tuple(state / expected - 1 if expected else 0.0 for state, expected in pairs)

    def summary(self) -> dict[str, float]:
        """The drift in three numbers: mean and largest |ΔN - 1|, and the final variance error."""
        off = [abs(quotient - 1) for quotient in self.quotient]
        return {
            "mean_norm_drift": sum(off) / len(off),
            "largest_norm_drift": max(off),
            "final_variance_error": self.variance_error[-1],
        }

    def to_json(self) -> str:
        """Write the measurement as JSON text; what it was made for is listed as far as it is known."""
        data = asdict(self)
        data["made_for"] = {name: value for name, value in data["made_for"].items() if value is not None}
        data["curves"] = {name: data.pop(name) for name in CURVES}
        return json.dumps({"format": MEASUREMENT_FORMAT, "version": MEASUREMENT_VERSION, **data})

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> Measurement:
        """Read a measurement from JSON text, or from what a JSON parser made of it.

        Raises:  SettingsError if it is none, of another version, or its values do not fit together.
        """
        data = parsed(source, "a measurement")
        if data.get("format") != MEASUREMENT_FORMAT or data.get("version") != MEASUREMENT_VERSION:
            raise SettingsError(
                f"a measurement is JSON of format {MEASUREMENT_FORMAT!r}, version {MEASUREMENT_VERSION}; got "
                f"format {data.get('format')!r}, version {data.get('version')!r}"
            )
        try:
            return cls(**_facts(data))
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise SettingsError(f"this measurement is damaged: {error}") from error


def own_samples(steps: int) -> str:
    """Return in words that a model's own samples of so many steps are the reference."""
    return f"{OWN_SAMPLES} of {steps} steps"


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass's arguments from the parsed file; what we do not know is dropped."""
    check_space(data["space"])
    known = {entry.name for entry in fields(Measurement)}
    facts = {name: value for name, value in {**data, **data["curves"]}.items() if name in known}
    names = {entry.name for entry in fields(MadeFor)}
    made_for = {name: value for name, value in data.get("made_for", {}).items() if name in names}
    return facts | {
        "sigmas": tuple(map(float, data["sigmas"])),
        "shape": tuple(map(int, data["shape"])),
        "made_for": MadeFor(**made_for),
    }
