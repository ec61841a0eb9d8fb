"""Recipes as files: where they lie, what they extend, what the command line changes. Pure Python."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mixplug.checks import did_you_mean, expand_home, match_case
from mixplug.lab.recipes.overrides import APPLIED_LAST, expand
from mixplug.lab.recipes.types import keys_of

ONE_NAME = ("optimizer", "scheduler")
"""Keys that hold one name with its settings: what a recipe gives takes the place of what it extends."""

OWN = ("description", "expect")
"""Keys that say what a recipe itself is: not taken over from the one that it extends."""


class RecipeError(ValueError):
    """A recipe that cannot be read: unknown or mistyped keys, or a missing file."""


def read(path: Path, below: tuple[Path, ...] = ()) -> DictConfig:
    """The YAML of ``path`` over that of the recipe it extends, as deep as that goes.

    Args:
        path: The file.
        below: What extends it.

    Raises:
        RecipeError: it is no mapping, extends itself, leaves out a method that there is not, or has unused ``vars``.
    """
    if path.resolve() in below:
        raise RecipeError(f"{path} extends itself: {' -> '.join(str(p) for p in (*below, path.resolve()))}")
    try:
        raw = OmegaConf.load(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecipeError(f"{path} must map keys to values ({error})") from error
    if not isinstance(raw, DictConfig):
        raise RecipeError(f"{path} must map keys to values")
    parent = OmegaConf.create()
    if "extends" in raw:
        extended = raw.pop("extends")
        if not isinstance(extended, str):
            raise RecipeError(f"{path}: extends must be a recipe's name or file, got {extended!r}")
        parent = read(locate(extended, path.parent), (*below, path.resolve()))
    _check_vars(raw, path)
    for key in ("methods", "tasks"):
        _refuse_unknown_nulls(raw.get(key), parent.get(key) or {}, f"{path}: {key}")
    find_modules_in(path.parent, raw.get("imports"))
    _make_room(parent, raw)
    merged = typing.cast(DictConfig, OmegaConf.merge(parent, raw))
    _drop_nulls(merged)
    _refuse_unused(set(raw.get("vars") or {}) - set(parent.get("vars") or {}), merged, path)
    return merged


def find_modules_in(folder: Path, modules: Any) -> None:
    """Have Python find those of ``modules`` that lie in ``folder``.

    Raises:
        RecipeError: one has the name of another that Python finds first, in a library for example.
    """
    for module in modules if isinstance(modules, Iterable) and not isinstance(modules, str) else ():
        head, folder = str(module).partition(".")[0], folder.resolve()
        if not (folder / f"{head}.py").is_file() and not (folder / head / "__init__.py").is_file():
            continue
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # at the end: no file here shall stand in for a library
        importlib.invalidate_caches()
        found = importlib.util.find_spec(head)
        if found is None or not found.origin or not Path(found.origin).resolve().is_relative_to(folder):
            raise RecipeError(
                f"imports: {folder} has a module {head!r}, and Python has another of that name; rename the one here"
            )


def locate(recipe: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: one in the folder ``beside``, one in the working directory, or a shipped one's by name.

    Raises:
        FileNotFoundError: there is none.
    """
    path = expand_home(recipe)
    for candidate in ([] if beside is None else [beside / path]) + [path]:
        if candidate.is_file():
            return candidate
    shipped = shipped_recipes()
    name = match_case(str(recipe).removeprefix("recipes/").removesuffix(".yaml"), shipped)
    if name in shipped:
        return shipped[name]
    raise FileNotFoundError(
        f"there is no recipe file {str(recipe)!r}, and none of that name is shipped; shipped are {sorted(shipped)}"
        f"{did_you_mean(name, shipped)}"
    )


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with mixplug, by name."""
    package = Path(__file__).parents[2]
    installed = package / "_recipes"
    folder = installed if installed.is_dir() else package.parent / "recipes"
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.rglob("*.yaml"))}


def shipped_name(recipe: str | Path) -> str | None:
    """The name of the shipped recipe that ``recipe`` stands for, None for another."""
    path = locate(recipe).resolve()
    return next((name for name, shipped in shipped_recipes().items() if shipped.resolve() == path), None)


def describe(path: Path) -> str:
    """The description of a recipe file, without validating the rest; of those that it is laid over if need be."""
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(own, dict) and "description" in own:
        return str(own["description"])
    return str(read(path).get("description", ""))


def apply_overrides(raw: DictConfig, overrides: Iterable[str], is_text: Callable[[str], bool]) -> None:
    """Apply each ``key=value`` of the command line; their order makes no difference.

    Args:
        raw: The recipe as it was written, changed in place.
        overrides: Values are YAML, but those of keys that hold text are taken as written (in quotes, as these say).
        is_text: Whether the value at a key's full path is text.

    Raises:
        RecipeError: one has another form, cannot be applied, or sets what another one sets.
    """
    setters: dict[str, str] = {}
    last = {key: rank for rank, key in enumerate(APPLIED_LAST, start=1)}
    for override in sorted(overrides, key=lambda text: last.get(text.partition("=")[0], 0)):
        for path in _apply(raw, override, is_text):
            dotted = re.sub(r"\[([^\]]*)\]", r".\1", path)
            if dotted in setters:
                raise RecipeError(f"{setters[dotted]!r} and {override!r} both set {dotted}; give one of them")
            setters[dotted] = override


def _apply(raw: DictConfig, override: str, is_text: Callable[[str], bool]) -> list[str]:
    """Apply one ``key=value``; return the full paths of what it set."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"an override must be key=value, such as data.fraction=0.5; got {override!r}")
    text = is_text(key)
    if not text and not value.strip():  # such as a shell's variable that is not set
        raise RecipeError(f"the override {override!r} has no value; give one, or {key}=null to mean none")
    try:
        parsed = _unquoted(value) if text else _parsed(value)
        changes = expand(raw, key, parsed)
        for path, item in changes.items():
            _refuse_unknown_place(raw, path, item)
            _take_own_copy(raw, keys_of(path)[:-1])
            OmegaConf.update(raw, path, item, merge=False, force_add=True)
        _drop_nulls(raw)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, IndexError) as error:
        raise RecipeError(f"the override {override!r} cannot be applied: {first_line(error)}") from error
    return list(changes)


def _take_own_copy(raw: DictConfig, keys: Iterable[str]) -> None:
    """Where ``${...}`` stands on the way to a place, put what it stands for: a change there is of that place alone.

    OmegaConf 2.3 would put an empty mapping, and 2.4 change what it stands for.
    """
    holder: Any = raw
    for key in keys:
        place: Any = int(key) if isinstance(holder, ListConfig) and key.isdecimal() else key
        if not isinstance(holder, (DictConfig, ListConfig)):
            return
        if isinstance(place, str) and place not in holder:
            return
        if OmegaConf.is_interpolation(holder, place):
            holder[place] = copy.deepcopy(holder[place])
        holder = holder[place]


def _parsed(value: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]  # type: ignore[index,call-overload]


def _unquoted(text: str) -> str:
    """As written; what is in quotes from end to end as YAML reads it, which old command lines needed."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        inside = yaml.safe_load(text)
    except YAMLError:
        return text
    return inside if isinstance(inside, str) else text


def resolved(raw: DictConfig) -> dict[str, Any]:
    """As dicts, lists and primitives, with vars in their places."""
    given = typing.cast(dict[str, Any], OmegaConf.to_container(raw, resolve=True))
    given.pop("vars", None)
    return given


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_vars(raw: DictConfig, path: Path) -> None:
    if "vars" in raw and not isinstance(raw.get("vars"), DictConfig):
        raise RecipeError(f"{path}: vars must map names to values, got {raw.get('vars')!r}")


def _refuse_unused(names: set[str], merged: DictConfig, path: Path) -> None:
    """A file's own vars; those of what it extends may have lost their users with the methods that it leaves out."""
    text = OmegaConf.to_yaml(merged)
    for name in sorted(names):
        if f"${{vars.{name}}}" not in text:
            raise RecipeError(
                f"{path}: vars.{name} is used nowhere{did_you_mean(name, set(merged.vars) - {name})}; write "
                f"${{vars.{name}}} where its value belongs, or remove it"
            )


def _refuse_unknown_nulls(own: Any, known: Mapping[str, Any], where: str) -> None:
    for name, value in (own or {}).items() if isinstance(own, Mapping) else ():
        if value is None and name not in known:
            raise RecipeError(
                f"{where}.{name} is null, which leaves it out, but there is none{did_you_mean(name, known)}"
            )


def _drop_nulls(recipe: DictConfig) -> None:
    """Leave out the methods and tasks that are null."""
    for key in ("methods", "tasks"):
        if key in recipe and recipe[key] is None:
            recipe.pop(key)
        elif isinstance(recipe.get(key), Mapping):
            for name in [name for name, value in recipe[key].items() if value is None]:
                recipe[key].pop(name)


def _make_room(parent: Any, raw: DictConfig) -> None:
    """Take away from what is extended all that is not merged but replaced."""
    for key in (*(key for key in ONE_NAME if key in raw), *OWN):
        parent.pop(key, None)
    extended, own = parent.get("imports"), raw.get("imports")
    if isinstance(extended, ListConfig) and isinstance(own, ListConfig):  # what is extended still needs its own
        raw["imports"] = list(dict.fromkeys([*extended, *own]))
    own_vars = raw.get("vars")
    for name in own_vars if isinstance(own_vars, Mapping) else ():
        (parent.get("vars") or {}).pop(name, None)  # a value of several places, not a place for several values
    model = raw.get("model")
    if isinstance(model, Mapping) and model.get("name") not in (None, (parent.get("model") or {}).get("name")):
        parent.pop("model", None)  # another model has other arguments
    methods = raw.get("methods")
    for name, method in methods.items() if isinstance(methods, Mapping) else ():
        extended = (parent.get("methods") or {}).get(name)
        for key in ONE_NAME:
            if isinstance(method, Mapping) and key in method and extended:
                extended.pop(key, None)


def _refuse_unknown_place(raw: DictConfig, path: str, value: Any) -> None:
    """Of methods, tasks and vars, whose names are the recipe's own, the command line may change what there is.

    A whole method or task, given as a mapping, may be new.
    """
    place = re.fullmatch(r"(methods|tasks|vars)(?:\.([^.\[]+)|\[([^\]]+)\])(.*)", path)
    if place is None:
        return
    kind, name, deeper = place[1], place[2] or place[3], place[4]
    known = raw.get(kind) or {}
    new = kind != "vars" and not deeper and isinstance(value, Mapping)
    if isinstance(known, Mapping) and name not in known and not new:
        raise ValueError(f"there is no {kind}.{name}{did_you_mean(name, known)}; there are {sorted(known)}")
