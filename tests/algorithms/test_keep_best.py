"""KeepBest in Composer's Trainer."""

from __future__ import annotations

import math

import composer.algorithms as ca
import pytest
import torch
from composer import Callback
from shared.settings import classifier, logged, multi_task_loader, trainer
from shared.tiny import images, labels, loader
from shared.two_view import OBJECTIVES
from torch.utils.data import DataLoader, TensorDataset

from mixplug import MAE, ExactResumption, FusedBackbonePass, KeepBest, MixTraining, backbone_of
from mixplug.algorithms import keep_best
from mixplug.backbones.probing import extract_features, knn_accuracy
from mixplug.data.order import random_state
from mixplug.objectives.collapse import rank_me


def data(count: int = 30) -> DataLoader:
    return DataLoader(TensorDataset(images(count, seed=40), labels(count, 3, seed=40)), batch_size=8)


def validation() -> DataLoader:
    return DataLoader(TensorDataset(images(26, seed=41), labels(26, 10, seed=41)), batch_size=8)


def vit():
    return classifier(proj_drop_rate=0.1)


def pure() -> list:
    return [MixTraining(objective=MAE("input"), ssl_duration="4ep", sl_duration="0ep")]


def mixed() -> list:
    return [MixTraining(objective=MAE("input"))]


class Weights(Callback):
    """The weights after each batch, and what the model was evaluated with."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self.evaluated: dict[int, dict[str, torch.Tensor]] = {}

    def batch_start(self, state, logger) -> None:
        self.after[state.timestamp.batch.value] = copy(state.model)

    def eval_start(self, state, logger) -> None:
        self.evaluated[state.timestamp.batch.value] = copy(state.model)


def copy(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def scripted(monkeypatch, values) -> None:
    """Have the signals be these, one after another."""
    told = iter(values)
    monkeypatch.setattr(KeepBest, "_measure", lambda self, state: next(told))


def points(made, name) -> list[tuple[int, float]]:
    return [(time.batch.value, float(value)) for time, value in made.memory.data.get(name, ())]


@pytest.mark.parametrize(
    ("signal", "values", "best"),
    [
        ("knn", [0.2, 0.6, 0.4, 0.5], 6),
        ("rankme", [0.2, 0.6, 0.6, 0.5], 9),  # of equals the later
        ("ssl_loss", [0.2, 0.1, 0.3, 0.4], 6),
        ("knn", [math.nan, 0.1, math.nan, math.nan], 6),
        ("knn", [0.1, 0.2, 0.3, 0.4], 12),
        ("knn", [math.nan] * 4, 12),
    ],
)
def test_the_run_ends_with_the_best_weights(monkeypatch, signal, values, best):
    scripted(monkeypatch, values)
    watched = Weights()
    keep = KeepBest(signal, None if signal == "ssl_loss" else data())
    options = {"eval_dataloader": validation(), "eval_interval": "1dur"}
    made = trainer(vit(), [keep, *pure()], "4ep", callbacks=[watched], **options)
    made.fit()
    plain = trainer(vit(), pure(), "4ep", **options)
    plain.fit()
    expected = {**watched.after, 12: copy(plain.state.model)}
    assert same(copy(made.state.model), expected[best])
    assert same(watched.evaluated[12], expected[best]), "the last evaluation is of what is kept"
    measured = dict(zip([3, 6, 9, 12], values, strict=True))
    assert dict(points(made, f"keep_best/{signal}")) == pytest.approx(measured, nan_ok=True)
    known = [(time, batch) for time, batch in points(made, "keep_best/best_batch")]
    if math.isnan(values[1]):
        assert keep.kept is None
        assert not known
    else:
        assert keep.kept == {"signal": signal, "value": values[best // 3 - 1], "at": best // 3}
        assert known[-1] == (12, best)
        assert all(batch <= time for time, batch in known)


def test_the_accuracy_of_the_best_is_what_the_run_ends_with():
    keep, watched = KeepBest("accuracy"), Weights()
    options = {"eval_dataloader": validation(), "eval_interval": "2ba", "callbacks": [watched]}
    made = trainer(vit(), [keep], "4ep", lr=0.05, **options)
    made.fit()
    accuracies = dict(points(made, "metrics/eval/MulticlassAccuracy"))
    assert list(accuracies) == [2, 4, 6, 8, 10, 12]
    best = max(accuracies, key=lambda batch: (accuracies[batch], batch))
    assert best < 12, "the last is not the best here, so this test can fail"
    assert keep.kept == {"signal": "accuracy", "value": pytest.approx(accuracies[best]), "at": pytest.approx(best / 3)}
    assert same(copy(made.state.model), watched.after[best])
    assert made.state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(accuracies[best])
    made.eval()
    assert made.state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(accuracies[best])


class Judged(Callback):
    """The accuracy of each evaluation, by batch."""

    def __init__(self) -> None:
        self.accuracies: dict[int, float] = {}

    def eval_end(self, state, logger) -> None:
        self.accuracies[state.timestamp.batch.value] = float(state.eval_metric_values["MulticlassAccuracy"])


@pytest.mark.parametrize(("values", "best"), [([0.2, 0.3], 12), ([0.3, 0.2], 9)])
def test_the_last_weights_are_judged_where_composer_evaluates_after_the_end(monkeypatch, values, best):
    """Its evaluation of a run that ``eval_interval`` does not divide comes when the best weights are back."""
    scripted(monkeypatch, [*values, 0.1])
    options = {"eval_dataloader": validation(), "eval_interval": "3ep"}
    keep, watched, judged, plain_judged = KeepBest("accuracy"), Weights(), Judged(), Judged()
    made = trainer(vit(), [keep], "4ep", lr=0.05, callbacks=[watched, judged], **options)
    made.fit()
    plain = trainer(vit(), [], "4ep", lr=0.05, callbacks=[plain_judged], **options)
    plain.fit()
    assert judged.accuracies == plain_judged.accuracies
    assert list(judged.accuracies) == [9, 12]
    expected = {**watched.after, 12: copy(plain.state.model)}
    assert same(copy(made.state.model), expected[best])
    assert keep.kept == {"signal": "accuracy", "value": 0.3, "at": best / 3}
    made.fit(duration="1ep")
    plain.fit(duration="1ep")
    assert same(watched.after[12], expected[12]), "it goes on from the last weights"


@pytest.mark.parametrize(
    ("algorithms", "options", "interval"),
    [
        ([KeepBest("knn", data(), "50ep")], {}, "interval='50ep'"),
        ([KeepBest("accuracy")], {"eval_interval": 0}, "eval_interval"),
        ([KeepBest("accuracy")], {"eval_interval": "1dur"}, "eval_interval"),
    ],
)
def test_no_choice_is_said(algorithms, options, interval):
    options = {"eval_dataloader": validation(), **options}
    with pytest.warns(UserWarning, match=f"nothing before the run's end.*{interval}"):
        trainer(vit(), algorithms, "2ep", **options).fit()


def test_the_signals_are_those_of_the_pure_functions():
    def judged(signal, given):
        made = trainer(vit(), [KeepBest(signal, given, "2ep"), *pure()], "4ep", callbacks=[watched := Weights()])
        made.fit()
        net = vit()
        net.load_state_dict({n: v for n, v in watched.after[6].items() if not n.startswith("ssl_objective")})
        return logged(made, f"keep_best/{signal}")[0], extract_features(backbone_of(net), data())

    value, features = judged("knn", data())
    assert value == knn_accuracy(*features, k=20) == pytest.approx(left_out(*features, 20))
    value, features = judged("rankme", DataLoader(images(30, seed=40), batch_size=8))
    assert value == pytest.approx(float(rank_me(features[0])))


def left_out(features, of, k) -> float:
    """Each image judged by the others, one by one."""
    others = [[j for j in range(len(of)) if j != i] for i in range(len(of))]
    right = [
        knn_accuracy(features[rest], of[rest], features[i : i + 1], of[i : i + 1], k=k) for i, rest in enumerate(others)
    ]
    return sum(right) / len(right)


def test_the_ssl_loss_is_the_mean_since_the_point_before():
    made = trainer(None, [KeepBest("ssl_loss", interval="3ba"), *pure()], "4ep", train_dataloader=loader(20, 8))
    made.fit()
    losses = logged(made, "loss/train/ssl")
    means = [sum(losses[start : start + 3]) / 3 for start in range(0, len(losses), 3)]
    assert logged(made, "keep_best/ssl_loss") == pytest.approx(means)


def everything_after(algorithms):
    watched = Weights()
    options = {"train_dataloader": loader(20, 8, shuffle=True), "callbacks": [watched]}
    made = trainer(vit(), algorithms, "6ep", eval_dataloader=validation(), **options)
    made.fit()
    moments = made.state.optimizers[0].state_dict()["state"]
    return watched.after, moments, random_state(), logged(made, "loss/train/total")


@pytest.mark.parametrize("signal", keep_best.SIGNALS)
def test_training_is_bit_for_bit_that_without_it(signal):
    def objective():
        return [] if signal == "accuracy" else [FusedBackbonePass(MAE("input"))]

    weights, moments, numbers, losses = everything_after(objective())
    keep = KeepBest(signal, data() if signal in ("knn", "rankme") else None, "2ba")
    kept_weights, kept_moments, kept_numbers, kept_losses = everything_after([*objective(), keep])
    assert keep.kept is not None
    assert losses == kept_losses
    assert all(same(weights[batch], kept_weights[batch]) for batch in weights)
    for index, of_parameter in moments.items():
        assert all(torch.equal(value, kept_moments[index][name]) for name, value in of_parameter.items())
    assert torch.equal(numbers["torch"], kept_numbers["torch"])
    assert numbers["python"] == kept_numbers["python"]


def test_it_judges_in_the_last_phase_alone():
    """Of two epochs of each phase: what an SSL phase ends with has no classifier."""
    made = trainer(vit(), [KeepBest("knn", data(), "3ba"), *mixed()])
    made.fit()
    assert [batch for batch, _ in points(made, "keep_best/knn")] == [15, 18]


def test_a_run_resumed_at_its_very_end_has_the_kept_weights_and_goes_on_from_the_last(tmp_path, monkeypatch):
    def run(values, **options):
        scripted(monkeypatch, values)
        keep = KeepBest("ssl_loss")
        made = trainer(vit(), [FusedBackbonePass(), keep], **options)
        made.fit()
        return made, keep

    saving = {"save_folder": str(tmp_path), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    ended, keep = run([3, 1, 2], max_duration="3ep", **saving)
    assert keep.kept == {"signal": "ssl_loss", "value": 1, "at": 2}
    whole, _ = run([3, 1, 2, 4], max_duration="4ep")
    longer, keep = run([4], max_duration="4ep", load_path=str(tmp_path / "9.pt"))
    assert same(copy(longer.state.model), copy(ended.state.model))
    assert same(copy(longer.state.model), copy(whole.state.model))
    first, second = (one.state.optimizers[0].state_dict()["state"] for one in (whole, longer))
    assert all(torch.equal(moments["exp_avg"], second[index]["exp_avg"]) for index, moments in first.items())


def test_fit_in_pieces_trains_the_same():
    runs = []
    for pieces in (1, 3):
        keep, watched = KeepBest("rankme", data()), Weights()
        made = trainer(vit(), [keep, ExactResumption()], None, callbacks=[watched])
        for _ in range(pieces):
            made.fit(duration=f"{3 // pieces}ep")
        runs.append((watched.after, copy(made.state.model)))
    (whole, ended), (parts, ended_too) = runs
    assert all(same(whole[batch], parts[batch]) for batch in whole)
    assert same(ended, ended_too)


def test_it_resumes_with_it_alone(tmp_path):
    trainer(None, [KeepBest("rankme", data())], "2ep", save_folder=str(tmp_path), save_filename="{batch}.pt").fit()
    at = str(tmp_path / "3.pt")
    with pytest.raises(ValueError, match="saved with KeepBest, but this Trainer's algorithms have no algorithm"):
        trainer(None, [], "2ep", load_path=at)
    with pytest.raises(ValueError, match="other settings of KeepBest: signal"):
        trainer(None, [KeepBest("knn", data())], "2ep", load_path=at)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("loss",), ValueError, "signal must be one of .*got 'loss'"),
        (("knn",), ValueError, r"KeepBest\('knn'\) needs a loader"),
        (("ssl_loss", data()), ValueError, "measures no images, and was given a loader"),
        (("knn", data(), "0ep"), ValueError, "interval must be above 0"),
        (("knn", 3), TypeError, "loader must give batches of images and labels"),
        (("rankme", multi_task_loader()), TypeError, "loader holds the tasks"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        KeepBest(*arguments)


OWN = data()


@pytest.mark.parametrize(
    ("algorithms", "options", "message"),
    [
        (lambda: [KeepBest("accuracy")], {}, "this Trainer has 0; give it one, of validation images"),
        (lambda: [KeepBest("ssl_loss")], {}, r"needs a self-supervised loss, and .* are \['loss/train/total'\]"),
        (lambda: [KeepBest("ssl_loss"), *mixed()], {}, "last phase, which is supervised learning"),
        (lambda: [KeepBest("rankme", OWN)], {"train_dataloader": OWN}, "Trainer's own train_dataloader"),
        (lambda: [KeepBest("rankme", data()), ca.EMA()], {}, "cannot run with EMA: both say"),
        (lambda: [ca.SWA(), KeepBest("rankme", data())], {}, "cannot run with SWA: both say"),
    ],
)
def test_mistakes_show_before_training_ends(algorithms, options, message):
    def run():
        trainer(None, algorithms(), **options).fit()

    with pytest.raises(ValueError, match=message):
        run()


def test_an_encoder_of_two_views_keeps_its_momentum_encoder_and_head():
    keep = KeepBest("rankme", data(), "1ba")
    made = trainer(
        vit(), [keep, MixTraining(objective=OBJECTIVES["SimSiam"](), ssl_duration="2ep", sl_duration="0ep")], "2ep"
    )
    made.fit()
    assert made.state.model.state_dict().keys() == keep.progress()["best"]["model"].keys()
    assert any(name.startswith("ssl_objective") for name in keep.progress()["best"]["model"])
