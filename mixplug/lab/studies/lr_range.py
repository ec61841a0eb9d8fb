"""The learning-rate range test of a recipe's method (Smith, 2018), in the first phase of its training."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger

from mixplug import JointLoss
from mixplug.algorithms.trainer.contract import find_in
from mixplug.data.order import random_state, set_random_state
from mixplug.lab.pages.figures import save_figure
from mixplug.lab.pages.range_pictures import range_curve
from mixplug.lab.recipes.schema import Recipe, to_plain
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment, Progress
from mixplug.training.lr_range import (
    HIGH,
    LOW,
    RULE,
    STEPS,
    LearningRateRange,
    found_range,
    has_ended,
    rates_between,
    set_rates,
)


def measure_range(
    recipe: Recipe,
    method: str,
    seed: int,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> LearningRateRange:
    """Train with ever higher learning rates, as the method trains but for its schedule, and see what the loss does.

    The network is trained for this alone: nothing is kept, and random numbers are put back.

    Args:
        recipe: The recipe.
        method: Key of one of its methods.
        seed: Of the run.
        low: First learning rate, above 0.
        high: Last one, above ``low``.
        steps: How many, at least 2 and at most the batches of the method's first phase.
        progress: Called as ``progress(done, total, text)``.

    Raises:
        TypeError: something in the recipe has the wrong type.
        ValueError: something is out of range, or the first phase is too short.
    """
    rates = rates_between(low, high, steps)
    random = random_state()
    try:
        experiment = Experiment(_without_schedule(recipe, method), method, seed)
        try:
            test = _RangeTest(rates, progress)
            _check_length(experiment, steps)
            joint = find_in(experiment.algorithms, JointLoss)
            if joint is not None:
                joint.stop_on_nan = False  # a loss that is not finite ends the test
            experiment.trainer.state.callbacks.append(test)
            with contextlib.suppress(_TestIsOver):
                experiment.trainer.fit()
        finally:
            close_trainer(experiment.trainer)
    finally:
        set_random_state(random)
    return found_range(rates, test.losses)


def write_range(found: LearningRateRange, recipe: Recipe, method: str, seed: int, out: Path) -> None:
    """Leave ``lr_range.json`` and ``lr_range.png`` in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "method": method,
        "seed": seed,
        "suggestion": found.suggestion,
        "largest": found.largest,
        "is_bounded": found.is_bounded,
        "rule": RULE,
        "rates": found.rates,
        "losses": found.losses,
        "recipe": to_plain(recipe),
        **describe_environment(),
    }
    (out / "lr_range.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    save_figure(range_curve(found, recipe.methods[method].label or method), out / "lr_range.png")


class _TestIsOver(Exception):  # noqa: N818  (no error)
    """The test is over: the rest of the training, and its evaluation, are of no use."""


class _RangeTest(Callback):
    """Sets each step's learning rate after all that might, and collects its loss."""

    def __init__(self, rates: list[float], progress: Progress | None) -> None:
        self.rates, self.progress = rates, progress
        self.losses: list[float] = []
        self._own: list[list[float]] = []

    def before_train_batch(self, state: State, logger: Logger) -> None:
        if not self._own:
            self._own = [[group["lr"] for group in optimizer.param_groups] for optimizer in state.optimizers]
        for optimizer, own in zip(state.optimizers, self._own, strict=True):
            set_rates(optimizer, own, self.rates[len(self.losses)])

    def batch_end(self, state: State, logger: Logger) -> None:
        self.losses.append(float(state.total_loss_dict["loss/train/total"]))
        done, total = len(self.losses), len(self.rates)
        if self.progress is not None:
            self.progress(done, total, f"learning rate {self.rates[done - 1]:.2g}, loss {self.losses[-1]:.3f}")
        if done == total or has_ended(self.losses):
            raise _TestIsOver


def _without_schedule(recipe: Recipe, method: str) -> Recipe:
    recipe = copy.deepcopy(recipe)
    recipe.scheduler = None
    if method in recipe.methods:
        recipe.methods[method].scheduler = None
    return recipe


def _check_length(experiment: Experiment, steps: int) -> None:
    first = experiment.plan.phases[0]
    batches = first.length
    if experiment.max_duration.unit.value == "ep":
        inputs = experiment.inputs
        batches *= len(inputs.ssl if inputs.ssl is not None and first.phase == "ssl" else inputs.train)
    if steps > batches:
        raise ValueError(
            f"--steps must be at most {batches}, the batches of the {first.phase} phase that the training begins with, "
            f"got {steps}; or lengthen the training, as with epochs=1000, which costs nothing here"
        )
