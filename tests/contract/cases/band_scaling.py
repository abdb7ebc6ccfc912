"""What BandScaling is tried with by the contract's tests."""

from steadydiff.methods.band_scaling import BandScaling
from steadydiff.methods.epsilon_scaling import EpsilonScaling
from steadydiff.schedules import Schedule
from tests.contract.cases import RUNS, Cases

CASES = Cases(
    neutral=(
        BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.0)),
        BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.3, sigma_high=2.0, sigma_low=2.0)),
    ),
    active=(
        (BandScaling(EpsilonScaling(1.05), EpsilonScaling(0.97, 0.003)), tuple(RUNS)),
        (BandScaling(EpsilonScaling(1.05), EpsilonScaling(1.0)), tuple(RUNS)),
        (
            BandScaling(
                EpsilonScaling(schedule=Schedule("table", (1.2, 1.1, 1.0, 0.9, 1.01))),
                EpsilonScaling(1.1, sigma_high=0.9, sigma_low=0.1),
            ),
            tuple(RUNS),
        ),
        (BandScaling(EpsilonScaling(1.0), EpsilonScaling(1.05, space="velocity")), ("flow",)),
    ),
    refused=(
        (BandScaling(EpsilonScaling(1.05), EpsilonScaling(1.05, space="velocity")), RUNS["ve"]),
        (BandScaling(EpsilonScaling(schedule=Schedule("table", (1.2, 1.1)))), RUNS["ve"]),
    ),
)
