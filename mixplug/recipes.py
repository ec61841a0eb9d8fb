"""Recipes: whole experiments as YAML, read by OmegaConf into a typed schema. Needs neither torch nor Composer."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mixplug.checks import check_choice, check_int, did_you_mean
from mixplug.paper import SETTINGS
from mixplug.shorthands import expand


class RecipeError(ValueError):
    """A recipe that cannot be read: unknown or mistyped keys, or a missing file."""


@dataclass
class DataConfig:
    """What to train on.

    Attributes:
        dataset: Name of a data set.
        fraction: Share of its training images to keep, in (0, 1]; each seed draws its own.
        batch_size: Images of a training step.
        eval_batch_size: Images of an evaluation step.
        workers: Processes that load data.
    """

    dataset: str = "digits"
    fraction: float = 1.0
    batch_size: int = 64
    eval_batch_size: int = 512
    workers: int = 0


@dataclass
class ModelConfig:
    """The classifier: a timm model; channels and classes come from the data.

    Attributes:
        name: Name for ``timm.create_model``.
        args: Its further arguments, such as img_size, patch_size, embed_dim, depth.
    """

    name: str = "vit_tiny_patch16_224"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class MethodConfig:
    """One of the ways to train that a comparison compares.

    Attributes:
        label: Its name in tables and pictures; empty for its key.
        algorithms: Algorithms by name, beside the recipe's own. MixTraining and PhaseSwitch get the recipe's
            durations; a method without either trains for ``sl_duration``.
    """

    label: str = ""
    algorithms: list[Any] = field(default_factory=list)


@dataclass
class Recipe:
    """A whole experiment.

    Attributes:
        description: What it shows, in a line.
        ssl_duration: Self-supervised learning in all, such as '100ep'.
        sl_duration: Supervised learning in all.
        seeds: How often each method is run.
        first_seed: The first seed; the others follow.
        data: The data.
        model: The model.
        optimizer: An optimizer by name.
        scheduler: A learning-rate schedule by name, or none. Of a PhaseScheduler a method without phases takes
            the SL part.
        algorithms: Algorithms by name that every method uses.
        methods: The methods by key, in the order of the table.
        eval_interval: How often accuracy is measured for the curves; it always is at the end.
        precision: Composer's precision: fp32, amp_bf16 or amp_fp16.
        device: Composer's device: cpu, gpu or mps; empty for what there is.
        pictures: How many test images to reconstruct, 0 for none.
        paper: Which of the paper's settings it reproduces (see :data:`mixplug.paper.SETTINGS`), so that tables show the
            paper's figures beside ours; empty for none.
    """

    description: str = ""
    ssl_duration: str = "100ep"
    sl_duration: str = "100ep"
    seeds: int = 3
    first_seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: dict[str, Any] = field(default_factory=lambda: {"AdamW": {"lr": 1e-3, "weight_decay": 0.05}})
    scheduler: Optional[dict[str, Any]] = None  # noqa: UP045  (OmegaConf reads this type)
    algorithms: list[Any] = field(default_factory=list)
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    eval_interval: str = "1dur"
    precision: str = "fp32"
    device: str = ""
    pictures: int = 6
    paper: str = ""

    def __post_init__(self) -> None:
        for name, value in (
            ("seeds", self.seeds),
            ("data.batch_size", self.data.batch_size),
            ("data.eval_batch_size", self.data.eval_batch_size),
        ):
            check_int(name, value, 1)
        for name, value in (
            ("first_seed", self.first_seed),
            ("data.workers", self.data.workers),
            ("pictures", self.pictures),
        ):
            check_int(name, value, 0)
        if self.first_seed + self.seeds > 2**32:
            raise RecipeError(f"first_seed and seeds must stay below 2**32, got {self.first_seed} and {self.seeds}")
        if self.paper:
            check_choice("paper", self.paper, SETTINGS)
        if not self.methods:
            raise RecipeError("methods: the recipe names no method; give at least one, such as sl: {label: SL}")
        for key, method in self.methods.items():
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", key):
                raise RecipeError(
                    f"methods: the key {key!r} names files, so it must be letters, digits, '_', '-' or '.'; give the "
                    f"method's name for people as its label"
                )
            if not method.label:
                method.label = key
        labels = [method.label for method in self.methods.values()]
        for label in labels:
            if labels.count(label) > 1:
                raise RecipeError(
                    f"methods: the label {label!r} is used {labels.count(label)} times; give each its own"
                )

    def all_seeds(self) -> list[int]:
        """The seeds that each method is run with."""
        return list(range(self.first_seed, self.first_seed + self.seeds))


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        recipe: A YAML file, or the name of a shipped recipe (see :func:`shipped_recipes`).
        overrides: ``key=value`` with the key's full path, such as ``data.fraction=0.5`` or
            ``methods.mix.algorithms.0.MixTraining.rho=0.25``, or a short one of :mod:`mixplug.shorthands`, such as
            ``rho=0.25``; values are YAML.

    Raises:
        FileNotFoundError: there is no such file or shipped recipe.
        RecipeError: it is not YAML, or has an unknown or mistyped key; the message names the nearest valid one.
    """
    path = _locate(recipe)
    try:
        raw = OmegaConf.load(path)
        if not isinstance(raw, DictConfig):
            raise RecipeError(f"{path} must map keys to values")
        for override in overrides:
            _override(raw, override)
        given = typing.cast(dict[str, Any], OmegaConf.to_container(raw, resolve=True))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {_first_line(error)}") from error
    _refuse_unknown_keys(given, Recipe, "")
    try:
        defaults = OmegaConf.structured(Recipe)
        if "optimizer" in given:
            defaults.optimizer = {}  # another optimizer takes the default's place, not a place beside it
        merged = OmegaConf.merge(defaults, OmegaConf.create(given))
        return typing.cast(Recipe, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{path}: {key}{_first_line(error)}") from error


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with mixplug, by name."""
    folder = _shipped_folder()
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.rglob("*.yaml"))}


def describe(path: Path) -> str:
    """The description of a recipe file, without validating the rest."""
    raw = OmegaConf.load(path)
    return str(raw.get("description", "")) if isinstance(raw, DictConfig) else ""


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dicts, lists and primitives."""
    return dataclasses.asdict(recipe)


def _locate(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    name = str(recipe).removeprefix("recipes/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    raise FileNotFoundError(
        f"there is no recipe file {str(recipe)!r}, and none of that name is shipped; shipped are {sorted(shipped)}"
        f"{did_you_mean(name, shipped)}"
    )


def _shipped_folder() -> Path:
    package = Path(__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def _override(raw: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"an override must be key=value, such as data.fraction=0.5; got {override!r}")
    try:
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]  # type: ignore[index,call-overload]
        for path, item in expand(raw, key, parsed).items():
            OmegaConf.update(raw, path, item, merge=False, force_add=True)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, IndexError) as error:
        raise RecipeError(f"the override {override!r} cannot be applied: {_first_line(error)}") from error


def _refuse_unknown_keys(given: Any, schema: Any, where: str) -> None:
    """Raise for keys that are not of ``schema``, by their full path, before OmegaConf's own less helpful words."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where or 'a recipe'} must map keys to values, got {given!r}")
    types = typing.get_type_hints(schema)
    for key, value in given.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in types:
            raise RecipeError(f"unknown key {path!r}{did_you_mean(key, types)}; valid here: {sorted(types)}")
        container = typing.get_origin(types[key]) or types[key]
        if container is list and not isinstance(value, list):
            raise RecipeError(f"{path} must be a list, got {value!r}")
        if container is dict and not isinstance(value, Mapping):
            raise RecipeError(f"{path} must map names to settings, got {value!r}")
        if dataclasses.is_dataclass(types[key]):
            _refuse_unknown_keys(value, types[key], path)
        elif typing.get_origin(types[key]) is dict and dataclasses.is_dataclass(typing.get_args(types[key])[1]):
            for name, item in value.items():
                _refuse_unknown_keys(item, typing.get_args(types[key])[1], f"{path}.{name}")


def _first_line(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).strip().splitlines()[0]
