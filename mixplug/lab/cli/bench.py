"""``mixplug bench``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mixplug.checks import check_int
from mixplug.lab.cli.console import FAILED, make_console, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_recipe, default_out, read_recipe


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser("bench", help="measure what each phase of each method of a recipe costs")
    add_recipe(command)
    command.add_argument("--device", help="cpu, gpu or mps (default: the recipe's, or what there is)")
    command.add_argument("--turns", type=int, help="how often everything has its turn (default: 12, with --quick 6)")
    command.add_argument("--steps", type=int, default=4, help="timed steps in a turn of each (default: %(default)s)")
    command.add_argument(
        "--quick", action="store_true", help="a self-check in a minute: no memory, exit code 1 if a ratio is far off"
    )
    command.add_argument(
        "--scaling",
        action="store_true",
        help="how one method's step grows with tokens, depth, batch size and mask ratio instead: table, plots",
    )
    command.add_argument(
        "--method", help="with --scaling: key of the method (default: the last with MAE(mask='input'), or the last)"
    )
    command.add_argument(
        "--processes",
        type=int,
        default=0,
        metavar="N",
        help="with --scaling: measure N processes against one too, a thread each, on the CPU (default: no)",
    )
    return command


def run(options: argparse.Namespace) -> int:
    """Measure, and print what was."""
    from mixplug.lab.runs.folders import bench_command, check_out

    recipe = read_recipe(options)
    if options.device is not None:
        recipe.device = options.device
    usual = 6 if options.quick else 12
    turns = usual if options.turns is None else check_int("--turns", options.turns, 1)
    steps = check_int("--steps", options.steps, 1)
    _check_scaling_options(options)
    out = options.out or default_out(options, "-bench")
    check_out(out)
    console = make_console()
    if options.scaling:
        _run_scaling(options, recipe, turns, steps, out, console)
        return 0
    console.print(f"{recipe.description}: {len(recipe.methods)} methods, {turns} turns of {steps} steps of each phase")
    with show_progress(console) as progress:
        from mixplug.lab.bench.measure import measure
        from mixplug.lab.bench.outputs import measured_with, write_outputs
        from mixplug.lab.bench.pages import step_table, target_table, training_table
        from mixplug.lab.bench.targets import GENEROUS, STRICT, targets

        measured = measure(recipe, turns, steps, whole=not options.quick, report=progress)
    more = ["--quick"] if options.quick else []
    measured.command = bench_command(options.recipe, options.overrides, options.device, turns, steps, *more)
    judged = targets(measured, GENEROUS if options.quick else STRICT)
    write_outputs(measured, judged, out)
    for table in (step_table(measured), training_table(measured), target_table(judged)):
        if table.rows:
            print_table(console, table, "bench.md")
            console.print()
    console.print(measured_with(measured).strip())
    console.print(f"Everything is in {out}")
    return FAILED if options.quick and not all(target.met for target in judged) else 0


def _check_scaling_options(options: argparse.Namespace) -> None:
    if options.scaling and options.quick:
        raise ValueError(
            "--scaling and --quick do not go together: --quick is a self-check of all methods without memory; leave "
            "one of them out, and for a shorter --scaling set --turns and --steps"
        )
    if not options.scaling:
        for name, given in (("--method", options.method is not None), ("--processes", options.processes != 0)):
            if given:
                raise ValueError(f"{name} goes with --scaling; without it, all methods are measured in one process")
    elif options.processes:
        check_int("--processes", options.processes, 2)


def _run_scaling(options: argparse.Namespace, recipe: Any, turns: int, steps: int, out: Path, console: Any) -> None:
    from mixplug.lab.runs.folders import bench_command

    with show_progress(console) as progress:
        from mixplug.lab.bench.outputs import growth_measured_with, write_growth
        from mixplug.lab.bench.scaling.efficiency import measure_processes
        from mixplug.lab.bench.scaling.measure import measure_scaling
        from mixplug.lab.bench.scaling.pages import growth_table, left_out_lines, processes_table

        growth = measure_scaling(recipe, turns, steps, options.method, progress)
        more = ["--scaling", "--method", growth.method]
        if options.processes:
            more += ["--processes", str(options.processes)]
        growth.command = bench_command(options.recipe, options.overrides, options.device, turns, steps, *more)
        write_growth(growth, out)
        if options.processes:  # what was measured before is kept if a process fails
            growth.processes = measure_processes(
                recipe, growth.method, options.processes, turns, steps, report=progress
            )
            write_growth(growth, out)
    console.print(f"{growth.recipe}: {growth.label}, {growth.phase.upper()}")
    print_table(console, growth_table(growth), "scaling.md")
    for line in left_out_lines(growth):
        console.print(line)
    console.print()
    if growth.processes is not None:
        print_table(console, processes_table(growth.processes))
        console.print()
    console.print(growth_measured_with(growth).strip())
    console.print(f"Everything is in {out}")
