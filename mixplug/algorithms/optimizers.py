"""What the algorithms ask of an optimizer that Composer and torch do not offer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def add_beside(optimizer: Optimizer, new: Iterable[nn.Parameter], beside: Iterable[nn.Parameter]) -> None:
    """Put each ``new`` parameter into the param group of the last parameter ``beside`` of its kind.

    Kinds are matrices and vectors (biases, norms), which many recipes exempt from weight decay. A group of its
    own would be ignored by schedulers that exist already, whose base learning rates are fixed.

    Raises:
        ValueError: the optimizer holds no parameter of ``beside``.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    homes = {}
    for parameter in beside:
        if id(parameter) in group_of:
            homes[parameter.ndim <= 1] = group_of[id(parameter)]
    if not homes:
        raise ValueError(
            "the optimizer holds no parameter of the backbone, so there is no param group to train the SSL head in; "
            "build it with the parameters of the model that the Trainer gets"
        )
    for parameter in new:
        if id(parameter) not in group_of:
            kind = parameter.ndim <= 1
            homes.get(kind, homes.get(not kind))["params"].append(parameter)  # type: ignore[index]


def create_missing_state(optimizer: Optimizer) -> None:
    """Give each trainable parameter that has none the state it would have before its first step.

    A checkpoint saved while a phase leaves parameters untouched could otherwise not be loaded: torch creates
    state for every parameter before it loads (and then misses theirs). The state comes from the optimizer
    itself, out of a step with zero gradients; parameters, step counts and learning rates are put back.
    """
    optimizer = getattr(optimizer, "base_optimizer", optimizer)  # composer's SAM wraps the one that steps
    new = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad and not optimizer.state.get(p)]
    if not new:
        return
    everything = [p for g in optimizer.param_groups for p in g["params"]]
    gradients = [p.grad for p in everything]
    rates = [group["lr"] for group in optimizer.param_groups]
    values = [p.detach().clone() for p in new]
    for parameter in everything:
        parameter.grad = None
    for parameter in new:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], torch.Tensor) else 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(everything, gradients, strict=True):
        parameter.grad = gradient
    with torch.no_grad():
        for parameter, value in zip(new, values, strict=True):
            parameter.copy_(value)
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor):
                state["step"].zero_()
            elif "step" in state:
                state["step"] = 0
