"""``mixplug fit``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixplug.checks import expand_home
from mixplug.lab.cli.console import make_console, show_progress
from mixplug.lab.cli.options import Commands, add_overwrite


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "fit",
        help="from a folder of images to a model: tries the methods worth trying, and says which paid",
        epilog="example: mixplug fit photos --minutes 20 --out runs/photos",
    )
    command.add_argument(
        "images", type=expand_home, metavar="IMAGES", help="FOLDER/CLASS/IMAGE, perhaps with train, test and unlabelled"
    )
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings in place of what the rules choose"
    )
    command.add_argument("--labels", type=expand_home, metavar="FILE", help="a CSV file with the columns path,label")
    command.add_argument("--minutes", type=float, default=20.0, metavar="M", help="how long it may take (default: 20)")
    command.add_argument("--seed", type=int, default=0, help="of the held-out images and the first run (default: 0)")
    command.add_argument("--out", type=expand_home, metavar="DIR", help="where everything goes (default: under runs/)")
    add_overwrite(command)
    return command


def run(options: argparse.Namespace) -> None:
    """Fit, and say what came of it."""
    console = make_console()
    out = options.out or Path("runs") / options.images.resolve().name
    with show_progress(console) as progress:
        from mixplug.lab.studies.fit import fit

        how = {"seed": options.seed, "overwrite": options.overwrite, "announce": console.print, "progress": progress}
        fitted = fit(options.images, out, options.labels, options.minutes, options.overrides, **how)
    for line in fitted.verdict:
        console.print(line)
    images = len(fitted.mistakes.labels)
    console.print(f"{fitted.method}: {100 * fitted.mistakes.accuracy:.1f}% of {images} images that it did not see")
    console.print(f"The model is {fitted.model}, the page about it {fitted.page}")
