"""What type a recipe's keys want, and that in words. Pure Python."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def keys_of(path: str) -> list[str]:
    """The keys of a path such as ``methods[a.b].algorithms.0``, in which brackets hold what has dots of its own."""
    return [bare or bracketed for bracketed, bare in re.findall(r"\[([^\]]*)\]|([^.\[\]]+)", path)]


def type_at(schema: Any, keys: Sequence[str]) -> Any:
    """The type that a data class, or what it is made of, has at the end of ``keys``; None where it says nothing."""
    for key in keys:
        schema = without_none(schema)
        if dataclasses.is_dataclass(schema):
            schema = typing.get_type_hints(schema).get(key)
        else:
            inner = typing.get_args(schema)  # of a list its items' type, of a mapping the keys' and the values'
            schema = inner[-1] if inner else None
    return schema


def without_none(kind: Any) -> Any:
    """The type itself, of an optional one the other."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    return next(inner for inner in typing.get_args(kind) if inner is not type(None))


def words_for(kind: Any) -> str:
    """What a value of this type is: ``a whole number``; empty for what has no words."""
    inner = without_none(kind)
    if typing.get_origin(inner) is list:
        return {float: "a list of numbers, such as [0.5]", str: "a list of names"}.get(
            typing.get_args(inner)[0], "a list"
        )
    words = _WORDS.get(inner, "")
    return f"{words} or null" if words and inner is not kind else words


def wants_text(path: str, value: Any) -> str:
    """What to say of a value that is no text where text is wanted."""
    key = path.rpartition(".")[2]
    if key.endswith(("_duration", "_interval")):
        return f"{path} must be like '10ep' or '100ba', got {value!r}; write the unit behind it"
    if value is None:
        return f"{path} must be text, got null; leave it out, or write '' for none"
    if not isinstance(value, (bool, int, float)):
        return f"{path} must be text, got {value!r}"
    return f"{path} must be text, and YAML reads what is written there as {value!r}; quote it, as in {key}: '...'"
