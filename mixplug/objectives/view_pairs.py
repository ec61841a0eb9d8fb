"""The table of a step of two views: what is shown, and which view predicts which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mixplug.backbones import BackbonePass, Role
from mixplug.checks import check_real


@dataclass(frozen=True)
class View:
    """What is shown of a batch's images.

    Args:
        images: ``(B, C, H, W)``.
        role: Of the pass that encodes it where it predicts: ``SHARED``, the model's own, which has been made;
            ``QUERY``, one of its own; ``LOCAL``, one for all such views together. ``KEY``: it is predicted alone, and
            needs no gradient.
    """

    images: Tensor
    role: Role = Role.QUERY


@dataclass(frozen=True)
class Pair:
    """A view that predicts another one.

    Args:
        predicting: Its number.
        predicted: The other's.
        weight: What the pair's loss weighs in the mean over pairs, above 0.
        soft_targets: ``(B, B)``, how much each image of the batch is a positive of each; None for an image's own other
            view. See :mod:`mixplug.objectives.pairs`.
    """

    predicting: int
    predicted: int
    weight: float = 1.0
    soft_targets: Tensor | None = None

    def __post_init__(self) -> None:
        check_real("the weight of a Pair", self.weight, 0, math.inf, low_open=True, high_open=True)


@dataclass(frozen=True)
class ViewPairs:
    """The views of a step by number, and the pairs of them that are compared.

    Args:
        views: View 0 is what the model's own pass saw.
        pairs: In the order in which they are averaged.
    """

    views: Mapping[int, View]
    pairs: list[Pair]

    @property
    def predicting(self) -> list[int]:
        """The views that predict, each once."""
        return list(dict.fromkeys(pair.predicting for pair in self.pairs))

    @property
    def predicted(self) -> list[int]:
        """The views that are predicted, each once."""
        return list(dict.fromkeys(pair.predicted for pair in self.pairs))


@dataclass(frozen=True)
class Embeddings:
    """What the encoder and the heads make of the views, by their numbers.

    Attributes:
        projections: Of the views that predict, ``(B, D)`` each.
        predictions: Made from these.
        targets: What is predicted, of the views that are.
    """

    projections: Mapping[int, Tensor]
    predictions: Mapping[int, Tensor]
    targets: Mapping[int, Tensor]


PairsAmendment = Callable[[ViewPairs, BackbonePass], ViewPairs]
"""``(what is compared, the model's own pass) -> what shall be compared instead``."""
