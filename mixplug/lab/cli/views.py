"""``mixplug views``."""

from __future__ import annotations

import argparse

from mixplug.checks import check_choice, check_int, check_real
from mixplug.lab.cli.options import Commands, add_recipe, default_out, method_of, read_recipe
from mixplug.views.recipes import VIEW_RECIPES


def add(commands: Commands) -> argparse.ArgumentParser:
    """Its arguments."""
    command = commands.add_parser(
        "views",
        help="draw a batch of a recipe's images, random views, and these mixed",
        epilog="example: mixplug views small/two_view/cifar10_vit --views dino --count 4",
    )
    add_recipe(command)
    command.add_argument(
        "--method", help="key of the method whose objective's views to draw (default: the recipe's last)"
    )
    command.add_argument("--views", metavar="NAME", help=f"draw those of this name instead: {', '.join(VIEW_RECIPES)}")
    command.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    command.add_argument("--magnitude", type=float, default=1.0, help="of the views, 0 to 1 (default: %(default)s)")
    command.add_argument(
        "--no-blur", action="store_true", help="with --views: leave blur out, as is usual for small images"
    )
    command.add_argument("--local-size", type=int, metavar="PIXELS", help="also draw local crops of this size")
    return command


def run(options: argparse.Namespace) -> None:
    """Draw, and say where the picture is."""
    from mixplug.lab.runs.folders import check_out

    recipe = read_recipe(options)
    if options.views is not None:
        check_choice("--views", options.views, VIEW_RECIPES)
        if options.method is not None:
            raise ValueError(f"give --views {options.views} or --method {options.method}, not both")
    elif options.no_blur:
        raise ValueError("--no-blur goes with --views; a recipe's own views say blur: false themselves")
    count = check_int("--count", options.count, 1)
    check_real("--magnitude", options.magnitude, 0, 1)
    local_size = 0 if options.local_size is None else check_int("--local-size", options.local_size, 2)
    out = options.out or default_out(options, "-views")
    check_out(out)
    from mixplug.lab.studies.views import mixers_of, objective_of, write_views
    from mixplug.views.views import Views

    method = method_of(options, recipe)
    views = Views(options.views, blur=not options.no_blur) if options.views else objective_of(recipe, method).views
    mixers = [] if options.views else mixers_of(recipe, method)
    path = write_views(recipe, views, options.views or method, out, count, options.magnitude, local_size, mixers)
    print(f"The picture is {path}")
