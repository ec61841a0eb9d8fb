"""Checks of what a user passes in: one message style, one place.

Every message names the value, the allowed range and, where there is one, the fix.
"""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def check_real(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> Any:
    """Return ``value`` if it is a real number in the interval, which either end may be open.

    Raises:
        TypeError: ``value`` is not a number (strings and booleans are not).
        ValueError: ``value`` is NaN or outside of the interval.
    """
    interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be a number in {interval}, got {value!r} of type {type(value).__name__}"
            f"{_unquoted_hint(value)}"
        )
    number = float(value)
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if math.isnan(number) or not (above and below):
        raise ValueError(f"{name} must be a number in {interval}, got {value!r}")
    return value


def check_int(name: str, value: Any, low: int) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``low``.

    Raises:
        TypeError: ``value`` is not an integer (booleans and floats are not).
        ValueError: ``value`` is below ``low``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{name} must be a whole number of at least {low}, got {value!r} of type "
            f"{type(value).__name__}{_unquoted_hint(value)}"
        )
    if value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return int(value)


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is a boolean.

    Raises:
        TypeError: it is not (0 and 1 are not).
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r} of type {type(value).__name__}")
    return value


def check_mean(name: str, values: Any, channels: int) -> tuple[float, ...]:
    """Return ``values`` as a tuple if they may be the mean pixels of images in [0, 1], one number for each channel.

    Args:
        name: What messages call them.
        values: A sequence, numpy array or tensor; dimensions of size 1 around the channels do not matter.
        channels: How many there must be.

    Raises:
        TypeError: one of them is not a number.
        ValueError: they are not as many as channels, or one is outside of [0, 1].
    """
    return _per_channel(name, values, channels, low_open=False)


def check_std(name: str, values: Any, channels: int) -> tuple[float, ...]:
    """Return ``values`` as a tuple if they may be such images' standard deviations: each in (0, 1]; see above.

    Raises:
        TypeError: one of them is not a number.
        ValueError: they are not as many as channels, or one is outside of (0, 1].
    """
    return _per_channel(name, values, channels, low_open=True)


def _per_channel(name: str, values: Any, channels: int, low_open: bool) -> tuple[float, ...]:
    given = list_of(values)
    if given is None or len(given) != channels:
        each = f"each of the {channels} channels" if channels > 1 else "the one channel"
        raise ValueError(f"{name} must have a number for {each}, such as {[0.5] * channels}, got {values!r}")
    try:
        return tuple(float(check_real(name, value, 0, 1, low_open=low_open)) for value in given)
    except ValueError as error:
        if not all(isinstance(value, numbers.Real) and value <= 255 for value in given) or max(given) <= 1:
            raise
        raise ValueError(
            f"{error}: it is that of images in [0, 1]. Of pixels from 0 to 255 it is divided by 255: "
            f"{[float(f'{value / 255:.4g}') for value in given]}"
        ) from error


def list_of(values: Any) -> list[Any] | None:
    """The numbers of a sequence, numpy array or tensor as a list; None of anything else."""
    if hasattr(values, "reshape") and hasattr(values, "tolist"):
        return values.reshape(-1).tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    return [value.item() if hasattr(value, "item") else value for value in values]


def check_range(name: str, values: Any, high: float) -> tuple[float, float]:
    """Return ``values`` as a tuple if they are two numbers in (0, ``high``], the first not above the second.

    Raises:
        TypeError: one of them is not a number.
        ValueError: they are not two, out of range or the wrong way round.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise ValueError(f"{name} must be two numbers (low, high), got {values!r}")
    for value in values:
        check_real(name, value, 0, high, low_open=True, high_open=math.isinf(high))
    if values[0] > values[1]:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {values!r}; swap them")
    return float(values[0]), float(values[1])


def check_choice(name: str, value: Any, choices: Iterable[str]) -> Any:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: it is not; the message names the nearest choice.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{did_you_mean(value, choices)}")
    return value


def import_named(name: str, where: str) -> Any:
    """The module that a user named.

    Raises:
        ValueError: there is none of that name, or importing it fails.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{where}: there is no module {error.name!r}; install it, or put it beside the recipe (for a command "
                f"without one, into the working directory) and name it in imports"
            ) from error
        raise ValueError(f"{where}: importing {name!r} fails: {type(error).__name__}: {error}") from error


def import_object(name: str, where: str) -> Any:
    """The class or function that a dotted name such as ``my_package.MyObjective`` stands for.

    Raises:
        ValueError: its module cannot be imported, or has none of that name.
    """
    module, _, attribute = name.rpartition(".")
    found = import_named(module, where)
    if not hasattr(found, attribute):
        public = [known for known in vars(found) if not known.startswith("_")]
        raise ValueError(f"{where}: the module {module!r} has no {attribute!r}{did_you_mean(attribute, public)}")
    return getattr(found, attribute)


def counted(number: int, thing: str, things: str = "") -> str:
    """``1 image`` or ``2 images``; ``things`` is the plural of a word that takes more than an s."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """The end of an error message: ``; did you mean 'x'?`` if a choice is near, else empty."""
    near = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def explain_arguments(error: Exception, where: str) -> str:
    """What an error says; of an argument that a function does not take, in words that name it by its key."""
    refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"it takes no {where}.{refused[1]}; leave it out, or all of them: {where}={{}}" if refused else str(error)


def expand_home(path: str | Path) -> Path:
    """The path with its ``~``; as it is where there is no such user, for whoever looks for it to say so."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def match_case(word: Any, choices: Iterable[str]) -> Any:
    """The one of ``choices`` that ``word`` is but for its case; ``word`` itself if it is one, or no single one is."""
    choices = list(choices)
    if word in choices or not isinstance(word, str):
        return word
    alike = [choice for choice in choices if choice.casefold() == word.casefold()]
    return alike[0] if len(alike) == 1 else word


def _unquoted_hint(value: Any) -> str:
    try:
        return "; write it without quotes" if isinstance(value, str) and math.isfinite(float(value)) else ""
    except ValueError:
        return ""
