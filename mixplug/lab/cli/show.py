"""``mixplug show``."""

from __future__ import annotations

import argparse

from mixplug.lab.cli.console import make_console, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_recipe, read_recipe


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "show",
        help="what a recipe will run, what it costs and how long: no training",
        epilog="example: mixplug show digits max_cost=100 --cost-only",
    )
    add_recipe(command, out=False)
    command.add_argument("--cost-only", action="store_true", help="time no steps")
    return command


def run(options: argparse.Namespace) -> None:
    """Print the recipe as it is read, and what it will run."""
    import yaml

    from mixplug.lab.recipes.schema import to_plain

    recipe = read_recipe(options)
    console = make_console()
    console.print(yaml.safe_dump(to_plain(recipe), sort_keys=False, allow_unicode=True, width=110).rstrip())
    with show_progress(console) as progress:
        from mixplug.lab.studies.budget import with_cost_for_minutes
        from mixplug.lab.studies.forecast import forecast, forecast_table

        recipe = with_cost_for_minutes(recipe, None, console.print, progress)
        made = forecast(recipe, not options.cost_only, progress)
    console.print()
    print_table(console, forecast_table(made))
