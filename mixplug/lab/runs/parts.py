"""What a run of a recipe is made of: model, algorithms, optimizer, scheduler and loggers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from composer.core import Algorithm
from composer.loggers import LoggerDestination
from composer.models import ComposerClassifier
from composer.optim import ComposerScheduler
from torchmetrics import MetricCollection

from mixplug import PhaseSwitch, decay_groups
from mixplug.algorithms.multi_task_classifier import MultiTaskClassifier
from mixplug.algorithms.phase_scheduler import PhaseScheduler
from mixplug.algorithms.trainer.contract import find_in
from mixplug.backbones.model_spec import ModelSpec
from mixplug.lab.recipes.objects import build
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.inputs import Inputs
from mixplug.schedules.phases import Phase


def make_classifier(recipe: Recipe, inputs: Inputs) -> ComposerClassifier:
    """The model of ``recipe`` with its loss and metrics; for several tasks one with an accuracy for each.

    Raises:
        TypeError: as of :func:`make_module`.
        ValueError: as of :func:`make_module`.
    """
    module = make_module(recipe, inputs)
    # Nothing reads accuracy on the training batches, and measuring it takes a tenth of a small model's step.
    none = MetricCollection([])
    if len(inputs.tasks) == 1:
        return ComposerClassifier(module, train_metrics=none, num_classes=sum(inputs.tasks.values()))
    return MultiTaskClassifier(module, inputs.tasks, train_metrics=none)


def make_module(recipe: Recipe, inputs: Inputs) -> torch.nn.Module:
    """The model of ``recipe``, with logits for the classes of all tasks.

    Raises:
        TypeError: what the recipe names makes no module.
        ValueError: timm cannot make it, or it does not fit the images.
    """
    for name in ("in_chans", "num_classes"):
        if name in recipe.model.args:
            raise ValueError(f"model.args.{name} comes from the data; leave it out")
    model = make_spec(recipe, inputs).make()
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and tuple(size) != inputs.shape[1:] and not getattr(model, "dynamic_img_size", False):
        raise ValueError(
            f"model.args.img_size is {tuple(size)} but the images of {recipe.data.dataset!r} are {inputs.shape[1:]}; "
            f"set model.args.img_size={inputs.shape[1]} or data.image_size={size[0]}"
        )
    return model


def make_spec(recipe: Recipe, inputs: Inputs) -> ModelSpec:
    """What the model of ``recipe`` is made of and takes."""
    model = recipe.model
    return ModelSpec(
        model.name,
        model.args,
        inputs.shape,
        inputs.names,
        inputs.statistics,
        small_image_stem=model.small_image_stem,
    )


def encoder_path(recipe: Recipe) -> str | None:
    """Where the recipe says that the encoder is, in the classifier that holds the recipe's module; None if nowhere."""
    return f"module.{recipe.model.backbone}" if recipe.model.backbone else None


def make_algorithms(recipe: Recipe, method: str, inputs: Inputs) -> list[Algorithm]:
    """The algorithms of a method and those of all methods, offered what the recipe and its data say.

    Raises:
        TypeError: as of :func:`mixplug.lab.recipes.objects.build`.
        ValueError: as of :func:`mixplug.lab.recipes.objects.build`.
    """
    offers = {
        "ssl_duration": recipe.ssl_duration,
        "sl_duration": recipe.sl_duration,
        "ssl_dataloader": inputs.ssl,
        "ssl_epoch": "data" if recipe.ssl_data is None else recipe.ssl_data.epoch,
        "normalisation": inputs.normalisation,
        "tasks": inputs.tasks,
    }
    if recipe.model.backbone:
        offers["backbone"] = encoder_path(recipe)
    return [
        build(spec, Algorithm, f"{where}.{index}", **offers)
        for where, specs in (
            (f"methods.{method}.algorithms", recipe.methods[method].algorithms),
            ("algorithms", recipe.algorithms),
        )
        for index, spec in enumerate(specs)
    ]


def make_optimizer(recipe: Recipe, method: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a method, the recipe's unless it has its own.

    Raises:
        TypeError: as of :func:`mixplug.lab.recipes.objects.build`.
        ValueError: as of :func:`mixplug.lab.recipes.objects.build`.
    """
    own = recipe.methods[method].optimizer
    where = "optimizer" if own is None else f"methods.{method}.optimizer"
    spec = recipe.optimizer if own is None else own
    params = decay_groups(model) if recipe.decay == "weights" else model.parameters()
    return build(spec, torch.optim.Optimizer, where, params=params)


def make_scheduler(recipe: Recipe, method: str, algorithms: Sequence[Algorithm]) -> ComposerScheduler | None:
    """The scheduler of a method, the recipe's unless it has its own; None for a constant rate.

    Raises:
        TypeError: as of :func:`mixplug.lab.recipes.objects.build`.
        ValueError: as of :func:`mixplug.lab.recipes.objects.build`.
    """
    own = recipe.methods[method].scheduler
    spec, where = (recipe.scheduler, "scheduler") if own is None else (own, f"methods.{method}.scheduler")
    if spec is None:
        return None
    scheduler = build(spec, ComposerScheduler, where)
    if isinstance(scheduler, PhaseScheduler) and find_in(algorithms, PhaseSwitch) is None:
        return scheduler.alone(Phase.SL)
    return scheduler


def make_loggers(recipe: Recipe, folder: Path, run: str) -> list[LoggerDestination]:
    """Those of the recipe, whose files go to ``folder`` under the run's name unless the recipe says where."""
    numbered = (folder / f"{run}{'' if n == 1 else f'-{n}'}-rank{{rank}}.txt" for n in itertools.count(1))
    # A run that goes on leaves what it logged before: Composer's file loggers begin anew, or refuse.
    free = next(path for path in numbered if not Path(str(path).format(rank=0)).exists())
    # The command's own lines and bars are no logs of a run.
    offers = {"filename": str(free), "log_dir": str(folder), "capture_stdout": False, "capture_stderr": False}
    return [build(spec, LoggerDestination, f"loggers.{index}", **offers) for index, spec in enumerate(recipe.loggers)]
