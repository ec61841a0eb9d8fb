"""``mixplug sweep``."""

from __future__ import annotations

import argparse

from mixplug.checks import counted
from mixplug.lab.cli.console import FAILED, make_console, make_lines, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_overwrite, add_recipe, add_seeds, default_out


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "sweep",
        help="compare at each of several values of some keys: tables, curves",
        epilog="example: mixplug sweep digits fraction=0.1,0.5 seeds=2",
    )
    add_recipe(command, "key=v1,v2", "what to sweep, such as epochs=20,40,80; single values hold throughout")
    add_seeds(command)
    add_overwrite(command)
    return command


def run(options: argparse.Namespace) -> int:
    """Compare at every point, and print all points; a run that diverged is a failure."""
    from mixplug.lab.recipes.grid import grid_points, read_points
    from mixplug.lab.runs.folders import check_out

    grid = grid_points(options.overrides)
    # What can be found wrong without torch is found before it is loaded.
    recipes = read_points(options.recipe, grid)
    console = make_console()
    keys = "-".join(key.rpartition(".")[2] for key in grid[0].values)
    out = options.out or default_out(options, f"-sweep-{keys}")
    check_out(out, "sweep")
    count = sum(len(recipe.methods) * recipe.seeds for recipe in recipes)
    methods, seeds = counted(len(recipes[0].methods), "method"), counted(recipes[0].seeds, "seed")
    console.print(f"{recipes[0].description}: {len(grid)} points, {methods}, {seeds}, {counted(count, 'run')}")
    with show_progress(console) as progress:
        from mixplug.lab.pages.tables import sweep_listing
        from mixplug.lab.studies.sweep import sweep

        how = {"epochs": make_lines(console), "overwrite": options.overwrite}
        finished = sweep(options.recipe, options.overrides, out, console.print, progress, **how)
    print_table(console, sweep_listing(finished))
    console.print(f"Results, table and pictures are in {out}, those of each point in a folder of its own")
    return FAILED if any(comparison.has_diverged for comparison in finished.comparisons) else 0
