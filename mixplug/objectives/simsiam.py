"""SimSiam: each view predicts the other, and the gradient stops at what is predicted (Chen and He, 2021).

What it does
    ``L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2`` with ``D(p, z) = -cos(p, z)`` (Eq. 1 to 4), where z is a
    projection of a view's features and p a prediction made from it.

When to use it
    The simplest: no negatives, no momentum encoder, no queue. It wants BatchNorm in its head and batches of some tens.

Hyperparameters
    A projector 2048 wide and a predictor with a bottleneck of 512 (section 3). On CIFAR-10 the paper trains ResNet-18
    with ``projector_layers=2`` for 800 epochs with SGD at 0.03 * batch / 256 (appendix D).
"""

from __future__ import annotations

from torch import Tensor

from mixplug.checks import check_int
from mixplug.objectives.heads import MLPHead
from mixplug.objectives.pairs import negative_cosine
from mixplug.objectives.two_view import TwoView, check_sizes
from mixplug.views.views import Views


class SimSiam(TwoView):
    """SimSiam (Chen and He, 2021); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        hidden_dim: Width of the projector's hidden layers.
        out_dim: Width of projections and predictions.
        bottleneck_dim: Width of the predictor's hidden layer.
        projector_layers: Of the projector, at least 2.
        symmetric: Whether both views predict each other; with False the other view needs no gradient.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    within_batch = "the statistics of its head's BatchNorm"
    settings = (*TwoView.settings, "hidden_dim", "out_dim", "bottleneck_dim", "projector_layers")

    def __init__(
        self,
        views: str | Views = "simsiam",
        hidden_dim: int = 2048,
        out_dim: int = 2048,
        bottleneck_dim: int = 512,
        symmetric: bool = True,
        projector_layers: int = 3,
    ) -> None:
        super().__init__(views, symmetric)
        check_sizes(hidden_dim=hidden_dim, out_dim=out_dim, bottleneck_dim=bottleneck_dim)
        self.hidden_dim, self.out_dim, self.bottleneck_dim = hidden_dim, out_dim, bottleneck_dim
        self.projector_layers = check_int("projector_layers", projector_layers, 2)

    def make_heads(self, width: int) -> None:
        """See the base class."""
        hidden = [self.hidden_dim] * (self.projector_layers - 1)
        self.projector = MLPHead([width, *hidden, self.out_dim], last_norm="plain")
        self.predictor = MLPHead([self.out_dim, self.bottleneck_dim, self.out_dim])

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """Eq. 1, in [-1, 1]; see the base class."""
        return negative_cosine(predictions, targets, soft_targets)
