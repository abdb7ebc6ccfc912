"""What TimeShift is tried with by the contract's tests."""

from steadydiff.methods.time_shift import TimeShift
from tests.contract.cases import RUNS, Cases

CASES = Cases(
    neutral=(TimeShift(1.0), TimeShift(0.9, sigma_high=2.0, sigma_low=2.0)),
    active=(
        (TimeShift(0.95), tuple(RUNS)),
        (TimeShift(1.1, sigma_high=0.9, sigma_low=0.1), tuple(RUNS)),
    ),
    refused=(),
)
