"""What a finished training has learned: its encoder judged next to the untrained one, on a recipe's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixplug.backbones import Backbone
from mixplug.backbones.exporting import load_weights
from mixplug.backbones.probing import knn_accuracy, linear_probe_accuracy, unattached_backbone
from mixplug.lab.pages.columns import Column, Table
from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.closing import close_trainer
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.probes import probe_features


@dataclass(frozen=True)
class Probed:
    """Accuracies of one encoder on the test images of one task.

    Attributes:
        encoder: What was judged: 'untrained' or the file.
        task: The task's name, empty where there is one.
        knn: Accuracy of the nearest neighbours, in [0, 1].
        linear: Accuracy of the linear probe, in [0, 1].
        training_images: How many images both learned from.
        test_images: How many they were tested on.
    """

    encoder: str
    task: str
    knn: float
    linear: float
    training_images: int
    test_images: int


def probe(checkpoint: Path, recipe: Recipe, method: str, seed: int, k: int = 20) -> list[Probed]:
    """Judge the encoder in ``checkpoint``, and the same encoder with the weights that its training began with.

    The classifier's own weights are not read, so that the classes may be others than those of the training.

    Args:
        checkpoint: A Composer checkpoint (only load files you trust), or what :func:`mixplug.export` wrote of one.
        recipe: What it was trained with; the probes learn from its share of its labelled training images.
        method: Key of the method: its algorithms may change the architecture (such as BlurPool).
        seed: Of the data-limitation subset and of the untrained weights.
        k: Neighbours.

    Returns:
        For each task the untrained encoder, then the trained one.

    Raises:
        FileNotFoundError: there is no such checkpoint, or data is not there.
        TypeError: something in the recipe has the wrong type.
        ValueError: the file is no checkpoint, or one of another architecture; or something in the recipe or ``k`` is
            out of range.
    """
    weights = load_weights(checkpoint)
    experiment = Experiment(recipe, method, seed)
    try:
        state = experiment.trainer.state
        backbone = unattached_backbone(experiment.model, experiment.backbone_path)
        trained = _of_encoder(backbone, weights, f"{str(checkpoint)!r}")
        results = []
        for encoder in ("untrained", checkpoint.name):
            if encoder != "untrained":
                backbone.model.load_state_dict(trained, strict=False)
            for task, (train, test) in probe_features(recipe, seed, backbone, state).items():
                knn, linear = knn_accuracy(*train, *test, k=k), linear_probe_accuracy(*train, *test)
                results.append(Probed(encoder, task, knn, linear, len(train[1]), len(test[1])))
        tasks = list(dict.fromkeys(result.task for result in results))
        return sorted(results, key=lambda result: tasks.index(result.task))
    finally:
        close_trainer(experiment.trainer)


def probe_table(results: Sequence[Probed], k: int) -> Table:
    """A line for each task and encoder."""
    sizes = {
        result.task: f"{result.training_images} training and {result.test_images} test images" for result in results
    }
    tasks = [Column("Task", [result.task for result in results], words=True)] if len(sizes) > 1 else []
    shown = [f"{task}: {size}" if task else size for task, size in sizes.items()]
    return Table(
        [
            *tasks,
            Column("Encoder", [result.encoder for result in results], words=True),
            Column(f"kNN, k={k} (%)", [f"{100 * result.knn:.2f}" for result in results]),
            Column("Linear probe (%)", [f"{100 * result.linear:.2f}" for result in results]),
        ],
        [f"Accuracy on frozen features; {'; '.join(shown)}."],
    )


def _of_encoder(backbone: Backbone, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """What of ``weights`` the encoder has, which must be all but the classifier's.

    Raises:
        ValueError: they are another model's.
    """
    heads = [name for name, module in backbone.model.named_modules() if module in backbone.classifiers()]
    present = {name: value for name, value in backbone.model.state_dict().items() if not _is_below(name, heads)}
    given = {name: value for name, value in weights.items() if not _is_below(name, heads)}
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in present.items()
        if name in given and given[name].shape != value.shape
    ]
    found = {
        "without": [name for name in present if name not in given],
        "with others": [name for name in given if name not in present],
        "with other shapes": shapes,
    }
    differences = [f"{what}: {_shortened(names)}" for what, names in found.items() if names]
    if differences:
        raise ValueError(
            f"{source} is of another model than this {type(backbone.model).__name__} of the recipe, "
            f"{'; '.join(differences)}; give the recipe, the method and the settings that it was trained with"
        )
    return given


def _is_below(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
