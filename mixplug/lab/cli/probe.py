"""``mixplug probe``."""

from __future__ import annotations

import argparse

from mixplug.checks import check_int, expand_home
from mixplug.lab.cli.console import make_console, print_table
from mixplug.lab.cli.options import Commands, add_recipe, add_run, check_checkpoint, method_of, read_recipe, seed_of


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments; the method and the seed are those of the training."""
    command = commands.add_parser(
        "probe",
        help="judge a checkpoint's representations: nearest neighbours, linear probe",
        epilog="example: mixplug probe runs/digits-sl-seed0/checkpoint.pt digits --method sl",
    )
    command.add_argument(
        "checkpoint",
        type=expand_home,
        metavar="CHECKPOINT",
        help="checkpoint.pt of a training, or an exported .safetensors",
    )
    add_recipe(command, out=False)
    add_run(command)
    command.add_argument("--k", type=int, default=20, help="neighbours that vote (default: %(default)s)")
    return command


def run(options: argparse.Namespace) -> None:
    """Probe, and print the table."""
    recipe = read_recipe(options)
    k = check_int("--k", options.k, 1)
    check_checkpoint(options.checkpoint)
    from mixplug.lab.studies.probe import probe, probe_table

    probed = probe(options.checkpoint, recipe, method_of(options, recipe), seed_of(options, recipe), k)
    print_table(make_console(), probe_table(probed, k))
