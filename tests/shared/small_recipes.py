"""What the benchmark's tests measure: the tests' tiny recipe."""

from __future__ import annotations

from pathlib import Path

from mixplug.lab.bench.stages import MethodOnTrainer
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

TINY = Path(__file__).parents[1] / "shared/tiny.yaml"

# Six phases of five batches of nine images; SSL, MIX and SL last two epochs each.
EVEN = ("ssl_duration=4ep", "sl_duration=4ep", "data.batch_size=9")


def tiny(*overrides):
    return load_recipe(TINY, overrides)


def mixtraining(options):
    """The override that gives the method 'mix' these options of MixTraining."""
    return f"methods.mix.algorithms=[{{MixTraining: {options}}}]"


def on_trainer(*overrides, method="mix"):
    return MethodOnTrainer(Experiment(tiny(*overrides), method, 0))


def stage_of(method, phase):
    return next(stage for stage in method.stages if stage.phase.value == phase)
