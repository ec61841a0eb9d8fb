"""Finished runs as files: ``runs/METHOD-seedN.json``, and ``.npz`` for pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from mixplug.lab.recipes.schema import Recipe, RecipeError, to_plain
from mixplug.lab.runs.environment import describe_environment
from mixplug.lab.runs.results import RunResult
from mixplug.objectives import Reconstruction

_LATER: dict[str, dict[str, Any]] = {
    "": {
        "max_cost": None,
        "max_flops": None,
        "max_minutes": None,
        "probes": [],
        "decay": "all",
        "task_epoch": "longest",
        "callbacks": [],
        "imports": [],
        "keep": "last",
    },
    "model": {"backbone": ""},
    "data": {"labels": None, "per_class": None, "drop_last": False},
    "ssl_data": {"same": False, "epoch": "data"},
}
"""Settings that came later, by section, and what they were before."""


def settings_of(recipe: Recipe, method: str) -> dict[str, Any]:
    """All that a run depends on beside its seed, as JSON gives it back."""
    plain = to_plain(recipe)
    own = {key: value for key, value in plain["methods"][method].items() if key != "label" and value is not None}
    for key in ("description", "seeds", "first_seed", "methods", "expect", "loggers"):
        plain.pop(key)
    # As in folders from before there was a choice.
    for section, defaults in _LATER.items():
        options = plain[section] if section else plain
        for key, default in defaults.items():
            if options is not None and options.get(key) == default:
                options.pop(key, None)
    return json.loads(json.dumps({**plain, "method": own}))


def save_run(recipe: Recipe, method: str, seed: int, out: Path, result: RunResult, data: dict[str, Any]) -> None:
    """Write a finished run.

    Args:
        recipe: Its recipe.
        method: Key of its method.
        seed: Its seed.
        out: The folder that it is a run of.
        result: What was measured.
        data: What was loaded, :class:`mixplug.lab.runs.inputs.Inputs`'s summary.
    """
    numbers, arrays = run_paths(method, seed, out)
    if result.reconstruction is not None:
        part = arrays.with_name(arrays.name + ".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **{k: v.numpy() for k, v in result.reconstruction._asdict().items()})
        part.replace(arrays)
    # The numbers come last: they are what says that the run is finished.
    settings = settings_of(recipe, method)
    content = {"settings": settings, "data": data, "result": result.numbers(), **describe_environment()}
    write(numbers, json.dumps(content, indent=1))


def check_data(cells: Iterable[tuple[str, int]], out: Path, data: dict[str, Any]) -> None:
    """Refuse to go on beside finished runs of other data: numbers of images or classes, their shape, or files.

    Args:
        cells: Methods and seeds of the finished runs; those written before files said what was loaded pass.
        out: Their folder.
        data: What was loaded now, :class:`mixplug.lab.runs.inputs.Inputs`'s summary.

    Raises:
        RecipeError: one had other data; the message names what differs.
    """
    for method, seed in cells:
        recorded = json.loads(run_paths(method, seed, out)[0].read_text(encoding="utf-8")).get("data")
        different = "" if recorded is None else data_differences(recorded, data)
        if different:
            raise RecipeError(
                f"{out} holds a run of {method!r}, seed {seed}, with other data: {different}; put the data back as it "
                f"was, choose another --out, or start anew with --overwrite"
            )


def data_differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two summaries of what was loaded, in words; empty where nothing does.

    Of files the older one may say nothing, as earlier versions did.
    """
    then, now = _flat(old), _flat(new)
    names = [name for name in then | now if name in then or not name.endswith("_files")]
    changed = [name for name in names if then.get(name) != now.get(name)]
    return "; ".join(f"{name} was {then.get(name)}, now {now.get(name)}" for name in changed)


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, content in data.items() for name, value in content.items()}


def load_run(recipe: Recipe, method: str, seed: int, out: Path) -> RunResult | None:
    """Read a finished run, None if there is none.

    Raises:
        RecipeError: it has other settings, or cannot be read.
    """
    numbers, arrays = run_paths(method, seed, out)
    if not numbers.exists():
        return None
    try:
        content = json.loads(numbers.read_text(encoding="utf-8"))
        settings, result = dict(content["settings"]), RunResult(**content["result"])
        _check(result)
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{numbers} is not a finished run that this version can read ({error}); remove it") from error
    wanted = settings_of(recipe, method)
    different = settings_differences(settings, wanted)
    if different:
        raise RecipeError(
            f"{out} holds a run of {method!r} with other settings: {different}; choose another --out, or start anew "
            f"with --overwrite"
        )
    if arrays.exists():
        try:
            with np.load(arrays) as loaded:
                result.reconstruction = Reconstruction(*(torch.from_numpy(loaded[k]) for k in Reconstruction._fields))
        except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
            raise RecipeError(f"{arrays} holds no pictures that this version can read; remove {numbers}") from error
    return result


def _check(result: RunResult) -> None:
    """Raise for a result of other types than the tables and pictures need."""
    for name in ("accuracy", "seconds"):
        if not isinstance(value := getattr(result, name), int | float):
            raise TypeError(f"{name} is {value!r}, no number")
    if result.cpu_seconds is not None and not isinstance(result.cpu_seconds, int | float):
        raise TypeError(f"cpu_seconds is {result.cpu_seconds!r}, no number")
    if not isinstance(result.lengths, dict) or not all(isinstance(n, int) for n in result.lengths.values()):
        raise TypeError("lengths are no whole numbers by phase")
    if result.diverged is not None and not isinstance(result.diverged, int):
        raise TypeError(f"diverged is {result.diverged!r}, no batch's number")
    if result.unit not in ("ep", "ba"):
        raise ValueError(f"the unit is {result.unit!r}")
    for name in ("task_accuracies", "probes"):
        if not isinstance(getattr(result, name), dict):
            raise TypeError(f"{name} are no mapping")
    if result.kept is not None and not {"signal", "value", "at"} <= set(result.kept):
        raise ValueError(f"kept is {result.kept!r}, without signal, value and at")
    for name in ("ssl", "sl", "accuracy", *({"rank_me"} & set(result.history))):
        _check_points(f"the history of {name}", result.history[name])
    for name, points in result.settings.items():
        _check_points(f"the setting {name}", points)


def _check_points(what: str, points: Any) -> None:
    array = np.array(points, dtype=float)
    if array.size and (array.ndim != 2 or array.shape[1] != 2):
        raise ValueError(f"{what} is no list of [time, value]")


def settings_differences(old: Any, new: Any, shown: int = 4) -> str:
    """What differs, by its full key, with both values; the first few of it; empty where nothing does."""
    pairs = list(_leaves(old, new, ""))
    texts = [f"{path} was {before} and is {after}" for path, before, after in pairs[:shown]]
    return ", ".join(texts) + (f" and {len(pairs) - shown} more" if len(pairs) > shown else "")


def _leaves(old: Any, new: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            missing = None if key in old and key in new else "nothing"
            below = f"{path}.{key}" if path else str(key)
            yield from _leaves(old.get(key, missing), new.get(key, missing), below)
    elif old != new:
        before, after = (value if value == "nothing" else json.dumps(value) for value in (old, new))
        yield path, before, after


def copy_run(source: Path, method: str, seed: int, out: Path, origin: str) -> None:
    """Take over a finished run of the same settings.

    Args:
        source: Its ``.json`` file.
        method: Key of the method that it becomes.
        seed: Its seed.
        out: The folder that it becomes a run of.
        origin: Where it was trained, which the copy says as ``reused_from``; a copy of a copy names the first.
    """
    numbers, arrays = run_paths(method, seed, out)
    numbers.parent.mkdir(parents=True, exist_ok=True)
    if source.with_suffix(".npz").exists():
        part = arrays.with_name(arrays.name + ".part")
        shutil.copyfile(source.with_suffix(".npz"), part)
        part.replace(arrays)
    write(numbers, json.dumps({"reused_from": origin, **json.loads(source.read_text(encoding="utf-8"))}, indent=1))


def run_paths(method: str, seed: int, out: Path) -> tuple[Path, Path]:
    """The files of a run: its numbers, which say that it is finished, and its pictures."""
    stem = out / "runs" / f"{method}-seed{seed}"
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")


def count_other_runs(cells: Iterable[tuple[str, int]], out: Path) -> int:
    """How many finished runs ``out`` holds of other methods or seeds than ``cells``."""
    own = {run_paths(*cell, out)[0] for cell in cells}
    return len({*(out / "runs").glob("*-seed*.json")} - own)


def write(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
