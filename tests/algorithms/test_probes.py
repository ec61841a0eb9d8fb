"""OnlineKNN and LinearProbe in Composer's Trainer."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composer.core import DataSpec, Evaluator, Precision
from composer.models import ComposerClassifier
from shared.settings import RUN, classifier, logged, multi_task_loader, resumes_from_every_batch, trainer
from shared.tiny import images, labels, loader
from shared.two_view import tiny_cnn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mixplug import MAE, LinearProbe, MixTraining, OnlineKNN, backbone_of
from mixplug.algorithms import probes as callbacks
from mixplug.backbones.probing import extract_features, knn_accuracy, linear_probe_accuracy
from mixplug.data.loaders import ImageLoader
from mixplug.data.multi_task import MultiTaskEvalLoader
from mixplug.data.order import random_state


class Drawing(TensorDataset):
    """Draws from all generators, as augmentation may."""

    def __getitem__(self, index):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return super().__getitem__(index)


def data(count: int = 30, seed: int = 40) -> DataLoader:
    return DataLoader(Drawing(images(count, seed=seed), labels(count, 3, seed=seed)), batch_size=8)


def test_data() -> DataLoader:
    return data(26, 41)


test_data.__test__ = False  # type: ignore[attr-defined]


def probes(interval: str = "2ba", **options) -> list:
    """Both, of one pair of loaders."""
    train, test = data(), test_data()
    return [OnlineKNN(train, test, interval, k=5, **options), LinearProbe(train, test, interval, **options)]


def vit() -> ComposerClassifier:
    return classifier(proj_drop_rate=0.1, drop_path_rate=0.1)


def cnn() -> ComposerClassifier:
    return ComposerClassifier(tiny_cnn(drop_rate=0.1))


def shuffled() -> DataLoader:
    return loader(20, 8, shuffle=True)


def mixtraining() -> list:
    return [MixTraining(objective=MAE("input"), reset_optimizer=True)]


def everything_after(model, algorithms, callbacks_, duration="3ep"):
    made = trainer(model(), algorithms(), duration, train_dataloader=shuffled(), callbacks=callbacks_)
    made.fit()
    state = {name: value.clone() for name, value in made.state.model.state_dict().items()}
    moments = made.state.optimizers[0].state_dict()["state"]
    return made, state, moments, random_state()


@pytest.mark.parametrize(
    ("model", "algorithms"), [(vit, list), (vit, mixtraining), (cnn, list)], ids=["vit", "vit, MixTraining", "cnn"]
)
def test_training_is_bit_for_bit_that_without_them(model, algorithms):
    plain, state, moments, numbers = everything_after(model, algorithms, [])
    made, probed, probed_moments, probed_numbers = everything_after(model, algorithms, probes(at_start=True))
    assert len(logged(made, "knn/accuracy")) == 6  # of 9 batches: before, 2, 4, 6, 8 and the end
    assert len(logged(made, "linear_probe/accuracy")) == 6
    assert state.keys() == probed.keys()
    for name, value in state.items():
        assert torch.equal(value, probed[name]), name
    for index, of_parameter in moments.items():
        assert all(torch.equal(value, probed_moments[index][name]) for name, value in of_parameter.items())
    assert torch.equal(numbers["torch"], probed_numbers["torch"])
    assert numbers["python"] == probed_numbers["python"]
    assert torch.equal(numbers["numpy"][1], probed_numbers["numpy"][1])
    assert logged(plain, "loss/train/total") == logged(made, "loss/train/total")
    modes = [[module.training for module in run.state.model.modules()] for run in (plain, made)]
    assert modes[0] == modes[1]
    assert not made.state.model.module.__dict__.get("forward_features")
    assert all(not hooks for m in made.state.model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))


@pytest.mark.parametrize("model", [vit, cnn], ids=["vit", "cnn"])
def test_they_log_what_the_pure_functions_give(model):
    made, *_ = everything_after(model, list, probes("1ep", at_start=True))
    assert [time.batch.value for time, _ in made.memory.data["knn/accuracy"]] == [0, 3, 6, 9]
    for net, index in ((model(), 0), (made.state.model, -1)):
        train, test = (extract_features(backbone_of(net), part) for part in (data(), test_data()))
        assert logged(made, "knn/accuracy")[index] == knn_accuracy(*train, *test, k=5)
        assert logged(made, "linear_probe/accuracy")[index] == linear_probe_accuracy(*train, *test)


@pytest.mark.parametrize(
    ("interval", "duration", "expected"),
    [
        ("1ep", "3ep", [3, 6, 9]),
        ("2ep", "3ep", [6, 9]),
        ("4ba", "3ep", [4, 8, 9]),
        ("1dur", "3ep", [9]),
        ("1dur", "4ba", [4]),
        ("0.5dur", "8ba", [4, 8]),
        ("1ep", "6ba", [3, 6]),
        ("16sp", "3ep", [2, 5, 7, 9]),
    ],
)
def test_moments(interval, duration, expected):
    made = trainer(None, [], duration, callbacks=[OnlineKNN(data(), test_data(), interval, k=5)])
    made.fit()
    assert [time.batch.value for time, _ in made.memory.data["knn/accuracy"]] == expected


def counted(monkeypatch) -> list:
    """The loaders that whole passes are made over."""
    passes = []

    def counting(encoder, loader, **options):
        if options.get("max_batches") is None:
            passes.append(loader)
        return extract_features(encoder, loader, **options)

    monkeypatch.setattr(callbacks, "extract_features", counting)
    return passes


def test_features_of_a_moment_are_extracted_once(monkeypatch):
    passes = counted(monkeypatch)
    both = probes("1ep")
    both[1].interval = both[0].interval * 2
    trainer(None, [], "4ep", callbacks=both).fit()
    train, test = both[0].train_data.dataloader, both[0].test_data.dataloader
    assert passes == [train, test] * 4
    assert all(probe._kept is None for probe in both)
    passes.clear()
    others = [OnlineKNN(data(), test_data(), k=5), LinearProbe(data(), test_data())]
    trainer(None, [], "1ep", callbacks=others).fit()
    assert len(passes) == 4


def test_the_trainers_eval_dataloader_is_the_default_and_keeps_its_order(monkeypatch):
    passes = counted(monkeypatch)
    pixels = images(26, seed=41).mul(50).add(128).clamp(0, 255).byte()
    test = ImageLoader(pixels, labels(26, 3, seed=41), 8, (0.5,), (0.3,), shuffle=True)
    made = trainer(None, [], "2ep", callbacks=[OnlineKNN(data(), k=5)], eval_dataloader=test)
    made.fit()
    assert passes[1] is test
    train, given = (extract_features(backbone_of(made.state.model), part) for part in (data(), test))
    assert logged(made, "knn/accuracy")[-1] == knn_accuracy(*train, *given, k=5)
    assert len(made.memory.data["metrics/eval/MulticlassAccuracy"]) == 2


def test_transforms_of_a_data_spec_are_applied():
    def halved(batch):
        return batch[0] / 2, batch[1]

    plain = DataLoader(TensorDataset(images(30, seed=40) * 2, labels(30, 3, seed=40)), batch_size=8)
    specs = [DataSpec(plain, batch_transforms=halved), DataSpec(plain, microbatch_transforms=halved), plain]
    test, seen = test_data(), {}

    class Keeping(OnlineKNN):
        def accuracy(self, train, test):
            seen[self.name] = train[0]
            return super().accuracy(train, test)

    named = [Keeping(given, test, k=5, name=f"knn/{i}") for i, given in enumerate([data(), *specs])]
    trainer(None, [], "1ep", callbacks=named).fit()
    first, second, third, untransformed = seen.values()
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(first, untransformed)


@pytest.mark.parametrize("row", ["plain", "MixTraining"])
def test_a_run_goes_on_in_its_middle_as_if_never_interrupted(tmp_path, row):
    interrupted = resumes_from_every_batch(
        tmp_path,
        mixtraining if row == "MixTraining" else list,
        callbacks=lambda: probes("2ba"),
        max_duration="3ep" if row == "plain" else f"{RUN}ep",
    )
    assert interrupted > 5


def test_a_resumed_run_logs_what_the_whole_one_did(tmp_path):
    def run(**options):
        made = trainer(vit(), [], "3ep", callbacks=probes("2ba", at_start=True), **options)
        made.fit()
        return {
            name: [(time.batch.value, float(value)) for time, value in made.memory.data[name]]
            for name in ("knn/accuracy", "linear_probe/accuracy")
        }

    whole = run(save_folder=str(tmp_path), save_interval="1ba", save_filename="{batch}.pt")
    for batch in (1, 4, 6):
        resumed = run(load_path=str(tmp_path / f"{batch}.pt"))
        for name, points in whole.items():
            assert resumed[name] == [(time, value) for time, value in points if time > batch]


def test_one_callback_serves_trainers_in_turn_and_fits_in_pieces():
    probe = OnlineKNN(data(), test_data(), k=5, at_start=True)
    for _ in range(2):
        made = trainer(None, [], "2ep", callbacks=[probe])
        made.fit()
        made.close()
        assert [time.batch.value for time, _ in made.memory.data["knn/accuracy"]] == [0, 3, 6]
    made = trainer(None, [], None, callbacks=[probe])
    for _ in range(3):
        made.fit(duration="1ep")
    assert [time.batch.value for time, _ in made.memory.data["knn/accuracy"]] == [0, 3, 6, 9]


def test_it_watches_a_named_submodule():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 6)), nn.Linear(6, 10))
    made = trainer(
        ComposerClassifier(net, num_classes=10),
        [],
        "1ep",
        callbacks=[OnlineKNN(data(), test_data(), k=5, backbone="module.0")],
    )
    made.fit()
    train, test = (extract_features(net[0], part) for part in (data(), test_data()))
    assert logged(made, "knn/accuracy") == [knn_accuracy(*train, *test, k=5)]


def test_it_runs_in_the_trainers_precision(monkeypatch):
    """On a CPU Composer knows float32 alone: bfloat16 stands in for it here."""

    def half(precision, config, fp8_autocast_enabled):
        assert precision is Precision.FP32
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr(callbacks, "get_precision_context", half)
    seen = []

    class Keeping(OnlineKNN):
        def accuracy(self, train, test):
            seen.append(train[0])
            return super().accuracy(train, test)

    made = trainer(None, [], "1ep", callbacks=[Keeping(data(), test_data(), k=5)])
    made.fit()
    backbone = backbone_of(made.state.model)
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = extract_features(backbone, data())
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], expected)
    assert not torch.equal(seen[0], extract_features(backbone, data())[0])


def test_a_training_that_diverges_goes_on():
    class Diverging(ComposerClassifier):
        def forward(self, batch):
            with torch.no_grad():
                next(self.module.parameters()).fill_(math.nan)
            return super().forward(batch)

    made = trainer(Diverging(vit().module), [], "2ep", callbacks=probes("1ep"))
    with pytest.warns(UserWarning, match="knn/accuracy is NaN, for the encoder's features are not finite"):
        made.fit()
    assert made.state.timestamp.epoch == 2
    assert all(map(math.isnan, logged(made, "knn/accuracy") + logged(made, "linear_probe/accuracy")))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"interval": "0ep"}, ValueError, "interval must be above 0, .* got '0ep'; give one such as '1ep'"),
        ({"interval": "1iter"}, ValueError, "in epochs, batches, samples or shares of the run"),
        ({"interval": "often"}, ValueError, "interval must be a length of time, got 'often'"),
        ({"interval": None}, TypeError, "interval must be a length of time, got None"),
        ({"k": 0}, ValueError, "k must be a whole number of at least 1"),
        ({"k": 31}, ValueError, "k must be at most the number of training images, 30, got 31"),
        ({"temperature": -1}, ValueError, "temperature must be a number"),
        ({"at_start": 1}, TypeError, "at_start must be true or false"),
        ({"train_loader": 3}, TypeError, "train_loader must give batches of images and labels"),
        ({"test_loader": "x"}, TypeError, "test_loader must give batches of images and labels"),
        ({"train_loader": multi_task_loader()}, TypeError, r"holds the tasks \['a', 'b'\]; give a loader of one"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        OnlineKNN(**{"train_loader": data(), **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"c": 0}, ValueError, "c must be a number"), ({"max_iter": 1.5}, TypeError, "max_iter must be a whole number")],
)
def test_bad_arguments_of_the_linear_probe(options, error, message):
    with pytest.raises(error, match=message):
        LinearProbe(data(), **options)


def evaluators():
    return [Evaluator(label=label, dataloader=test_data()) for label in ("a", "b")]


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: [OnlineKNN(data())], {}, ValueError, "this Trainer has 0; give OnlineKNN a test_loader"),
        (lambda: [LinearProbe(data())], {"eval_dataloader": evaluators()}, ValueError, r"has 2, \['a', 'b'\]"),
        (
            lambda: [OnlineKNN(data())],
            {"eval_dataloader": MultiTaskEvalLoader(multi_task_loader().loaders, {"a": 3, "b": 5})},
            TypeError,
            "the Trainer's eval_dataloader holds the tasks",
        ),
        (lambda: [OnlineKNN(data(), []), OnlineKNN(data(), [])], {}, ValueError, r"name='knn_2'"),
        (lambda: [OnlineKNN(data(), [])], {}, ValueError, "is empty"),
        (lambda: [LinearProbe([images(3)], data())], {}, TypeError, "labels that are whole numbers"),
        (lambda: [LinearProbe(data(), [(images(2, 1, 9, 9), labels(2))])], {}, Exception, "height"),
        (lambda: [OnlineKNN(data(), data(), backbone="encoder")], {}, ValueError, "backbone='encoder' is no submodule"),
    ],
)
def test_mistakes_show_before_training(make, options, error, message):
    def run():
        made = trainer(None, [], "1ep", callbacks=make(), **options)
        made.fit()

    with pytest.raises(error, match=f"(?i){message}"):
        run()


def test_the_trainers_own_training_data_is_refused():
    own = data()
    made = trainer(None, [], "1ep", callbacks=[OnlineKNN(own, test_data(), k=5)], train_dataloader=own)
    with pytest.raises(ValueError, match="the Trainer's own train_dataloader, whose passes it would disturb"):
        made.fit()


def test_a_sharded_model_is_refused():
    with pytest.raises(ValueError, match=r"OnlineKNN .* sharded model \(FSDP\)"):
        OnlineKNN(data(), test_data(), k=5).init(SimpleNamespace(fsdp_config={"sharding_strategy": "FULL_SHARD"}), None)
