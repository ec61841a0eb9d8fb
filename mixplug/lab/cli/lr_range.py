"""``mixplug lr-range``."""

from __future__ import annotations

import argparse

from mixplug.lab.cli.console import make_console, show_progress
from mixplug.lab.cli.options import Commands, add_recipe, add_run, default_out, method_of, read_recipe, seed_of


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "lr-range",
        help="which learning rate a method of a recipe bears: plot, suggestion",
        epilog="example: mixplug lr-range digits --method sl --high 1",
    )
    add_recipe(command)
    add_run(command)
    command.add_argument("--low", type=float, metavar="RATE", help="the first learning rate (default: 1e-05)")
    command.add_argument("--high", type=float, metavar="RATE", help="the last learning rate (default: 10)")
    command.add_argument("--steps", type=int, metavar="N", help="how many steps (default: 100)")
    return command


def run(options: argparse.Namespace) -> None:
    """Measure, and print the suggestion and its rule."""
    from mixplug.lab.runs.folders import check_out

    recipe = read_recipe(options)
    method, seed = method_of(options, recipe), seed_of(options, recipe)
    out = options.out or default_out(options, f"-lr-range-{method}")
    check_out(out)
    given = {name: getattr(options, name) for name in ("low", "high", "steps") if getattr(options, name) is not None}
    console = make_console()
    with show_progress(console) as progress:
        from mixplug.lab.studies.lr_range import RULE, measure_range, write_range

        found = measure_range(recipe, method, seed, progress=progress, **given)
        write_range(found, recipe, method, seed, out)
    console.print(f"Suggested maximum of the learning rate: {found.suggestion:.2g}, {RULE} ({found.largest:.2g}).")
    if not found.is_bounded:
        end = "--low" if found.largest == found.rates[0] else "--high"
        console.print(f"The lowest loss is at the end of the range, so take this with care and try another {end}.")
    console.print(f"The plot and the numbers are in {out}")
