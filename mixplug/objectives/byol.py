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

from mixplug.backbones import BackbonePass
from mixplug.objectives.heads import heads, lightly
from mixplug.objectives.two_view import MomentumTwoView, check_sizes, in_full_precision, mean_over_pairs, wide
from mixplug.views.views import Views


class BYOL(MomentumTwoView):
    """BYOL (Grill et al., 2020); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        hidden_dim: Width of the hidden layer of projector and predictor.
        out_dim: Width of projections and predictions.
        momentum: Where the momentum starts, in [0, 1]; it ends at 1.
        symmetric: Whether both views predict each other in the SSL phase.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    within_batch = "the statistics of its heads' BatchNorm"
    settings = (*MomentumTwoView.settings, "hidden_dim", "out_dim")

    def __init__(
        self,
        views: str | Views = "byol",
        hidden_dim: int = 4096,
        out_dim: int = 256,
        momentum: float = 0.996,
        symmetric: bool = True,
    ) -> None:
        super().__init__(views, symmetric, momentum)
        check_sizes(hidden_dim=hidden_dim, out_dim=out_dim)
        self.hidden_dim, self.out_dim = hidden_dim, out_dim

    def make_heads(self, width: int) -> None:
        """See the base class."""
        self.projector = heads().BYOLProjectionHead(width, self.hidden_dim, self.out_dim)
        self.predictor = heads().BYOLPredictionHead(self.out_dim, self.hidden_dim, self.out_dim)

    def forward(self, seen: BackbonePass) -> Tensor:
        """The loss of section 3.1, a scalar in [0, 8]."""
        features, targets = self.look(seen)
        projections = {view: self.projector(f) for view, f in features.items()}
        self.watch_collapse(projections[0])
        predictions = {view: self.predictor(z) for view, z in projections.items()}
        distance = lightly("loss").NegativeCosineSimilarity()
        with in_full_precision(seen.features):
            return 4 + 4 * mean_over_pairs(lambda q, z: distance(wide(q), wide(z)), predictions, targets)
