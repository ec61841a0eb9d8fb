"""Evaluation mode for a moment, and the layers that know the difference best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The layers of ``module`` that normalise over the batch in training mode."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def evaluating(roots: Iterable[nn.Module]) -> Iterator[None]:
    """Have ``roots`` in evaluation mode in the block, and afterwards each of their modules in its own mode again."""
    own_modes = [(root, root.training) for root in roots]
    modes = [(module, module.training) for root, _ in own_modes for module in root.modules()]
    for root, _ in own_modes:
        root.eval()
    try:
        yield
    finally:
        for root, was_training in own_modes:
            root.train(was_training)  # with whatever else a model's own train() does
        for module, was_training in modes:
            module.training = was_training
