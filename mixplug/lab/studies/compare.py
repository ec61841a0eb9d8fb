"""A recipe's methods side by side: accuracy, cost, and a verdict.

Each finished run is written at once (see :mod:`mixplug.lab.runs.files`), and what an unfinished one goes on from as
often as costs little (see :mod:`mixplug.lab.runs.resumption`): an interrupted comparison started again goes on where it
stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixplug.algorithms.trainer.divergence import DivergedError
from mixplug.checks import check_int, counted
from mixplug.lab.pages.figures import save_curves, save_figure, write_pareto
from mixplug.lab.pages.pictures import reconstructions
from mixplug.lab.pages.styles import method_styles
from mixplug.lab.pages.tables import comparison_table, measured
from mixplug.lab.pages.trade_offs import pareto
from mixplug.lab.recipes.schema import PROBES, Recipe, RecipeError, to_plain
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import check_data, count_other_runs, load_run, save_run, write
from mixplug.lab.runs.folders import BUDGET, STARTED, check_out, clear_out, with_out
from mixplug.lab.runs.inputs import check_images
from mixplug.lab.runs.interruption import GO_ON, naming_run, saying_what_is_kept
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import Comparison, RunResult, judging_probe
from mixplug.lab.runs.resumption import Unfinished
from mixplug.lab.runs.verdict import judge, verdict_content, verdict_lines
from mixplug.lab.studies.budget import with_cost_for_minutes

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
    max_seeds: int | None = None,
) -> Comparison:
    """Run every method of ``recipe`` with every seed, and leave results, table and pictures in ``out``.

    Seeds are the outer loop: on a machine whose speed drifts, the methods of a seed drift together. A run that diverges
    is marked, and the others go on.

    With ``max_seeds`` seeds are added to the best method and to those that may be as good, until none may be or there
    are as many (:mod:`mixplug.lab.runs.verdict`); intervals stay valid though it is looked after each.

    Args:
        recipe: What to compare.
        out: A folder, made if missing; runs that are finished there are not run again.
        announce: Called with a line of text at each finished or found run.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        command: The command line that asks for this, for whoever reads the results.
        checked: Whether every method is known to build, and every image to be sound.
        epochs: Called with a line at the end of each epoch.
        overwrite: Start anew: what ``out`` holds of another comparison is removed.
        max_seeds: The most seeds of a method, those of the recipe at least; None for the recipe's.

    Raises:
        ValueError: ``max_seeds`` is below the recipe's seeds, or these are fewer than 2 where some are added.
        RecipeError: ``out`` holds runs of other settings or data, or a sweep.
        NotADirectoryError: ``out`` is a file.
        Interrupted: by Ctrl-C or a signal; it says what was kept.
    """
    check_out(out, "comparison")
    if max_seeds is not None:
        check_int("max_seeds", max_seeds, max(2, recipe.seeds))
    recipe = with_cost_for_minutes(recipe, out, announce, progress, overwrite)
    if overwrite:
        check_methods(recipe)
        check_images([(recipe, recipe.all_seeds())], announce)
        clear_out(out, keep=(BUDGET,))
    cells = cells_of(recipe)
    try:
        runs = {cell: load_run(recipe, *cell, out) for cell in cells}
        unfinished = {cell: Unfinished.of(recipe, *cell, out) for cell in cells}
        for partial in unfinished.values():
            partial.check()
    except RecipeError:
        check_methods(recipe)  # what is wrong with these settings in any folder is said first
        raise
    others = count_other_runs(cells, out)
    if others:
        announce(f"{out} keeps {counted(others, 'run')} of other methods or seeds, of which nothing is said here")
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
        # Seeds are added to the list while it is gone through.
        for number, cell in enumerate(cells, start=1):
            if runs.setdefault(cell, load_run(recipe, *cell, out)) is None:
                label = f"{recipe.methods[cell[0]].label}, seed {cell[1]}"
                name = f"[{number}/{len(cells)}] {label}"
                unfinished.setdefault(cell, Unfinished.of(recipe, *cell, out))
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
            if max_seeds is not None and number == len(cells):
                cells += next_seeds(_finished(recipe, runs, looking=True), max_seeds)
    finished = _finished(recipe, runs, looking=max_seeds is not None)
    _write_outputs(finished, out, command)
    (out / STARTED).unlink(missing_ok=True)
    return finished


def next_seeds(comparison: Comparison, max_seeds: int) -> list[tuple[str, int]]:
    """The runs that may decide which method is best: the next seed of each that may be.

    Args:
        comparison: The finished runs, looked at.
        max_seeds: The most seeds of a method.

    Returns:
        Methods and seeds; none where the order is decided, or every method in question has as many seeds.
    """
    verdict = judge(comparison)
    if verdict is None or verdict.is_decided:
        return []
    methods = [method for method in comparison.recipe.methods if method in (verdict.leader, *verdict.in_question)]
    first, have = comparison.recipe.first_seed, {method: len(comparison.of(method)) for method in methods}
    # Those that were thought beaten, and may be best now, have to catch up.
    wanted = min(max_seeds, max(have.values()) + (len(set(have.values())) == 1))
    return [(method, first + n) for n in range(wanted) for method in methods if n >= have[method]]


def _finished(recipe: Recipe, runs: Mapping[tuple[str, int], RunResult | None], looking: bool) -> Comparison:
    return Comparison(recipe, {cell: run for cell, run in runs.items() if run is not None}, looking)


def run_to_its_end(experiment: Experiment) -> tuple[RunResult, str]:
    """What a run measured, one that diverged too, and that in words."""
    try:
        result = experiment.run()
    except DivergedError as error:
        return experiment.diverged(error), f"diverged at batch {error.batch}: {error}"
    probe = judging_probe(result.lengths, experiment.recipe.probes)
    name = "accuracy" if probe is None else PROBES[probe]
    return result, f"{name} {100 * result.accuracy:.2f}% in {result.seconds:.1f} s"


def cells_of(recipe: Recipe) -> list[tuple[str, int]]:
    """The runs of a comparison in their order: method and seed."""
    return [(method, seed) for seed in recipe.all_seeds() for method in recipe.methods]


def check_methods(recipe: Recipe) -> None:
    """Build each method once: the first error of a recipe should come before minutes of training, not after."""
    for method in recipe.methods:
        check_method(recipe, method)


def check_method(recipe: Recipe, method: str) -> None:
    """Build a method, which finds all that is wrong with it short of training."""
    close_trainer(Experiment(recipe, method, recipe.first_seed).trainer)


def expected_runs(recipe: Recipe) -> dict[str, Any]:
    """What a comparison is about and which runs it consists of, as primitives."""
    runs = [{"method": m, "label": recipe.methods[m].label, "seed": seed} for m, seed in cells_of(recipe)]
    return {"description": recipe.description, "runs": runs}


def summary(comparison: Comparison) -> dict[str, Any]:
    """A comparison as primitives: recipe, table, verdict and every run."""
    runs = [
        {"method": method, "seed": seed, **result.numbers()}
        for (method, seed), result in sorted(comparison.runs.items())
    ]
    table = [dataclasses.asdict(row) for row in comparison.rows()]
    verdict = judge(comparison)
    said = verdict_content(verdict, verdict_lines(comparison, verdict))
    return {"recipe": to_plain(comparison.recipe), "table": table, "verdict": said, "runs": runs}


def named(progress: Progress | None, name: str) -> Progress | None:
    """``progress`` that says which run it is about."""
    return None if progress is None else lambda done, total, text: progress(done, total, f"{name}: {text}")


def prefixed(announce: Announce, name: str) -> Announce:
    """``announce`` that says which run or point it is about."""
    return lambda line: announce(f"{name}: {line}")


def _write_outputs(comparison: Comparison, out: Path, command: str) -> None:
    content = {"kind": "comparison", "command": command, **describe_environment(), **summary(comparison)}
    write(out / "results.json", json.dumps(content, indent=1))
    said = verdict_lines(comparison, judge(comparison))
    write(out / "table.md", comparison_table(comparison).markdown(*said, measured(comparison)))
    save_figure(pareto(comparison), out / "pareto.png")
    write_pareto(comparison, out / "pareto.csv")
    labels = {m: config.label for m, config in comparison.recipe.methods.items()}
    styles = method_styles(comparison.recipe, {m: comparison.of(m)[0] for m in labels})
    runs = {labels[m]: finished for m in labels if (finished := comparison.finished(m))}
    if runs:
        save_curves(runs, out, {labels[m]: style for m, style in styles.items()})
    first = comparison.seeds[0]
    shown = {
        comparison.recipe.methods[m].label: r
        for m in comparison.recipe.methods
        if (r := comparison.by_seed(m)[first].reconstruction) is not None
    }
    picture = out / "reconstructions.png"
    if shown:
        save_figure(reconstructions(shown), picture)
    else:
        picture.unlink(missing_ok=True)  # of methods that were compared here before
