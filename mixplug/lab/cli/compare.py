"""``mixplug compare``."""

from __future__ import annotations

import argparse

from mixplug.checks import counted
from mixplug.lab.cli.console import FAILED, make_console, make_lines, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_overwrite, add_recipe, add_seeds, default_out, read_recipe


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "compare",
        help="run a recipe's methods side by side and print the table",
        epilog="example: mixplug compare digits epochs=50 --seeds 3 --out runs/short",
    )
    add_recipe(command)
    add_seeds(command)
    add_overwrite(command)
    return command


def run(options: argparse.Namespace) -> int:
    """Compare, and print the table; a run that diverged is a failure."""
    from mixplug.lab.runs.folders import check_out, command_line

    recipe = read_recipe(options)
    console = make_console()
    out = options.out or default_out(options)
    check_out(out, "comparison")
    count = len(recipe.methods) * recipe.seeds
    methods, seeds = counted(len(recipe.methods), "method"), counted(recipe.seeds, "seed")
    console.print(f"{recipe.description}: {methods}, {seeds}, {counted(count, 'run')}")
    with show_progress(console) as progress:
        from mixplug.lab.pages.tables import comparison_table
        from mixplug.lab.studies.compare import compare

        command = command_line("compare", options.recipe, options.overrides)
        how = {"epochs": make_lines(console), "overwrite": options.overwrite}
        comparison = compare(recipe, out, console.print, progress, command, **how)
    print_table(console, comparison_table(comparison))
    console.print(f"Results, table and pictures are in {out}")
    return FAILED if comparison.has_diverged else 0
