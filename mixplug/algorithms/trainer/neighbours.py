"""What has to be arranged with Composer's own algorithms where the SSL head would come in their way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from composer.algorithms import SWA, GyroDropout, LayerFreezing, NoOpModel
from composer.core import Event, State
from composer.loggers import Logger

_UNFIT = {
    NoOpModel: "it replaces the model with a single parameter, which leaves no backbone; leave one of them out",
    GyroDropout: (
        "it puts dropout for layers of (batch, features) in the place of every dropout of the vision transformer, "
        "whose layers are (batch, tokens, features); build the transformer with proj_drop_rate= or drop_path_rate="
    ),
}


def refuse_unfit(state: State) -> None:
    """Name an algorithm that cannot be right with a self-supervised head, before it replaces anything more.

    Raises:
        ValueError: there is one.
    """
    for algorithm in state.algorithms:
        for kind, why in _UNFIT.items():
            if isinstance(algorithm, kind):
                raise ValueError(f"{kind.__name__} cannot run with FusedBackbonePass (MixTraining): {why}")


def show_head_to_copies(state: State, logger: Logger) -> None:
    """Let a SWA that came first in the list copy the model anew: a checkpoint could not be loaded without the head."""
    for algorithm in state.algorithms:
        if isinstance(algorithm, SWA) and algorithm.swa_model is not None:
            algorithm.apply(Event.INIT, state, logger)


def hide_head_from_freezing(state: State) -> None:
    """Let LayerFreezing count the user's own layers only.

    It freezes layers from the first to the last but one, and takes the SSL head for the model's end: it would
    freeze the encoder too fast and the classifier's head with it.
    """
    for algorithm in state.algorithms:
        if isinstance(algorithm, LayerFreezing) and "apply" not in vars(algorithm):
            algorithm.apply = functools.partial(_apply_without_head, algorithm.apply)  # type: ignore[method-assign]


def head_holder(model: Any) -> Any:
    """The module that holds the SSL head: the user's model, which DDP wraps."""
    return next(module for module in model.modules() if "ssl_objective" in module._modules)


def _apply_without_head(apply: Callable[..., Any], event: Event, state: State, logger: Logger) -> Any:
    holder = head_holder(state.model)
    head = holder._modules.pop("ssl_objective")
    try:
        return apply(event, state, logger)
    finally:
        holder._modules["ssl_objective"] = head
