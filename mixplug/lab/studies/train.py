"""One run of a recipe: checkpoint, history and pictures."""

from __future__ import annotations

import json
from pathlib import Path

from mixplug.lab.pages.curves import curves
from mixplug.lab.pages.figures import save_figure, write_curves
from mixplug.lab.pages.pictures import reconstructions
from mixplug.lab.recipes.schema import Recipe, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment, Progress
from mixplug.lab.runs.inputs import check_images
from mixplug.lab.runs.results import RunResult


def train(
    recipe: Recipe, method: str, seed: int, out: Path, progress: Progress | None = None, checkpoints: int = 1
) -> RunResult:
    """Train one method with one seed.

    Leaves in ``out``: ``checkpoint.pt`` (Composer's, to resume or load), one of the end of each phase before,
    such as ``checkpoint-ssl.pt``, those asked for in between, ``history.json`` (losses and accuracy
    over the run, settings, versions, machine), ``curves.png`` and, with an MAE, ``reconstructions.png``.

    Args:
        recipe: The recipe.
        method: Key of one of its methods.
        seed: The seed.
        out: A folder, made if missing.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        checkpoints: See :class:`mixplug.lab.runs.experiment.Experiment`.
    """
    check_images([(recipe, [seed])])
    out.mkdir(parents=True, exist_ok=True)
    result = Experiment(recipe, method, seed, progress, out, checkpoints, logs=out / "logs").run()
    label = recipe.methods[method].label
    content = {"method": method, "seed": seed, **result.numbers(), "recipe": to_plain(recipe), **describe_environment()}
    (out / "history.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    save_figure(curves({label: [result]}), out / "curves.png")
    write_curves({label: [result]}, out / "curves.csv")
    if result.reconstruction is not None:
        save_figure(reconstructions({label: result.reconstruction}), out / "reconstructions.png")
    return result
