"""Short keys for what studies vary: ``epochs``, ``fraction``, ``alpha``, ``lr`` and the like. Pure Python.

They stand for full key paths of a recipe:

- ``epochs=50``: ``ssl_duration=50ep`` and ``sl_duration=50ep``, in place of a budget that the recipe names. An
  algorithm with durations of its own keeps them.
- ``cost=100``, ``flops=1e15``, ``minutes=5``: what each run may cost, as ``max_cost``, ``max_flops`` or
  ``max_minutes``, in place of any other budget.
- ``fraction=0.1``: ``data.fraction=0.1``; ``batch_size=32``: ``data.batch_size=32``.
- ``lr=1e-3``: that argument of the recipe's optimizer, and of those that methods have of their own.
- ``alpha=0.1``: that argument of every MixTraining and JointLoss. A schedule stays: with it the method is another one.
- ``rho=0.25``: that argument of every MixTraining and PhaseSwitch.
- ``methods=[sl,mix_input]``: null for every other method.

Methods whose rho is 0 are the SSL+SL to compare with, and keep both alpha and rho.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixplug.checks import check_choice, check_int, check_real, match_case

BUDGETS = {"cost": "max_cost", "flops": "max_flops", "minutes": "max_minutes"}
"""What limits a run in place of its durations, by its short key."""

SHORT = ("epochs", *BUDGETS, "fraction", "batch_size", "lr", "alpha", "rho")
"""The short keys that are no keys of a recipe."""

APPLIED_LAST = ("lr", "alpha", "rho")
"""Short keys that depend on the methods as written: alpha first, which a rho of 0 would leave nowhere to go."""

DEFAULT_OPTIMIZER = {"AdamW": {"lr": 1e-3, "weight_decay": 0.05}}
"""That of a recipe which names none."""

_HAVE = {"alpha": ("MixTraining", "JointLoss"), "rho": ("MixTraining", "PhaseSwitch")}


def expand(recipe: Mapping[Any, Any], key: str, value: Any) -> dict[str, Any]:
    """The full key paths that ``key`` stands for, each with its value; ``key`` itself if it is no shorthand.

    Args:
        recipe: The recipe as it was written.
        key: What was given to the left of the '='.
        value: What was given to the right of it.

    Raises:
        TypeError: epochs that are no whole number, or an lr that is no number.
        ValueError: epochs below 1, an lr not above 0, an alpha or rho that no method has, or an unknown method.
    """
    if key == "epochs":
        duration = f"{check_int('epochs', value, 1)}ep"
        return {"ssl_duration": duration, "sl_duration": duration, **_without_budgets(recipe)}
    if key in BUDGETS:
        # One that is null is no budget: the name of what was given is what messages are about.
        return {BUDGETS[key]: value, **_without_budgets(recipe, BUDGETS[key])}
    if key in ("fraction", "batch_size"):
        return {f"data.{key}": value}
    if key == "lr":
        return _rates(recipe, check_real("lr", value, 0, math.inf, low_open=True, high_open=True))
    if key == "methods" and isinstance(value, list):
        there = recipe.get("methods") or {}
        for name in value or [None]:
            check_choice("methods", name, there)
        return {f"methods[{name}]": None for name in there if name not in value}
    if key not in _HAVE:
        return {key: value}
    changes: dict[str, Any] = {}
    for where, name, arguments in _carriers(recipe, key):
        if not isinstance(arguments.get(key), Mapping):
            # A bare name, or one with no arguments, has no place to write into.
            changes |= {f"{where}.{name}.{key}": value} if arguments else {where: {name: {key: value}}}
    if not changes:
        raise ValueError(
            f"no method has a {' or '.join(_HAVE[key])} whose rho is not 0"
            f"{' and whose alpha is not a schedule' if key == 'alpha' else ''}; "
            f"name the full key, such as methods.KEY.algorithms.0.MixTraining.{key}"
        )
    return changes


def _without_budgets(recipe: Mapping[Any, Any], kept: str = "") -> dict[str, None]:
    """Null for each budget that the recipe names but ``kept``."""
    return {name: None for name in BUDGETS.values() if name != kept and recipe.get(name) is not None}


def _rates(recipe: Mapping[Any, Any], lr: float) -> dict[str, Any]:
    """Where the learning rates of all optimizers are."""
    changes: dict[str, Any] = {}
    if not recipe.get("optimizer"):
        changes["optimizer"] = {name: {**arguments, "lr": lr} for name, arguments in DEFAULT_OPTIMIZER.items()}
    methods = recipe.get("methods")
    own = {f"methods[{name}].": method for name, method in (methods.items() if isinstance(methods, Mapping) else ())}
    for where, holder in {"": recipe, **own}.items():
        optimizer = holder.get("optimizer") if isinstance(holder, Mapping) else None
        for name, arguments in optimizer.items() if isinstance(optimizer, Mapping) else ():
            # A bare name has no place to write into.
            place = f"{where}optimizer"
            written = isinstance(arguments, Mapping)
            changes |= {f"{place}.{name}.lr": lr} if written else {place: {name: {"lr": lr}}}
    return changes


def _carriers(recipe: Mapping[Any, Any], key: str) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """Where the algorithms are that have ``key`` and belong to no method with rho = 0."""
    shared = list(_parts(recipe.get("algorithms"), "algorithms"))
    methods = recipe.get("methods")
    lists = [shared]
    for method, content in methods.items() if isinstance(methods, Mapping) else ():
        own = content.get("algorithms") if isinstance(content, Mapping) else None
        # In brackets: a method's key may have dots.
        lists.append(list(_parts(own, f"methods[{method}].algorithms")))
    for parts in lists:
        # Without a rho there is the default, which is not 0.
        if 0 not in [arguments.get("rho") for _, name, arguments in (*parts, *shared) if _has(name, "rho")]:
            yield from (part for part in parts if _has(part[1], key))


def _has(name: str, key: str) -> bool:
    return match_case(name, _HAVE[key]) in _HAVE[key]


def _parts(specs: Any, where: str) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """The path, the name and the arguments of each algorithm; what has another form is for others to refuse."""
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        return
    for index, spec in enumerate(specs):
        if isinstance(spec, str):
            yield f"{where}[{index}]", spec, {}
        elif isinstance(spec, Mapping) and len(spec) == 1:
            ((name, arguments),) = spec.items()
            if arguments is None or isinstance(arguments, Mapping):
                yield f"{where}[{index}]", str(name), arguments or {}
