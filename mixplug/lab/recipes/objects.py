"""Objects by name: ``{MixTraining: {rho: 0.5}}`` in a recipe is ``MixTraining(rho=0.5)`` in Python."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mixplug.checks import check_choice, did_you_mean


def algorithms_by_name() -> dict[str, Any]:
    """Names that stand for an algorithm: mixplug's own, then Composer's."""
    import composer.algorithms
    from composer.core import Algorithm

    import mixplug.algorithms

    found = {}
    for module in (composer.algorithms, mixplug.algorithms):
        for name in dir(module):
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, Algorithm):
                found[name] = value
    return found


def schedulers_by_name() -> dict[str, Any]:
    """Names that stand for a learning-rate schedule: mixplug's own and Composer's."""
    import composer.optim

    from mixplug.algorithms.phase_scheduler import PhaseScheduler

    base = composer.optim.ComposerScheduler
    names = {n: getattr(composer.optim, n) for n in dir(composer.optim)}
    found = {n: v for n, v in names.items() if inspect.isclass(v) and base in v.__mro__[1:]}
    return {**found, "PhaseScheduler": PhaseScheduler}


def optimizers_by_name() -> dict[str, Any]:
    """Names that stand for an optimizer: torch's and Composer's."""
    import composer.optim
    import torch

    found = {}
    for module in (torch.optim, composer.optim):
        for name in dir(module):
            value = getattr(module, name)
            if (
                inspect.isclass(value)
                and issubclass(value, torch.optim.Optimizer)
                and value is not torch.optim.Optimizer
            ):
                found[name] = value
    return found


def objectives_by_name() -> dict[str, Any]:
    """Names that stand for a self-supervised objective."""
    import mixplug.objectives

    kinds = (getattr(mixplug.objectives, name) for name in mixplug.objectives.__all__)
    return {k.__name__: k for k in kinds if issubclass(k, mixplug.objectives.Objective) and not inspect.isabstract(k)}


def _values_by_name() -> dict[str, Any]:
    """Names that may stand inside of an object's arguments."""
    from mixplug.schedules.shapes import Ramp
    from mixplug.views.views import ViewRecipe, Views

    views = {"Views": Views, "ViewRecipe": ViewRecipe}
    return {**objectives_by_name(), "Ramp": Ramp, **views, **schedulers_by_name()}


def build(spec: Any, names: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Make the object that ``spec`` describes.

    Args:
        spec: ``{Name: {argument: value}}``, or just ``Name``. Values may be such descriptions themselves (of
            objectives, ramps and schedules).
        names: What ``Name`` may be.
        where: The recipe's key, for messages.
        extra: Further arguments; those of the recipe win.

    Raises:
        TypeError: ``spec`` has another form, or lacks an argument.
        ValueError: an unknown name or argument; the message names the nearest valid one.
    """
    name, arguments = take_apart(spec, where)
    check_choice(where, name, names)
    return _call(
        names[name], {**extra, **{k: _value(v, f"{where}.{name}.{k}") for k, v in arguments.items()}}, f"{where}.{name}"
    )


def take_apart(spec: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """The name and the arguments of a description; see :func:`build`.

    Raises:
        TypeError: ``spec`` is neither a name nor one name with its arguments.
    """
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, arguments = next(iter(spec.items()))
        if arguments is None:
            return name, {}
        if isinstance(arguments, Mapping):
            return name, arguments
    raise TypeError(
        f"{where} must be a name or one name with its arguments, such as MixTraining: {{rho: 0.5}}; got {spec!r}"
    )


def _value(value: Any, where: str) -> Any:
    """``value`` with descriptions inside of it made into objects."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, inner = next(iter(value.items()))
        names = _values_by_name()
        if name in names:
            return build(value, names, where)
        if isinstance(name, str) and name[:1].isupper() and isinstance(inner, (Mapping, type(None))):
            check_choice(where, name, names)
    if isinstance(value, Mapping):
        return {k: _value(v, f"{where}.{k}") for k, v in value.items()}
    return value


def _call(target: Any, arguments: Mapping[str, Any], where: str) -> Any:
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in arguments:
        if argument not in parameters and not open_ended:
            raise ValueError(
                f"{where} has no argument {argument!r}{did_you_mean(argument, parameters)}; it has {list(parameters)}"
            )
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and n not in arguments and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if missing:
        raise TypeError(f"{where} needs the argument(s) {missing}")
    try:
        return target(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except TypeError as error:  # torch's own name no value
        plain = {k: v for k, v in arguments.items() if isinstance(v, (str, int, float, list, type(None)))}
        raise TypeError(f"{where}: {error}; got {plain}") from error
    except Exception as error:  # whatever else Composer's and torch's own checks raise
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
