"""Recipes: whole experiments as YAML, read by OmegaConf into a typed schema. Needs neither torch nor Composer."""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixplug.checks import check_choice, check_int, check_real, did_you_mean
from mixplug.data.options import LabelledOptions, SSLOptions
from mixplug.lab.recipes.files import (
    RecipeError,
    apply_overrides,
    find_modules_in,
    first_line,
    locate,
    read,
    resolved,
)
from mixplug.lab.recipes.overrides import BUDGETS, DEFAULT_OPTIMIZER, SHORT
from mixplug.lab.recipes.types import keys_of, type_at, wants_text, without_none, words_for
from mixplug.schedules.phases import exact_ratio


@dataclass
class DataConfig(LabelledOptions):
    """The labelled data.

    Attributes:
        batch_size: Images of a training step (of each task, where there are several), labelled or not.
        eval_batch_size: Images of an evaluation step.
        workers: Processes that read images which are not kept in memory.
        drop_last: Leave out training images that fill no batch, others in each epoch, labelled or not.
    """

    batch_size: int = 64
    eval_batch_size: int = 512
    workers: int = 0
    drop_last: bool = False


@dataclass
class ModelConfig:
    """The classifier: a timm model; channels and classes come from the data.

    Attributes:
        name: Name for ``timm.create_model``; or with dots, such as ``my_module.make_model``, a function (or class) of
            your own whose module gives logits of images, with ``in_chans`` and ``num_classes`` if it takes them.
        args: Its further arguments, such as img_size, patch_size, embed_dim, depth.
        backbone: Name of the encoder inside of it, for all that takes a ``backbone``; empty for the one of timm's.
        small_image_stem: Exchange a residual network's first layers for some that keep small images large; see
            :func:`mixplug.small_image_stem`.
    """

    name: str = "vit_tiny_patch16_224"
    args: dict[str, Any] = field(default_factory=dict)
    backbone: str = ""
    small_image_stem: bool = False


@dataclass
class MethodConfig:
    """One of the ways to train that a comparison compares.

    Attributes:
        label: Its name in tables and pictures; empty for its key.
        algorithms: Algorithms by name, beside the recipe's own. MixTraining and PhaseSwitch get the recipe's
            durations; a method without either trains for ``sl_duration``.
        optimizer: In place of the recipe's, null for the same.
        scheduler: In place of the recipe's, null for the same.
    """

    label: str = ""
    algorithms: list[Any] = field(default_factory=list)
    optimizer: Optional[dict[str, Any]] = None  # noqa: UP045  (OmegaConf reads this type)
    scheduler: Optional[dict[str, Any]] = None  # noqa: UP045


PROBES = {"knn": "kNN", "knn200": "kNN, k=200", "linear": "Linear probe"}
"""What may judge an encoder, and what tables call it."""


KEEP = ("last", "accuracy", "knn", "rankme", "ssl_loss")
"""Which weights a run may end with: its last, or the best by a signal."""


@dataclass
class ExpectConfig:
    """Accuracies that somebody reports of a recipe's methods, to be shown beside ours.

    Attributes:
        source: Where they are from and under what conditions, such as 'Li et al., Table 1, ViT-T, 100+100 epochs'.
        accuracy: On the test images in percent, in [0, 100], by the method's key; of several tasks the average.
    """

    source: str = ""
    accuracy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source:
            raise RecipeError("expect.source is empty; say where the figures are from, such as 'Li et al., Table 1'")
        for method, accuracy in self.accuracy.items():
            check_real(f"expect.accuracy.{method}", accuracy, 0, 100)


@dataclass
class Recipe:
    """A whole experiment.

    Attributes:
        description: What it shows, in a line.
        ssl_duration: Self-supervised learning in all, such as '100ep'; '0ep' for supervised learning alone.
        sl_duration: Supervised learning in all; '0ep' for self-supervised learning alone.
        seeds: How often each method is run.
        first_seed: The first seed; the others follow.
        data: The labelled data.
        ssl_data: Other images for self-supervised learning, brought to the labelled images' size, or ``same: true`` for
            all of ``data``; null for the labelled ones.
        tasks: Several labelled data sets by name, each the settings in which it differs from ``data``; empty for one.
        task_epoch: Whose pass is an epoch of several tasks: that of the 'longest', or of the 'shortest'.
        model: The model.
        optimizer: An optimizer by name.
        decay: What the optimizer's weight decay holds for: 'all' parameters, or 'weights' alone, without biases, norms
            and position embeddings (:func:`mixplug.decay_groups`).
        scheduler: A learning-rate schedule by name, or none. Of a PhaseScheduler a method without phases takes
            the SL part.
        algorithms: Algorithms by name that every method uses.
        methods: The methods by key, in the order of the table.
        callbacks: Callbacks by name, Composer's or your own, of every run.
        loggers: Loggers by name, Composer's or your own; their files go beside the results.
        imports: Modules of your own that are imported first: what they hold can then be named with dots, and a
            module beside the recipe is found.
        eval_interval: How often accuracy is measured for the curves; it always is at the end.
        precision: Composer's precision: fp32, amp_bf16 or amp_fp16.
        compile: Backend that torch.compile compiles the model with, such as inductor; empty for eager.
        device: Composer's device: cpu, gpu (or cuda) or mps; empty for what there is.
        pictures: How many test images to reconstruct, 0 for none.
        probes: What judges the encoder's frozen features when a run is over, on its labelled training images: 'knn' (20
            neighbours), 'knn200', 'linear'. Of runs without supervised learning the first is the accuracy.
        keep: Which weights a run ends with: its 'last', or the best of its last phase by 'knn' or 'rankme' (both of its
            labelled training images, in kNN each judged by the others), 'ssl_loss' or 'accuracy', measured each epoch
            or as ``eval_interval`` says. For 'accuracy' the test images of ``data`` must be validation images: what
            they choose they do not judge. See :class:`mixplug.KeepBest`.
        max_cost: What a run may cost, in forward passes of the plain encoder for each training image: each method's
            durations, in epochs, are stretched or cut to it in their proportions. Null for the durations as they are.
        max_flops: The same in floating-point operations of its passes over the encoder, all images.
        max_minutes: The same as the cost that the method which is slowest for its cost reaches in so many minutes of
            this machine, found by timed steps before the first run (:mod:`mixplug.lab.studies.budget`).
        expect: What others report of these methods, to be shown in the comparison's table; null for nothing.
    """

    description: str = ""
    ssl_duration: str = "100ep"
    sl_duration: str = "100ep"
    seeds: int = 3
    first_seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    ssl_data: Optional[SSLOptions] = None  # noqa: UP045
    tasks: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(DEFAULT_OPTIMIZER))
    decay: str = "all"
    task_epoch: str = "longest"
    scheduler: Optional[dict[str, Any]] = None  # noqa: UP045
    algorithms: list[Any] = field(default_factory=list)
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    loggers: list[Any] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    eval_interval: str = "1dur"
    precision: str = "fp32"
    compile: str = ""
    device: str = ""
    pictures: int = 6
    expect: Optional[ExpectConfig] = None  # noqa: UP045
    max_cost: Optional[float] = None  # noqa: UP045
    max_flops: Optional[float] = None  # noqa: UP045
    max_minutes: Optional[float] = None  # noqa: UP045
    probes: list[str] = field(default_factory=list)
    keep: str = "last"

    def __post_init__(self) -> None:
        self.device = device_name(self.device)
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
        for name in self.budgets:
            check_real(name, getattr(self, name), 0, float("inf"), low_open=True, high_open=True)
        if len(self.budgets) > 1:
            raise RecipeError(
                f"{' and '.join(self.budgets)} are budgets, of which a run has one; set the others to null, or give "
                f"{' or '.join(f'{short}=' for short in BUDGETS)} on the command line, which stands in their place"
            )
        check_choice("task_epoch", self.task_epoch, ("longest", "shortest"))
        check_choice("decay", self.decay, ("all", "weights"))
        check_choice("keep", self.keep, KEEP)
        if self.keep in ("knn", "rankme") and self.tasks:
            raise RecipeError(f"keep={self.keep} is for one labelled data set, and there are {len(self.tasks)} tasks")
        for probe in self.probes:
            check_choice("probes: the probe", probe, PROBES)
        if self.ssl_data is not None:
            check_choice("ssl_data.epoch", self.ssl_data.epoch, ("data", "labelled"))
        if self.ssl_data is not None and self.ssl_data.same:
            self._check_same(self.ssl_data)
        if len(self.tasks) == 1:
            raise RecipeError(f"tasks: one task, {next(iter(self.tasks))!r}, is what `data` is for; name two or more")
        shared, own = DataConfig.__annotations__, typing.get_type_hints(LabelledOptions)
        for name, task in self.tasks.items():
            if not isinstance(task, dict):
                raise RecipeError(f"tasks.{name} must map settings of `data` to values, got {task!r}")
            for key in task:
                if key not in own:
                    why = "; all tasks share data's" if key in shared else did_you_mean(key, own)
                    raise RecipeError(f"unknown key 'tasks.{name}.{key}'{why}; valid here: {sorted(own)}")
            _refuse_other_types(task, LabelledOptions, f"tasks.{name}")
        self.task_data()
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

    def _check_same(self, options: SSLOptions) -> None:
        for option in dataclasses.fields(options):
            value = getattr(options, option.name)
            if option.name not in ("same", "fraction", "epoch") and value != option.default:
                raise RecipeError(
                    f"ssl_data.same=true takes data's {option.name}, and ssl_data.{option.name}={value!r} is another; "
                    f"leave one of them out"
                )
        if self.tasks:
            raise RecipeError("ssl_data.same=true is for one data set, and there are several tasks; name its dataset")

    @property
    def budgets(self) -> list[str]:
        """The names of the budgets that limit runs in place of their durations."""
        return [name for name in BUDGETS.values() if getattr(self, name) is not None]

    def task_data(self) -> dict[str, DataConfig]:
        """The data of each task: ``data`` with what the task has of its own."""
        return {name: _merged(self.data, own, f"tasks.{name}") for name, own in self.tasks.items()}

    def all_seeds(self) -> list[int]:
        """The seeds that each method is run with."""
        return list(range(self.first_seed, self.first_seed + self.seeds))


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Beside the keys of :class:`Recipe`, a file may have ``extends``, the recipe over which its own keys are laid, method
    by method and key by key: a file, looked for beside it first, or a shipped recipe's name. ``optimizer`` and
    ``scheduler`` (also of a method), each of ``vars`` and a ``model`` of another name are replaced as a whole,
    ``description`` and ``expect`` are not taken over, and a method or task that is null is left out. And it may have
    ``vars``, values to be used elsewhere as ``${vars.NAME}``.

    Args:
        recipe: A YAML file, or the name of a shipped recipe (see :func:`shipped_recipes`).
        overrides: ``key=value`` with the key's full path, such as ``data.fraction=0.5`` or
            ``methods.mix.algorithms.0.MixTraining.rho=0.25``, or a short one of
            :mod:`mixplug.lab.recipes.overrides`, such as ``rho=0.25``; values are YAML, text as it is written. In any
            order.

    Raises:
        FileNotFoundError: there is no such file or shipped recipe.
        RecipeError: it is not YAML, has an unknown or mistyped key (the message names the nearest valid one), or two
            overrides set the same.
    """
    path, overrides = locate(recipe), list(overrides)
    _refuse_misspelt(override.partition("=")[0] for override in overrides)
    try:
        raw = read(path)
        written, imports = set(raw.get("methods") or {}), raw.get("imports")
        apply_overrides(raw, overrides, is_text)
        if raw.get("imports") != imports:
            find_modules_in(Path.cwd(), raw.get("imports"))
        given = resolved(raw)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {first_line(error)}") from error
    _refuse_unknown_keys(given, Recipe, "")
    defaults = OmegaConf.structured(Recipe)
    if "optimizer" in given:
        defaults.optimizer = {}  # another optimizer takes the default's place, not a place beside it
    made: Recipe = _merged(defaults, given, f"{path}: ")
    for method in made.expect.accuracy if made.expect else ():
        # A method that the command line leaves out may still have its figure.
        check_choice("expect.accuracy: the method", method, [*made.methods, *sorted(written - {*made.methods})])
    _check_ratios(made)
    return made


def _check_ratios(recipe: Recipe) -> None:
    """Refuse a mix ratio that is none here, where nobody has to wait for torch and Composer."""
    lists = {f"methods.{key}.algorithms": method.algorithms for key, method in recipe.methods.items()}
    for where, specs in {**lists, "algorithms": recipe.algorithms}.items():
        for index, spec in enumerate(specs):
            arguments = next(iter(spec.values()), None) if isinstance(spec, Mapping) else None
            rho = arguments.get("rho") if isinstance(arguments, Mapping) else None
            if isinstance(rho, (int, float)):
                try:
                    exact_ratio(rho)
                except (TypeError, ValueError) as error:
                    raise RecipeError(f"{where}.{index}.{next(iter(spec))}: {error}") from error


def _merged(defaults: Any, given: Mapping[str, Any], where: str) -> Any:
    """What ``given`` makes of a data class, whose name in messages is ``where``."""
    try:
        base = defaults if OmegaConf.is_config(defaults) else OmegaConf.structured(defaults)
        return OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.create(dict(given))))
    except OmegaConfBaseException as error:
        keys = keys_of(error.full_key or "")
        wanted = words_for(type_at(OmegaConf.get_type(base), keys))
        value: Any = given
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
        told = (
            f" must be {wanted}, got {'null' if value is None else repr(value)}" if wanted else f": {first_line(error)}"
        )
        raise RecipeError(f"{where}{'' if where.endswith(' ') else '.'}{error.full_key}{told}") from error


def is_text(path: str) -> bool:
    """Whether the value at this path of a recipe is text."""
    keys = keys_of(path)
    in_task = keys[:1] == ["tasks"] and len(keys) > 2
    return without_none(type_at(LabelledOptions, keys[2:]) if in_task else type_at(Recipe, keys)) is str


def device_name(device: str) -> str:
    """What Composer calls a device: gpu where others say cuda."""
    return {"cuda": "gpu"}.get(device.casefold(), device.casefold())


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dicts, lists and primitives."""
    return dataclasses.asdict(recipe)


def _refuse_misspelt(keys: Iterable[str]) -> None:
    """Raise for a key of the command line that is neither a recipe's nor a short one, and may be meant as either."""
    known = [*typing.get_type_hints(Recipe), "vars", *SHORT]
    for key in keys:
        if key.isidentifier() and key not in known:
            raise RecipeError(f"unknown key {key!r}{did_you_mean(key, known)}; valid here: {sorted(known)}")


def _refuse_unknown_keys(given: Any, schema: Any, where: str) -> None:
    """Raise for keys that are not of ``schema``, by their full path, before OmegaConf's own less helpful words."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where or 'a recipe'} must map keys to values, got {given!r}")
    types = typing.get_type_hints(schema)
    _refuse_other_types(given, schema, where)
    for key, value in given.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in types:
            raise RecipeError(f"unknown key {path!r}{did_you_mean(key, types)}; valid here: {sorted(types)}")
        container = typing.get_origin(types[key]) or types[key]
        if container is list and not isinstance(value, list):
            raise RecipeError(f"{path} must be a list, got {value!r}")
        if container is dict and not isinstance(value, Mapping):
            raise RecipeError(f"{path} must map names to settings, got {value!r}")
        optional = [t for t in typing.get_args(types[key]) if dataclasses.is_dataclass(t)]
        if dataclasses.is_dataclass(types[key]):
            _refuse_unknown_keys(value, types[key], path)
        elif typing.get_origin(types[key]) is typing.Union and optional and value is not None:
            _refuse_unknown_keys(value, optional[0], path)
        elif typing.get_origin(types[key]) is dict and dataclasses.is_dataclass(typing.get_args(types[key])[1]):
            for name, item in value.items():
                _refuse_unknown_keys(item, typing.get_args(types[key])[1], f"{path}.{name}")


def _refuse_other_types(given: Mapping[Any, Any], schema: Any, where: str) -> None:
    """Raise for numbers and the like where text belongs: OmegaConf would make other text of them than was written."""
    types = typing.get_type_hints(schema)
    for key, value in given.items():
        path = f"{where}.{key}" if where else str(key)
        if without_none(types.get(key)) is str and not isinstance(value, str):
            raise RecipeError(wants_text(path, value))
        if typing.get_origin(types.get(key)) is dict and isinstance(value, Mapping):
            for name in value:
                if not isinstance(name, str):
                    raise RecipeError(f"{path}: names must be text, and YAML reads one as {name!r}; quote it")
