"""``mixplug compare``."""

from __future__ import annotations

import argparse

from mixplug.checks import counted
from mixplug.lab.cli.console import FAILED, make_console, make_lines, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_overwrite, add_recipe, add_seeds, default_out, read_recipe

MAX_SEEDS = 10
"""How many seeds decide an order, or it stays undecided."""


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
    command.add_argument(
        "--until-decided",
        action="store_true",
        help="add seeds to the methods that may be best, until one is or there are --max-seeds",
    )
    command.add_argument("--max-seeds", type=int, metavar="N", help="with --until-decided (default: 10)")
    return command


def run(options: argparse.Namespace) -> int:
    """Compare, and print the table and the verdict; a run that diverged is a failure."""
    from mixplug.lab.runs.folders import check_out, command_line

    recipe = read_recipe(options)
    if options.max_seeds is not None and not options.until_decided:
        raise ValueError("--max-seeds is the limit of --until-decided; give both, or --seeds for a fixed number")
    max_seeds = (options.max_seeds or MAX_SEEDS) if options.until_decided else None
    console = make_console()
    out = options.out or default_out(options)
    check_out(out, "comparison")
    count = len(recipe.methods) * recipe.seeds
    methods, seeds = counted(len(recipe.methods), "method"), counted(recipe.seeds, "seed")
    console.print(f"{recipe.description}: {methods}, {seeds}, {counted(count, 'run')}")
    with show_progress(console) as progress:
        from mixplug.lab.pages.tables import comparison_table
        from mixplug.lab.runs.verdict import judge, verdict_lines
        from mixplug.lab.studies.compare import compare

        command = command_line("compare", options.recipe, options.overrides)
        command += "" if max_seeds is None else f" --until-decided --max-seeds {max_seeds}"
        how = {"epochs": make_lines(console), "overwrite": options.overwrite, "max_seeds": max_seeds}
        comparison = compare(recipe, out, console.print, progress, command, **how)
    print_table(console, comparison_table(comparison))
    for line in verdict_lines(comparison, judge(comparison)):
        console.print(line)
    console.print(f"Results, table and pictures are in {out}")
    return FAILED if comparison.has_diverged else 0
