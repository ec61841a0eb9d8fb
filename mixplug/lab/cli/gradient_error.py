"""``mixplug gradient-error``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixplug.checks import check_int, expand_home
from mixplug.lab.cli.console import make_console, print_table, show_progress
from mixplug.lab.cli.options import Commands, add_run, check_checkpoint, default_out, method_of, seed_of


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments; the method and the seed are those of the training."""
    command = commands.add_parser(
        "gradient-error",
        help="how good the gradients of shorter sequences are at checkpoints of a training: table, heat map, schedule",
        epilog="example: mixplug gradient-error small/two_view/compression untrained --samples 256",
    )
    command.add_argument("recipe", metavar="RECIPE", help="what they were trained with: a YAML file, or a shipped one")
    command.add_argument(
        "overrides",
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoints of the training (mixplug train --checkpoints 4 leaves some), or 'untrained'; and key=value, "
        "the settings that it was trained with",
    )
    command.add_argument("--out", type=expand_home, metavar="DIR", help="where results go (default: under runs/)")
    add_run(command)
    command.add_argument(
        "--rates", type=float, nargs="+", metavar="R", help="shares of dropped tokens (default: 0 to 0.9)"
    )
    command.add_argument("--patches", type=int, nargs="+", metavar="P", help="sides of patches, pixels (default: all)")
    command.add_argument("--samples", type=int, metavar="N", help="images at each checkpoint (default: 2048)")
    command.add_argument("--sub-batch", type=int, metavar="N", help="images of a sub-batch (default: a batch)")
    command.add_argument(
        "--budget",
        type=float,
        default=1.0,
        metavar="STEPS",
        help="cost of a step, in uncompressed ones (default: 1)",
    )
    return command


def run(options: argparse.Namespace) -> None:
    """Measure, and print the best strategy of each checkpoint."""
    from mixplug.lab.recipes.schema import load_recipe
    from mixplug.lab.runs.folders import check_out

    # argparse takes words in one run of them, whatever they are.
    words = {word: str(expand_home(word)) for word in options.overrides}
    checkpoints = [path for word, path in words.items() if "=" not in word or Path(path).is_file()]
    recipe = load_recipe(options.recipe, [word for word in options.overrides if words[word] not in checkpoints])
    if not checkpoints:
        raise ValueError("gradient-error needs at least one CHECKPOINT, such as runs/X/checkpoint.pt, or 'untrained'")
    for path in checkpoints:
        if path != "untrained":
            check_checkpoint(Path(path))
    out = options.out or default_out(options, "-gradient-error")
    check_out(out)
    console = make_console()
    with show_progress(console) as progress:
        from mixplug.lab.studies.gradient_error import (
            RATES,
            SAMPLES,
            measure_stages,
            stage_table,
            write_stages,
        )

        method, seed = method_of(options, recipe), seed_of(options, recipe)
        measured = measure_stages(
            recipe,
            method,
            seed,
            list(dict.fromkeys(checkpoints)),
            options.rates or RATES,
            options.patches,
            SAMPLES if options.samples is None else check_int("--samples", options.samples, 1),
            options.sub_batch,
            options.budget,
            progress,
        )
        write_stages(measured, recipe, method, seed, out)
    print_table(console, stage_table(measured), "gradient_error.md")
    console.print(f"All strategies, the heat maps and what CompressionSchedule.read takes are in {out}")
