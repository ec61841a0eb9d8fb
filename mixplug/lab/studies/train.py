"""One run of a recipe: checkpoint, history and pictures; what is interrupted goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mixplug.checks import check_choice
from mixplug.lab.pages.figures import save_curves, save_figure
from mixplug.lab.pages.pictures import reconstructions
from mixplug.lab.recipes.schema import Recipe, RecipeError, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import settings_differences, settings_of, write
from mixplug.lab.runs.folders import BUDGET, HISTORY, STARTED, check_out, clear_out
from mixplug.lab.runs.inputs import check_images
from mixplug.lab.runs.interruption import GO_ON, naming_run, saying_what_is_kept
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import RunResult
from mixplug.lab.runs.resumption import Unfinished
from mixplug.lab.studies.budget import with_cost_for_minutes
from mixplug.lab.studies.compare import Announce, check_method


def train(
    recipe: Recipe,
    method: str,
    seed: int,
    out: Path,
    progress: Progress | None = None,
    checkpoints: int = 1,
    announce: Announce = print,
    epochs: Announce | None = None,
    save_interval: str = "",
    overwrite: bool = False,
) -> RunResult:
    """Train one method with one seed, or go on with it where it was interrupted.

    Leaves in ``out``: ``checkpoint.pt`` (Composer's, to resume or load), one of the end of each phase before,
    such as ``checkpoint-ssl.pt``, those asked for in between, ``history.json`` (losses and accuracy over the run,
    settings, versions, machine), ``curves.png``, ``schedules.png`` and, with an MAE, ``reconstructions.png``.

    Args:
        recipe: The recipe.
        method: Key of one of its methods.
        seed: The seed.
        out: A folder, made if missing. A run that is finished there is not run again.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        checkpoints: See :class:`mixplug.lab.runs.experiment.Experiment`.
        announce: Called with a line where there is something to go on from.
        epochs: Called with a line at the end of each epoch.
        save_interval: See :class:`mixplug.lab.runs.experiment.Experiment`.
        overwrite: Start anew: what ``out`` holds of another training is removed.

    Raises:
        RecipeError: ``out`` holds another run, or something else.
        NotADirectoryError: ``out`` is a file.
        Interrupted: by Ctrl-C or a signal; it says what was kept.
        DivergedError: a loss, or a weight at the end, is NaN or infinite.
    """
    check_choice("method", method, recipe.methods)
    check_out(out, "training")
    if recipe.max_minutes is not None:
        alone = dataclasses.replace(recipe, methods={method: recipe.methods[method]})
        alone = with_cost_for_minutes(alone, out, announce, progress, overwrite)
        recipe = dataclasses.replace(alone, methods=recipe.methods)
    run = {"method": method, "seed": seed, "checkpoints": checkpoints, **settings_of(recipe, method)}
    unfinished = Unfinished(out / "unfinished", run)
    if overwrite:
        check_method(recipe, method)
        check_images([(recipe, [seed])], announce)
        clear_out(out, keep=(BUDGET,))
    try:
        finished = _finished(out, run)
        unfinished.check()
    except RecipeError:
        check_method(recipe, method)  # what is wrong with these settings in any folder is said first
        raise
    if finished is not None:
        announce(f"{out} holds this run, and it is finished; --overwrite trains it anew")
        return finished
    if not overwrite:
        check_images([(recipe, [seed])], announce)
    label, experiment = recipe.methods[method].label, None

    def kept() -> str:
        part = experiment.kept if experiment is not None else ""
        return (
            f"{out} keeps the run up to {part}; {GO_ON}"
            if part
            else "nothing is kept yet; the same command begins anew"
        )

    with saying_what_is_kept(kept), naming_run(f"{label}, seed {seed}"):
        experiment = Experiment(
            recipe,
            method,
            seed,
            progress,
            save_folder=out,
            checkpoints=checkpoints,
            logs=out / "logs",
            announce=epochs,
            unfinished=unfinished,
            save_interval=save_interval,
        )
        write(out / STARTED, json.dumps({"kind": "training", **run}, indent=1))
        if experiment.resumed:
            announce(f"{out} holds this run: going on after {experiment.resumed}")
        result = experiment.run()
        save_curves({label: [result]}, out)
        if result.reconstruction is not None:
            save_figure(reconstructions({label: result.reconstruction}), out / "reconstructions.png")
        # It comes last: it is what says that the run is finished.
        content = {"method": method, "seed": seed, **result.numbers(), "recipe": to_plain(recipe)}
        content |= {"kind": "training", "run": run, **describe_environment()}
        write(out / HISTORY, json.dumps(content, indent=1))
    (out / STARTED).unlink(missing_ok=True)
    unfinished.remove()
    return result


def _finished(out: Path, run: dict[str, Any]) -> RunResult | None:
    """The finished run in ``out``; None if there is none.

    Raises:
        RecipeError: it is another one, or cannot be read.
    """
    if not (out / HISTORY).exists():
        return None
    anew = "choose another --out, or start anew with --overwrite"
    try:
        content = json.loads((out / HISTORY).read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(RunResult)]
        result = RunResult(**{name: content[name] for name in names if name in content})
        different = settings_differences(content["run"], run)
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{out / HISTORY} is not of a run that this version can read ({error}); {anew}") from error
    if different:
        raise RecipeError(f"{out} holds a finished run with other settings: {different}; {anew}")
    return result
