"""The self-check of ``mixplug bench --quick``: a step on the Trainer computes what the loop of its arithmetic does.

Operations and passes over the encoder are counted and nothing is timed, so the answer is the same on every machine,
however busy it is.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mixplug.backbones import backbone_of
from mixplug.backbones.costs import counting_flops
from mixplug.lab.bench.counting import PassCounter, count
from mixplug.lab.bench.loops import PlainLoop, StepLoop, loop_for
from mixplug.lab.bench.measure import Report
from mixplug.lab.bench.stages import MethodOnTrainer, Stage
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.objectives import TwoView
from mixplug.schedules.phases import Phase

MIDDLE = 0.5
"""Where in its phase a step is counted: there ramps have left both of their ends."""
ROUNDING = 1e-9
CHANCE = 0.03
"""By which share operations of random views may differ: how many images get other colours is left to chance."""


@dataclass(frozen=True)
class StepCheck:
    """A step in the middle of one phase of one method, on the Trainer and in the loop with the same arithmetic.

    Attributes:
        label: The method's name.
        phase: The phase.
        flops: Floating-point operations for one image, forward and backward, on the Trainer.
        loop_flops: Those of the loop; None where there is none, and nothing is held to it.
        passes: Passes over the encoder on the Trainer.
        loop_passes: Those of the loop.
        tolerance: By which share the operations may differ.
    """

    label: str
    phase: str
    flops: float
    passes: int
    loop_flops: float | None = None
    loop_passes: int | None = None
    tolerance: float = ROUNDING

    @property
    def passed(self) -> bool | None:
        """Whether both are the loop's; None without a loop."""
        if self.loop_flops is None:
            return None
        same = abs(self.flops - self.loop_flops) <= self.tolerance * self.loop_flops
        return same and self.passes == self.loop_passes


def check_steps(recipe: Recipe, report: Report | None = None) -> list[StepCheck]:
    """Count a step of each phase of each method of ``recipe``, and of the loop with the same arithmetic.

    Args:
        recipe: The recipe; it is not compiled, since a compiled step shows the counter nothing.
        report: Called as ``report(done, total, text)``.

    Raises:
        TypeError: something in the recipe has the wrong type.
        ValueError: something in the recipe is out of range or unknown.
    """
    recipe = dataclasses.replace(recipe, compile="")
    checks = []
    for done, (name, config) in enumerate(recipe.methods.items()):
        if report is not None:
            report(done, len(recipe.methods), f"counting {config.label}")
        experiment = Experiment(recipe, name, recipe.first_seed)
        method = MethodOnTrainer(experiment)
        # A loop copies the objective, which must not have been trained by then.
        loops = {stage.phase: _make_loop(experiment, name, stage.phase) for stage in method.stages}
        checks += [_check(config.label, method, stage, loops[stage.phase]) for stage in method.stages]
        method.close()
    return checks


def check_table(checks: list[StepCheck]) -> Table:
    """A line for each phase of each method."""
    verdicts = {True: "as the loop", False: "NOT as the loop", None: "no loop to hold it to"}
    return Table(
        [
            Column("Method", [check.label for check in checks], words=True),
            Column("Phase", [check.phase.upper() for check in checks], words=True),
            Column("MFLOPs/image", [f"{check.flops / 1e6:.3f}" for check in checks]),
            Column("Loop's", ["" if c.loop_flops is None else f"{c.loop_flops / 1e6:.3f}" for c in checks]),
            Column("Passes", [str(check.passes) for check in checks]),
            Column("Loop's", ["" if c.loop_passes is None else str(c.loop_passes) for c in checks]),
            Column("", [verdicts[check.passed] for check in checks], words=True),
        ],
        [
            "A step in the middle of its phase, on the Trainer and in a loop in plain PyTorch with the same "
            "arithmetic, written by hand where that can be, else with mixplug's functions: operations (matrix "
            "products, convolutions and attention, forward and backward) and passes over the encoder."
        ],
    )


def write_checks(checks: list[StepCheck], description: str, out: Path) -> None:
    """Leave ``checks.json`` and ``checks.md`` in ``out``, a folder that is made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "checks.json").write_text(
        json.dumps([dataclasses.asdict(check) for check in checks], indent=1), encoding="utf-8"
    )
    (out / "checks.md").write_text(f"# {description}\n\n{check_table(checks).markdown()}", encoding="utf-8")


def _make_loop(experiment: Experiment, name: str, phase: Phase) -> StepLoop | None:
    found = loop_for(experiment, name, phase)
    return None if found is None else found[1](experiment, name, phase)


def _check(label: str, method: MethodOnTrainer, stage: Stage, loop: StepLoop | None) -> StepCheck:
    with PassCounter(method.model) as counter:
        flops = sum(count(method, stage, MIDDLE))
    check = StepCheck(label, stage.phase.value, flops, counter.passes)
    if loop is None:
        return check
    steps = loop.steps(stage.begun(MIDDLE) / stage.span.length)
    with PassCounter(loop.model) as counter, counting_flops() as flops_counter:
        next(steps)
    loop_flops = flops_counter.get_total_flops() / method.images
    if isinstance(loop, PlainLoop) and loop.decoder is not None and stage.phase is Phase.SSL:
        # The Trainer runs the model's own forward, and so its classifier, which a loop by hand leaves out.
        loop_flops += _classifier_flops(loop.model)
    random = isinstance(getattr(method.model, "ssl_objective", None), TwoView)
    return dataclasses.replace(
        check, loop_flops=loop_flops, loop_passes=counter.passes, tolerance=CHANCE if random else ROUNDING
    )


def _classifier_flops(model: nn.Module) -> float:
    """Of one image's logits."""
    layers = (layer for head in backbone_of(model).classifiers() for layer in head.modules())
    return sum(2.0 * layer.weight.numel() for layer in layers if isinstance(layer, torch.nn.Linear))
