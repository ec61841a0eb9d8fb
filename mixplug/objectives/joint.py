"""The joint objective: phases as weights of two losses (Li et al., Eq. 3)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mixplug.schedules.phases import Phase, Position
from mixplug.schedules.shapes import Schedule, check_schedule, value_at

ALPHA = 0.5
"""Weight of the self-supervised loss in MIX (Li et al., section 3.1)."""


class LossWeights(NamedTuple):
    """What the self-supervised and the supervised loss weigh."""

    ssl: float
    sl: float


def phase_weights(position: Position | Phase | str, alpha: Schedule) -> LossWeights:
    """``(1, 0)`` in SSL, ``(alpha, 1 - alpha)`` in MIX (Li et al., Eq. 3), ``(0, 1)`` in SL.

    Args:
        position: Where the training is; a phase alone stands for its beginning.
        alpha: Weight of the self-supervised loss in MIX, in [0, 1]: a number or a schedule, by default over MIX.

    Raises:
        TypeError: ``alpha`` is neither a number nor a schedule.
        ValueError: ``alpha`` leaves [0, 1], or there is no such phase.
    """
    check_schedule("alpha", alpha, 0, 1)
    position = Position.of(position)
    if position.phase is Phase.SSL:
        return LossWeights(1.0, 0.0)
    if position.phase is Phase.SL:
        return LossWeights(0.0, 1.0)
    value = value_at(alpha, position, "mix")
    return LossWeights(value, 1.0 - value)


def joint_loss(ssl: Tensor | None, sl: Tensor | None, weights: LossWeights) -> Tensor:
    """``w_ssl * ssl + w_sl * sl``, where a term of weight 0 is left out of the graph and may be None.

    Args:
        ssl: Self-supervised loss, a scalar.
        sl: Supervised loss, a scalar.
        weights: Their weights, not both 0.

    Raises:
        ValueError: a term that has a weight is None, or no term has a weight.
    """
    total: Tensor | None = None
    for name, loss, weight in zip(("ssl", "sl"), (ssl, sl), weights, strict=True):
        if weight == 0:
            continue
        if loss is None:
            raise ValueError(f"the {name} loss has weight {weight:g} but there is none")
        term = loss if weight == 1 else weight * loss
        total = term if total is None else total + term
    if total is None:
        raise ValueError(f"a joint loss needs a weight above 0, got {tuple(weights)}")
    return total
