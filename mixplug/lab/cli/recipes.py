"""``mixplug recipes``."""

from __future__ import annotations

import argparse

from mixplug.lab.cli.options import Commands


def add(commands: Commands) -> argparse.ArgumentParser:
    """It has no arguments."""
    return commands.add_parser("recipes", help="list the recipes that are shipped", epilog="example: mixplug recipes")


def run(options: argparse.Namespace) -> None:
    """Print a line for each recipe."""
    from mixplug.lab.recipes.files import describe, shipped_recipes

    for name, path in shipped_recipes().items():
        print(f"{name}: {describe(path)}")
    print("Run one with: mixplug compare NAME [key=value ...]")
