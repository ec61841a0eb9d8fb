"""Batches of several tasks out of a data loader for each (Li et al., section 2.2.3).

Both loaders here give ``[images, labels]`` with labels in the row of all tasks' classes; see
:mod:`mixplug.objectives.multi_task`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from mixplug.checks import check_choice, check_int, did_you_mean
from mixplug.data.batches import images_of
from mixplug.data.loaders import ImageLoader
from mixplug.data.order import is_sharded
from mixplug.data.passes import repeatable_pass
from mixplug.data.processes import rank_and_processes


def check_tasks(tasks: Mapping[str, int]) -> dict[str, int]:
    """Return ``tasks`` as a dict if it maps names to numbers of classes.

    Raises:
        TypeError: it is no mapping of strings to whole numbers.
        ValueError: there is no task, a name is empty or has a dot, or a task has fewer than 2 classes.
    """
    if not isinstance(tasks, Mapping):
        raise TypeError(f"tasks must map names to numbers of classes, such as {{'cifar10': 10}}; got {tasks!r}")
    if not tasks:
        raise ValueError("tasks must name at least one task, such as {'cifar10': 10}; got {}")
    for name, classes in tasks.items():
        if not isinstance(name, str):
            raise TypeError(f"a task's name must be a string, got {name!r}")
        if not name or "." in name:
            raise ValueError(f"a task's name must not be empty or contain '.', for it names metrics; got {name!r}")
        check_int(f"the classes of task {name!r}", classes, 2)
    return dict(tasks)


def first_labels(tasks: Mapping[str, int]) -> dict[str, int]:
    """The label of each task's first class: what is added to the task's own class numbers."""
    labels, total = {}, 0
    for name, classes in tasks.items():
        labels[name] = total
        total += classes
    return labels


def check_labels(labels: Tensor, classes: int, whose: str) -> None:
    """Refuse labels outside of [0, classes). It reads them: on a GPU that waits for them.

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: they are not one for each image, or one is out of range: it would be another task's class.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        raise TypeError(f"{whose} must be class numbers of an integer type, got {labels.dtype}")
    if labels.ndim != 1:
        raise ValueError(f"{whose} must be one class number for each image, (B,); got {tuple(labels.shape)}")
    low, high = map(int, labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(f"{whose} must be in [0, {classes - 1}], got labels from {low} to {high}")


class _TaskLoaders:
    """What both loaders have in common: passes over the loader of a task, with labels of all tasks."""

    def __init__(self, loaders: Mapping[str, Iterable], tasks: Mapping[str, int], seed: int = 0) -> None:
        self.tasks = check_tasks(tasks)
        self.loaders: dict[str, Any] = _check_loaders(loaders, self.tasks)
        self.seed = check_int("seed", seed, 0)
        for name, loader in self.loaders.items():
            if isinstance(loader, ImageLoader):
                check_labels(loader.labels, self.tasks[name], f"labels of task {name!r}")

    def _pass(self, name: str, epoch: int, again: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        loader, classes, first = self.loaders[name], self.tasks[name], first_labels(self.tasks)[name]
        rank, processes = rank_and_processes()
        if processes > 1 and not is_sharded(loader):
            raise ValueError(
                f"the loader of task {name!r} has no DistributedSampler, so all {processes} processes would get the "
                f"same images; build it with sampler=composer.utils.dist.get_sampler(dataset, shuffle=True)"
            )
        # Numbers that no other task has: loaders of one length and seed would all have one order.
        again = again * len(self.tasks) + list(self.tasks).index(name)
        for batch in repeatable_pass(loader, self.seed + rank, epoch, again):
            images, labels = images_of(batch, f"a batch of task {name!r}"), _labels_of(batch, name)
            if not isinstance(loader, ImageLoader):
                check_labels(labels, classes, f"labels of task {name!r}")
            yield images, labels.long() + first


class MultiTaskLoader(_TaskLoaders):
    """Training batches that hold equally many images of every task.

    An epoch is one pass over the longest task, the one with the most images, or with ``epoch='shortest'`` over the one
    with the fewest, which leaves images of the others out, others in each epoch. A shorter task begins anew, newly
    shuffled, until the longest is through: of N images in the longest and n in a shorter one, each image of the
    longest is there once in an epoch, and each of the shorter floor(N/n) or ceil(N/n) times. (What a task's own loader
    leaves out by ``drop_last`` stays left out.) Where the longest ends with a smaller batch, the others have so many
    too.

    Images of the tasks take turns: of two tasks, the even ones are the first's, so every microbatch of an even size
    holds equally many of both. ``batch_size`` is that of the task whose pass an epoch is, times the number of tasks.

    Each pass is a function of the seeds and its epoch: passes count themselves, or :meth:`set_epoch` says. Nothing else
    that is random is disturbed.

    Args:
        loaders: For each task batches of images ``(B, C, H, W)`` and the task's own labels ``(B,)``: an
            :class:`mixplug.data.loaders.ImageLoader`, a DataLoader, or another iterable that has ``__len__`` (batches),
            ``batch_size``, ``num_samples`` (images of a pass in this process) and ``set_epoch``. With several
            processes each loader gives a process its share, equally many images on all.
        tasks: Names and numbers of classes. The order is that of the classifier's logits: give both the same mapping.
            Batches do not name their tasks, so another order here than there is not noticed where the classes are
            as many in all, and labels then name the wrong classes.
        seed: Of what a DataLoader draws; an ImageLoader has its own.
        epoch: Whose pass is an epoch: the 'longest' task's, or the 'shortest' one's.

    Raises:
        TypeError: an argument has the wrong type, or the number of a loader's images cannot be known.
        ValueError: the loaders are not the tasks', one is empty or a label out of range; while passing over them,
            images of different shapes or, with several processes, a DataLoader without a DistributedSampler.
    """

    def __init__(
        self, loaders: Mapping[str, Iterable], tasks: Mapping[str, int], seed: int = 0, epoch: str = "longest"
    ) -> None:
        super().__init__(loaders, tasks, seed)
        self.epoch = check_choice("epoch", epoch, ("longest", "shortest"))
        self._epoch = 0
        for name, loader in self.loaders.items():
            if not _samples_of(name, loader):
                raise ValueError(f"the loader of task {name!r} is empty: give it data or turn off drop_last")
            check_int(f"batch_size of the loader of task {name!r}", getattr(loader, "batch_size", None), 1)

    @property
    def leading(self) -> str:
        """The task whose pass is an epoch: the first one with the most images, or the fewest."""
        most_or_fewest = max if self.epoch == "longest" else min
        return most_or_fewest(self.loaders, key=lambda name: _samples_of(name, self.loaders[name]))

    @property
    def batch_size(self) -> int:
        """Images of a batch, of all tasks together, in this process."""
        return self.loaders[self.leading].batch_size * len(self.tasks)

    @property
    def num_samples(self) -> int:
        """Images of a pass, of all tasks together, in this process."""
        return _samples_of(self.leading, self.loaders[self.leading]) * len(self.tasks)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of ``epoch``."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.loaders[self.leading])

    def __iter__(self) -> Iterator[list[Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        leading = self.leading
        others = {name: _Queue(self._endless(name, epoch)) for name in self.tasks if name != leading}
        for images, labels in self._pass(leading, epoch):
            drawn = [others[n].draw(len(images)) if n in others else (images, labels) for n in self.tasks]
            self._check_shapes([images for images, _ in drawn])
            yield [torch.stack(parts, 1).flatten(0, 1) for parts in zip(*drawn, strict=True)]

    def _endless(self, name: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        again, empty = 0, False
        while not empty:
            empty = True
            for batch in self._pass(name, epoch, again):
                empty = False
                yield batch
            again += 1
        raise ValueError(f"the loader of task {name!r} is empty: it gave no batch")

    def _check_shapes(self, images: list[Tensor]) -> None:
        shapes = [tuple(part.shape[1:]) for part in images]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"images of all tasks must have one shape (channels, height, width), got "
                f"{dict(zip(self.tasks, shapes, strict=True))}; resize some of them (size= of an ImageLoader)"
            )


class MultiTaskEvalLoader(_TaskLoaders):
    """Evaluation batches: all of the first task's, then all of the second's, and so on, every image once.

    Each evaluation is the same. With several processes, each task's loader shares out its images, filling up
    until all have equally many, as ImageLoader and DistributedSampler do: less than one image a process counts twice.

    Args:
        loaders: For each task batches of images ``(B, C, H, W)`` and the task's own labels ``(B,)``: an ImageLoader, a
            DataLoader, or another sized iterable with a ``batch_size``.
        tasks: Names and numbers of classes; the order is that of the classifier's logits.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the loaders are not the tasks', or a label is out of range.
    """

    def __init__(self, loaders: Mapping[str, Iterable], tasks: Mapping[str, int]) -> None:
        super().__init__(loaders, tasks)

    @property
    def batch_size(self) -> int:
        """Images of the largest batches, in this process."""
        return max(loader.batch_size for loader in self.loaders.values())

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[list[Tensor]]:
        for name in self.tasks:
            for batch in self._pass(name, epoch=0):
                yield list(batch)


class _Queue:
    """Images and labels out of an endless iterator of batches, in any number at a time."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._batches = batches
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """The next ``count`` images, ``(count, C, H, W)``, and labels, ``(count,)``."""
        while sum(len(labels) for _, labels in self._waiting) < count:
            self._waiting.append(next(self._batches))
        images, labels = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = [(images[count:], labels[count:])]
        return images[:count], labels[:count]


def _check_loaders(loaders: Any, tasks: Mapping[str, int]) -> dict[str, Any]:
    """The loaders in the order of the tasks."""
    if not isinstance(loaders, Mapping):
        raise TypeError(f"loaders must map the tasks {list(tasks)} to data loaders, got {type(loaders).__name__}")
    for name in [*loaders, *tasks]:
        if name not in tasks or name not in loaders:
            raise ValueError(
                f"there must be a loader for each task: the tasks are {list(tasks)}, the loaders {list(loaders)}"
                f"{did_you_mean(name, [n for n in (*tasks, *loaders) if n != name])}"
            )
    for name, loader in loaders.items():
        if not isinstance(loader, Iterable) or not isinstance(loader, Sized) or isinstance(loader, (str, Mapping)):
            raise TypeError(f"the loader of task {name!r} must give batches and have a length, got {loader!r}")
    return {name: loaders[name] for name in tasks}


def _samples_of(name: str, loader: Any) -> int:
    """Images of one pass over the loader of a task, in this process."""
    if hasattr(loader, "num_samples"):
        return loader.num_samples
    sampler = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if type(sampler) is not BatchSampler:
        raise TypeError(
            f"how many images a pass over the loader of task {name!r} has cannot be known, and so not which task is "
            f"the longest: give this {type(loader).__name__} a num_samples, or use an ImageLoader or a DataLoader with "
            f"a batch_size"
        )
    images = len(sampler.sampler)  # type: ignore[arg-type]
    return images // sampler.batch_size * sampler.batch_size if sampler.drop_last else images


def _labels_of(batch: Any, name: str) -> Tensor:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise TypeError(f"a batch of task {name!r} must be (images, labels), two tensors; got {type(batch).__name__}")
    return batch[1]
