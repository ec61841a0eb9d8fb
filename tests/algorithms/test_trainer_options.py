"""MixTraining under what else a user may do with a Trainer."""

from __future__ import annotations

import math
import statistics
import time

import pytest
import torch
from composer.core import Callback, Evaluator, Event
from composer.models import ComposerClassifier
from shared.settings import classifier, logged, ssl_loader, trainer, weights
from shared.tiny import images, labels, loader, tiny_vit
from shared.two_view import OBJECTIVES
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MetricCollection

from mixplug import MAE, FusedBackbonePass, JointLoss, MixTraining
from mixplug.algorithms.trainer.last_batches import check_batches_of_one


class IterableImages(IterableDataset):
    def __iter__(self):
        return iter(zip(images(9), labels(9), strict=True))


SAMPLE = ((images(4), labels(4)), {})


def mixtraining():
    return [MixTraining(objective=MAE("input"))]


@pytest.mark.parametrize(
    ("interval", "evaluations"),
    [
        ("1ep", 6),
        ("2ba", 9),
        ("0.25dur", 4),
        ("1dur", 1),
        (0, 0),
        (lambda state, event: event is Event.BATCH_END and state.timestamp.batch.value in (5, 11), 2),
    ],
    ids=lambda value: "function" if callable(value) else str(value),
)
def test_evaluation_at_any_interval_does_not_touch_training(interval, evaluations):
    plain = trainer(algorithms=mixtraining())
    plain.fit()

    class Batches(torch.utils.data.Dataset):
        """A stand-in for a loader that draws no random numbers."""

        batch_size = 8

        def __iter__(self):
            return iter([(images(8), labels(8))])

    evaluator = Evaluator(label="eval", dataloader=Batches(), metric_names=["MulticlassAccuracy"])
    made = trainer(algorithms=mixtraining(), eval_dataloader=evaluator, eval_interval=interval)
    made.fit()
    assert len(made.memory.data.get("metrics/eval/MulticlassAccuracy", [])) == evaluations
    for name, value in weights(plain.state.model).items():
        assert torch.equal(value, weights(made.state.model)[name]), name


@pytest.mark.parametrize("length", ["3ba", "7ba", "20ba"])
def test_a_length_in_batches_is_kept_to_the_batch(length):
    made = trainer(algorithms=mixtraining(), max_duration=length)
    made.fit()
    assert made.state.timestamp.batch == int(length[:-2])
    assert set(logged(made, "mixtraining/phase")) == {0, 1, 2}


@pytest.mark.parametrize("length", ["20sp", "100tok", "60sec"])
def test_lengths_that_have_no_phases_are_refused(length):
    with pytest.raises(ValueError, match=r"must be in epochs \('ep'\) or batches \('ba'\)|second|unit"):
        trainer(algorithms=mixtraining(), max_duration=length).fit()


def test_a_subset_of_each_epoch():
    made = trainer(algorithms=mixtraining(), train_subset_num_batches=2)
    made.fit()
    assert made.state.timestamp.batch == 12
    assert [int(p) for p in logged(made, "mixtraining/phase")] == [0] * 4 + [1] * 4 + [2] * 4


def test_evaluation_and_prediction_before_between_and_after():
    made = trainer(algorithms=mixtraining(), eval_dataloader=loader(), eval_interval=0)

    def agrees():
        plain = tiny_vit().eval()
        plain.load_state_dict(made.state.model.module.state_dict(), strict=True)
        with torch.no_grad():
            expected = [plain(x) for x, _ in loader()]
            accuracy = sum(int((p.argmax(1) == y).sum()) for p, (_, y) in zip(expected, loader(), strict=True)) / 20
        assert all(torch.equal(a, b) for a, b in zip(made.predict(loader()), expected, strict=True))
        made.eval()
        assert made.state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(accuracy)

    agrees()
    for _ in range(3):
        made.fit(duration="2ep")
        agrees()


def test_nothing_of_mixplug_is_left_in_the_models_forward_outside_of_fit():
    model = classifier()
    modules = [type(m) for m in model.module.modules()]
    made = trainer(model, mixtraining())
    for _ in range(2):
        assert [type(m) for m in model.module.modules()] == modules
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        made.fit(duration="3ep")


def test_it_exports_to_torchscript_before_and_after(tmp_path):
    made = trainer(algorithms=mixtraining())
    for duration in ("2ep", "4ep"):
        made.fit(duration=duration)
        made.export_for_inference("torchscript", str(tmp_path / "model.pt"), sample_input=SAMPLE)
        exported = torch.jit.load(tmp_path / "model.pt")
        assert torch.equal(exported(SAMPLE[0]), made.state.model.eval()(SAMPLE[0]))


def test_a_plain_trainer_on_the_model_of_an_earlier_one():
    """Fine-tuning: the SSL head stays where it is, and gets neither gradients nor steps."""
    model = classifier()
    trainer(model, mixtraining()).fit()
    before = weights(model)
    fine_tuning = trainer(model, max_duration="2ep", eval_dataloader=loader())
    fine_tuning.fit()
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) is name.startswith("ssl_objective"), name
    assert "mixtraining/phase" not in fine_tuning.memory.data


class Fails(Callback):
    def __init__(self, error):
        self.error = error

    def after_loss(self, state, logger):
        if state.timestamp.batch.value == 4:
            raise self.error


def test_a_trainer_on_the_model_of_one_that_failed():
    """What an interrupted fit leaves attached is taken over by the next one."""
    model = classifier()
    failed = trainer(model, mixtraining(), callbacks=[Fails(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        failed.fit()
    failed.close()
    made = trainer(model, mixtraining(), eval_dataloader=loader())
    made.fit()
    assert made.state.timestamp.epoch == 6
    assert math.isfinite(made.state.eval_metric_values["CrossEntropy"])


def test_evaluation_after_a_forward_pass_was_interrupted():
    """The half-done pass must not hide patches from the evaluations that follow."""
    model = classifier()

    def interrupt(module, args):
        if len(made.memory.data.get("loss/train/total", [])) == 4:
            hook.remove()
            raise KeyboardInterrupt

    hook = model.module.blocks[1].register_forward_pre_hook(interrupt)
    made = trainer(model, mixtraining(), eval_dataloader=loader())
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    model.eval()
    plain = tiny_vit().eval()
    plain.load_state_dict(model.module.state_dict())
    with torch.no_grad():
        assert torch.equal(model((images(4), None)), plain(images(4)))
    made.fit()
    assert made.state.timestamp.epoch == 6


def test_one_algorithm_serves_one_trainer_at_a_time():
    algorithms = mixtraining()
    first, second = (trainer(algorithms=algorithms) for _ in range(2))
    with pytest.raises(ValueError, match="give each Trainer its own"):
        first.fit()
    second.fit()
    trainer(algorithms=algorithms).fit()


def test_a_term_of_the_models_own_named_total():
    class Own(type(classifier())):
        def loss(self, outputs, batch, *args):
            total = nn.functional.cross_entropy(outputs, batch[1])
            return {"total": total, "aux/total": total.detach() * float("nan")}

    model = classifier()
    model.__class__ = Own
    made = trainer(model, mixtraining())
    made.fit()
    assert made.state.timestamp.epoch == 6


class Poison(Callback):
    """Makes something of batch ``at`` not a number."""

    def __init__(self, at, spoil):
        self.at, self.spoil = at, spoil

    def before_forward(self, state, logger):
        if state.timestamp.batch.value == self.at:
            self.spoil(state)


def spoil_head(state):
    nn.init.constant_(state.model.module.head.weight, float("nan"))


def spoil_decoder(state):
    nn.init.constant_(state.model.ssl_objective.predict.bias, float("inf"))


@pytest.mark.parametrize(
    ("at", "spoil", "says"),
    [
        (3, spoil_decoder, r"the ssl loss of batch 3 \(epoch 1, ssl phase\)"),
        (7, spoil_decoder, r"the ssl loss of batch 7 \(epoch 2, mix phase\)"),
        (7, spoil_head, r"the sl loss of batch 7 \(epoch 2, mix phase\)"),
        (16, spoil_head, r"the sl loss of batch 16 \(epoch 5, sl phase\)"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(at, spoil, says, tmp_path):
    saving = {"save_folder": str(tmp_path), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    made = trainer(algorithms=mixtraining(), callbacks=[Poison(at, spoil)], **saving)
    with pytest.raises(FloatingPointError, match=says):
        made.fit()
    assert max(int(path.stem) for path in tmp_path.glob("[0-9]*.pt")) == at, "no checkpoint of the spoilt batch"


@pytest.mark.parametrize(("at", "spoil"), [(3, spoil_head), (16, spoil_decoder)])
def test_a_term_that_weighs_nothing_may_be_what_it_likes(at, spoil):
    class Mend(Callback):
        def batch_end(self, state, logger):
            if state.timestamp.batch.value == at + 1:
                nn.init.zeros_(state.model.module.head.weight)

    made = trainer(algorithms=mixtraining(), callbacks=[Poison(at, spoil), Mend()])
    made.fit()
    assert made.state.timestamp.epoch == 6


@pytest.mark.parametrize(
    "algorithms",
    [[MixTraining(stop_on_nan=False)], [FusedBackbonePass(), JointLoss(stop_on_nan=False)]],
    ids=["MixTraining", "parts"],
)
def test_the_run_goes_on_if_told_so(algorithms):
    made = trainer(algorithms=algorithms, callbacks=[Poison(7, spoil_head)])
    made.fit()
    assert made.state.timestamp.epoch == 6
    assert math.isnan(logged(made, "loss/train/total")[-1])


def test_looking_for_nan_costs_less_than_a_hundredth_of_a_step():
    costs, steps = [], []

    class Clock(Callback):
        def batch_start(self, state, logger):
            self.start = time.perf_counter()

        def batch_end(self, state, logger):
            steps.append(time.perf_counter() - self.start)
            start = time.perf_counter()
            joint.batch_end(state, logger)
            costs.append(time.perf_counter() - start)

    (algorithm,) = mixtraining()
    joint = algorithm.joint_loss
    trainer(algorithms=[algorithm], callbacks=[Clock()]).fit()
    assert statistics.median(costs) < 0.01 * statistics.median(steps)


def test_stop_on_nan_is_a_bool():
    with pytest.raises(TypeError, match="stop_on_nan must be True or False, got 'yes'"):
        MixTraining(stop_on_nan="yes")


def test_batches_of_one_image():
    data = DataLoader(TensorDataset(images(4), labels(4)), batch_size=1)
    made = trainer(algorithms=mixtraining(), train_dataloader=data, max_duration="3ep")
    made.fit()
    assert made.state.timestamp.batch == 12


def of_size(count, batch_size, **options):
    return DataLoader(TensorDataset(images(count), labels(count)), batch_size=batch_size, **options)


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (
            of_size(9, 4),
            {},
            r"the last batch \(9 images in batches of 4\) of the train_dataloader has .*SSL head",
        ),
        (of_size(3, 1), {}, "all batches of the train_dataloader have 1 image"),
        (of_size(10, 5), {"device_train_microbatch_size": 2}, r"last microbatch of each batch \(5 images in microb"),
    ],
)
def test_a_batch_of_one_image_is_refused_before_training_where_a_head_normalises(data, options, says):
    made = trainer(algorithms=[MixTraining(objective=OBJECTIVES["MoCoV3"]())], train_dataloader=data, **options)
    with pytest.raises(ValueError, match=f"{says}.*data.drop_last=true in recipes"):
        made.fit()
    assert made.state.timestamp.batch == 0


def test_a_batch_of_one_of_the_ssl_data_is_refused_too():
    algorithms = [MixTraining(objective=OBJECTIVES["SimSiam"](), ssl_dataloader=ssl_loader(21, 5))]
    with pytest.raises(ValueError, match=r"21 images in batches of 5\) of the ssl_dataloader has 1 image"):
        trainer(algorithms=algorithms).fit()


@pytest.mark.parametrize(
    "data", [of_size(9, 4, drop_last=True), of_size(8, 4), DataLoader(IterableImages(), batch_size=4)]
)
def test_other_batches_are_not_refused(data):
    check_batches_of_one(trainer().state, data, "train_dataloader", nn.BatchNorm1d(2), nn.Linear(1, 1))


def test_an_encoder_that_normalises_is_warned_of():
    with pytest.warns(UserWarning, match="has 1 image, and BatchNorm in the encoder takes its statistics from it"):
        check_batches_of_one(trainer().state, of_size(9, 4), "train_dataloader", nn.Linear(1, 1), nn.BatchNorm2d(2))
    # A subset ends the epoch before the last batch.
    made = trainer(train_dataloader=(data := of_size(9, 4)), train_subset_num_batches=2)
    check_batches_of_one(made.state, data, "train_dataloader", nn.BatchNorm1d(2), nn.Linear(1, 1))


@pytest.mark.parametrize("options", [{}, {"device_train_microbatch_size": 4}])
def test_labels_that_are_all_ignored_are_named_as_the_cause(options):
    ignored = torch.full((20,), -100)
    ignored[:8] = 3
    data = DataLoader(TensorDataset(images(20), ignored), batch_size=8)
    made = trainer(
        ComposerClassifier(tiny_vit(), train_metrics=MetricCollection([]), num_classes=10),
        [MixTraining(rho=1, objective=MAE("input"))],
        train_dataloader=data,
        max_duration="2ep",
        **options,
    )
    with pytest.raises(FloatingPointError, match=r"the sl loss of batch 1 .* are -100, which .* ssl_dataloader"):
        made.fit()
