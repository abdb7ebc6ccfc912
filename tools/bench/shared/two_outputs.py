"""A network of two outputs, as MDSS trains it, on its way through a bench's sampler."""

from collections.abc import Callable

from torch import Tensor

from steadydiff.methods.mdss import XiModel

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(x, place in the training schedule, conditioning) -> what it predicts, and its second output."""


class Recorded:
    """The network, and for MDSS its second output of the latest call.

    levels: the noise levels of its training schedule, from the least to the most
    k:      over how many of them MDSS carried errors
    """

    def __init__(self, evaluate: Evaluate, levels: Tensor, k: int) -> None:
        self._evaluate, self._xi = evaluate, None
        self.model = XiModel(self._latest, "ve", sigma_range=(float(levels[0]), float(levels[-k - 2])))

    def __call__(self, x: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        prediction, self._xi = self._evaluate(x, t, conditioning)
        return prediction

    def _latest(self, x: Tensor, sigma: Tensor) -> Tensor:
        del x, sigma
        assert self._xi is not None
        return self._xi
