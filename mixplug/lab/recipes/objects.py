"""Objects by name: ``{MixTraining: {rho: 0.5}}`` in a recipe is ``MixTraining(rho=0.5)`` in Python."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mixplug.checks import check_choice, did_you_mean, match_case


def public_classes() -> dict[str, type]:
    """Classes that a name may stand for: torch's optimizers, what Composer has, and every public name of mixplug."""
    import composer.algorithms
    import composer.optim
    import torch

    import mixplug

    modules: tuple[Any, ...] = (torch.optim, composer.optim, composer.algorithms)
    named = [(name, getattr(module, name)) for module in modules for name in dir(module)]
    named += [(name, getattr(mixplug, name)) for name in dir(mixplug) if name != "__version__"]
    return {name: value for name, value in named if inspect.isclass(value) and not inspect.isabstract(value)}


def build(spec: Any, kind: type, where: str, **offers: Any) -> Any:
    """Make the object that ``spec`` describes, and those that it holds.

    Args:
        spec: ``{Name: {argument: value}}``, or just ``Name``. Values may be such descriptions themselves (of
            objectives, views and schedules).
        kind: What ``Name`` must be a subclass of.
        where: The recipe's key, for messages.
        offers: What the recipe's objects may need of the run, by name: each constructor takes those it has parameters
            for, unless the recipe gives others. The ``normalisation`` (mean and std) reaches everything that has a
            method ``normalised_by``, views that were made from their name alone too.

    Raises:
        TypeError: ``spec`` has another form, or lacks an argument.
        ValueError: an unknown name or argument; the message names the nearest valid one.
    """
    found = public_classes()
    return _build(spec, {n: v for n, v in found.items() if issubclass(v, kind) and v is not kind}, where, offers)


def _build(spec: Any, names: Mapping[str, type], where: str, offers: Mapping[str, Any]) -> Any:
    name, arguments = take_apart(spec, where)
    name = check_choice(where, match_case(name, names), names)
    where = f"{where}.{name}"
    arguments = {k: {v: None} if k == "objective" and _is_objective(v) else v for k, v in arguments.items()}
    made = _call(names[name], {k: _value(v, f"{where}.{k}", offers) for k, v in arguments.items()}, where, offers)
    if offers.get("normalisation") is not None:
        for part in made.modules() if hasattr(made, "modules") else ():
            if hasattr(part, "normalised_by"):
                part.normalised_by(*offers["normalisation"])
    return made


def _is_objective(name: Any) -> bool:
    """Whether it is an objective's name, which needs no arguments written behind it, as an algorithm's needs none."""
    from mixplug.objectives import Objective

    found = public_classes().get(match_case(name, public_classes())) if isinstance(name, str) else None
    return found is not None and issubclass(found, Objective)


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


def _value(value: Any, where: str, offers: Mapping[str, Any]) -> Any:
    """``value`` with descriptions inside of it made into objects."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, inner = next(iter(value.items()))
        known, described = public_classes(), isinstance(inner, (Mapping, type(None)))
        found = match_case(name, known) in known if described else name in known
        if found or (described and isinstance(name, str) and name[:1].isupper()):
            return _build(value, known, where, offers)
    if isinstance(value, Mapping):
        return {k: _value(v, f"{where}.{k}", offers) for k, v in value.items()}
    if isinstance(value, list):
        return [_value(v, f"{where}.{i}", offers) for i, v in enumerate(value)]
    return value


def _call(target: Any, arguments: Mapping[str, Any], where: str, offers: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in arguments:
        if argument not in parameters and not open_ended:
            raise ValueError(
                f"{where} has no argument {argument!r}{did_you_mean(argument, parameters)}; it has {list(parameters)}"
            )
    arguments = {**{name: value for name, value in offers.items() if name in parameters}, **arguments}
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
        for name, value in arguments.items():
            default = parameters[name].default if name in parameters else None
            wants_number = isinstance(default, (int, float)) and not isinstance(default, bool)
            if wants_number and isinstance(value, str) and repr(value) not in str(error):
                raise TypeError(f"{where}.{name} must be a number, got {value!r}") from error
        plain = {k: v for k, v in arguments.items() if isinstance(v, (str, int, float, list, type(None)))}
        raise TypeError(f"{where}: {error}; got {plain}") from error
    except Exception as error:  # whatever else Composer's and torch's own checks raise
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
