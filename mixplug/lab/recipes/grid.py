"""What a sweep varies: ``key=v1,v2`` on the command line, and the points of the product. Needs no torch."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mixplug.lab.recipes.overrides import SHORT
from mixplug.lab.recipes.schema import Recipe, RecipeError, is_text, load_recipe


@dataclass(frozen=True)
class GridPoint:
    """One point of a sweep.

    Attributes:
        values: The value of each swept key.
        overrides: What the recipe is read with at this point, ``key=value`` each.
    """

    values: dict[str, Any]
    overrides: list[str]

    @property
    def label(self) -> str:
        """Its name for people, such as ``epochs=20, fraction=0.1``."""
        return ", ".join(f"{key}={text_of(value)}" for key, value in self.values.items())

    @property
    def folder(self) -> str:
        """Its name for files, such as ``epochs=20,fraction=0.1``."""
        text = ",".join(f"{key}={text_of(value)}" for key, value in self.values.items())
        safe = re.sub(r"[^A-Za-z0-9._+=,-]+", "_", text)[:100]
        # Other texts could look the same once they are safe.
        return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def grid_points(arguments: Sequence[str]) -> list[GridPoint]:
    """The points that ``arguments`` ask for, the last swept key's values next to each other.

    Args:
        arguments: ``key=value`` each, in YAML, of text as it is written. Several values with commas between them,
            outside of brackets, braces and quotes, are swept; a single value holds at every point.

    Raises:
        ValueError: no key has several values, a key or a value is given twice, a value is empty, or a short key's
            values are in brackets.
    """
    swept: dict[str, list[Any]] = {}
    keys = [argument.partition("=")[0] for argument in arguments]
    for key, argument in zip(keys, arguments, strict=True):
        if keys.count(key) > 1:
            raise ValueError(f"{key!r} is given {keys.count(key)} times; give all of its values at once: {key}=v1,v2")
        text = argument.partition("=")[2]
        _refuse_empty(argument, text)
        if key in SHORT and _is_list(text):
            raise ValueError(f"{argument!r}: {_without_brackets(key, text)}")
        values = _texts(text) if is_text(key) else _values(text)
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{argument!r} names the value {text_of(value)} {values.count(value)} times")
        if len(values) > 1:
            swept[key] = values
    if not swept:
        for key, argument in zip(keys, arguments, strict=True):
            if _is_list(text := argument.partition("=")[2]):
                raise ValueError(f"a sweep needs a key with several values; {_without_brackets(key, text)}")
        raise ValueError(
            "a sweep needs a key with several values, such as epochs=20,40,80 or alpha=0.1,0.5,0.9; "
            "'mixplug compare' runs a recipe with single ones"
        )
    points = []
    for chosen in itertools.product(*swept.values()):
        values_here = dict(zip(swept, chosen, strict=True))
        overrides = [
            f"{key}={text_of(values_here[key])}" if key in values_here else argument
            for key, argument in zip(keys, arguments, strict=True)
        ]
        points.append(GridPoint(values_here, overrides))
    return points


def read_points(recipe: str | Path, grid: Sequence[GridPoint]) -> list[Recipe]:
    """The recipe at each point.

    Raises:
        ValueError: the recipe is wrong at one of them, or has other methods at one than at another.
    """
    recipes = [load_recipe(recipe, point.overrides) for point in grid]
    labels = [{key: method.label for key, method in one.methods.items()} for one in recipes]
    if any(one != labels[0] for one in labels):
        raise RecipeError("a sweep compares the same methods at each point; sweep their settings, not the methods")
    return recipes


def text_of(value: Any) -> str:
    """A value as YAML in one line, as it can be given on the command line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()


def _refuse_empty(argument: str, text: str) -> None:
    """Raise for commas with nothing between or after them, outside of brackets, braces and quotes."""
    inside = r"""'[^']*'|"[^"]*"|\[[^\[\]]*\]|\{[^{}]*\}"""
    while (shorter := re.sub(inside, "_", text)) != text:
        text = shorter
    parts = re.split(",", text) if not re.search(r"[\[\]{}]", text) else []
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise ValueError(f"{argument!r} has an empty value; write values with one comma between them, none at the end")


def _is_list(text: str) -> bool:
    values = _values(text)
    return len(values) == 1 and isinstance(values[0], list)


def _without_brackets(key: str, text: str) -> str:
    return f"write {key}={text.strip()[1:-1].strip()} without brackets to sweep"


def _texts(text: str) -> list[str]:
    """The values that ``text`` lists, each as it is written, or as it is quoted."""
    quoted = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]*)(?:,|$)""", text)
    return [part.strip()[1:-1] if part[:1] in ("'", '"') else part.strip() for part in quoted if part]


def _values(text: str) -> list[Any]:
    """The values that ``text`` lists: none where it is a single one, or is no YAML, which is for others to refuse."""
    try:
        values = OmegaConf.to_container(OmegaConf.create(f"values: [{text}]"))["values"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        return []
    return values if isinstance(values, list) else []
