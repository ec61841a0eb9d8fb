from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.tiny import images, labels
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

from mixplug.data.loaders import ImageLoader
from mixplug.data.multi_task import MultiTaskEvalLoader, MultiTaskLoader

PLAIN = {"mean": (0.0,), "std": (1 / 255,)}
"""Leaves bytes as they are, as floats."""


def numbered(count, batch_size, shuffle=True, **options):
    """Image i is all i, and so is its label."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return ImageLoader(pixels, torch.arange(count), batch_size, shuffle=shuffle, **{**PLAIN, **options})


def made(counts, batch_sizes, **options):
    tasks = {f"t{i}": max(2, count) for i, count in enumerate(counts)}
    sizes = zip(tasks, counts, batch_sizes, strict=True)
    return MultiTaskLoader({name: numbered(count, batch, **options) for name, count, batch in sizes}, tasks)


def seen(loader, passed=None):
    """For each batch the images' tasks, and their numbers within them; labels and pixels agree."""
    first = [0, *np.cumsum(list(loader.tasks.values())).tolist()]
    batches = []
    for x, y in loader if passed is None else passed:
        task = [max(t for t in range(len(loader.tasks)) if first[t] <= label) for label in y.tolist()]
        number = [label - first[t] for label, t in zip(y.tolist(), task, strict=True)]
        assert x[:, 0, 0, 0].round().long().tolist() == number
        batches.append((task, number))
    return batches


SIZES = st.integers(1, 3).flatmap(
    lambda tasks: st.tuples(
        st.lists(st.integers(1, 40), min_size=tasks, max_size=tasks),
        st.lists(st.integers(1, 9), min_size=tasks, max_size=tasks),
    )
)
quickly = settings(deadline=None, max_examples=40)


@quickly
@given(SIZES, st.integers(0, 5))
def test_an_epoch_is_a_pass_over_the_longest_task(sizes, epoch):
    counts, batch_sizes = sizes
    loader = made(counts, batch_sizes)
    loader.set_epoch(epoch)
    batches = seen(loader)
    longest = counts.index(max(counts))
    assert loader.leading == f"t{longest}"
    assert len(loader) == len(batches) == -(-max(counts) // batch_sizes[longest])
    assert loader.batch_size == len(counts) * batch_sizes[longest] >= max(len(task) for task, _ in batches)
    assert loader.num_samples == sum(len(task) for task, _ in batches)
    for task, _ in batches:
        assert task == [*range(len(counts))] * (len(task) // len(counts)), "equally many of each, in turns"
    for t, count in enumerate(counts):
        times = Counter(i for task, number in batches for place, i in zip(task, number, strict=True) if place == t)
        assert set(times) == set(range(count))
        assert set(times.values()) <= {max(counts) // count, -(-max(counts) // count)}


def test_an_epoch_may_be_a_pass_over_the_shortest_task():
    tasks = {"a": 10, "b": 30, "c": 20}
    loaders = {name: numbered(count, batch) for (name, count), batch in zip(tasks.items(), (4, 5, 6), strict=True)}
    loader = MultiTaskLoader(loaders, tasks, epoch="shortest")
    assert (loader.leading, len(loader), loader.batch_size, loader.num_samples) == ("a", 3, 12, 30)
    passed = []
    for _ in range(2):
        times = Counter((t, i) for task, number in seen(loader) for t, i in zip(task, number, strict=True))
        assert {i for t, i in times if t == 0} == set(range(10))
        assert [sum(t == task for t, _ in times) for task in range(3)] == [10, 10, 10]
        assert set(times.values()) == {1}
        passed.append({i for t, i in times if t == 1})
    assert passed[0] != passed[1]
    with pytest.raises(ValueError, match="epoch must be one of"):
        MultiTaskLoader(loaders, tasks, epoch="middle")


@quickly
@given(SIZES, st.integers(0, 5), st.data())
def test_a_pass_is_a_function_of_its_epoch(sizes, epoch, data):
    """And can be taken up at any batch, by another object, whatever was drawn in between."""
    counts, batch_sizes = sizes
    loader, again = made(counts, batch_sizes), made(counts, batch_sizes)
    loader.set_epoch(epoch)
    whole = seen(loader)
    again.set_epoch(epoch)
    left = data.draw(st.integers(0, len(whole) - 1))
    batches = iter(again)
    for _ in range(left):
        next(batches)
        torch.rand(3)
    assert seen(again, batches) == whole[left:]
    loader.set_epoch(epoch + 1)
    assert seen(again) == seen(loader), "passes count themselves"


def test_each_epoch_and_each_pass_of_a_shorter_task_has_an_order_of_its_own():
    loader = made([60, 20], [60, 20])
    orders = []
    for _ in range(3):
        ((_, number),) = seen(loader)
        orders += [number[1::2][start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(map(tuple, orders))) == 9


def test_tasks_of_one_length_and_seed_do_not_share_an_order():
    loader = made([30, 30], [30, 30])
    ((_, number),) = seen(loader)
    assert number[::2] != number[1::2]


def test_order_of_the_tasks_not_of_the_loaders():
    tasks = {"a": 3, "b": 5}
    loader = MultiTaskLoader({"b": numbered(5, 5, False), "a": numbered(3, 5, False)}, tasks)
    ((_, y),) = loader
    assert y.tolist() == [0, 3, 1, 4, 2, 5, 0, 6, 1, 7]
    evaluation = MultiTaskEvalLoader({"b": numbered(5, 4, False), "a": numbered(3, 2, False)}, tasks)
    assert [y.tolist() for _, y in evaluation] == [[0, 1], [2], [3, 4, 5, 6], [7]]


@quickly
@given(SIZES)
def test_evaluation_has_every_image_once_task_by_task(sizes):
    counts, batch_sizes = sizes
    training = made(counts, batch_sizes)
    loader = MultiTaskEvalLoader(training.loaders, training.tasks)
    first, again = seen(loader), seen(loader)
    assert first == again
    assert len(loader) == len(first)
    assert loader.batch_size == max(batch_sizes)
    tasks = [t for task, _ in first for t in task]
    assert tasks == sorted(tasks)
    images = [(t, i) for task, number in first for t, i in zip(task, number, strict=True)]
    assert sorted(images) == [(t, i) for t, count in enumerate(counts) for i in range(count)]


def test_what_a_loader_drops_stays_dropped():
    loader = made([22, 9], [4, 4], drop_last=True)
    batches = seen(loader)
    assert [len(task) for task, _ in batches] == [8] * 5 == [8] * len(loader)
    assert len({i for task, number in batches for t, i in zip(task, number, strict=True) if t == 0}) == 20
    assert loader.num_samples == 40
    shorter_after_dropping = made([7, 6], [4, 3], drop_last=True)
    assert shorter_after_dropping.leading == "t1"


class Augmented(Dataset):
    """Random transforms that draw from numpy and torch."""

    def __init__(self, count):
        self.images, self.labels = images(count), labels(count, 4)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        flipped = self.images[index].flip(-1) if np.random.rand() < 0.5 else self.images[index]  # noqa: NPY002
        return flipped + 0.1 * torch.randn(1), self.labels[index]


def shuffled(count, workers):
    return DataLoader(Augmented(count), 4, shuffle=True, num_workers=workers)


def with_generator(count, workers):
    return DataLoader(Augmented(count), 4, shuffle=True, generator=torch.Generator(), num_workers=workers)


def distributed(count, workers):
    data = Augmented(count)
    return DataLoader(data, 4, sampler=DistributedSampler(data, 1, 0), num_workers=workers)


def beside_images(count, workers):
    if count == 10:
        return shuffled(count, workers)
    pixels = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    return ImageLoader(pixels, labels(count, 4), 4, **PLAIN, shuffle=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [shuffled, with_generator, distributed, beside_images])
def test_data_loaders_give_repeatable_passes_too(make, workers):
    def loader(seed=0):
        return MultiTaskLoader({"a": make(14, workers), "b": make(10, workers)}, {"a": 4, "b": 4}, seed)

    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    whole = list(loader())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    again = []
    for batch in loader():
        again.append(batch)
        torch.rand(1), np.random.rand()  # noqa: NPY002
    assert [len(y) for _, y in whole] == [8, 8, 8, 4]
    for (x, y), (other_x, other_y) in zip(whole, again, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
    assert not torch.equal(torch.cat([x for x, _ in loader(1)]), torch.cat([x for x, _ in whole]))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_task(processes, monkeypatch):
    counts, shares = [25, 11], []
    for rank in range(processes):
        monkeypatch.setattr("mixplug.data.loaders.rank_and_processes", lambda rank=rank: (rank, processes))
        loader = made(counts, [4, 3])
        shares.append(seen(loader))
        assert len(shares[-1]) == len(loader)
    assert len({tuple(len(task) for task, _ in share) for share in shares}) == 1
    longest = [i for share in shares for task, number in share for t, i in zip(task, number, strict=True) if t == 0]
    assert set(longest) == set(range(25))
    assert len(longest) - 25 < processes


def test_processes_are_refused_one_and_the_same_share(monkeypatch):
    monkeypatch.setattr("mixplug.data.multi_task.rank_and_processes", lambda: (0, 2))
    loader = MultiTaskLoader({"a": shuffled(8, 0)}, {"a": 4})
    with pytest.raises(ValueError, match="loader of task 'a' has no DistributedSampler, so all 2 processes"):
        next(iter(loader))
    next(iter(MultiTaskLoader({"a": distributed(8, 0)}, {"a": 4})))


def batches(count=8, classes=4, **options):
    return DataLoader(TensorDataset(images(count), labels(count, classes)), batch_size=4, **options)


def other_sampler():
    data = TensorDataset(images(8), labels(8, 4))

    class Own(BatchSampler):
        pass

    return DataLoader(data, batch_sampler=Own(RandomSampler(data), 4, False))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tasks": {"a": 4}}, ValueError, r"the tasks are \['a'\], the loaders \['a', 'b'\]"),
        ({"tasks": {"a": 4, "b": 4, "c": 4}}, ValueError, r"a loader for each task.*\['a', 'b', 'c'\]"),
        ({"tasks": {}}, ValueError, "at least one task"),
        ({"loaders": [batches(), batches()]}, TypeError, r"must map the tasks \['a', 'b'\] to data loaders, got list"),
        ({"loaders": {"a": batches(), "b": iter([])}}, TypeError, "task 'b' must give batches and have a length"),
        ({"loaders": {"a": batches(), "b": other_sampler()}}, TypeError, "task 'b' has cannot be known"),
        ({"loaders": {"a": batches(), "b": [1, 2]}}, TypeError, "give this list a num_samples"),
        ({"loaders": {"a": batches(), "b": batches(3, drop_last=True)}}, ValueError, "task 'b' is empty"),
        (
            {"loaders": {"a": numbered(5, 2), "b": batches()}},
            ValueError,
            r"labels of task 'a' must be in \[0, 3\].* 0 to 4",
        ),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        MultiTaskLoader(**{"loaders": {"a": batches(), "b": batches()}, "tasks": {"a": 4, "b": 4}, **change})


class Bad(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.item


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ((torch.zeros(3, 8, 8), 1), ValueError, r"one shape.*'a': \(1, 8, 8\), 'b': \(3, 8, 8\).*resize"),
        ((torch.zeros(1, 8, 8), 4), ValueError, r"labels of task 'b' must be in \[0, 3\]"),
        ((torch.zeros(1, 8, 8), 0.5), TypeError, "labels of task 'b'.*integer"),
        ((torch.zeros(1, 8, 8), [0, 1]), TypeError, "batch of task 'b' must be"),
        (torch.zeros(1, 8, 8), TypeError, "batch of task 'b' must be"),
        ({"x": torch.zeros(1, 8, 8), "y": 1}, TypeError, "batch of task 'b' must be"),
    ],
)
def test_bad_batches(item, error, message):
    loaders = {"a": batches(), "b": DataLoader(Bad(item), batch_size=4)}
    with pytest.raises(error, match=message):
        list(MultiTaskLoader(loaders, {"a": 4, "b": 4}))


def test_a_loader_that_turns_out_empty():
    class Empty:
        batch_size, num_samples = 4, 4

        def __len__(self):
            return 1

        def __iter__(self):
            return iter([])

    with pytest.raises(ValueError, match="task 'b' is empty: it gave no batch"):
        list(MultiTaskLoader({"a": batches(), "b": Empty()}, {"a": 4, "b": 4}))
