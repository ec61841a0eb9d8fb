"""A recipe's methods side by side: accuracy, training latency, speedup.

Each finished run is written at once as ``runs/METHOD-seedN.json`` (and ``.npz`` for pictures), so that an
interrupted comparison started again goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from mixplug import pictures
from mixplug.environment import describe_environment
from mixplug.experiment import Experiment, Progress
from mixplug.objectives import Reconstruction
from mixplug.recipes import Recipe, RecipeError, to_plain
from mixplug.results import Comparison, RunResult, markdown_table

Announce = Callable[[str], None]


def compare(recipe: Recipe, out: Path, announce: Announce = print, progress: Progress | None = None) -> Comparison:
    """Run every method of ``recipe`` with every seed, and leave results, table and pictures in ``out``.

    Seeds are the outer loop: on a machine whose speed drifts, the methods of a seed drift together.

    Args:
        recipe: What to compare.
        out: A folder, made if missing; runs that are finished there are not run again.
        announce: Called with a line of text at each finished or found run.
        progress: See :class:`mixplug.experiment.Experiment`.

    Raises:
        RecipeError: ``out`` holds runs of other settings.
    """
    cells = [(method, seed) for seed in recipe.all_seeds() for method in recipe.methods]
    (out / "runs").mkdir(parents=True, exist_ok=True)
    runs = {cell: _load(recipe, *cell, out) for cell in cells}
    found = sum(run is not None for run in runs.values())
    if found:
        announce(f"{out} holds {found} of {len(cells)} runs; going on with the other {len(cells) - found}")
    else:
        # The first error of a recipe should come before minutes of training, not after: build each method once.
        for method in recipe.methods:
            Experiment(recipe, method, recipe.first_seed).trainer.close()
    for number, cell in enumerate(cells, start=1):
        if runs[cell] is None:
            method, seed = cell
            name = f"[{number}/{len(cells)}] {recipe.methods[method].label}, seed {seed}"
            result = Experiment(recipe, method, seed, _named(progress, name)).run()
            _save(recipe, method, seed, out, result)
            runs[cell] = result
            announce(f"{name}: accuracy {100 * result.accuracy:.2f}% in {result.seconds:.1f} s")
    finished = Comparison(recipe, {cell: run for cell, run in runs.items() if run is not None})
    _write_outputs(finished, out)
    return finished


def _named(progress: Progress | None, name: str) -> Progress | None:
    """``progress`` that says which run it is about."""
    return None if progress is None else lambda done, total, text: progress(done, total, f"{name}: {text}")


def _write_outputs(comparison: Comparison, out: Path) -> None:
    rows = [dataclasses.asdict(row) for row in comparison.rows()]
    runs = [
        {"method": method, "seed": seed, **result.numbers()}
        for (method, seed), result in sorted(comparison.runs.items())
    ]
    report = {"recipe": to_plain(comparison.recipe), **describe_environment(), "table": rows, "runs": runs}
    _write(out / "results.json", json.dumps(report, indent=1))
    _write(out / "table.md", markdown_table(comparison))
    pictures.pareto(comparison).savefig(out / "pareto.png")
    pictures.curves({comparison.recipe.methods[m].label: comparison.of(m) for m in comparison.recipe.methods}).savefig(
        out / "curves.png"
    )
    first = comparison.seeds[0]
    shown = {
        comparison.recipe.methods[m].label: r
        for m in comparison.recipe.methods
        if (r := comparison.runs[m, first].reconstruction) is not None
    }
    if shown:
        pictures.reconstructions(shown).savefig(out / "reconstructions.png")


def _paths(method: str, seed: int, out: Path) -> tuple[Path, Path]:
    stem = out / "runs" / f"{method}-seed{seed}"
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")


def _settings(recipe: Recipe, method: str) -> dict[str, Any]:
    """All that a run depends on beside its seed."""
    plain = to_plain(recipe)
    for key in ("description", "seeds", "first_seed", "methods", "paper"):
        plain.pop(key)
    return {**plain, "method": {"algorithms": to_plain(recipe)["methods"][method]["algorithms"]}}


def _save(recipe: Recipe, method: str, seed: int, out: Path, result: RunResult) -> None:
    numbers, arrays = _paths(method, seed, out)
    if result.reconstruction is not None:
        part = arrays.with_name(arrays.name + ".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **{k: v.numpy() for k, v in result.reconstruction._asdict().items()})
        part.replace(arrays)
    # The numbers come last: they are what says that the run is finished.
    content = {"settings": _settings(recipe, method), "result": result.numbers(), **describe_environment()}
    _write(numbers, json.dumps(content, indent=1))


def _load(recipe: Recipe, method: str, seed: int, out: Path) -> RunResult | None:
    numbers, arrays = _paths(method, seed, out)
    if not numbers.exists():
        return None
    try:
        content = json.loads(numbers.read_text())
        settings, result = content["settings"], RunResult(**content["result"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{numbers} is not a finished run that this version can read ({error}); remove it") from error
    wanted = json.loads(json.dumps(_settings(recipe, method)))
    if settings != wanted:
        different = sorted(k for k in wanted | settings if wanted.get(k) != settings.get(k))
        raise RecipeError(
            f"{out} holds a run of {method!r} with other settings: {', '.join(different)} differ; choose another --out "
            f"or remove that folder"
        )
    if arrays.exists():
        try:
            with np.load(arrays) as loaded:
                result.reconstruction = Reconstruction(*(torch.from_numpy(loaded[k]) for k in Reconstruction._fields))
        except (ValueError, KeyError, EOFError, OSError, BadZipFile) as error:
            raise RecipeError(f"{arrays} holds no pictures that this version can read; remove {numbers}") from error
    return result


def _write(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
