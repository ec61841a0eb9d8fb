"""Parameter studies: a recipe's methods side by side at every point of a grid (Li et al., section 3.3).

Each point is a comparison with a folder of its own, so an interrupted sweep goes on where it stopped. Points share the
runs that do not depend on what is swept: SL and SSL+SL know no alpha.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mixplug.checks import counted
from mixplug.lab.pages.figures import save_figure, write_sweep
from mixplug.lab.pages.sweep_pictures import accuracy, trade_off
from mixplug.lab.pages.tables import measured, sweep_table
from mixplug.lab.recipes.grid import GridPoint, grid_points, read_points
from mixplug.lab.recipes.schema import Recipe, RecipeError
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.files import copy_run, load_run, run_paths, settings_of, write
from mixplug.lab.runs.folders import BUDGET, STARTED, check_out, clear_out, command_line, with_out
from mixplug.lab.runs.inputs import check_images
from mixplug.lab.runs.interruption import GO_ON, saying_what_is_kept
from mixplug.lab.runs.progress import Progress
from mixplug.lab.runs.results import Point, Sweep
from mixplug.lab.studies.budget import with_cost_for_minutes
from mixplug.lab.studies.compare import (
    Announce,
    cells_of,
    check_method,
    compare,
    expected_runs,
    named,
    prefixed,
    summary,
)

Identity = tuple[str, int]
"""What makes two runs the same: settings and seed."""


def sweep(
    recipe: str | Path,
    arguments: Sequence[str],
    out: Path,
    announce: Announce = print,
    progress: Progress | None = None,
    epochs: Announce | None = None,
    overwrite: bool = False,
) -> Sweep:
    """Compare a recipe's methods at every point of a grid, and leave results, table and pictures in ``out``.

    Every method of every point is built once before the first run, so that what is wrong shows first.

    Args:
        recipe: A YAML file, or the name of a shipped recipe.
        arguments: ``key=value`` each; several values with commas between them are swept. See
            :func:`mixplug.lab.recipes.grid.grid_points` and :mod:`mixplug.lab.recipes.overrides`.
        out: A folder, made if missing; runs that are finished there are not run again.
        announce: Called with a line of text at each finished, found or shared run.
        progress: See :class:`mixplug.lab.runs.experiment.Experiment`.
        epochs: Called with a line at the end of each epoch.
        overwrite: Start anew: what ``out`` holds of another sweep is removed.

    Raises:
        ValueError: nothing is swept, or something in the recipe is wrong at one of the points.
        RecipeError: ``out`` holds runs of other settings, or a comparison.
        NotADirectoryError: ``out`` is a file.
        Interrupted: by Ctrl-C or a signal; it says what was kept.
    """
    check_out(out, "sweep")
    grid = grid_points(arguments)
    recipes = [
        with_cost_for_minutes(one, out / point.folder, prefixed(announce, point.label), progress, overwrite)
        for point, one in zip(grid, read_points(recipe, grid), strict=True)
    ]
    command = command_line("sweep", recipe, arguments)
    trained: dict[Identity, Path] = {}
    if overwrite:
        _check(recipes)
    else:
        trained = _found(grid, recipes, out)
    check_images([(one, one.all_seeds()) for one in recipes], announce)
    if overwrite:
        clear_out(out, keep=(BUDGET,))
    out.mkdir(parents=True, exist_ok=True)
    write(out / STARTED, json.dumps(_expected(grid, recipes, with_out(command, out)), indent=1))
    points: list[Point] = []
    for number, (point, settings) in enumerate(zip(grid, recipes, strict=True), start=1):
        folder, name = out / point.folder, f"({number}/{len(grid)}) {point.label}"
        announce_point = prefixed(announce, name)
        with saying_what_is_kept(lambda: f"{out} keeps {len(points)} of {len(grid)} points; {GO_ON}"):
            _reuse(settings, folder, trained, announce_point)
            comparison = compare(
                settings,
                folder,
                announce_point,
                named(progress, name),
                command_line("compare", recipe, point.overrides),
                checked=True,
                epochs=None if epochs is None else prefixed(epochs, name),
            )
        for cell in cells_of(settings):
            trained.setdefault(_identity(settings, *cell), run_paths(*cell, folder)[0])
        points.append(Point(point.values, point.folder, comparison))
    finished = Sweep(tuple(points))
    _write_outputs(finished, out, command)
    (out / STARTED).unlink(missing_ok=True)
    return finished


def _found(grid: Sequence[GridPoint], recipes: Sequence[Recipe], out: Path) -> dict[Identity, Path]:
    """The finished runs in ``out``; methods of points without any are built once, to find what is wrong with them."""
    trained: dict[Identity, Path] = {}
    unseen = []
    try:
        for point, recipe in zip(grid, recipes, strict=True):
            cells = [cell for cell in cells_of(recipe) if load_run(recipe, *cell, out / point.folder) is not None]
            for cell in cells:
                trained.setdefault(_identity(recipe, *cell), run_paths(*cell, out / point.folder)[0])
            if not cells:
                unseen.append(recipe)
    except RecipeError:
        _check(recipes)  # what is wrong with these settings in any folder is said first
        raise
    _check(unseen, {settings for settings, _ in trained})
    return trained


def _check(recipes: Sequence[Recipe], built: Iterable[str] = ()) -> None:
    """Build each method of each point, and those of equal settings once."""
    seen = set(built)
    for recipe in recipes:
        for method in recipe.methods:
            settings, _ = _identity(recipe, method, recipe.first_seed)
            if settings not in seen:
                check_method(recipe, method)
                seen.add(settings)


def _reuse(recipe: Recipe, folder: Path, trained: dict[Identity, Path], announce: Announce) -> None:
    """Take the runs that ``folder`` lacks from points that have the same ones."""
    for method, seed in cells_of(recipe):
        source = trained.get(_identity(recipe, method, seed))
        if source is None or run_paths(method, seed, folder)[0].exists():
            continue
        origin = json.loads(source.read_text(encoding="utf-8")).get("reused_from", source.parent.parent.name)
        copy_run(source, method, seed, folder, origin)
        announce(f"{recipe.methods[method].label}, seed {seed}: same settings as {origin}, reused")


def _identity(recipe: Recipe, method: str, seed: int) -> Identity:
    return json.dumps(settings_of(recipe, method), sort_keys=True), seed


def _expected(grid: Sequence[GridPoint], recipes: Sequence[Recipe], command: str) -> dict[str, object]:
    points = [
        {"label": point.label, "folder": point.folder, "runs": expected_runs(recipe)["runs"]}
        for point, recipe in zip(grid, recipes, strict=True)
    ]
    return {"kind": "sweep", "command": command, "description": recipes[0].description, "points": points}


def _write_outputs(finished: Sweep, out: Path, command: str) -> None:
    points = [{"values": p.values, "folder": p.folder, **summary(p.comparison)} for p in finished.points]
    content = {"kind": "sweep", "command": command, **describe_environment(), "points": points}
    write(out / "results.json", json.dumps(content, indent=1))
    write(out / "table.md", sweep_table(finished).markdown(*_shared(finished), measured(finished.comparisons[0])))
    save_figure(accuracy(finished), out / "accuracy.png")
    save_figure(trade_off(finished), out / "pareto.png")
    write_sweep(finished, out / "pareto.csv")


def _shared(finished: Sweep) -> list[str]:
    """A sentence on the runs that points share, if they do."""
    runs = [_identity(c.recipe, *cell) for c in finished.comparisons for cell in cells_of(c.recipe)]
    shared = len(runs) - len(set(runs))
    return (
        [f"Trained once for all rows that have the same settings: {shared} of {counted(len(runs), 'run')}."]
        if shared
        else []
    )
