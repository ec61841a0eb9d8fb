"""MultiTaskClassifier: one backbone and a head for each task, as Composer trains it (Li et al., section 2.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from composer.models import ComposerClassifier
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from mixplug.data.multi_task import check_labels, check_tasks, first_labels
from mixplug.objectives.multi_task import multi_task_cross_entropy, split_logits


class MultiTaskClassifier(ComposerClassifier):
    """A classifier of several tasks, each image of which belongs to one of them.

    Batches are ``(images, labels)`` of all tasks, as :class:`mixplug.data.multi_task.MultiTaskLoader` makes them, so
    the backbone runs once for all of them. The loss is :func:`mixplug.multi_task_cross_entropy`. Metrics are
    ``accuracy/TASK`` for each task, where only the task's own classes may be predicted, and ``accuracy``, their mean
    over the tasks. A task without images has NaN, and then so has the mean.

    Args:
        module: Images ``(B, C, H, W)`` to logits ``(B, sum of all classes)``: the heads side by side, as of any timm
            model with that ``num_classes``.
        tasks: Names and numbers of classes, in the order of the logits.
        train_metrics: Metrics of the training batches; None for the same as in evaluation, an empty
            ``MetricCollection([])`` for none, which saves their time.

    Raises:
        TypeError: ``tasks`` is no mapping of names to numbers.
        ValueError: there are no tasks, or ``module`` has another number of classes than they have together (a
            module that does not say so is refused at its first loss).

    Example:
        >>> vit = timm.create_model("vit_tiny_patch16_224", num_classes=20)  # doctest: +SKIP
        >>> model = MultiTaskClassifier(vit, {"cifar10": 10, "svhn": 10})  # doctest: +SKIP
    """

    def __init__(
        self,
        module: nn.Module,
        tasks: Mapping[str, int],
        train_metrics: Metric | MetricCollection | None = None,
    ) -> None:
        tasks = check_tasks(tasks)
        classes = sum(tasks.values())
        given = getattr(module, "num_classes", classes)
        if given != classes:
            raise ValueError(
                f"the tasks {tasks} have {classes} classes together, but the module has num_classes={given}; build it "
                f"with num_classes={classes}"
            )
        super().__init__(
            module,
            classes,
            train_metrics=_accuracies(tasks) if train_metrics is None else train_metrics,
            val_metrics=_accuracies(tasks),
            loss_fn=partial(multi_task_cross_entropy, tasks=tasks),
        )
        self.tasks = tasks


class MultiTaskAccuracy(Metric):
    """Share of images whose class the head of their own task predicts: of one task, or its mean over all tasks.

    Args:
        tasks: Names and numbers of classes.
        task: Which of them; None for the mean, to which each task counts as much, however many images it has.
        options: Of torchmetrics.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    right: Tensor
    seen: Tensor

    def __init__(self, tasks: Mapping[str, int], task: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.tasks = check_tasks(tasks)
        self.task = task
        for name in ("right", "seen"):
            self.add_state(name, torch.zeros(len(tasks), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count images, ``(B, sum of all classes)``, with their labels, ``(B,)``.

        Raises:
            TypeError: labels are not whole numbers.
            ValueError: a label is out of range, or a shape wrong.
        """
        check_labels(labels, sum(self.tasks.values()), "labels of all tasks")
        heads, first = split_logits(logits, self.tasks), first_labels(self.tasks)
        for index, (name, head) in enumerate(heads.items()):
            own = labels - first[name]
            belongs = (own >= 0) & (own < self.tasks[name])
            self.seen[index] += belongs.sum()
            self.right[index] += (belongs & (head.argmax(1) == own)).sum()

    def compute(self) -> Tensor:
        """The accuracy, a scalar in [0, 1]; NaN without images of the task, or of any task for the mean."""
        accuracies = self.right / self.seen
        return accuracies.mean() if self.task is None else accuracies[list(self.tasks).index(self.task)]


def _accuracies(tasks: Mapping[str, int]) -> MetricCollection:
    of_each = {f"accuracy/{name}": MultiTaskAccuracy(tasks, name) for name in tasks}
    return MetricCollection({"accuracy": MultiTaskAccuracy(tasks), **of_each})
