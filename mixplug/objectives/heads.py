"""Heads of two-view objectives: linear layers, each with an optional BatchNorm and an activation, as in the papers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLPHead(nn.Module):
    """Linear layers with BatchNorm and an activation between them: projectors and predictors.

    A linear layer has a bias where no BatchNorm follows.

    Args:
        widths: Of the features and of each layer's output, at least two.
        batch_norm: Whether the hidden layers are normalised over the batch.
        last_norm: BatchNorm behind the last layer: "affine", "plain" (without scale and shift) or None.
        activation: What follows each hidden layer.

    Example:
        >>> MLPHead([384, 4096, 256])(torch.rand(8, 384)).shape
        torch.Size([8, 256])
    """

    def __init__(
        self,
        widths: Sequence[int],
        batch_norm: bool = True,
        last_norm: str | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        *hidden, last = pairwise(widths)
        for width, out in hidden:
            layers.append(nn.Linear(width, out, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(out))
            layers.append(activation())
        layers.append(nn.Linear(*last, bias=last_norm is None))
        if last_norm is not None:
            layers.append(nn.BatchNorm1d(last[1], affine=last_norm == "affine"))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings ``(B, widths[-1])`` of features ``(B, widths[0])``."""
        return self.layers(features)


class PrototypeHead(nn.Module):
    """Three layers, a normalised bottleneck, normalised prototypes (Caron et al., 2021, appendix C).

    Normalised weights are torch's weight_norm with its gain held at 1, which is the paper's default, in a form that
    can be copied.

    Args:
        width: Of the features.
        hidden_dim: Width of the hidden layers.
        bottleneck_dim: Width of what is normalised.
        prototypes: Their number K.
        batch_norm: Whether the hidden layers are normalised over the batch.
    """

    def __init__(
        self, width: int, hidden_dim: int, bottleneck_dim: int, prototypes: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.layers = MLPHead([width, hidden_dim, hidden_dim, bottleneck_dim], batch_norm, activation=nn.GELU)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(nn.Linear(bottleneck_dim, prototypes, bias=False).weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, K)`` of features ``(B, D)``."""
        return F.linear(F.normalize(self.layers(features), dim=-1), F.normalize(self.prototypes, dim=-1))
