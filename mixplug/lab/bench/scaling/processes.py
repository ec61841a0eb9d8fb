"""What each does: ``composer -n N -m mixplug.lab.bench.scaling.processes RECIPE METHOD TURNS STEPS OUT``.

Each has one thread, and a batch of the recipe's size of its own, so N of them do N times the work in a step. The first
leaves what it measured in the file ``OUT``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from composer.utils import dist

from mixplug.lab.bench.scaling.measure import FEWEST, MIDDLE, main_stage
from mixplug.lab.bench.stages import MethodOnTrainer
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

PATIENCE = 600.0
"""Seconds that a process waits for another one."""


def main(recipe: str, method: str, turns: str, steps: str, out: str) -> None:
    """Run some steps of the method's main phase; the arguments are those of the command.

    Raises:
        ValueError: an epoch has less than three batches for each process.
    """
    warnings.filterwarnings("ignore", message="Cannot split tensor of length")
    torch.set_num_threads(1)
    dist.initialize_dist("cpu", timeout=PATIENCE)
    loaded = load_recipe(recipe)
    experiment = Experiment(loaded, method, loaded.first_seed)
    batches = len(experiment.inputs.train)
    if batches < FEWEST:
        raise ValueError(
            f"an epoch has {batches} batch(es) of {loaded.data.batch_size} for each of {dist.get_world_size()} "
            f"processes and must have at least {FEWEST}; lower data.batch_size or raise data.fraction"
        )
    on_trainer = MethodOnTrainer(experiment)
    stage = main_stage(on_trainer, method)
    on_trainer.run(stage, MIDDLE, 0)
    blocks = [on_trainer.run(stage, MIDDLE, int(steps)) for _ in range(int(turns))]
    if dist.get_global_rank() == 0:
        seconds = [second for block in blocks for second in block]
        Path(out).write_text(json.dumps({"images": on_trainer.images, "seconds": seconds}), encoding="utf-8")
    on_trainer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
