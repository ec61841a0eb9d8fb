"""The cost of a sample as papers state it: proportional to the lengths of the sequences, whatever the hardware.

Beside :class:`mixplug.training.costs.CostCounter`, which counts operations, attention's quadratic part among them.
"""

from __future__ import annotations

import math

from mixplug.checks import check_real
from mixplug.objectives import TwoView
from mixplug.objectives.momentum import MomentumTwoView
from mixplug.schedules.phases import Phase, Position

BASE = 197
"""Tokens of a standard image: 14 x 14 patches and a class token."""


def sample_cost(
    objective: TwoView, query: float = BASE, key: float = BASE, local: float = 0, base: float = BASE
) -> float:
    """The cost of one image in self-supervised learning, in forward passes over ``base`` tokens.

    A forward pass takes time in proportion to its tokens and a backward pass twice that (section 4.4 and Table 1 of the
    compression paper): ``(3 L_q + L_k) / L_base`` for MoCo v3, ``3 (L_q + L_k) / L_base`` for SimCLR, ``(3 L_q + 3 K
    L_local + L_k) / L_base`` for DINO with K local crops. The paper counts one direction; a symmetric objective with a
    momentum encoder has two, so it is its ``symmetric=False`` that costs what the paper says.

    Args:
        objective: One of two views.
        query: Tokens that a pass with gradient sees, above 0. Without a momentum encoder, those of view 0.
        key: Tokens that a momentum encoder sees, above 0. Without one, those of view 1.
        local: Tokens of one local crop; for objectives that have such crops, and above 0 for these.
        base: Tokens of the pass that costs 1, above 0.

    Raises:
        TypeError: ``objective`` is none of two views, or a length is no number.
        ValueError: a length is out of range, or ``local`` is given for an objective without local crops.

    Example:
        Half of the query's tokens dropped:

        >>> round(sample_cost(MoCoV3(symmetric=False), query=197 / 2), 2)
        2.5
    """
    if not isinstance(objective, TwoView):
        raise TypeError(
            f"sample_cost is for objectives of two views, such as MoCoV3(), got {objective!r}; CostCounter counts any"
        )
    for name, length in {"query": query, "key": key, "base": base}.items():
        check_real(name, length, 0, math.inf, low_open=True, high_open=True)
    check_real("local", local, 0, math.inf, high_open=True)
    pairs = objective.pairs(Position(Phase.SSL))
    predicting, predicted = {pair.predicting for pair in pairs}, {pair.predicted for pair in pairs}
    crops = len(predicting - {0, 1})
    if bool(crops) != bool(local):
        raise ValueError(
            f"local must be {'above 0' if crops else '0'}, since {type(objective).__name__} has {crops} local crops; "
            f"got {local!r}"
        )
    if isinstance(objective, MomentumTwoView):
        tokens = 3 * query * (len(predicting) - crops) + key * len(predicted)
    else:
        tokens = sum((3 if view in predicting else 1) * length for view, length in enumerate((query, key)))
    return (tokens + 3 * crops * local) / base
