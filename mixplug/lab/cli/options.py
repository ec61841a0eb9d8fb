"""Arguments that several commands share, and what follows from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixplug.checks import check_choice, expand_home

if TYPE_CHECKING:
    from mixplug.lab.recipes.schema import Recipe

Commands = Any
"""What ``ArgumentParser.add_subparsers`` returns; argparse has no public name for it."""


def add_recipe(
    command: argparse.ArgumentParser,
    metavar: str = "key=value",
    meaning: str = "settings to change, such as data.fraction=0.5, or the short epochs=50, fraction=, alpha=, rho=",
    out: bool = True,
) -> None:
    """Give a command a recipe, its overrides and, if it leaves results, their folder."""
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    command.add_argument("overrides", nargs="*", default=[], metavar=metavar, help=meaning)
    if out:
        command.add_argument("--out", type=expand_home, metavar="DIR", help="where results go (default: under runs/)")


def add_seeds(command: argparse.ArgumentParser) -> None:
    """Give a command the number of seeds."""
    command.add_argument(
        "--seeds", type=int, metavar="N", help="short for seeds=N: how often each method is run (default: the recipe's)"
    )


def add_run(command: argparse.ArgumentParser) -> None:
    """Give a command a single run of a recipe: a method and a seed."""
    command.add_argument("--method", help="key of the method (default: the recipe's last)")
    command.add_argument("--seed", type=int, help="seed of the run (default: the recipe's first)")


def add_overwrite(command: argparse.ArgumentParser) -> None:
    """Let a command that goes on with what a folder holds start anew there."""
    command.add_argument("--overwrite", action="store_true", help="start anew: remove what the folder holds of others")


def read_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with its overrides."""
    from mixplug.lab.recipes.schema import load_recipe

    return load_recipe(options.recipe, options.overrides)


def method_of(options: argparse.Namespace, recipe: Recipe) -> str:
    """The method that is asked for, of those that there are."""
    if options.method:
        check_choice("method", options.method, recipe.methods)
    return options.method or list(recipe.methods)[-1]


def seed_of(options: argparse.Namespace, recipe: Recipe) -> int:
    """The seed that is asked for."""
    return recipe.first_seed if options.seed is None else options.seed


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there, before anything heavy is loaded.

    Raises:
        FileNotFoundError: it is not.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {str(path)!r}; mixplug train leaves one, checkpoint.pt, in its --out"
        )


def default_out(options: argparse.Namespace, suffix: str = "") -> Path:
    """Under runs/, by the recipe's name: a shipped one's whole name, since small/cifar10 is another than cifar10."""
    from mixplug.lab.recipes.files import shipped_name

    return Path("runs") / f"{shipped_name(options.recipe) or Path(options.recipe).stem}{suffix}"
