"""Moments gathered batch by batch, so that 50,000 samples need no 50,000 samples in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingsError, ShapeError


class _Running:
    """Mean and sum of products of deviations, merged exactly, without the cancellation of E[x²] - E[x]².

    Source:  Chan, Golub and LeVeque, 1983, updating formulae for two parts of a sample.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._spread = torch.zeros((), dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in the samples of one batch [B, ...]; B may differ from call to call."""
        batch = batch.cpu().double()  # not every device knows float64
        mean = batch.mean(0)
        self._merge(len(batch), mean, self._products(batch - mean))

    def merge(self, other: _Running) -> None:
        """Take in what another one has gathered, as if its samples had been added here."""
        self._merge(other.count, other.mean, other._spread)

    def _merge(self, count: int, mean: Tensor, spread: Tensor) -> None:
        if not count:
            return
        if not self.count:
            self.count, self.mean, self._spread = count, mean, spread
            return
        if mean.shape != self.mean.shape:
            raise ShapeError(
                f"all samples have one shape; got {tuple(mean.shape)} after {tuple(self.mean.shape)}"
            )
        total = self.count + count
        shift = mean - self.mean
        between = self._products(shift[None]) * self.count * count / total
        self._spread = self._spread + spread + between
        self.mean = self.mean + shift * count / total
        self.count = total

    def _products(self, rows: Tensor) -> Tensor:
        raise NotImplementedError


class RunningMoments(_Running):
    """Mean and variance of every element over samples that arrive in batches.

    Shapes:  `add` takes [B, *S]; `mean` and `variance` are [*S].
    Dtype:   float64, on the CPU; memory is two tensors of the size of one sample.
    """

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of each element; SettingsError with fewer than two samples."""
        return self._spread / (check_count(self.count) - 1)

    @property
    def mean_square(self) -> Tensor:
        """Mean of the squares of each element."""
        return self.mean.square() + self._spread / max(self.count, 1)

    @property
    def pooled_variance(self) -> float:
        """Variance over samples and elements together, about the one mean of all, as `numpy.var` takes it."""
        within = self._spread.mean() / check_count(self.count)
        return float(within + self.mean.var(correction=0))

    def _products(self, rows: Tensor) -> Tensor:
        return rows.square().sum(0)


class RunningCovariance(_Running):
    """Mean and covariance of features that arrive in batches, for the Fréchet distance.

    Shapes:  `add` takes [B, D]; `mean` is [D], `covariance` [D, D].
    Dtype:   float64, on the CPU.
    """

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance; SettingsError with fewer than two samples."""
        return self._spread / (check_count(self.count) - 1)

    def _products(self, rows: Tensor) -> Tensor:
        return rows.T @ rows


class Rows:
    """Numbers of the first samples one by one, at each of some places, for standard errors; the rest of the
    samples is left out, so that memory does not grow.

    Shapes:  `add` takes [B] at a place; `values` are [N, places], in float64 on the CPU.
    """

    def __init__(self, places: int, most: int) -> None:
        self._kept: list[list[float]] = [[] for _ in range(places)]
        self._most = most

    def add(self, place: int, values: Tensor) -> None:
        """Take in the numbers of one batch at a place, counted from 0."""
        kept = self._kept[place]
        kept += values[: self._most - len(kept)].cpu().double().tolist()

    @property
    def values(self) -> Tensor:
        """What was kept."""
        return torch.tensor(self._kept, dtype=torch.float64).T


def standard_errors(values: Tensor, count: int) -> tuple[float, ...]:
    """Return the standard error of the mean over `count` samples, judged by those whose values are known.

    Shapes:  values [N, places].
    Raises:  SettingsError for fewer than two values.
    """
    check_count(len(values))
    return tuple((values.std(0) / count**0.5).tolist())


def check_count(count: int) -> int:
    """Return a number of samples; SettingsError if a variance cannot be taken of so few."""
    if count < 2:
        raise SettingsError(f"a variance needs at least 2 samples; got {count}")
    return count
