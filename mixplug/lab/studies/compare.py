"""A recipe's methods side by side: accuracy, training latency, speedup.

Each finished run is written at once (see :mod:`mixplug.lab.runs.files`), and what an unfinished one goes on from as
often as costs little (see :mod:`mixplug.lab.runs.resumption`): an interrupted comparison started again goes on where it
stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixplug.algorithms.trainer.divergence import DivergedError
from mixplug.checks import counted
from mixplug.lab.pages.curves import curves
from mixplug.lab.pages.figures import save_figure, write_curves, write_pareto
from mixplug.lab.pages.pictures import reconstructions
from mixplug.lab.pages.styles import method_styles
from mixplug.lab.pages.tables import comparison_table, measured
from mixplug.lab.pages.trade_offs import pareto
from mixplug.lab.recipes.schema import Recipe, RecipeError, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import check_data, load_run, save_run, write
from mixplug.lab.runs.folders import STARTED, check_out, clear_out, with_out
from mixplug.lab.runs.inputs import check_images
from mixplug.lab.runs.interruption import GO_ON, naming_run, saying_what_is_kept
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import Comparison, RunResult
from mixplug.lab.runs.resumption import Unfinished

Announce = Callable[[str], None]


def compare(
    recipe: Recipe,
    out: Path,
    announce: Announce = print,
    progress: Progress | None = None,
    command: str = "",
    checked: bool = False,
    epochs: Announce | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Run every method of ``recipe`` with every seed, and leave results, table and pictures in ``out``.

    Seeds are the outer loop: on a machine whose speed drifts, the methods of a seed drift together. A run that diverges
    is marked, and the others go on.

    Args:
        recipe: What to compare.
        out: A folder, made if missing; runs that are finished there are not run again.
        announce: Called with a line of text at each finished or found run.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        command: The command line that asks for this, for whoever reads the results.
        checked: Whether every method is known to build, and every image to be sound.
        epochs: Called with a line at the end of each epoch.
        overwrite: Start anew: what ``out`` holds of another comparison is removed.

    Raises:
        RecipeError: ``out`` holds runs of other settings or data, or a sweep.
        NotADirectoryError: ``out`` is a file.
        Interrupted: by Ctrl-C or a signal; it says what was kept.
    """
    check_out(out, "comparison")
    if overwrite:
        check_methods(recipe)
        check_images([(recipe, recipe.all_seeds())], announce)
        clear_out(out)
    cells = cells_of(recipe)
    try:
        runs = {cell: load_run(recipe, *cell, out) for cell in cells}
        unfinished = {cell: Unfinished.of(recipe, *cell, out) for cell in cells}
        for partial in unfinished.values():
            partial.check()
    except RecipeError:
        check_methods(recipe)  # what is wrong with these settings in any folder is said first
        raise
    found = sum(run is not None for run in runs.values())
    if found:
        announce(f"{out} holds {found} of {counted(len(cells), 'run')}; going on with the other {len(cells) - found}")
    elif not checked and not overwrite:
        check_methods(recipe)
    if not checked and not overwrite:
        check_images([(recipe, dict.fromkeys(seed for (_, seed), run in runs.items() if run is None))], announce)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    started = {"kind": "comparison", "command": with_out(command, out), **expected_runs(recipe)}
    write(out / STARTED, json.dumps(started, indent=1))
    label, experiment = "", None

    def kept() -> str:
        done = sum(run is not None for run in runs.values())
        part = f", and {label}, up to {experiment.kept}" if experiment is not None and experiment.kept else ""
        return f"{out} keeps {done} of {counted(len(cells), 'run')}{part}; {GO_ON}"

    with saying_what_is_kept(kept):
        for number, cell in enumerate(cells, start=1):
            if runs[cell] is None:
                label = f"{recipe.methods[cell[0]].label}, seed {cell[1]}"
                name = f"[{number}/{len(cells)}] {label}"
                with naming_run(name):
                    experiment = Experiment(
                        recipe,
                        *cell,
                        named(progress, name),
                        announce=None if epochs is None else prefixed(epochs, name),
                        unfinished=unfinished[cell],
                        logs=out / "logs",
                    )
                    data = experiment.inputs.summary
                    check_data((other for other, run in runs.items() if run is not None), out, data)
                    if experiment.resumed:
                        announce(f"{name}: going on after {experiment.resumed}")
                    result, says = run_to_its_end(experiment)
                    save_run(recipe, *cell, out, result, data)
                unfinished[cell].remove()
                runs[cell], experiment = result, None
                announce(f"{name}: {says}")
    finished = Comparison(recipe, {cell: run for cell, run in runs.items() if run is not None})
    _write_outputs(finished, out, command)
    (out / STARTED).unlink(missing_ok=True)
    return finished


def run_to_its_end(experiment: Experiment) -> tuple[RunResult, str]:
    """What a run measured, one that diverged too, and that in words."""
    try:
        result = experiment.run()
    except DivergedError as error:
        return experiment.diverged(error), f"diverged at batch {error.batch}: {error}"
    return result, f"accuracy {100 * result.accuracy:.2f}% in {result.seconds:.1f} s"


def cells_of(recipe: Recipe) -> list[tuple[str, int]]:
    """The runs of a comparison in their order: method and seed."""
    return [(method, seed) for seed in recipe.all_seeds() for method in recipe.methods]


def check_methods(recipe: Recipe) -> None:
    """Build each method once: the first error of a recipe should come before minutes of training, not after."""
    for method in recipe.methods:
        check_method(recipe, method)


def check_method(recipe: Recipe, method: str) -> None:
    """Build a method, which finds all that is wrong with it short of training."""
    Experiment(recipe, method, recipe.first_seed).trainer.close()


def expected_runs(recipe: Recipe) -> dict[str, Any]:
    """What a comparison is about and which runs it consists of, as primitives."""
    runs = [{"method": m, "label": recipe.methods[m].label, "seed": seed} for m, seed in cells_of(recipe)]
    return {"description": recipe.description, "runs": runs}


def summary(comparison: Comparison) -> dict[str, Any]:
    """A comparison as primitives: recipe, table and every run."""
    runs = [
        {"method": method, "seed": seed, **result.numbers()}
        for (method, seed), result in sorted(comparison.runs.items())
    ]
    table = [dataclasses.asdict(row) for row in comparison.rows()]
    return {"recipe": to_plain(comparison.recipe), "table": table, "runs": runs}


def named(progress: Progress | None, name: str) -> Progress | None:
    """``progress`` that says which run it is about."""
    return None if progress is None else lambda done, total, text: progress(done, total, f"{name}: {text}")


def prefixed(announce: Announce, name: str) -> Announce:
    """``announce`` that says which run or point it is about."""
    return lambda line: announce(f"{name}: {line}")


def _write_outputs(comparison: Comparison, out: Path, command: str) -> None:
    content = {"kind": "comparison", "command": command, **describe_environment(), **summary(comparison)}
    write(out / "results.json", json.dumps(content, indent=1))
    write(out / "table.md", comparison_table(comparison).markdown(measured(comparison)))
    save_figure(pareto(comparison), out / "pareto.png")
    write_pareto(comparison, out / "pareto.csv")
    labels = {m: config.label for m, config in comparison.recipe.methods.items()}
    styles = method_styles(comparison.recipe, {m: comparison.of(m)[0] for m in labels})
    runs = {labels[m]: finished for m in labels if (finished := comparison.finished(m))}
    if runs:
        save_figure(curves(runs, {labels[m]: style for m, style in styles.items()}), out / "curves.png")
        write_curves(runs, out / "curves.csv")
    first = comparison.seeds[0]
    shown = {
        comparison.recipe.methods[m].label: r
        for m in comparison.recipe.methods
        if (r := comparison.runs[m, first].reconstruction) is not None
    }
    if shown:
        save_figure(reconstructions(shown), out / "reconstructions.png")
