"""``mixplug bench``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mixplug.checks import check_int, counted
from mixplug.lab.cli.console import FAILED, make_console, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_recipe, default_out, read_recipe

if TYPE_CHECKING:
    from mixplug.lab.recipes.schema import Recipe

TURNS, STEPS = 12, 4


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "bench",
        help="measure what each phase of each method of a recipe costs",
        epilog="example: mixplug bench digits --quick",
    )
    add_recipe(command)
    command.add_argument("--device", help="cpu, gpu (or cuda) or mps (default: the recipe's, or what there is)")
    command.add_argument("--turns", type=int, help=f"how often everything has its turn (default: {TURNS})")
    command.add_argument("--steps", type=int, help=f"timed steps in a turn of each (default: {STEPS})")
    command.add_argument(
        "--quick",
        action="store_true",
        help="instead, check that a step computes what a hand-written loop does: operations and encoder passes are "
        "counted, nothing is timed, and the exit code is 1 where they differ",
    )
    command.add_argument(
        "--scaling",
        action="store_true",
        help="instead, how one method's step grows with tokens, depth, batch size and mask ratio: table, plots",
    )
    command.add_argument(
        "--method", help="with --scaling: key of the method (default: the last with MAE(mask='input'), or the last)"
    )
    return command


def run(options: argparse.Namespace) -> int:
    """Measure, and print what was measured."""
    from mixplug.lab.runs.folders import check_out

    recipe = read_recipe(options)
    if options.device is not None:
        from mixplug.lab.recipes.schema import device_name

        recipe.device = device_name(options.device)
    turns = TURNS if options.turns is None else check_int("--turns", options.turns, 1)
    steps = STEPS if options.steps is None else check_int("--steps", options.steps, 1)
    _refuse_contradictions(options)
    options.out = options.out or default_out(options, "-bench")
    check_out(options.out)
    if options.quick:
        return _run_quick(options, recipe)
    (_run_scaling if options.scaling else _run_steps)(options, recipe, turns, steps)
    return 0


def _refuse_contradictions(options: argparse.Namespace) -> None:
    if options.scaling and options.quick:
        raise ValueError(
            "--scaling and --quick do not go together: --quick counts and times nothing; leave one of them out, and "
            "for a shorter --scaling set --turns and --steps"
        )
    if options.quick and (options.turns, options.steps) != (None, None):
        raise ValueError("--turns and --steps do not go with --quick, which times nothing; leave them out")
    if options.method is not None and not options.scaling:
        raise ValueError("--method goes with --scaling; without it, all methods are measured")


def _run_quick(options: argparse.Namespace, recipe: Recipe) -> int:
    console = make_console()
    with show_progress(console) as progress:
        from mixplug.lab.bench.gate import check_steps, check_table, write_checks

        checks = check_steps(recipe, progress)
    write_checks(checks, recipe.description, options.out)
    print_table(console, check_table(checks), "checks.md")
    console.print(f"Everything is in {options.out}")
    if all(check.passed is None for check in checks):
        raise ValueError(
            "--quick found no phase with a loop to hold it to (there is none for other algorithms than mixplug's, "
            "several tasks, other images for SSL and float16); leave it out to measure all the same"
        )
    return FAILED if any(check.passed is False for check in checks) else 0


def _run_steps(options: argparse.Namespace, recipe: Recipe, turns: int, steps: int) -> None:
    from mixplug.lab.runs.folders import bench_command

    console = make_console()
    how = f"{counted(turns, 'turn')} of {counted(steps, 'step')} of each phase"
    console.print(f"{recipe.description}: {counted(len(recipe.methods), 'method')}, {how}")
    with show_progress(console) as progress:
        from mixplug.lab.bench.measure import measure
        from mixplug.lab.bench.pages import measured_with, step_table, target_table, training_table, write_bench
        from mixplug.lab.bench.targets import targets

        measured = measure(recipe, turns, steps, progress)
    measured.command = bench_command(options.recipe, options.overrides, options.device, turns, steps)
    judged = targets(measured)
    write_bench(measured, judged, options.out)
    for table in (step_table(measured), training_table(measured), target_table(judged)):
        print_table(console, table, "bench.md")
        console.print()
    console.print(measured_with(measured).strip())
    console.print(f"Everything is in {options.out}")


def _run_scaling(options: argparse.Namespace, recipe: Recipe, turns: int, steps: int) -> None:
    from mixplug.lab.runs.folders import bench_command

    console = make_console()
    with show_progress(console) as progress:
        from mixplug.lab.bench.scaling.measure import measure_scaling
        from mixplug.lab.bench.scaling.pages import growth_measured_with, growth_table, left_out_lines, write_growth

        growth = measure_scaling(recipe, turns, steps, options.method, progress)
    growth.command = bench_command(
        options.recipe, options.overrides, options.device, turns, steps, "--scaling", "--method", growth.method
    )
    write_growth(growth, options.out)
    console.print(f"{growth.recipe}: {growth.label}, {growth.phase.upper()}")
    print_table(console, growth_table(growth), "scaling.md")
    for line in left_out_lines(growth):
        console.print(line)
    console.print()
    console.print(growth_measured_with(growth).strip())
    console.print(f"Everything is in {options.out}")
