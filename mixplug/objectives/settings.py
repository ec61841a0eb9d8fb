"""Objects as plain data: what a checkpoint holds of an objective or a schedule, and how it compares with today's.

An object is its class's name and its constructor's arguments, ``{"name": "Ramp", "start": 1.0, "stop": 0.0}``. The
value of an argument is the attribute of the same name; a class that keeps one in another way says so in a method
``arguments() -> {name: value}``. What is in neither place is not compared.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any


def describe(value: Any) -> Any:
    """``value`` as None, booleans, numbers, strings, and lists and mappings of such."""
    if isinstance(value, Enum):
        return describe(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Number):
        return int(value) if isinstance(value, numbers.Integral) else float(value)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {str(describe(key)): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return {"name": type(value).__name__, **describe(_arguments(value))}


def differences(name: str, saved: Any, value: Any) -> Iterator[str]:
    """In words, each setting in which ``value`` is another than the one that ``saved`` describes.

    Args:
        name: What the setting is called.
        saved: What :func:`describe` gave, of this version or an earlier one: an argument that it does not have counts
            as its default, for there was no such argument when it was saved, or as what the class's
            ``earlier_defaults`` say that it was then.
        value: Today's.

    Yields:
        Such as "objective.mask_ratio was 0.75 and is 0.5".
    """
    now = describe(value)
    if _is_object(saved) and _is_object(now) and saved["name"] == now["name"]:
        defaults = {**defaults_of(type(value)), **getattr(type(value), "earlier_defaults", {})}
        for key, argument in _arguments(value).items():
            then = saved[key] if key in saved else describe(defaults.get(key))
            yield from differences(f"{name}.{key}", then, argument)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for index, item in enumerate(value):
            yield from differences(f"{name}[{index}]", saved[index], item)
    elif saved != now:
        yield f"{name} was {_in_words(saved)} and is {_in_words(now)}"


def defaults_of(kind: type) -> dict[str, Any]:
    """The arguments of a class's constructor and their defaults, None for those that have none."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # some classes written in C
        return {}
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def _arguments(thing: Any) -> Mapping[str, Any]:
    if callable(getattr(thing, "arguments", None)):
        return thing.arguments()
    return {name: getattr(thing, name) for name in defaults_of(type(thing)) if hasattr(thing, name)}


def _is_object(described: Any) -> bool:
    return isinstance(described, Mapping) and "name" in described


def _in_words(described: Any) -> str:
    if _is_object(described):
        arguments = (f"{name}={_in_words(value)}" for name, value in described.items() if name != "name")
        return f"{described['name']}({', '.join(arguments)})"
    return str(described)
