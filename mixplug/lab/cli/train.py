"""``mixplug train``."""

from __future__ import annotations

import argparse

from mixplug.checks import check_int
from mixplug.lab.cli.console import make_console, make_lines, show_progress
from mixplug.lab.cli.options import (
    Commands,
    add_overwrite,
    add_recipe,
    add_run,
    default_out,
    method_of,
    read_recipe,
    seed_of,
)


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "train",
        help="run one method of a recipe: checkpoint, history, pictures",
        epilog="example: mixplug train digits --method sl_dropout --seed 1 --out ~/runs/first",
    )
    add_recipe(command)
    add_run(command)
    command.add_argument(
        "--checkpoints", type=int, default=1, metavar="N", help="also keep checkpoints after each Nth of the training"
    )
    command.add_argument(
        "--save-interval",
        default="",
        metavar="TIME",
        help="how often to save what an interrupted run goes on from, such as 2ep or 100ba (default: each epoch where "
        "that takes at most a hundredth of the time)",
    )
    add_overwrite(command)
    return command


def run(options: argparse.Namespace) -> None:
    """Train, and print the accuracy."""
    from mixplug.lab.runs.folders import check_out

    recipe = read_recipe(options)
    check_int("--checkpoints", options.checkpoints, 1)
    method, seed = method_of(options, recipe), seed_of(options, recipe)
    out = options.out or default_out(options, f"-{method}-seed{seed}")
    check_out(out, "training")
    console = make_console()
    with show_progress(console) as progress:
        from mixplug.lab.studies.train import train

        result = train(
            recipe,
            method,
            seed,
            out,
            progress,
            options.checkpoints,
            console.print,
            make_lines(console),
            options.save_interval,
            options.overwrite,
        )
    console.print(
        f"{recipe.methods[method].label}, seed {seed}: accuracy {100 * result.accuracy:.2f}% after "
        f"{result.seconds:.1f} s of training; checkpoint, history and pictures are in {out}"
    )
