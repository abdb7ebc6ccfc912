"""What DiffIER is tried with by the contract's tests."""

from steadydiff.drift.measurement import Measurement
from steadydiff.methods.diffier import DiffIER
from tests.contract.cases import RUNS, Cases


def measured(space):
    """A measurement whose norms no case happens to have already."""
    return Measurement(
        space=space,
        sigmas=(0.9, 0.0),
        count=2,
        shape=(1, 8),
        seed=0,
        reference="given",
        sampling_norm=(0.7,),
        training_norm=(0.7,),
        sampling_rms=(0.7,),
        training_rms=(0.7,),
        state_variance=(1.0, 1.0),
        expected_variance=(1.0, 1.0),
    )


CASES = Cases(
    neutral=(
        DiffIER(strength=0.0),
        DiffIER(iterations=0, sigma_high=9.0),
        DiffIER(sigma_high=2.0, sigma_low=2.0),
    ),
    active=(
        (DiffIER(), tuple(RUNS)),
        (DiffIER(iterations=3, threshold=0.01, sigma_high=float("inf")), tuple(RUNS)),
        (DiffIER(antithetic=True, sigma_high=0.9, sigma_low=0.1), tuple(RUNS)),
        (DiffIER("norm", measurement=measured("ve")), ("ve", "zsnr")),
        (DiffIER("norm", 0.1, iterations=9, threshold=1e-3, measurement=measured("flow")), ("flow",)),
        (DiffIER("previous", 0.1, sigma_high=float("inf")), tuple(RUNS)),
        (DiffIER("literal", 0.1), tuple(RUNS)),
    ),
    refused=(
        (DiffIER("norm"), RUNS["ve"]),
        (DiffIER("norm", measurement=measured("flow")), RUNS["ve"]),
    ),
)
