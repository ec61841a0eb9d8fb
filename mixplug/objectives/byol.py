"""BYOL: predict what a slowly moving copy of the encoder makes of the other view (Grill et al., 2020).

What it does
    ``L = 2 - 2 * cos(q(z), z')`` (Eq. 2), plus the same with the views exchanged: z a projection of a view's features,
    q(z) a prediction made from it, z' the momentum encoder's projection of the other view.

When to use it
    No negatives, so smaller batches do; the momentum encoder costs two passes without gradient in the SSL phase.

Hyperparameters
    Heads 4096 wide inside and 256 at their end; ``momentum`` from 0.996 to 1 by a cosine (section 3.2 and 3.3, 1000
    epochs; 0.99 for 300 epochs, appendix F). Short runs want it lower still.
"""

from __future__ import annotations

from torch import Tensor

from mixplug.objectives.heads import MLPHead
from mixplug.objectives.momentum import MomentumTwoView
from mixplug.objectives.pairs import negative_cosine
from mixplug.objectives.two_view import check_sizes
from mixplug.schedules.shapes import Schedule
from mixplug.views.views import Views


class BYOL(MomentumTwoView):
    """BYOL (Grill et al., 2020); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        hidden_dim: Width of the hidden layer of projector and predictor.
        out_dim: Width of projections and predictions.
        momentum: Where the momentum starts, in [0, 1], on its way to 1 by half a cosine; or a schedule.
        symmetric: Whether both views predict each other in the SSL phase.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    within_batch = "the statistics of its heads' BatchNorm"
    scale = 2.0  # the sum over both orders of the views
    settings = (*MomentumTwoView.settings, "hidden_dim", "out_dim")

    def __init__(
        self,
        views: str | Views = "byol",
        hidden_dim: int = 4096,
        out_dim: int = 256,
        momentum: Schedule = 0.996,
        symmetric: bool = True,
    ) -> None:
        super().__init__(views, symmetric, momentum)
        check_sizes(hidden_dim=hidden_dim, out_dim=out_dim)
        self.hidden_dim, self.out_dim = hidden_dim, out_dim

    def make_heads(self, width: int) -> None:
        """See the base class."""
        self.projector = MLPHead([width, self.hidden_dim, self.out_dim])
        self.predictor = MLPHead([self.out_dim, self.hidden_dim, self.out_dim])

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """Eq. 2, in [0, 4]; see the base class."""
        return 2 + 2 * negative_cosine(predictions, targets, soft_targets)
