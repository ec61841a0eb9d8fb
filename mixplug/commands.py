"""The command that makes a result again, as results keep it. Needs neither torch nor Composer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mixplug.recipe_files import shipped_recipes


def command_line(command: str, recipe: str | Path, overrides: Sequence[str] = (), seeds: int | None = None) -> str:
    """``mixplug COMMAND RECIPE ...`` without the folder of the results, the recipe by a name free of this machine's.

    Args:
        command: 'compare' or 'sweep'.
        recipe: A recipe's file or name.
        overrides: What follows it.
        seeds: What ``--seeds`` was, None for nothing.
    """
    words = ["mixplug", command, _name(Path(recipe)), *overrides]
    if seeds is not None:
        words += ["--seeds", str(seeds)]
    return shlex.join(words)


def _name(recipe: Path) -> str:
    if not recipe.is_absolute():
        return recipe.as_posix()
    for name, path in shipped_recipes().items():
        if recipe.resolve() == path.resolve():
            return name
    here = Path.cwd()
    return recipe.relative_to(here).as_posix() if recipe.is_relative_to(here) else recipe.name
