"""Checks of what a user passes in: one message style, one place.

Every message names the value, the allowed range and, where there is one, the fix.
"""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
from collections.abc import Iterable, Sequence
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


def check_per_channel(name: str, values: Any, channels: int, above: float) -> tuple[float, ...]:
    """Return ``values`` as a tuple if they are finite numbers, one for each channel, each greater than ``above``.

    Raises:
        TypeError: one of them is not a number.
        ValueError: they are not as many as channels, or one is out of range.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != channels:
        raise ValueError(f"{name} must have a number for each of the {channels} channels, got {values!r}")
    return tuple(check_real(name, value, above, math.inf, low_open=True, high_open=True) for value in values)


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


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """The end of an error message: ``; did you mean 'x'?`` if a choice is near, else empty."""
    near = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _unquoted_hint(value: Any) -> str:
    return "; write it without quotes" if isinstance(value, str) else ""
