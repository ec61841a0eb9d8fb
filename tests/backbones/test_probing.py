from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.tiny import images, labels, loader, tiny_vit
from shared.two_view import tiny_cnn
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from mixplug import backbone_of
from mixplug.backbones import probing
from mixplug.backbones.probing import (
    extract_features,
    gather_features,
    knn_accuracy,
    linear_probe_accuracy,
    unattached_backbone,
)
from mixplug.data.datasets import load_dataset
from mixplug.data.loaders import ImageLoader
from mixplug.data.order import random_state


def clusters(count: int, classes: int = 4, width: int = 6, noise: float = 1.5, seed: int = 0):
    """Features that overlap, and their classes."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(0, classes, (count,), generator=generator)
    return centres[which] + noise * torch.randn(count, width, generator=generator, dtype=torch.float64), which


@pytest.mark.parametrize("k", [1, 5, 20, 60])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_is_scikit_learns_with_the_same_weights(k, temperature):
    train, test = clusters(60), clusters(150, seed=1)
    literal = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(*(part.numpy() for part in train))
    predicted = literal.predict(test[0].numpy())
    expected = float((predicted == test[1].numpy()).mean())
    assert 0.3 < expected < 0.95
    assert knn_accuracy(*train, *test, k=k, temperature=temperature) == expected
    # The very predictions: as labels, they are all right.
    assert knn_accuracy(*train, test[0], torch.from_numpy(predicted), k=k, temperature=temperature) == 1


def test_knn_in_chunks_is_knn(monkeypatch):
    train, test = clusters(60), clusters(151, seed=1)
    whole = knn_accuracy(*train, *test)
    monkeypatch.setattr(probing, "_CHUNK", 7 * 80)  # 7 test images at a time
    assert knn_accuracy(*train, *test) == whole


@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3), temperature=st.floats(1e-3, 10), k=st.integers(1, 20), seed=st.integers(0, 1000))
def test_knn_knows_directions_only_and_no_order(scale, temperature, k, seed):
    train, test = clusters(30, seed=seed), clusters(40, seed=seed + 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    plain = knn_accuracy(*train, *test, k=k, temperature=temperature)
    scaled = train[0][order] * scale * (1 + torch.arange(30).unsqueeze(1)), train[1][order]
    assert knn_accuracy(*scaled, *test, k=k, temperature=temperature) == plain


def test_knn_with_a_tiny_temperature_is_the_nearest_neighbour():
    train, test = clusters(60), clusters(80, seed=1)
    sharp = knn_accuracy(train[0].float(), train[1], test[0].float(), test[1], k=20, temperature=1e-4)
    assert sharp == knn_accuracy(*train, *test, k=1)


def test_the_linear_probe_is_logistic_regression_on_standardised_features():
    (x, y), (test_x, test_y) = clusters(80, noise=0.8), clusters(120, noise=0.8, seed=1)
    skewed = torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0, 1e3], dtype=torch.float64)
    x, test_x = x * skewed + 5, test_x * skewed + 5
    mean, std = x.mean(0), x.std(0, correction=0)
    literal = LogisticRegression(C=0.3, max_iter=1000).fit(((x - mean) / std).numpy(), y.numpy())
    expected = literal.score(((test_x - mean) / std).numpy(), test_y.numpy())
    assert 0.5 < expected < 1
    got = [linear_probe_accuracy(x, y, test_x, test_y, c=0.3) for _ in range(2)]
    assert got == [pytest.approx(expected, abs=1e-12)] * 2


def test_the_linear_probe_finds_what_is_linear_and_counts_unknown_classes_as_wrong():
    x, y = clusters(200, noise=0.01)
    assert linear_probe_accuracy(x, y, x, y) == 1
    assert linear_probe_accuracy(x, y, x, torch.where(y == 0, 77, y)) == pytest.approx(float((y != 0).double().mean()))


def test_the_linear_probe_says_when_it_has_not_converged():
    train = clusters(80)
    with pytest.warns(UserWarning, match="not converged after max_iter=2 .* raise max_iter"):
        linear_probe_accuracy(*train, *train, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_probe_accuracy(*train, *train)


X, Y = clusters(30)


@pytest.mark.parametrize("judge", [knn_accuracy, linear_probe_accuracy])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, Y, X.numpy(), Y), TypeError, "test_features and test_labels must be tensors"),
        ((X.long(), Y, X, Y), TypeError, "train_features must be floats"),
        ((X, Y.float(), X, Y), TypeError, "train_labels whole numbers"),
        ((X[0], Y, X, Y), ValueError, r"train_features must be \(N, D\)"),
        ((X, Y[:-1], X, Y), ValueError, r"got \(30, 6\) and \(29,\)"),
        ((X, Y, X[:0], Y[:0]), ValueError, "at least one image"),
        ((X, Y, X[:, :5], Y), ValueError, "have 6 numbers each and test_features 5"),
        ((X * math.nan, Y, X, Y), ValueError, "train_features are not all finite"),
        ((X, Y - 1, X, Y), ValueError, "train_labels must be classes 0, 1, ..., got -1"),
    ],
)
def test_bad_features(judge, arguments, error, message):
    with pytest.raises(error, match=message):
        judge(*arguments)


@pytest.mark.parametrize(
    ("judge", "options", "error", "message"),
    [
        (knn_accuracy, {"k": 31}, ValueError, "k=31 neighbours of 30 training images"),
        (knn_accuracy, {"k": 0}, ValueError, "k must be a whole number of at least 1"),
        (knn_accuracy, {"k": 2.0}, TypeError, "k must be a whole number"),
        (knn_accuracy, {"temperature": 0}, ValueError, r"temperature must be a number in \(0"),
        (linear_probe_accuracy, {"c": 0}, ValueError, r"c must be a number in \(0"),
        (linear_probe_accuracy, {"max_iter": 0}, ValueError, "max_iter must be a whole number of at least 1"),
    ],
)
def test_bad_settings(judge, options, error, message):
    with pytest.raises(error, match=message):
        judge(X, Y, X, Y, **options)


def test_one_class_cannot_be_told_from_others():
    with pytest.raises(ValueError, match=r"all 30 training images are of class 2; .* at least two classes"):
        linear_probe_accuracy(X, torch.full_like(Y, 2), X, Y)


@pytest.mark.parametrize("make", [tiny_vit, tiny_cnn], ids=["vit", "resnet"])
def test_features_are_those_of_the_evaluated_encoder(make):
    model = make()
    features, targets = extract_features(backbone_of(model), loader(20, 8))
    with torch.no_grad():
        expected = backbone_of(model.eval()).features_of(images(20))
    torch.testing.assert_close(features, expected)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(targets, labels(20))


def test_a_module_or_a_function_of_images_will_do():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    expected = images(20).flatten(1)
    for encoder in (model, model.forward, lambda x: x.flatten(1)):
        assert torch.equal(extract_features(encoder, loader(20))[0], expected)
    assert model.training


class Drawing(TensorDataset):
    """Draws from all generators, as augmentation may."""

    def __getitem__(self, index):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return super().__getitem__(index)


class AlwaysRandom(nn.Module):
    """Draws in evaluation mode too, and has a mode of its own for each part."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(1)
        self.norm = nn.BatchNorm2d(1)
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        self.frozen.eval()
        self.times = getattr(self, "times", 0) + 1
        return self

    def forward(self, x):
        assert not self.norm.training
        return nn.functional.dropout(self.norm(self.frozen(x)), 0.5, training=True).flatten(1)


def test_it_leaves_no_trace():
    model = AlwaysRandom()
    model.norm.register_parameter("odd", None)
    own = torch.Generator().manual_seed(8)
    data = DataLoader(Drawing(images(20), labels(20)), batch_size=8, shuffle=True, generator=own)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers, state = random_state(), own.get_state()
    first, _ = extract_features(model, data)
    after = random_state()
    assert torch.equal(after["torch"], numbers["torch"])
    assert after["python"] == numbers["python"]
    assert torch.equal(after["numpy"][1], numbers["numpy"][1])
    assert after["numpy"][2:] == numbers["numpy"][2:]
    assert torch.equal(own.get_state(), state)
    assert [module.training for module in (model, model.frozen, model.norm)] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert len(first) == 20


def test_modes_and_random_numbers_come_back_after_a_failure_too():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3, 2))
    model[1].eval()
    numbers = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        extract_features(model, DataLoader(Drawing(images(20), labels(20)), 8))
    assert [module.training for module in model] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), numbers)


def test_passes_are_alike_and_a_loaders_own_passes_go_on(monkeypatch):
    pixels = images(20).mul(50).add(128).clamp(0, 255).byte()
    data = ImageLoader(pixels, labels(20), 8, (0.5,), (0.3,), shuffle=True, seed=1)
    model = nn.Flatten()
    data.set_epoch(5)
    one, other = extract_features(model, data), extract_features(model, data)
    assert torch.equal(one[0], other[0])
    assert data.sampler.epoch == 5


def test_a_split_gives_loaders_that_neither_shuffle_nor_augment():
    split = load_dataset("digits", 0.1)
    _, targets = extract_features(nn.Flatten(), split.train_loader(32, shuffle=False))
    assert torch.equal(targets, split.train.labels)
    _, targets = extract_features(nn.Flatten(), split.eval_loader(500))
    assert torch.equal(targets, split.test.labels)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [1, 7, 8, 9])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_each_image_is_in_one_share_once(count, processes, shuffle):
    data = TensorDataset(torch.arange(count).float().unsqueeze(1), torch.arange(count))
    seen = []
    for rank in range(processes):
        sampler = DistributedSampler(data, processes, rank, shuffle=shuffle)
        seen += extract_features(lambda x: x, DataLoader(data, 2, sampler=sampler))[1].tolist()
    assert sorted(seen) == list(range(count))


def test_one_process_has_all_shares():
    assert all(mine is given for mine, given in zip(gather_features(X, Y, loader()), (X, Y), strict=True))


def test_what_is_prepared_and_how_much():
    features, targets = extract_features(
        nn.Flatten(), loader(20, 8), prepare=lambda batch: (2 * batch[0], batch[1]), max_batches=2
    )
    assert torch.equal(features, 2 * images(20).flatten(1)[:16])
    assert len(targets) == 16


def batches(*batch):
    return [batch[0] if len(batch) == 1 else batch]


@pytest.mark.parametrize(
    ("encoder", "data", "error", "message"),
    [
        (3, loader(), TypeError, "encoder must be a backbone"),
        (nn.Flatten(), [], ValueError, "is empty"),
        (nn.Identity(), loader(), ValueError, r"one vector for each of 8 images, \(B, D\), got \(8, 1, 8, 8\)"),
        (nn.Flatten(), batches(images(3)), TypeError, "labels that are whole numbers, got NoneType"),
        (nn.Flatten(), batches(images(3), torch.rand(3)), TypeError, "got torch.float32 for labels"),
        (nn.Flatten(), batches(images(3), labels(4)), ValueError, r"one label for each of 3 images"),
        (nn.Flatten(), batches({"x": 1}), TypeError, "must be a tensor of images or begin with one"),
    ],
)
def test_bad_encoders_and_batches(encoder, data, error, message):
    with pytest.raises(error, match=message):
        extract_features(encoder, data)


def test_an_unattached_backbone_leaves_the_model_alone():
    model = tiny_vit()
    dropped = model.patch_drop
    backbone = unattached_backbone(model)
    assert not backbone.attached
    assert type(model.patch_drop) is type(dropped)
    assert not model.patch_embed._forward_pre_hooks
    attached = backbone_of(model)
    assert unattached_backbone(model) is attached
    assert attached.attached


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type(kind):
    generator = torch.Generator().manual_seed(0)
    features, classes = torch.randn(40, 6, generator=generator), torch.arange(40) % 4
    features[:, :4] += 3 * torch.nn.functional.one_hot(classes, 4)
    expected = [probe(features, classes, features, classes) for probe in (knn_accuracy, linear_probe_accuracy)]
    given = features, classes.to(kind), features, classes.to(kind)
    assert [probe(*given) for probe in (knn_accuracy, linear_probe_accuracy)] == expected


def test_the_linear_probe_reaches_its_optimum_where_the_penalty_is_weak():
    """Where scikit-learn's default tolerance ends far from it, without a warning."""
    generator = torch.Generator().manual_seed(0)
    features, classes = torch.randn(60, 50, generator=generator), torch.arange(60) % 3  # which a plane can separate
    c, fitted = 1e4, []

    class Kept(LogisticRegression):
        def fit(self, x, y):
            fitted.append((super().fit(x, y), x, y))
            return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.linear_model.LogisticRegression", Kept)
        linear_probe_accuracy(features, classes, features, classes, c=c)
    ((classifier, x, y),) = fitted
    exact, default = (LogisticRegression(C=c, max_iter=10_000, tol=tol).fit(x, y) for tol in (1e-12, 1e-4))
    largest = abs(exact.coef_).max()
    assert abs(classifier.coef_ - exact.coef_).max() < 0.01 * largest < 0.1 * abs(default.coef_ - exact.coef_).max()
