"""Several classification tasks on one backbone, with a head for each (Li et al., section 2.2.3).

The heads are one ``Linear(D, sum of all classes)`` side by side: a task's head is its rows of the weight, and its
logits are its columns. An image's label says its task too: it is the class in the row of all tasks' classes, the first
task's first. So a batch of several tasks is ``(images, labels)`` like any other, and whatever splits, mixes, smooths
or chooses images and labels works on it as it is.

Tasks are a mapping of names to numbers of classes, such as ``{"cifar10": 10, "svhn": 10}``; its order is that of the
columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mixplug.checks import check_choice
from mixplug.data.multi_task import check_labels


def split_logits(logits: Tensor, tasks: Mapping[str, int]) -> dict[str, Tensor]:
    """The logits of each task's head, ``(B, classes of the task)``, out of those of all heads.

    Args:
        logits: ``(B, sum of all classes)``.
        tasks: Names and numbers of classes.

    Raises:
        ValueError: ``logits`` has another shape.
    """
    classes = sum(tasks.values())
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(
            f"the tasks {dict(tasks)} need logits of (B, {classes}), a column for each class; got "
            f"{tuple(logits.shape)}. Build the model with num_classes={classes}"
        )
    return dict(zip(tasks, logits.split(list(tasks.values()), dim=1), strict=True))


def multi_task_cross_entropy(
    logits: Tensor, target: Tensor, tasks: Mapping[str, int], reduction: str = "mean"
) -> Tensor:
    """Cross entropy of each image within its own task's classes.

    The mean is over all images. Where each of T tasks has equally many of them, as in a batch of
    :class:`mixplug.data.multi_task.MultiTaskLoader`, it is the tasks' mean losses, summed and divided by T. As MAE's
    loss is a mean over all images too, ``alpha * l_ssl + (1 - alpha) * l_sl`` of the mixtraining phase is then the
    joint objective (Li et al., Eq. 3) of each task, summed over the tasks (section 2.2.3) and divided by T: the factor
    1/T keeps learning rates what they are for one task.

    Args:
        logits: Of all heads, ``(B, sum of all classes)``; computed in float32 at least.
        target: Labels in [0, sum of all classes), ``(B,)``, or shares of them, ``(B, sum of all classes)``, as MixUp,
            CutMix and label smoothing make them. Each task's loss is weighed by its share of the image. A share that
            all classes have alike (label smoothing's) is taken as uniform over the classes of the image's own tasks.
        tasks: Names and numbers of classes.
        reduction: 'mean', 'sum' or 'none'.

    Returns:
        A scalar, or ``(B,)`` for 'none'.

    Raises:
        TypeError: ``target`` has neither labels nor shares.
        ValueError: a wrong shape or reduction, or (where the host holds them) labels out of range.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    heads = split_logits(logits, tasks).values()
    dtype = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    log_shares = torch.cat([F.log_softmax(head, 1, dtype=dtype) for head in heads], 1)
    if target.shape == logits.shape and target.is_floating_point():
        losses = -(_within_own_tasks(target, tasks) * log_shares).sum(1)
    else:
        if target.device.type == "cpu":
            check_labels(target, logits.shape[1], "labels of all tasks")
        losses = -log_shares.gather(1, target.long().unsqueeze(1)).squeeze(1)
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def _within_own_tasks(target: Tensor, tasks: Mapping[str, int]) -> Tensor:
    """Take what all classes have in common of ``target`` ``(B, C)`` from the tasks that an image is not of.

    Smoothed over the classes of all tasks, the heads of the other tasks would learn to know nothing of it.
    """
    common = target.amin(1, keepdim=True)
    rest = target - common
    total = rest.sum(1, keepdim=True)
    parts = []
    for part in rest.split(list(tasks.values()), dim=1):
        share = part.sum(1, keepdim=True) / total
        parts.append(part + common * target.shape[1] * share / part.shape[1])
    # Where nothing but the common share is left, it does not say whose the image is.
    return torch.where(total > 0, torch.cat(parts, 1), target)
