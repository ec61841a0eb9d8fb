from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms.label_smoothing import smooth_labels
from hypothesis import given
from hypothesis import strategies as st
from shared.tiny import images, tiny_vit
from torchmetrics import MetricCollection

from mixplug import MultiTaskClassifier, multi_task_cross_entropy, split_logits
from mixplug.algorithms.multi_task_classifier import MultiTaskAccuracy

TASKS = {"a": 3, "b": 5, "c": 2}
FIRST = {"a": 0, "b": 3, "c": 8}


def example(count=12, seed=0):
    """Logits in float64, and for each task its images' places and own labels, in turns."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    names = [list(TASKS)[i % 3] for i in range(count)]
    own = [int(torch.randint(TASKS[name], (), generator=generator)) for name in names]
    target = torch.tensor([FIRST[name] + label for name, label in zip(names, own, strict=True)])
    places = {task: [i for i, name in enumerate(names) if name == task] for task in TASKS}
    return logits, target, {task: (index, torch.tensor([own[i] for i in index])) for task, index in places.items()}


def columns(task):
    return slice(FIRST[task], FIRST[task] + TASKS[task])


def by_hand(logits, own, **options):
    """The sum over tasks of each task's mean cross entropy, by a head of its own."""
    return sum(F.cross_entropy(logits[index][:, columns(task)], y, **options) for task, (index, y) in own.items())


def close(mine, expected, atol=1e-14):
    torch.testing.assert_close(mine, expected, rtol=0, atol=atol)


def test_it_is_the_sum_over_tasks_divided_by_their_number():
    logits, target, own = example()
    loss = multi_task_cross_entropy(logits, target, TASKS)
    close(loss, by_hand(logits, own) / 3)
    expected = torch.autograd.grad(by_hand(logits, own) / 3, logits)[0]
    close(torch.autograd.grad(loss, logits)[0], expected)
    assert not expected[0, 3:].any(), "an image of the first task says nothing to the other heads"


def test_reductions():
    logits, target, own = example(10)
    each = multi_task_cross_entropy(logits, target, TASKS, reduction="none")
    for task, (index, y) in own.items():
        close(each[index], F.cross_entropy(logits[index][:, columns(task)], y, reduction="none"))
    close(multi_task_cross_entropy(logits, target, TASKS, reduction="sum"), each.sum())
    close(multi_task_cross_entropy(logits, target, TASKS), each.mean())


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}])
def test_one_task_is_plain_classification(options):
    logits, target, _ = example()
    soft = smooth_labels(logits, target, options.get("label_smoothing", 0.0))
    close(multi_task_cross_entropy(logits, soft, {"all": 10}), F.cross_entropy(logits, target, **options), 1e-6)
    close(multi_task_cross_entropy(logits, target, {"all": 10}), F.cross_entropy(logits, target))


@given(st.floats(0, 1), st.floats(0, 0.99), st.permutations(range(12)))
def test_images_mixed_across_tasks_and_smoothed_labels(share, smoothing, order):
    """By hand: share * CE of the one image's task + (1 - share) * CE of the other's, each smoothed within its task."""
    logits, target, _ = example()
    one_hot = F.one_hot(target, 10).double()
    mixed = (1 - smoothing) * (share * one_hot + (1 - share) * one_hot[order]) + smoothing / 10
    expected = 0
    for labels, weight in ((target, share), (target[order], 1 - share)):
        for image, label in enumerate(labels.tolist()):
            task = max((t for t in TASKS if FIRST[t] <= label), key=FIRST.get)
            own = torch.tensor(label - FIRST[task])
            expected += weight / 12 * F.cross_entropy(logits[image, columns(task)], own, label_smoothing=smoothing)
    close(multi_task_cross_entropy(logits, mixed, TASKS), expected, 1e-12)


def test_smoothing_leaves_the_other_heads_alone():
    logits, target, own = example()
    loss = multi_task_cross_entropy(logits, smooth_labels(logits, target, 0.2), TASKS)
    close(loss, by_hand(logits, own, label_smoothing=0.2) / 3, 1e-6)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[0, 3:].abs().max() < 1e-8 < gradient[0, :3].abs().min()


def test_labels_smoothed_all_the_way_say_nothing_of_a_task():
    logits, _, _ = example()
    uniform = torch.full_like(logits, 0.1)
    heads = split_logits(logits, TASKS).values()
    expected = -sum(0.1 * F.log_softmax(head, 1).sum(1) for head in heads).mean()
    close(multi_task_cross_entropy(logits, uniform, TASKS), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_computed_in_float32(dtype):
    logits, target, _ = example()
    low = logits.detach().to(dtype)
    expected = multi_task_cross_entropy(low.float(), target, TASKS)
    assert multi_task_cross_entropy(low, target, TASKS).dtype == torch.float32
    close(multi_task_cross_entropy(low, target, TASKS), expected)
    with torch.autocast("cpu", torch.bfloat16):
        close(multi_task_cross_entropy(low, target, TASKS), expected)


def test_the_logits_of_each_head():
    logits, _, _ = example()
    heads = split_logits(logits, TASKS)
    assert {task: tuple(head.shape) for task, head in heads.items()} == {"a": (12, 3), "b": (12, 5), "c": (12, 2)}
    assert torch.equal(torch.cat(list(heads.values()), 1), logits)


def count_by_hand(logits, own):
    accuracies = {}
    for task, (index, y) in own.items():
        right = sum(int(logits[i, columns(task)].argmax() == label) for i, label in zip(index, y, strict=True))
        accuracies[task] = right / len(index)
    return accuracies


def metrics_of(model):
    return copy.deepcopy(model.get_metrics(is_train=False))


def classifier(**options):
    return MultiTaskClassifier(tiny_vit(num_classes=10), TASKS, **options)


def test_accuracies_of_each_task_and_their_mean():
    model = classifier()
    metrics = metrics_of(model)
    assert set(metrics) == {"accuracy", "accuracy/a", "accuracy/b", "accuracy/c"}
    pieces = [example(50, seed) for seed in range(3)]
    for metric in metrics.values():
        for logits, target, _ in pieces:
            model.update_metric((None, target), logits, metric)
    logits = torch.cat([piece[0] for piece in pieces])
    own = {}
    for task in TASKS:
        places = [50 * number + place for number, piece in enumerate(pieces) for place in piece[2][task][0]]
        own[task] = places, torch.cat([piece[2][task][1] for piece in pieces])
    expected = count_by_hand(logits, own)
    assert len(set(expected.values())) == 3
    for task in TASKS:
        assert float(metrics[f"accuracy/{task}"].compute()) == pytest.approx(expected[task], abs=1e-7)
    assert float(metrics["accuracy"].compute()) == pytest.approx(sum(expected.values()) / 3, abs=1e-7)


def test_a_task_counts_as_much_however_many_images_it_has():
    metric = MultiTaskAccuracy({"large": 2, "small": 2})
    logits = torch.tensor([[1.0, 0.0, 9.0, 9.0]] * 9 + [[9.0, 9.0, 1.0, 0.0]])
    metric.update(logits, torch.tensor([0] * 9 + [3]))
    assert float(metric.compute()) == 0.5


def test_a_task_without_images_has_no_accuracy():
    metrics = metrics_of(classifier())
    logits, target, own = example()
    only = own["b"][0]
    for metric in metrics.values():
        metric.update(logits[only], target[only])
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert [name for name, value in values.items() if math.isnan(value)] == ["accuracy", "accuracy/a", "accuracy/c"]
    assert values["accuracy/b"] == pytest.approx(count_by_hand(logits, {"b": own["b"]})["b"])


def test_metrics_of_the_training_batches_can_be_left_out():
    assert set(classifier().get_metrics(is_train=True)) == set(classifier().get_metrics(is_train=False))
    assert classifier(train_metrics=MetricCollection([])).get_metrics(is_train=True) == {}


def test_it_is_the_module_that_was_given():
    vit = tiny_vit(num_classes=10)
    model = MultiTaskClassifier(vit, TASKS)
    assert torch.equal(model((images(4), None)), vit(images(4)))
    assert list(model.state_dict()) == [f"module.{name}" for name in vit.state_dict()]


@pytest.mark.parametrize(
    ("module", "tasks", "error", "message"),
    [
        (tiny_vit(num_classes=9), TASKS, ValueError, "10 classes together, but the module has num_classes=9"),
        (tiny_vit(num_classes=10), {}, ValueError, "at least one task"),
        (tiny_vit(num_classes=10), [("a", 10)], TypeError, "must map names to numbers"),
        (tiny_vit(num_classes=10), {"a": 9, "b": 1}, ValueError, "classes of task 'b'.*at least 2, got 1"),
        (tiny_vit(num_classes=10), {"a": 5.0, "b": 5}, TypeError, "classes of task 'a'"),
        (tiny_vit(num_classes=10), {"a": 5, 1: 5}, TypeError, "name must be a string, got 1"),
        (tiny_vit(num_classes=10), {"a": 5, "v1.0": 5}, ValueError, "got 'v1.0'"),
        (tiny_vit(num_classes=10), {"": 10}, ValueError, "must not be empty"),
    ],
)
def test_bad_tasks(module, tasks, error, message):
    with pytest.raises(error, match=message):
        MultiTaskClassifier(module, tasks)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(4, 9)}, ValueError, r"logits of \(B, 10\).*got \(4, 9\).*num_classes=10"),
        ({"logits": torch.zeros(4, 10, 2)}, ValueError, r"got \(4, 10, 2\)"),
        ({"target": torch.tensor([0, 1, 2, 10])}, ValueError, r"in \[0, 9\], got labels from 0 to 10"),
        ({"target": torch.tensor([0, 1, 2, -1])}, ValueError, "from -1 to 2"),
        ({"target": torch.zeros(4)}, TypeError, "integer type, got torch.float32"),
        ({"target": torch.zeros(4, 10, dtype=torch.long)}, ValueError, r"\(B,\); got \(4, 10\)"),
        ({"reduction": "batchmean"}, ValueError, "reduction"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        multi_task_cross_entropy(**{"logits": torch.zeros(4, 10), "target": torch.arange(4), "tasks": TASKS, **change})


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_metrics_refuse_labels_of_no_task(labels):
    with pytest.raises(ValueError, match=r"labels of all tasks must be in \[0, 9\]"):
        MultiTaskAccuracy(TASKS).update(torch.zeros(2, 10), torch.tensor(labels))


def test_a_module_that_does_not_say_its_classes_is_refused_at_its_first_loss():
    model = MultiTaskClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9)), TASKS)
    batch = images(4), torch.arange(4)
    with pytest.raises(ValueError, match="num_classes=10"):
        model.loss(model(batch), batch)
