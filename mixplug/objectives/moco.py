"""MoCo: find what a momentum encoder makes of the other view among many others (Chen et al., 2020 and 2021).

What it does
    InfoNCE, ``-log(exp(q.k+ / t) / (exp(q.k+ / t) + sum exp(q.k- / t)))``, of normalised queries q of the encoder and
    keys k of the momentum encoder. MoCo v2+ takes its negatives from a queue of earlier keys (He et al., 2020, Eq. 1;
    Chen et al., 2020), symmetrised, with one queue for the keys of both views and the cosine of the momentum; MoCo v3
    from the batch, with a predictor behind the projector and the loss times 2t (Chen et al., 2021, algorithm 1).

When to use it
    MoCoV3 with vision transformers, or where batches are large; MoCoV2Plus with convolutional networks and small
    batches: the queue makes up for them, and microbatches change nothing.

Hyperparameters
    v2: queue 65536, temperature 0.2, projector 2048 and 128 wide, momentum 0.999 in the paper, which keeps it constant.
    v3: temperature 0.2, 4096 and 256 wide, momentum 0.99 (section 4). ``heads='vit'``: a projector of three and a
    predictor of two layers, each with a last BatchNorm without scale and shift; ``'resnet'``: a projector of two, and a
    predictor without last BatchNorm (both as in the authors' code).
    With some thousand images the queue must be shorter than the data, or an image is its own negative.

Caveats
    The queue begins with random directions. It has keys of whole batches, of all processes. Keys are not shuffled over
    processes ("shuffling BN"), so a convolutional network's BatchNorm may leak between them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.checks import check_choice
from mixplug.data.processes import gathered
from mixplug.objectives.heads import MLPHead
from mixplug.objectives.momentum import MomentumTwoView
from mixplug.objectives.pairs import info_nce, info_nce_in_batch, to_float32
from mixplug.objectives.two_view import check_sizes, check_temperature
from mixplug.objectives.view_pairs import Embeddings
from mixplug.schedules.phases import Position
from mixplug.schedules.shapes import Schedule
from mixplug.views.views import Views


class MoCoV2Plus(MomentumTwoView):
    """MoCo v2 (Chen et al., 2020), symmetrised; see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        queue_size: Keys in the queue.
        hidden_dim: Width of the projector's hidden layer.
        out_dim: Width of queries and keys.
        temperature: Temperature t, above 0.
        momentum: Where the momentum starts, in [0, 1], on its way to 1 by half a cosine; or a schedule.
        symmetric: Whether both views are queries in the SSL phase.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    queue: Tensor
    oldest: Tensor
    settings = (*MomentumTwoView.settings, "queue_size", "hidden_dim", "out_dim", "temperature")

    def __init__(
        self,
        views: str | Views = "mocov2",
        queue_size: int = 65536,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        temperature: float = 0.2,
        momentum: Schedule = 0.99,
        symmetric: bool = True,
    ) -> None:
        super().__init__(views, symmetric, momentum)
        check_sizes(queue_size=queue_size, hidden_dim=hidden_dim, out_dim=out_dim)
        self.queue_size, self.hidden_dim, self.out_dim = queue_size, hidden_dim, out_dim
        self.temperature = check_temperature("temperature", temperature)
        self._keys: dict[int, list[Tensor]] = {}

    def make_heads(self, width: int) -> None:
        """See the base class."""
        self.projector = MLPHead([width, self.hidden_dim, self.out_dim], batch_norm=False)
        self.register_buffer("queue", F.normalize(torch.randn(self.queue_size, self.out_dim), dim=-1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """InfoNCE against the queue, at least 0; see the base class."""
        return info_nce(predictions, targets, self.queue, self.temperature, soft_targets)

    def note_embeddings(self, embedded: Embeddings) -> None:
        """Keep the step's keys for the queue; see the base class."""
        super().note_embeddings(embedded)
        for view, keys in embedded.targets.items():
            self._keys.setdefault(view, []).append(F.normalize(to_float32(keys), dim=-1))

    def before_step(self) -> None:
        """See the base class."""
        super().before_step()
        self._keys = {}

    def after_step(self, position: Position) -> None:
        """Let the momentum encoder follow, and put the step's keys into the place of the oldest ones."""
        super().after_step(position)
        # View by view, so that neither microbatches nor processes change the order.
        for view in sorted(self._keys):
            enqueue(self.queue, self.oldest, gathered(torch.cat(self._keys[view])))
        self._keys = {}


class MoCoV3(MomentumTwoView):
    """MoCo v3 (Chen et al., 2021); see the module for what it costs.

    Args:
        views: A recipe's name for :class:`mixplug.Views`, or one made.
        hidden_dim: Width of the hidden layers of projector and predictor.
        out_dim: Width of queries and keys.
        temperature: Temperature t, above 0.
        momentum: Where the momentum starts, in [0, 1], on its way to 1 by half a cosine; or a schedule.
        symmetric: Whether both views are queries in the SSL phase.
        heads: 'vit' or 'resnet', as the authors build them for either; 'affine' is 'vit' with scale and shift in the
            last BatchNorms, as lightly and mixplug's first checkpoints have it.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of its range.
    """

    within_batch = "its negatives and the statistics of its heads' BatchNorm"
    settings = (*MomentumTwoView.settings, "hidden_dim", "out_dim", "temperature", "heads")
    earlier_defaults: ClassVar[dict[str, Any]] = {"heads": "affine"}

    def __init__(
        self,
        views: str | Views = "mocov3",
        hidden_dim: int = 4096,
        out_dim: int = 256,
        temperature: float = 0.2,
        momentum: Schedule = 0.99,
        symmetric: bool = True,
        heads: str = "vit",
    ) -> None:
        super().__init__(views, symmetric, momentum)
        check_sizes(hidden_dim=hidden_dim, out_dim=out_dim)
        self.hidden_dim, self.out_dim = hidden_dim, out_dim
        self.heads = check_choice("heads", heads, ("vit", "resnet", "affine"))
        self.temperature = check_temperature("temperature", temperature)
        # Both orders of the views, times 2t each.
        self.scale = 2 * (2 * temperature)

    def make_heads(self, width: int) -> None:
        """See the base class."""
        norm = "affine" if self.heads == "affine" else "plain"
        hidden = [self.hidden_dim] * (1 if self.heads == "resnet" else 2)
        self.projector = MLPHead([width, *hidden, self.out_dim], last_norm=norm)
        last = None if self.heads == "resnet" else norm
        self.predictor = MLPHead([self.out_dim, self.hidden_dim, self.out_dim], last_norm=last)

    def pair_loss(self, predictions: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """InfoNCE, at least 0; algorithm 1 multiplies it by 2t. See the base class."""
        return info_nce_in_batch(predictions, targets, self.temperature, soft_targets)


@torch.no_grad()
def enqueue(queue: Tensor, oldest: Tensor, keys: Tensor) -> None:
    """Write ``keys`` ``(n, D)`` over the oldest of ``queue`` ``(K, D)``, and move ``oldest``, the first of those."""
    places = (oldest + torch.arange(len(keys), device=queue.device)) % len(queue)
    fitting = keys[-len(queue) :]  # of more keys than the queue holds, the last ones
    queue[places[-len(queue) :]] = fitting.to(queue)
    oldest.copy_((oldest + len(keys)) % len(queue))
