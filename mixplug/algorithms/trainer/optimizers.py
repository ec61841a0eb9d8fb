"""What the algorithms ask of an optimizer that Composer and torch do not offer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from composer.optim import DecoupledSGDW
from torch import nn
from torch.optim import Adagrad, Optimizer


def warn_of_fallback(optimizers: Iterable[Optimizer]) -> None:
    """Warn of the optimizer that Composer takes where a Trainer is given none: few models learn with it."""
    for optimizer in optimizers:
        # Whoever asks for just this one is warned too: they cannot be told apart.
        default = {"lr": 0.1, "momentum": 0, "weight_decay": 0, "nesterov": False}
        if type(optimizer) is DecoupledSGDW and {name: optimizer.defaults[name] for name in default} == default:
            warnings.warn(
                "this run trains with DecoupledSGDW(lr=0.1), which Composer takes where a Trainer is given no "
                "optimizers=, and with which a vision transformer hardly learns; give it one, such as "
                "optimizers=torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)",
                stacklevel=2,
            )


def add_to_groups(optimizer: Optimizer, new: Iterable[nn.Parameter], known: Iterable[nn.Parameter]) -> None:
    """Put each trainable ``new`` parameter into the param group of the last ``known`` parameter of its kind.

    Kinds are matrices and vectors (biases, norms), which many recipes exempt from weight decay. A group of its
    own would be ignored by schedulers that exist already, whose base learning rates are fixed.

    Raises:
        ValueError: the optimizer holds no ``known`` parameter.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    homes = {}
    for parameter in known:
        if id(parameter) in group_of:
            homes[parameter.ndim <= 1] = group_of[id(parameter)]
    if not homes:
        raise ValueError(
            "the optimizer holds no parameter of the backbone, so there is no param group to train the SSL head in; "
            "build it with the parameters of the model that the Trainer gets"
        )
    for parameter in new:
        if parameter.requires_grad and id(parameter) not in group_of:
            kind = parameter.ndim <= 1
            homes.get(kind, homes.get(not kind))["params"].append(parameter)  # type: ignore[index]


def leave_out(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Take ``parameters`` out of the optimizer's param groups, where they are in one."""
    out = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        group["params"][:] = [p for p in group["params"] if id(p) not in out]


def forget_state(optimizer: Optimizer) -> None:
    """Give every parameter the state that it would have before its first step."""
    _innermost(optimizer).state.clear()
    create_missing_state(optimizer)


def create_missing_state(optimizer: Optimizer) -> None:
    """Give each trainable parameter that has none the state that it would have before its first step.

    A checkpoint saved while a phase leaves parameters untouched could otherwise not be loaded: torch creates
    state for every parameter before it loads (and then misses theirs).
    """
    optimizer = _innermost(optimizer)
    for group in optimizer.param_groups:
        new = [p for p in group["params"] if p.requires_grad and not optimizer.state.get(p)]
        if isinstance(optimizer, Adagrad):  # alone in making its state in its constructor
            if new:
                made = Adagrad([{**group, "params": new}], **optimizer.defaults)
                optimizer.state.update(made.state)
        elif new:
            _create_as_a_step_would(optimizer, group, new)


def _create_as_a_step_would(optimizer: Optimizer, group: dict[str, Any], new: list[nn.Parameter]) -> None:
    """Let the optimizer create the state of ``new`` out of zero gradients, and change nothing else."""
    gradients = {p: p.grad for p in group["params"]}
    for parameter in group["params"]:
        parameter.grad = None
    for parameter in new:
        parameter.grad = torch.zeros_like(parameter)
    try:
        if hasattr(optimizer, "_init_group"):
            # What torch's own optimizers call at the start of a step: (group, list, list, ...).
            lists = len(inspect.signature(optimizer._init_group).parameters) - 1
            optimizer._init_group(group, *([] for _ in range(lists)))
        if any(not optimizer.state.get(p) for p in new):
            _step_on_nothing(optimizer, group, new)
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def _step_on_nothing(optimizer: Optimizer, group: dict[str, Any], new: list[nn.Parameter]) -> None:
    """A step with zero gradients, no learning rate and no decay, its counts and its parameters put back.

    SGD is one of those that need it. Its momentum then begins at 0 instead of at the first gradient, which is the
    same unless ``dampening`` is set: then the first step is dampened like all others.
    """
    quiet: dict[str, Any] = {name: 0.0 for name in ("lr", "weight_decay", "dampening") if name in group}
    options: dict[str, Any] = {name: group[name] for name in quiet}
    others = [(g, g["params"]) for g in optimizer.param_groups if g is not group]
    values = [p.detach().clone() for p in new]
    group.update(quiet)
    for other, _ in others:
        other["params"] = []
    try:
        optimizer.step()
    finally:
        group.update(options)
        for other, parameters in others:
            other["params"] = parameters
    with torch.no_grad():
        for parameter, value in zip(new, values, strict=True):
            parameter.copy_(value)
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor):
                state["step"].zero_()
            elif "step" in state:
                state["step"] = 0


def _innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps: Composer's SAM wraps it."""
    return getattr(optimizer, "base_optimizer", optimizer)
