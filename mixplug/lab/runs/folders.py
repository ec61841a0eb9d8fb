"""The command that makes a result again, as results keep it, and its folder. Needs neither torch nor Composer."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixplug.lab.recipes.files import RecipeError, shipped_recipes

STARTED = "started.json"
"""What a folder of results holds as long as it is unfinished: what is to be run there."""

BUDGET = "budget.json"
"""What cost stands for the minutes of a folder's runs."""

HISTORY = "history.json"
"""What a finished training leaves last."""


def command_line(command: str, recipe: str | Path, overrides: Sequence[str] = ()) -> str:
    """``mixplug COMMAND RECIPE ...`` without the folder of the results, the recipe by a name free of this machine's.

    Args:
        command: 'compare', 'sweep' or 'train'.
        recipe: A recipe's file or name.
        overrides: What follows it.
    """
    return shlex.join(["mixplug", command, _name(Path(recipe)), *overrides])


def bench_command(
    recipe: str | Path, overrides: Sequence[str], device: str | None, turns: int, steps: int, *more: str
) -> str:
    """The command line of a benchmark, ``more`` being its further options; see :func:`command_line`."""
    words = [*([] if device is None else ["--device", device]), "--turns", str(turns), "--steps", str(steps), *more]
    return shlex.join([*shlex.split(command_line("bench", recipe, overrides)), *words])


def with_out(command: str, out: Path) -> str:
    """The command with the folder that its results are in, in place of any that it names; empty if it is empty."""
    if not command:
        return ""
    words = shlex.split(command)
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    if out.is_absolute() and out.is_relative_to(Path.cwd()):
        out = out.relative_to(Path.cwd())
    return shlex.join([*words, "--out", out.as_posix()])


def check_out(out: Path, kind: str = "") -> None:
    """Refuse a folder that results cannot go to.

    Args:
        out: The folder, which need not exist.
        kind: 'comparison', 'sweep' or 'training', of which there must be no other one in it; empty for any.

    Raises:
        NotADirectoryError: it, or what it would be in, is a file.
        RecipeError: it holds a sweep where a comparison is to go, and the like.
    """
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"--out {out}: {path} is a file; name a folder")
    there = _kind_of(out)
    if kind and there and there != kind:
        raise RecipeError(f"{out} holds a {there}, and a {kind} cannot go to the same folder; choose another --out")


def clear_out(out: Path, keep: Sequence[str] = ()) -> None:
    """Remove what mixplug left of a training, a comparison or a sweep in a folder, and nothing else.

    Args:
        out: The folder.
        keep: Names of files that stay.
    """
    for folder in [*_points_of(out), out]:
        for pattern in _LEFT:
            for path in folder.glob(pattern):
                if path.name in keep:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for emptied in [folder / "runs", *([] if folder == out else [folder])]:
            if emptied.is_dir() and not any(emptied.iterdir()):
                emptied.rmdir()


_LEFT = (
    STARTED,
    BUDGET,
    "results.json",
    HISTORY,
    "table.md",
    *(
        f"{name}.{end}"
        for name in ("accuracy", "pareto", "curves", "schedules", "reconstructions")
        for end in ("png", "pdf", "csv")
    ),
    "checkpoint.pt",
    "checkpoint-*.pt",
    "logs/*-seed*",
    "unfinished",
    "runs/*-seed*.json",
    "runs/*-seed*.npz",
    "runs/*-seed*.unfinished",
)


def _points_of(out: Path) -> list[Path]:
    """The folders of a sweep's points."""
    names = {
        point["folder"]
        for content in _contents(out)
        for point in content.get("points", [])
        if isinstance(point, dict) and isinstance(point.get("folder"), str)
    }
    return [out / name for name in sorted(names) if Path(name).name == name]


def _kind_of(out: Path) -> str:
    for content in _contents(out):
        kind = content.get("kind", "sweep" if "points" in content else "training" if "history" in content else "")
        if kind in ("comparison", "sweep", "training"):
            return kind
    return ""


def _contents(out: Path) -> Iterator[dict[str, Any]]:
    """What the folder says of itself."""
    for name in (STARTED, "results.json", HISTORY):
        try:
            content = json.loads((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # none, or damaged: it is written anew
        if isinstance(content, dict):
            yield content


def _name(recipe: Path) -> str:
    if not recipe.is_absolute():
        return recipe.as_posix()
    for name, path in shipped_recipes().items():
        if recipe.resolve() == path.resolve():
            return name
    here = Path.cwd()
    return recipe.relative_to(here).as_posix() if recipe.is_relative_to(here) else recipe.name
