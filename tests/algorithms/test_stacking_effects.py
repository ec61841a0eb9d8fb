"""What Composer's algorithms are there for holds with MixTraining, in each phase, checked by hand."""

from __future__ import annotations

import math

import composer.algorithms as ca
import pytest
import torch
import torch.nn.functional as F
from composer.algorithms.low_precision_layernorm.low_precision_layernorm import LPLayerNorm
from composer.core import Algorithm, Callback, Event, Precision
from composer.models import ComposerModel
from shared.neighbours import Pictures
from shared.settings import RUN, classifier, logged, ssl_loader, trainer, weights
from shared.tiny import images, labels, loader, tiny_vit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MultilabelAccuracy
from torchvision import transforms

from mixplug import MAE, FusedBackbonePass, MixTraining, Phase

BATCHES = 3 * RUN


class At(Algorithm):
    """Calls a function of the state at an event; first in the list, so last at AFTER_* events and else first."""

    def __init__(self, event, function):
        self.event, self.function = event, function

    def match(self, event, state):
        return event is self.event

    def apply(self, event, state, logger):
        self.function(state)


def snapshots(event, of=lambda state: weights(state.model)):
    """An algorithm and the list to which it adds ``of(state)`` at each ``event``."""
    kept = []
    return At(event, lambda state: kept.append(of(state))), kept


def test_label_smoothing_smooths_the_supervised_term_of_each_phase():
    outputs = []
    spy = At(Event.BEFORE_LOSS, lambda state: outputs.append((state.outputs.detach(), state.batch[1])))
    made = trainer(classifier(), [spy, ca.LabelSmoothing(0.2), MixTraining()])
    made.fit()
    smoothed = [F.cross_entropy(logits, targets, label_smoothing=0.2).item() for logits, targets in outputs]
    assert smoothed == pytest.approx(logged(made, "loss/train/sl"), abs=1e-5)
    plain = [F.cross_entropy(logits, targets).item() for logits, targets in outputs]
    assert plain != pytest.approx(smoothed, abs=1e-3)


@pytest.mark.parametrize("place", ["before", "after"])
def test_ema_averages_model_and_head_and_evaluates_the_average(place):
    spy, kept = snapshots(Event.BATCH_END)
    ema, mixing = ca.EMA(half_life="1ba"), MixTraining()
    evaluated = []

    class Logits(Callback):
        def eval_after_forward(self, state, logger):
            evaluated.append(state.outputs.clone())

    made = trainer(
        classifier(),
        [spy, *([ema, mixing] if place == "before" else [mixing, ema])],
        eval_dataloader=loader(8),
        callbacks=[Logits()],
    )
    made.fit()
    average = kept[0]
    for now in kept:
        average = {name: 0.5 * average[name] + 0.5 * now[name] for name in now}
    assert any(name.startswith("ssl_objective.") for name in average)
    assert set(ema.ema_model.named_parameters_dict) == {n for n, p in made.state.model.named_parameters() if n}
    for name, value in ema.ema_model.named_parameters():
        torch.testing.assert_close(value, average[name], msg=name)
    plain = tiny_vit().eval()
    plain.load_state_dict({n.removeprefix("module."): v for n, v in average.items() if n.startswith("module.")})
    torch.testing.assert_close(evaluated[-1], plain(images(8)))


def test_swa_averages_the_weights_of_its_window():
    spy, kept = snapshots(Event.BATCH_END)
    # Time in epochs: the window is the first batches of epochs 5 and 6, and the 2 others of epoch 5.
    made = trainer(classifier(), [spy, ca.SWA("0.65dur", "0.8dur", "1ba"), MixTraining()])
    reached = []
    made.state.algorithms.append(At(Event.BATCH_END, lambda state: reached.append(weights(state.model))))
    made.fit()
    window = kept[12:16]
    for name, value in reached[15].items():
        torch.testing.assert_close(value, torch.stack([w[name] for w in window]).mean(0), msg=name)
    assert torch.equal(reached[14]["module.head.weight"], kept[14]["module.head.weight"])


@pytest.mark.parametrize("place", ["before", "after"])
def test_swa_resumes(place, tmp_path):
    """Its copy of the model holds the SSL head also where SWA saw the model first."""

    def algorithms():
        pair = [ca.SWA("0.5dur", "0.9dur", "1ba"), MixTraining()]
        return pair if place == "before" else pair[::-1]

    save = {"save_folder": str(tmp_path), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    whole = trainer(algorithms=algorithms(), **save)
    whole.fit()
    resumed = trainer(algorithms=algorithms(), load_path=str(tmp_path / "11.pt"))
    resumed.fit()
    expected = weights(whole.state.model)
    assert all(torch.equal(expected[name], value) for name, value in weights(resumed.state.model).items())


def test_the_gradients_of_model_and_head_together_are_clipped_in_each_phase():
    norms, parts = [], []

    def measure(state):
        gradients = {n: p.grad.norm() for n, p in state.model.named_parameters() if p.grad is not None}
        norms.append(torch.stack(list(gradients.values())).norm().item())
        parts.append({n.split(".")[0] for n in gradients})

    clipping = ca.GradientClipping("norm", 0.05)
    made = trainer(classifier(), [At(Event.AFTER_TRAIN_BATCH, measure), clipping, MixTraining()])
    made.fit()
    assert norms == pytest.approx([0.05] * BATCHES, rel=1e-3)
    assert parts == [{"module", "ssl_objective"}] * 12 + [{"module"}] * 6


@pytest.mark.parametrize("place", ["before", "after"])
def test_layer_freezing_freezes_what_it_would_without_the_head(place):
    def frozen(mixing):
        freezing = ca.LayerFreezing(freeze_start=0.3)
        spy, kept = snapshots(
            Event.EPOCH_START, lambda state: {n for n, p in state.model.named_parameters() if not p.requires_grad}
        )
        made = trainer(classifier(), [spy, *([freezing, *mixing] if place == "before" else [*mixing, freezing])])
        heads = []
        made.state.algorithms.append(
            At(Event.BATCH_END, lambda state: heads.append(weights(state.model)["module.head.weight"]))
        )
        made.fit()
        return kept, heads

    alone, _ = frozen([])
    stacked, heads = frozen([MixTraining()])
    assert stacked == alone
    assert len(alone[-1]) > len(alone[3]) > 0
    assert not torch.equal(heads[-1], heads[-2]), "the classifier's head learns to the end"


def test_each_pass_of_sam_draws_its_own_mask():
    masks = []

    class Watched(MAE):
        def forward(self, seen):
            masks.append(seen.keep)
            return super().forward(seen)

    made = trainer(classifier(), [ca.SAM(interval=2), MixTraining(1, objective=Watched("input"))], max_duration="4ba")
    made.fit()
    assert len(masks) == 6  # every second step makes a second pass
    assert not torch.equal(masks[1], masks[2])


class Seen(MAE):
    """Keeps the images to reconstruct."""

    def __init__(self):
        super().__init__("features")
        self.images = []

    def __deepcopy__(self, memo):
        return self  # the run's copy is the one that the test looks at

    def forward(self, seen):
        self.images.append(seen.images)
        return super().forward(seen)


@pytest.mark.parametrize("data", ["equal", "other"])
@pytest.mark.parametrize(
    "make",
    [
        ca.CutOut,
        lambda: ca.ColOut(0.25, 0.25),
        lambda: ca.ProgressiveResizing("resize", 0.5, 0.3, 0.2, 2),
        lambda: ca.ProgressiveResizing("crop", 0.5, 0.3, 0.2, 2),
    ],
    ids=["CutOut", "ColOut", "resize", "crop"],
)
def test_the_target_is_what_the_encoder_saw(make, data):
    objective = Seen()
    spy, given = snapshots(Event.BEFORE_FORWARD, lambda state: state.batch[0])
    mixing = MixTraining(objective=objective, ssl_dataloader=ssl_loader() if data == "other" else None)
    made = trainer(classifier(dynamic_img_size=True), [spy, make(), mixing])
    made.fit()
    assert len(objective.images) == (12 if data == "equal" else 16)
    assert all(torch.equal(seen, x) for seen, x in zip(objective.images, given, strict=False))
    assert any(x.shape[-1] < 8 or bool((x == 0).any()) for x in given[:6]), "the algorithm did something in SSL"


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_progressive_resizing_goes_from_its_first_size_to_the_full_one(mode):
    spy, sizes = snapshots(Event.BEFORE_FORWARD, lambda state: state.batch[0].shape[-1])
    algorithm = ca.ProgressiveResizing(mode, 0.5, finetune_fraction=0.2, delay_fraction=0.2, size_increment=2)
    trainer(classifier(dynamic_img_size=True), [spy, algorithm, MixTraining()]).fit()
    assert sizes[::3] == [4, 4, 4, 6, 8, 8]


@pytest.mark.parametrize(
    ("algorithm", "model", "message"),
    [
        (ca.ColOut(0.15, 0.3), {"dynamic_img_size": True}, "6x5 pixels cannot be cut into patches of 2x2"),
        (ca.ColOut(0.25, 0.25), {}, "6x6 pixels come to a model built for .*dynamic_img_size=True"),
        (ca.ProgressiveResizing("resize", 0.6, 0.2, 0.2, 1), {"dynamic_img_size": True}, "5x5 pixels cannot be cut"),
    ],
)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_sizes_that_a_patch_grid_cannot_take(algorithm, model, message, alpha):
    with pytest.raises(ValueError, match=message):
        trainer(classifier(**model), [algorithm, MixTraining(alpha=alpha)]).fit()


def test_sizes_that_a_patch_grid_cannot_take_come_to_light_in_the_sl_phase_too():
    class Late(ca.ColOut):
        def match(self, event, state):
            return super().match(event, state) and state.timestamp.epoch >= 4

    with pytest.raises(AssertionError, match=r"Input width \(5\) should be divisible by patch size"):
        trainer(classifier(dynamic_img_size=True), [Late(0.15, 0.3), MixTraining()]).fit()


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", [ca.RandAugment, ca.AugMix])
def test_image_transforms_change_the_labelled_data_only(kind, place):
    sl, ssl = Pictures(), Pictures(22, seed=1)
    mixing = MixTraining(ssl_dataloader=DataLoader(ssl, batch_size=5, shuffle=True))
    algorithms = [kind(), mixing] if place == "before" else [mixing, kind()]
    made = trainer(classifier(in_chans=3), algorithms, train_dataloader=DataLoader(sl, batch_size=8))
    made.fit()
    assert isinstance(ssl.transform, transforms.ToTensor)
    names = [type(t).__name__ for t in sl.transform.transforms]
    assert names in (["RandAugmentTransform", "ToTensor"], ["AugmentAndMixTransform", "ToTensor"])


class UnderAMP(ca.LowPrecisionLayerNorm):
    """Composer's surgery as under AMP, which it does not have on a CPU."""

    def apply(self, event, state, logger):
        precision, state._precision = state._precision, Precision.AMP_BF16
        super().apply(event, state, logger)
        state._precision = precision


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_pass_is_still_watched_where_other_norms_stand_in_the_model(place):
    algorithms = [MixTraining(), UnderAMP()] if place == "after" else [UnderAMP(), MixTraining()]
    made = trainer(classifier(), algorithms)
    made.fit()
    assert isinstance(made.state.model.module.norm, LPLayerNorm)
    assert all(math.isfinite(value) for value in logged(made, "loss/train/ssl")[:12])


def test_factorize_counts_the_head_only_after_it():
    factorized = []
    for place in ("before", "after"):
        pair = [ca.Factorize(min_features=16, latent_features=4), MixTraining()]
        made = trainer(classifier(), pair if place == "before" else pair[::-1])
        names = [n for n, m in made.state.model.named_modules() if type(m).__name__ == "FactorizedLinear"]
        factorized.append({n.split(".")[0] for n in names})
    assert factorized == [{"module"}, {"module", "ssl_objective"}]


def prune(**changes):
    return ca.SelectiveBackprop(**{"start": 0.0, "end": 1.0, "keep": 0.5, "interrupt": 0, **changes})


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("start", [0.0, 0.33])
def test_choosing_images_by_labels_that_they_lack_is_refused(start, place):
    pair = [prune(start=start), MixTraining(ssl_dataloader=ssl_loader())]
    made = trainer(classifier(), pair if place == "before" else pair[::-1])
    with pytest.raises(ValueError, match=r"SelectiveBackprop\(start=.*; use start=0\.333"):
        made.fit()
    assert made.state.timestamp.batch == 0


def test_the_start_that_the_message_names_is_accepted_and_prunes_from_there_on():
    model, mixing = classifier(), MixTraining(ssl_dataloader=ssl_loader())
    with pytest.raises(ValueError, match="SelectiveBackprop") as refusal:
        trainer(model, [prune(), mixing]).fit()
    start = float(str(refusal.value).rsplit("=", 1)[1])
    spy, sizes = snapshots(Event.BEFORE_FORWARD, lambda state: len(state.batch[0]))
    trainer(classifier(), [spy, prune(start=start), MixTraining(ssl_dataloader=ssl_loader())]).fit()
    assert sizes == [5, 5, 5, 5, 2] * 2 + [4, 4, 2] * 4


@pytest.mark.parametrize(
    ("selection", "mixing"),
    [
        (prune(), MixTraining()),
        (prune(), MixTraining(rho=1, ssl_dataloader=ssl_loader())),
        (prune(keep=1.0), MixTraining(ssl_dataloader=ssl_loader())),
    ],
    ids=["equal data", "no SSL phase", "keeps all"],
)
def test_choosing_images_by_their_labels_is_not_refused(selection, mixing):
    made = trainer(classifier(), [selection, mixing])
    made.fit()
    assert made.state.timestamp.epoch == RUN


class ManyLabels(ComposerModel):
    """Each image may belong to several classes: targets are floats ``(B, 10)``, which no class index can be."""

    def __init__(self):
        super().__init__()
        self.module = tiny_vit()
        self.targets = []

    def forward(self, batch):
        return self.module(batch[0])

    def loss(self, outputs, batch):
        self.targets.append(batch[1])
        return F.binary_cross_entropy_with_logits(outputs, batch[1])

    def get_metrics(self, is_train):
        return {} if is_train else {"MultilabelAccuracy": MultilabelAccuracy(10)}

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs, batch[1].int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_that_takes_no_class_trains_over_unlabelled_data(dtype):
    targets = F.one_hot(labels(20), 10).to(dtype)
    data = DataLoader(TensorDataset(images(20), targets), batch_size=8)
    model = ManyLabels()
    made = trainer(model, [MixTraining(ssl_dataloader=ssl_loader())], train_dataloader=data, eval_dataloader=data)
    made.fit()
    # In MIX and SL alone: over the SSL data the loss does not run.
    assert [tuple(y.shape) for y in model.targets] == [(8, 10), (8, 10), (4, 10)] * 4
    assert {y.dtype for y in model.targets} == {dtype}
    assert all(math.isfinite(value) for value in logged(made, "loss/train/total"))
    assert made.state.eval_metric_values["MultilabelAccuracy"] > 0.8


def test_where_no_labelled_sample_can_be_looked_at_class_0_stands_in():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(images(8), labels(8), strict=True))

    model, seen = classifier(), []
    spy = At(Event.BEFORE_FORWARD, lambda state: seen.append(state.batch[1]))
    mixing = MixTraining(0, ssl_dataloader=ssl_loader(4))
    trainer(model, [spy, mixing], "4ba", train_dataloader=DataLoader(Stream(), batch_size=4)).fit()
    assert torch.equal(seen[0], torch.zeros(4, dtype=torch.long))


class Convolutions(ComposerModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, batch):
        return self.conv(batch[0]).mean((2, 3))

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1])


@pytest.mark.parametrize(
    ("make", "objective", "error", "message"),
    [
        (Convolutions, MAE("input"), TypeError, "Convolutions holds no model of timm's"),
        (lambda: classifier(patch_size=8), MAE("input"), ValueError, "MAE hides patches, but .* is a single one"),
        (
            lambda: classifier(img_size=4, patch_size=1),
            MAE(norm_pix=True),
            ValueError,
            "norm_pix=True needs patches of at least 2 values",
        ),
        (lambda: classifier(patch_drop_rate=0.5), MAE("input"), ValueError, "drops patches by itself"),
        (classifier, MAE(decoder_heads=3), ValueError, "16 wide with 3 heads"),
    ],
    ids=["no tokens", "one patch", "one value", "two droppings", "decoder"],
)
@pytest.mark.parametrize("kind", [MixTraining, FusedBackbonePass])
def test_what_the_masking_cannot_serve_is_refused_before_training(kind, make, objective, error, message):
    with pytest.raises(error, match=message):
        trainer(make(), [kind(objective=objective)])


def test_phases_are_named_in_order():
    """The effects above count on 6 batches of each phase."""
    made = trainer(algorithms=[MixTraining()])
    made.fit()
    expected = [list(Phase).index(phase) for phase in (Phase.SSL, Phase.MIX, Phase.SL) for _ in range(6)]
    assert [int(p) for p in logged(made, "mixtraining/phase")] == expected
