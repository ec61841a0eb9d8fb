"""Bias and variance of approximate gradients from a stream of sub-batches, without bias and in constant memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FEWEST = 16
"""Sub-batches that a normal interval takes at least."""


class HiddenGradientError(ValueError):
    """Noise hides the true gradient, so that nothing can be compared with it."""


@dataclass(frozen=True)
class Estimate:
    """An estimate without bias and its standard error.

    Of a square it may be below 0: noise that is subtracted on average is sometimes more than there is.
    """

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """A normal interval of 95%."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error


class GradientErrors:
    """Collects, sub-batch by sub-batch, how far approximate gradients are from exact ones of the same images.

    Let g_m be the exact gradient of sub-batch m of M and c_m an approximate one. The naive squared bias, of the mean
    of ``d_m = c_m - g_m``, carries ``Var(d) / M`` of its own, and the squared norm of the mean g likewise. Without bias
    are the means over all *pairs* of sub-batches, ``2 / (M (M - 1)) * sum_{j < m} <d_j, d_m>``, which a running mean of
    the earlier ones makes possible in a stream: ``<d_m, mean_{j < m} d_j>`` weighed by ``m - 1``. The variance is the
    sample's own, by Welford's recurrence. So of each kind of gradient one vector is kept, and some numbers of each
    sub-batch.

    Standard errors come from the second half of the sub-batches, where the running mean is steady, by the delta method.
    They are right where the bias is large, and up to two thirds too wide where there is none, since the running mean of
    the earlier sub-batches is noisier than that of all.

    Args:
        approximations: How many approximate gradients there are of each sub-batch.
        sub_batch: Images of a sub-batch, K; variances are of one image: K times those of a sub-batch's mean.
    """

    def __init__(self, approximations: int, sub_batch: int) -> None:
        self.sub_batch = sub_batch
        self.count = 0
        self._exact: Tensor | None = None
        self._differences: list[Tensor] = [torch.empty(0)] * approximations
        self._rows: list[Tensor] = []

    def add(self, exact: Tensor, approximate: Sequence[Tensor]) -> None:
        """Add a sub-batch.

        Args:
            exact: Its exact gradient, ``(P,)``.
            approximate: The approximate ones, ``(P,)`` each.
        """
        if self._exact is None:
            self._exact = exact.clone()
            self._differences = [gradient - exact for gradient in approximate]
            self.count = 1
            return
        self._exact = self._exact.to(exact)
        self._differences = [mean.to(exact) for mean in self._differences]
        row = [exact @ self._exact]
        for gradient, mean in zip(approximate, self._differences, strict=True):
            deviation = gradient - self._exact - mean
            difference = gradient - exact
            row += [difference @ mean, deviation @ deviation * (self.count / (self.count + 1))]
            mean.add_(difference - mean, alpha=1 / (self.count + 1))
        self._exact.add_(exact - self._exact, alpha=1 / (self.count + 1))
        self._rows.append(torch.stack(row).double().cpu())
        self.count += 1

    @property
    def squared_norm(self) -> Estimate:
        """Squared norm of the true gradient."""
        products = self._table[:, 0]
        return Estimate(float(self._over_pairs(products)), self._error(2 * products))

    def relative(self, index: int, cost: float) -> tuple[Estimate, Estimate, Estimate]:
        """Errors of an approximation over the squared norm of the true gradient (Eqs. 8 to 10 of the paper).

        Args:
            index: Which approximation.
            cost: ``Cost / Budget`` of an image.

        Returns:
            Squared bias, cost-adjusted variance, and their sum, the cost-adjusted mean squared error. Each is a
            quotient of two estimates without bias.

        Raises:
            HiddenGradientError: the estimate of the squared norm is not above 0.
        """
        exact, bias, variance = self._table[:, 0], self._table[:, 1 + 2 * index], self._table[:, 2 + 2 * index]
        norm = self.squared_norm
        if norm.value <= 0:
            raise HiddenGradientError(
                f"the squared norm of the true gradient is estimated as {norm.value:.3g} +- {norm.error:.2g}, which "
                f"must be above 0: noise hides it in {self.count} sub-batches; use more samples"
            )
        scale = cost * self.sub_batch
        squared_bias = float(self._over_pairs(bias)) / norm.value
        adjusted = scale * float(variance.mean()) / norm.value
        # How much each sub-batch moves the figures, up to a constant.
        of_bias = 2 * (bias - squared_bias * exact) / norm.value
        of_variance = (scale * variance - adjusted * 2 * exact) / norm.value
        return (
            Estimate(squared_bias, self._error(of_bias)),
            Estimate(adjusted, self._error(of_variance)),
            Estimate(squared_bias + adjusted, self._error(of_bias + of_variance)),
        )

    def ca_mse(self, index: int, cost: float) -> float:
        """The cost-adjusted mean squared error of an approximation, not over the norm: to compare several.

        Args:
            index: Which approximation.
            cost: ``Cost / Budget`` of an image.
        """
        bias, variance = self._table[:, 1 + 2 * index], self._table[:, 2 + 2 * index]
        return float(self._over_pairs(bias) + cost * self.sub_batch * variance.mean())

    def state_dict(self) -> dict[str, Any]:
        """What has been collected, as tensors and numbers."""
        rows = torch.stack(self._rows) if self._rows else torch.empty(0)
        means = [] if self._exact is None else [self._exact.clone(), *(mean.clone() for mean in self._differences)]
        return {"count": self.count, "means": means, "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on any device."""
        self.count = state["count"]
        self._rows = list(state["rows"])
        if state["means"]:
            self._exact, *self._differences = (mean.clone() for mean in state["means"])

    @property
    def _table(self) -> Tensor:
        if self.count < FEWEST:
            raise ValueError(f"estimates of a gradient's error need at least {FEWEST} sub-batches, got {self.count}")
        return torch.stack(self._rows)

    def _over_pairs(self, products: Tensor) -> Tensor:
        """The mean over pairs of ``products`` of each sub-batch with the mean of the earlier ones."""
        earlier = torch.arange(1, self.count, dtype=products.dtype)
        return (products * earlier).sum() * 2 / (self.count * (self.count - 1))

    def _error(self, influences: Tensor) -> float:
        return float(influences[len(influences) // 2 :].std()) / math.sqrt(self.count)
