"""TokenDropout: the encoder sees a random part of each image's patches.

What it does
    Hides a share of the patch tokens from a vision transformer in training, another draw for every image. A step costs
    about the share that is left, and less in attention. Evaluation sees every token.

When to use it
    In *supervised* training with few images: each image is seen in ever other parts, for less. With 320 images and no
    augmentation it is worth more than any self-supervised learning here (see ``recipes/README.md``); beside crop
    and flip, with 5,000 images, some points at equal cost; with 1,000 labels nothing. In self-supervised learning of
    two views it is what makes queries cheap (the compression paper, section 3.2: 4 times less for MoCo v3, with patch
    scaling and a schedule).

Hyperparameters
    ``rate`` 0.5 to 0.75. A constant rate wants a short end without (``Steps({0: 0.5, 0.9: 0})``), since the model is
    used on whole images; ``Ramp(0.75, 0)`` ends there by itself. As steps are cheaper, train for longer.

Interacts with
    MAE hides patches itself, so with it dropout acts in the SL phase alone. In two views it acts on queries; keys
    (momentum encoders) see whole images unless ``keys=True``, DINO's local crops always do. ProgressiveResizing:
    the share is of the tokens that there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mixplug.algorithms.trainer.passes import AmendingAlgorithm
from mixplug.schedules.shapes import Schedule
from mixplug.training.token_dropout import PHASES, DropTokens


class TokenDropout(AmendingAlgorithm):
    """Hides a random share of the patch tokens in training.

    Beside MixTraining, or alone in a plain supervised run, where the whole run is one SL phase.

    Args:
        rate: Share of dropped patches in [0, 1): a number, a schedule, or one of these for each phase by name, such as
            ``{'sl': Ramp(0.75, 0)}``; see :class:`mixplug.training.token_dropout.DropTokens`.
        phases: The phases in which tokens are dropped.
        keys: Whether passes without gradient (momentum encoders) drop tokens too.

    Raises:
        TypeError: an argument has the wrong type; at INIT, the model is no vision transformer of timm's.
        ValueError: a rate is out of range, or there is no such phase.

    Example:
        >>> Trainer(..., algorithms=[TokenDropout(0.5)])  # doctest: +SKIP
        >>> Trainer(..., algorithms=[MixTraining(), TokenDropout({'sl': Ramp(0.75, 0)})])  # doctest: +SKIP
    """

    def __init__(
        self,
        rate: Schedule | Mapping[str, Schedule],
        phases: Iterable[str] = PHASES,
        keys: bool = False,
    ) -> None:
        self.amendment = DropTokens(rate, phases, keys)
        self.rate, self.phases, self.keys = self.amendment.rate, self.amendment.phases, self.amendment.keys

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"rate": self.rate, "phases": self.phases, "keys": self.keys}
