"""Param groups that keep weight decay to weights, as MAE's and DINO's authors do (He et al.; Caron et al., 2021)."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn

from mixplug.checks import check_real


def decay_groups(model: nn.Module, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """The trainable parameters of ``model`` in two groups for an optimizer, of which one has no weight decay.

    Without it are biases, the scales and shifts of norms, and what the model or a part of it names in
    ``no_weight_decay()``, as timm's models do of their position embeddings and class tokens. The self-supervised head
    of :class:`mixplug.FusedBackbonePass` joins the groups by the same rule.

    Args:
        model: Any module, such as a ComposerModel.
        weight_decay: Of the others, at least 0; None for the optimizer's own.

    Raises:
        TypeError: ``weight_decay`` is no number.
        ValueError: ``weight_decay`` is below 0.

    Example:
        >>> AdamW(decay_groups(model), lr=1e-3, weight_decay=0.05)  # doctest: +SKIP
    """
    if weight_decay is not None:
        check_real("weight_decay", weight_decay, 0, math.inf, high_open=True)
    exempt = [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if callable(named := getattr(module, "no_weight_decay", None))
        for name in named()
    ]
    without, *rest = param_groups_weight_decay(model, weight_decay or 1.0, no_weight_decay_list=exempt)
    if not rest:  # a model of vectors, or of matrices, alone
        without, rest = ({"params": []}, [without]) if without["weight_decay"] else (without, [{"params": []}])
    decayed = {"params": rest[0]["params"], **({} if weight_decay is None else {"weight_decay": weight_decay})}
    return [{"params": without["params"], "weight_decay": 0.0}, decayed]
