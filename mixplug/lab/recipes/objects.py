"""Objects by name: ``{MixTraining: {rho: 0.5}}`` in a recipe is ``MixTraining(rho=0.5)`` in Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from mixplug.checks import check_choice, did_you_mean, import_object, match_case


def public_classes() -> dict[str, type]:
    """Classes that a name may stand for: torch's optimizers, what Composer has, and every public name of mixplug."""
    import composer.algorithms
    import composer.callbacks
    import composer.loggers
    import composer.optim
    import torch

    import mixplug

    own = composer.optim, composer.algorithms, composer.callbacks, composer.loggers
    modules: tuple[Any, ...] = (torch.optim, *own)
    named = [(name, getattr(module, name)) for module in modules for name in dir(module)]
    named += [(name, getattr(mixplug, name)) for name in dir(mixplug) if name != "__version__"]
    return {name: value for name, value in named if inspect.isclass(value) and not inspect.isabstract(value)}


def build(spec: Any, kind: type, where: str, **offers: Any) -> Any:
    """Make the object that ``spec`` describes, and those that it holds.

    Args:
        spec: ``{Name: {argument: value}}``, or just ``Name``. Values may be such descriptions themselves (of
            objectives, views and schedules). A name with dots, such as ``my_package.MyObjective``, is a class of the
            user's own, or here a function that makes the object.
        kind: What it must be.
        where: The recipe's key, for messages.
        offers: What the recipe's objects may need of the run, by name: each constructor takes those it has parameters
            for, unless the recipe gives others. The ``normalisation`` (mean and std) reaches everything that has a
            method ``normalised_by``, views that were made from their name alone too.

    Raises:
        TypeError: ``spec`` has another form, lacks an argument, or makes something of another kind.
        ValueError: an unknown name or argument; the message names the nearest valid one.
    """
    made = _build(spec, kind, where, offers)
    if not _is_of(made, kind):
        raise TypeError(f"{where}: {take_apart(spec, where)[0]} must make {_article(kind)}, got {made!r}")
    return made


def _is_of(made: Any, kind: type) -> bool:
    """Whether it is one. A protocol of calls, as schedulers have, is kept by all that can be called."""
    return callable(made) if getattr(kind, "_is_protocol", False) else isinstance(made, kind)


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__} ({kind.__module__.partition('.')[0]}'s)"


def _build(spec: Any, kind: type, where: str, offers: Mapping[str, Any]) -> Any:
    name, arguments = take_apart(spec, where)
    if _is_dotted(name):
        target = import_object(name, where)
        if inspect.isclass(target) and not getattr(kind, "_is_protocol", False) and not issubclass(target, kind):
            raise TypeError(f"{where}: {name} must be {_article(kind)}, and is a class of another kind")
        if not callable(target):
            raise TypeError(f"{where}: {name} must be a class, or a function that makes an object, got {target!r}")
    else:
        names = {n: v for n, v in public_classes().items() if issubclass(v, kind) and v is not kind}
        name = check_choice(where, match_case(name, names), names)
        target = names[name]
    where = f"{where}.{name}"
    arguments = {k: {v: None} if k == "objective" and _is_objective(v) else v for k, v in arguments.items()}
    made = _call(target, {k: _value(v, f"{where}.{k}", offers) for k, v in arguments.items()}, where, offers)
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


def _is_dotted(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name) is not None


def _value(value: Any, where: str, offers: Mapping[str, Any]) -> Any:
    """``value`` with descriptions inside of it made into objects."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, inner = next(iter(value.items()))
        known, described = public_classes(), isinstance(inner, (Mapping, type(None))) and isinstance(name, str)
        found = match_case(name, known) in known if described else name in known
        # Other mappings may have names with dots too: here a class is known by its capital.
        if found or (described and name.rpartition(".")[2][:1].isupper()):
            return _build(value, object, where, offers)
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
