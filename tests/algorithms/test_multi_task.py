"""MixTraining of one model on two tasks (Li et al., section 2.2.3)."""

from __future__ import annotations

import math
from unittest import mock

import composer.algorithms as ca
import pytest
import torch
import torch.nn.functional as F
from composer.core import Algorithm, Event
from shared.processes import first_patches
from shared.settings import (
    TASKS,
    logged,
    multi_task_classifier,
    multi_task_loader,
    resumes_from_every_batch,
    ssl_loader,
    trainer,
)
from shared.tiny import images, labels, tiny_vit
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from mixplug import MAE, MixTraining, MultiTaskClassifier, Phase, backbone_of, export
from mixplug.data.loaders import ImageLoader
from mixplug.data.multi_task import MultiTaskEvalLoader, MultiTaskLoader

COLUMNS = {"a": slice(0, 3), "b": slice(3, 8)}
masks = pytest.mark.parametrize("mask", ["features", "input"])
fixed_masks = mock.patch("mixplug.backbones.selection._random_share", first_patches)


def shuffled(dataset, batch_size=4):
    return DataLoader(dataset, batch_size, shuffle=True)


def for_evaluation(counts=(14, 22)):
    loader = multi_task_loader(counts=counts)
    return MultiTaskEvalLoader(loader.loaders, TASKS)


def task_of(label):
    return ("a", label) if label < 3 else ("b", label - 3)


def cross_entropy_by_hand(logits, labels, **options):
    """Of each image, by the head of its task."""
    losses = []
    for row, label in zip(logits, labels.tolist(), strict=True):
        task, own = task_of(label)
        losses.append(F.cross_entropy(row[COLUMNS[task]], torch.tensor(own), **options))
    return torch.stack(losses)


@masks
def test_all_phases_with_one_pass_of_the_backbone_a_step(mask):
    # Metrics of the training batches would take a pass of their own.
    model = MultiTaskClassifier(tiny_vit(num_classes=8), TASKS, train_metrics=MetricCollection([]))
    passes = []
    model.module.patch_embed.register_forward_hook(
        lambda module, args, output: passes.append(len(args[0])) if module.training else None
    )
    made = trainer(
        model,
        [MixTraining(objective=MAE(mask))],
        train_dataloader=multi_task_loader(shuffled),
        eval_dataloader=for_evaluation(),
        max_duration="3ep",
        eval_interval="3ep",
    )
    made.fit()
    assert passes == [8, 8, 8, 8, 8, 4] * 3
    phases = logged(made, "mixtraining/phase")
    assert phases == [0] * 6 + [1] * 6 + [2] * 6
    for name, used in (("total", (0, 1, 2)), ("ssl", (0, 1)), ("sl", (0, 1, 2))):
        values = logged(made, f"loss/train/{name}")
        assert [math.isfinite(value) for value in values] == [phase in used for phase in phases], name
    right = {"a": 0, "b": 0}
    model.eval()
    for x, y in for_evaluation():
        for row, label in zip(model((x, y)), y.tolist(), strict=True):
            task, own = task_of(label)
            right[task] += int(row[COLUMNS[task]].argmax() == own)
    values = made.state.eval_metric_values
    assert values["accuracy/a"] == pytest.approx(right["a"] / 14)
    assert values["accuracy/b"] == pytest.approx(right["b"] / 22)
    assert values["accuracy"] == pytest.approx((right["a"] / 14 + right["b"] / 22) / 2)
    for name, value in values.items():
        assert logged(made, f"metrics/eval/{name}")[-1] == pytest.approx(float(value))


class Spy(Algorithm):
    """Keeps labels, outputs and the terms of the loss of each step; last at BEFORE_* events if last in the list."""

    def __init__(self):
        self.steps = []

    def match(self, event, state):
        return event in (Event.BEFORE_FORWARD, Event.AFTER_FORWARD, Event.AFTER_BACKWARD)

    def apply(self, event, state, logger):
        if event is Event.BEFORE_FORWARD:
            self.steps.append({"labels": state.batch[1].clone()})
        elif event is Event.AFTER_FORWARD:
            self.steps[-1]["outputs"] = state.outputs.detach().clone()
        else:
            self.steps[-1] |= {name: value.detach().clone() for name, value in state.loss.items()}


@masks
def test_the_loss_is_the_joint_objective_summed_over_tasks_and_divided_by_their_number(mask):
    """In float64, each task's two terms from a pass over its own images alone."""
    alpha, spy = 0.3, Spy()
    data = multi_task_loader(dtype=torch.float64)
    with fixed_masks:
        made = trainer(
            multi_task_classifier().double(),
            [MixTraining(1, alpha, objective=MAE(mask)), spy],
            max_duration="1ba",
            train_dataloader=data,
            lr=0.0,
        )
        made.fit()
        model, objective = made.state.model.module, made.state.model.ssl_objective
        backbone, total = backbone_of(model), 0
        data.set_epoch(0)
        x, y = next(iter(data))
        for place, task in enumerate(TASKS):
            with backbone.watch(objective.request(Phase.MIX)) as seen:
                logits = model(x[place::2])
            own = y[place::2] - COLUMNS[task].start
            total += alpha * objective(seen) + (1 - alpha) * F.cross_entropy(logits[:, COLUMNS[task]], own)
    torch.testing.assert_close(spy.steps[0]["total"], total.detach() / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("size", "mask"), [(1, "input"), (3, "features")])
def test_microbatches_change_nothing(mask, size):
    results = []
    for microbatch in (size, 8):
        with fixed_masks:
            made = trainer(
                multi_task_classifier().double(),
                [MixTraining(objective=MAE(mask))],
                max_duration="3ep",
                train_dataloader=multi_task_loader(counts=(7, 11), dtype=torch.float64),
                device_train_microbatch_size=microbatch,
                optimizer=torch.optim.SGD,
            )
            made.fit()
        results.append(dict(made.state.model.named_parameters()))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=0, atol=1e-10)


def augmented(dataset):
    """One task from an ImageLoader with random transforms, the other from a DataLoader with a random order."""
    if len(dataset) == 11:
        return shuffled(dataset)
    x, y = dataset.tensors
    pixels = x.mul(50).add(128).clamp(0, 255).byte()
    return ImageLoader(pixels, y, 4, (0.5,), (0.2,), shuffle=True, crop_padding=1, flip=True)


@pytest.mark.parametrize(
    ("mask", "data"),
    [
        ("input", "equal"),
        ("features", "other"),
        pytest.param("features", "equal", marks=pytest.mark.slow),
        pytest.param("input", "other", marks=pytest.mark.slow),
    ],
)
def test_it_resumes_from_every_batch(mask, data, tmp_path):
    def algorithms():
        return [MixTraining(objective=MAE(mask), ssl_dataloader=ssl_loader() if data == "other" else None)]

    options = {"model": multi_task_classifier, "train_dataloader": lambda: multi_task_loader(augmented, (7, 11))}
    assert resumes_from_every_batch(tmp_path, algorithms, max_duration="3ep", **options) >= 8


def smoothed(step, other):
    return cross_entropy_by_hand(step["outputs"], step["labels"], label_smoothing=0.2).mean()


def interpolated(step, other):
    mixup = isinstance(other, ca.MixUp)
    share = other.mixing if mixup else 1 - other._adjusted_lambda
    permuted = step["labels"][other.indices if mixup else other._indices]
    first, second = (cross_entropy_by_hand(step["outputs"], y).mean() for y in (step["labels"], permuted))
    return (1 - share) * first + share * second


def chosen(step, other):
    return cross_entropy_by_hand(step["outputs"], step["labels"]).mean()


STACKED = {
    "MixUp": (ca.MixUp, interpolated),
    "MixUp loss": (lambda: ca.MixUp(interpolate_loss=True), interpolated),
    "CutMix": (ca.CutMix, interpolated),
    "CutMix loss": (lambda: ca.CutMix(interpolate_loss=True), interpolated),
    "LabelSmoothing": (lambda: ca.LabelSmoothing(0.2), smoothed),
    "SelectiveBackprop": (lambda: ca.SelectiveBackprop(start=0.0, end=1.0, keep=0.5, interrupt=0), chosen),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", STACKED)
def test_the_supervised_loss_with_other_algorithms(name, place):
    """By hand, in every phase: each image's part by the heads of the tasks that it is of."""
    make, by_hand = STACKED[name]
    other, mixing, spy = make(), MixTraining(objective=MAE("input")), Spy()
    expected = []

    class ByHand(Algorithm):
        def match(self, event, state):
            return event is Event.AFTER_BACKWARD

        def apply(self, event, state, logger):
            expected.append(by_hand(spy.steps[-1], other).item())

    made = trainer(
        multi_task_classifier().double(),
        [spy, *([mixing, other] if place == "after" else [other, mixing]), ByHand()],
        max_duration="3ep",
        train_dataloader=multi_task_loader(shuffled, dtype=torch.float64),
    )
    made.fit()
    assert {int(phase) for phase in logged(made, "mixtraining/phase")} == {0, 1, 2}
    # Composer makes labels one-hot in float32.
    assert [step["sl"].item() for step in spy.steps] == pytest.approx(expected, abs=1e-6)
    assert all(math.isfinite(total) for total in logged(made, "loss/train/total"))
    if name == "SelectiveBackprop":
        assert [len(step["labels"]) for step in spy.steps] == [4, 4, 4, 4, 4, 2] * 3


def test_two_tasks_of_ssl_data_are_mixed_into_two_of_labelled_data():
    partners = multi_task_loader(shuffled, (9, 17))
    made = trainer(
        multi_task_classifier(),
        [MixTraining(ssl_dataloader=partners)],
        "3ep",
        train_dataloader=multi_task_loader(shuffled),
    )
    made.fit()
    assert logged(made, "mixtraining/phase") == [0] * 5 + [1] * 6 + [2] * 6
    assert all(math.isfinite(total) for total in logged(made, "loss/train/total"))


def test_the_exported_model_is_the_one_of_all_heads(tmp_path):
    from safetensors.torch import load_file

    made = trainer(multi_task_classifier(), [MixTraining()], "3ep", train_dataloader=multi_task_loader())
    made.fit()
    plain = tiny_vit(num_classes=8)
    plain.load_state_dict(load_file(export(made, tmp_path / "model.safetensors")), strict=True)
    made.state.model.eval()
    assert torch.equal(plain.eval()(images(4)), made.state.model((images(4), None)))


def stripes(count, seed):
    """Which of two ways dark and bright lines go, in noise."""
    y = labels(count, 2, seed)
    lines = torch.tensor([1.0, -1.0]).repeat(4).expand(8, 8)
    x = torch.stack([lines if label else lines.T for label in y]).unsqueeze(1)
    return TensorDataset(x + 0.5 * images(count, seed=seed), y)


def brightness(count, seed):
    """How bright the image is, in noise."""
    y = labels(count, 4, seed)
    return TensorDataset(y.view(-1, 1, 1, 1) - 1.5 + 0.5 * images(count, seed=seed), y)


@masks
def test_it_learns_both_tasks(mask):
    tasks = {"stripes": 2, "brightness": 4}
    train = {
        "stripes": shuffled(stripes(64, 1), 16),
        "brightness": shuffled(brightness(96, 2), 16),
    }
    test = {"stripes": DataLoader(stripes(100, 3), 50), "brightness": DataLoader(brightness(100, 4), 50)}
    made = trainer(
        MultiTaskClassifier(tiny_vit(num_classes=6), tasks),
        [MixTraining(objective=MAE(mask))],
        "9ep",
        train_dataloader=MultiTaskLoader(train, tasks),
        eval_dataloader=MultiTaskEvalLoader(test, tasks),
        eval_interval="9ep",
    )
    made.fit()
    assert made.state.eval_metric_values["accuracy/stripes"] > 0.75, "chance is 0.5"
    assert made.state.eval_metric_values["accuracy/brightness"] > 0.5, "chance is 0.25"
