"""SimCLR: find an image's other view among those of the whole batch (Chen et al., 2020).

What it does
    The normalised temperature-scaled cross entropy (NT-Xent, Eq. 1) over the 2B projections of a batch:
    ``l(i, j) = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))``, mean over both orders of the B pairs, s the cosine.
    In a distributed run the negatives of all processes count, and gradients reach those too.

When to use it
    Large batches: a batch is all the negatives that there are.

Hyperparameters
    ``temperature`` 0.5 for small images (appendix B.9, CIFAR-10), 0.1 for ImageNet (section 5.1); a projector of two
    layers, 128 wide at the end (section 2.1). ``symmetric`` has no one-sided form here.
"""

from __future__ import annotations

from torch import Tensor

from mixplug.backbones import BackbonePass, Role
from mixplug.objectives.heads import MLPHead
from mixplug.objectives.pairs import nt_xent
from mixplug.objectives.two_view import TwoView, check_sizes, check_temperature
from mixplug.objectives.view_pairs import View
from mixplug.views.views import Views


class SimCLR(TwoView):
    """SimCLR (Chen et al., 2020); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        hidden_dim: Width of the projector's hidden layer.
        out_dim: Width of the projections.
        temperature: Temperature t, above 0.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    within_batch = "its negatives and the statistics of its head's BatchNorm"
    settings = ("views", "hidden_dim", "out_dim", "temperature")

    def __init__(
        self, views: str | Views = "simclr", hidden_dim: int = 2048, out_dim: int = 128, temperature: float = 0.5
    ) -> None:
        super().__init__(views)
        check_sizes(hidden_dim=hidden_dim, out_dim=out_dim)
        self.hidden_dim, self.out_dim = hidden_dim, out_dim
        self.temperature = check_temperature("temperature", temperature)

    def make_heads(self, width: int) -> None:
        """See the base class."""
        self.projector = MLPHead([width, self.hidden_dim, self.out_dim], last_norm="affine")

    def make_target(self, seen: BackbonePass, view: View, projection: Tensor | None) -> Tensor:
        """The view's projection, which gets a gradient unless its role is ``KEY``; see the base class."""
        if projection is None and view.role is Role.KEY:
            return super().make_target(seen, view, projection)
        return self.projector(seen.encode(view.images).features) if projection is None else projection

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """NT-Xent, Eq. 1, at least 0; see the base class."""
        return nt_xent(predictions, targets, self.temperature, soft_targets)
