"""Counts the operations of a method's step on its Trainer, and the passes over its encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mixplug.lab.bench.stages import MethodOnTrainer, Stage
from mixplug.lab.bench.watches import FlopWatch
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.experiment import Experiment


@contextmanager
def countable(recipe: Recipe, name: str, method: MethodOnTrainer) -> Iterator[MethodOnTrainer]:
    """The method itself, or an eager twin for the block: a compiled step shows the counter nothing.

    Args:
        recipe: The recipe.
        name: The method's key.
        method: It on its Trainer.
    """
    if not recipe.compile:
        yield method
        return
    twin = MethodOnTrainer(Experiment(dataclasses.replace(recipe, compile=""), name, recipe.first_seed))
    try:
        yield twin
    finally:
        twin.close()


def count(method: MethodOnTrainer, stage: Stage, progress: float) -> tuple[float, float]:
    """Floating-point operations of a step for one image, forward and backward, at ``progress`` of ``stage``."""
    watch = FlopWatch()
    with watch.counting():
        method.run(stage, progress, 0, watch)
    return watch.forward / method.images, watch.backward / method.images


class PassCounter:
    """Counts the passes over a model's own encoder, by its first layer; those of a momentum encoder are not its own.

    Args:
        model: The model.

    Attributes:
        passes: How many there were inside of the block.

    Example:
        >>> with PassCounter(model) as counter:  # doctest: +SKIP
        ...     model(images)
        >>> counter.passes  # doctest: +SKIP
        1
    """

    def __init__(self, model: nn.Module) -> None:
        # The root of a timm model has parameters of its own (class token, positions), but is no layer.
        layers = (m for m in model.modules() if not list(m.children()) and list(m.parameters()))
        self._first = next(layers)
        self.passes = 0

    def __enter__(self) -> PassCounter:
        self._hook = self._first.register_forward_pre_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, *_: object) -> None:
        self.passes += 1
