"""Counts the operations of a method's step on its Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

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
