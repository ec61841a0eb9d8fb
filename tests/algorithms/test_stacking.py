"""MixTraining with Composer's own algorithms, before and after it in the list, with equal and other SSL data."""

from __future__ import annotations

import copy
import importlib.util
import math

import composer.algorithms as ca
import pytest
import torch
import torch.nn.functional as F
from composer.core import Algorithm, Callback, Event
from shared import readmes
from shared.neighbours import COMPOSERS, CONVOLUTIONAL, NOT_IMAGES, NOTE, OWN, REFUSED, TABLE, WORKS, rows
from shared.settings import FirstVisible, classifier, logged, ssl_loader, trainer, weights
from shared.tiny import images, labels, loader
from shared.two_view import OBJECTIVES
from torch import nn

import mixplug
from mixplug import MAE, JointLoss, MixTraining, Phase
from mixplug.algorithms.trainer.contract import position_of

RUNS, FAILS = rows(WORKS, NOTE), rows(REFUSED, NOT_IMAGES)


def stacked(neighbour, make, place, data, kind, objective):
    """The two algorithms in the order of ``place``, and what to train and evaluate on."""
    ssl = kind.ssl() if data == "other" else None
    mixing, other = MixTraining(objective=objective, ssl_dataloader=ssl, backbone=kind.backbone), make()
    options = {"train_dataloader": kind.train(), "eval_dataloader": kind.train()}
    return [mixing, other] if place == "after" else [other, mixing], options


class CleanLogits(Callback):
    """Compares the logits of each evaluation with those of the model without mixplug and with the same weights."""

    def __init__(self, neighbour, kind):
        self.neighbour, self.kind, self.right, self.evaluations = neighbour, kind, 0, 0

    def eval_start(self, state, logger):
        if self.neighbour.rebuilds:
            self.plain = copy.deepcopy(state.model.module)
            if self.kind is CONVOLUTIONAL:
                self.plain.features._forward_hooks, self.plain.features._forward_pre_hooks = {}, {}
            else:
                vit = getattr(self.plain, "vit", self.plain)
                vit.patch_drop, vit.norm._forward_hooks, vit.patch_embed._forward_pre_hooks = nn.Identity(), {}, {}
        else:
            self.plain = self.kind.model().module
            self.plain.load_state_dict(state.model.module.state_dict(), strict=True)
        self.plain.eval()
        self.right = 0
        self.evaluations += 1

    def eval_after_forward(self, state, logger):
        images, targets = state.batch
        torch.testing.assert_close(state.outputs, self.plain(images), rtol=0, atol=1e-6)
        self.right += int((state.outputs.argmax(1) == targets).sum())


class Follows(Callback):
    """Checks each step's momentum encoder against the encoder that the user trains."""

    def __init__(self, kind):
        self.path, self.steps = kind.backbone or "module", 0

    def batch_start(self, state, logger):
        objective, position = state.model.ssl_objective, position_of(state)
        assert not any(p.requires_grad for p in objective.frozen_parameters())
        self.slow = objective.momentum_encoder.model
        self.before = weights(self.slow)
        self.momentum = 1.0 if position.phase is Phase.SL else objective.momentum_at(position)
        self.steps += position.phase is not Phase.SL
        self.averaged = averages(state)

    def batch_end(self, state, logger):
        if self.averaged != averages(state):
            return  # SWA has just put its averages in the place of all weights
        fast = dict(state.model.get_submodule(self.path).named_parameters())
        for name, slow in self.slow.named_parameters():
            torch.testing.assert_close(slow, self.before[name].lerp(fast[name], 1 - self.momentum))


def averages(state):
    return [a.swa_completed for a in state.algorithms if isinstance(a, ca.SWA)]


every_place = pytest.mark.parametrize(
    ("place", "data"),
    [
        ("before", "equal"),
        ("after", "other"),
        pytest.param("before", "other", marks=pytest.mark.slow),
        pytest.param("after", "equal", marks=pytest.mark.slow),
    ],
)


def runs_through_all_phases(name, place, data, kind, objective, *callbacks):
    """Train and evaluate, and give the Trainer back."""
    neighbour, make = RUNS[name]
    algorithms, options = stacked(neighbour, make, place, data, kind, objective)
    clean = CleanLogits(neighbour, kind)
    made = trainer(kind.model(), algorithms, max_duration="3ep", callbacks=[clean, *callbacks], **options)
    made.fit()
    assert {int(p) for p in logged(made, "mixtraining/phase")} == {0, 1, 2}
    assert all(math.isfinite(total) for total in logged(made, "loss/train/total"))
    assert clean.evaluations == 3
    assert made.state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(clean.right / 20)
    return made


@every_place
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_through_all_phases_and_evaluates_clean_logits(name, place, data):
    runs_through_all_phases(name, place, data, RUNS[name][0].kind, MAE(mask="input"))


@every_place
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_with_two_views_and_a_momentum_encoder_that_follows(name, place, data):
    kind = RUNS[name][0].kind_of_two_views
    follows = Follows(kind)
    made = runs_through_all_phases(name, place, data, kind, OBJECTIVES["MoCoV3"](), follows)
    epochs = [len(kind.train())] * 2 if data == "equal" else [len(kind.ssl()), len(kind.train())]
    assert follows.steps == sum(epochs)
    held = {id(p) for group in made.state.optimizers[0].param_groups for p in group["params"]}
    assert not any(id(p) in held for p in made.state.model.ssl_objective.frozen_parameters())
    if name in CLAIMS:
        CLAIMS[name](made, place)


def the_head_is_never_frozen(made, place):
    head = made.state.model.ssl_objective
    assert all(p.requires_grad for module in (head.projector, head.predictor) for p in module.parameters())
    assert not all(p.requires_grad for p in made.state.model.module.parameters())


def the_head_is_averaged_too(made, place):
    averaged = next(a for a in made.state.algorithms if isinstance(a, ca.EMA)).ema_model.named_parameters_dict
    assert {name for name, p in made.state.model.named_parameters() if p.requires_grad} <= set(averaged)


def the_head_is_factorized_if_it_comes_first(made, place):
    factorized = [type(m).__name__ for m in made.state.model.ssl_objective.projector.modules()]
    assert ("FactorizedLinear" in factorized) == (place == "after")


CLAIMS = {
    "LayerFreezing": the_head_is_never_frozen,
    "EMA": the_head_is_averaged_too,
    "Factorize": the_head_is_factorized_if_it_comes_first,
}
"""What the table's notes say of a self-supervised head."""


def refused_trainer(name, place):
    neighbour, make = FAILS[name]
    algorithms, options = stacked(neighbour, make, place, "equal", neighbour.kind, MAE(mask="input"))
    return trainer(neighbour.kind.model(), algorithms, **options)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", FAILS)
def test_what_cannot_be_right_is_refused_by_name(name, place):
    if name == "Alibi" and importlib.util.find_spec("transformers"):
        pytest.skip("with the transformers package it only warns that it had no effect")
    errors = (ValueError, TypeError, RuntimeError, ImportError)
    with pytest.raises(errors, match=FAILS[name][0].message):
        refused_trainer(name, place)


def test_the_table_has_every_algorithm_of_composer_and_of_mixplug():
    for module, table in ((ca, COMPOSERS), (mixplug, OWN)):
        exported = [getattr(module, name) for name in module.__all__]
        assert set(table) == {e.__name__ for e in exported if isinstance(e, type) and issubclass(e, Algorithm)}


def test_the_readme_has_the_same_table():
    text = readmes.read("mixplug/algorithms/trainer/README.md")
    section = text.split("## Stacking with other algorithms")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    written = [(name.strip("`"), verdict) for names, verdict, _ in cells[2:] for name in names.split(", ")]
    assert len(written) == len(dict(written)), "an algorithm has two rows"
    assert dict(written) == {name: neighbour.verdict for name, neighbour in TABLE.items()}


class Spy(Algorithm):
    """Keeps what the model was given and gave, and the terms of the loss, of each step; to be listed last."""

    def __init__(self):
        self.steps = []

    def match(self, event, state):
        return event in (Event.BEFORE_LOSS, Event.AFTER_BACKWARD)

    def apply(self, event, state, logger):
        if event is Event.BEFORE_LOSS:
            self.steps.append({"outputs": state.outputs.detach().clone()})
        else:
            self.steps[-1] |= {name: value.detach().clone() for name, value in state.loss.items()}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", [ca.MixUp, ca.CutMix])
@pytest.mark.parametrize("interpolate_loss", [False, True])
def test_the_supervised_part_is_the_interpolated_loss_times_its_weight(kind, interpolate_loss, place):
    """By hand, in float64: l_sl = (1 - m) CE(y) + m CE(permuted y), total = alpha l_ssl + (1 - alpha) l_sl."""
    alpha, spy = 0.3, Spy()
    other, mixing = kind(interpolate_loss=interpolate_loss), MixTraining(1, alpha)
    made = trainer(
        classifier().double(),
        [*([mixing, other] if place == "after" else [other, mixing]), spy],
        max_duration="1ba",
        train_dataloader=loader(8, dtype=torch.float64),
    )
    made.fit()
    (step,) = spy.steps
    permuted = labels(8)[other.indices] if kind is ca.MixUp else labels(8)[other._indices]
    share = other.mixing if kind is ca.MixUp else 1 - other._adjusted_lambda
    by_hand = (1 - share) * F.cross_entropy(step["outputs"], labels(8)) + share * F.cross_entropy(
        step["outputs"], permuted
    )
    # Composer's MixUp mixes one-hot labels in float32.
    close = 1e-7 if kind is ca.MixUp and not interpolate_loss else 1e-10
    torch.testing.assert_close(step["sl"], by_hand, rtol=0, atol=close)
    torch.testing.assert_close(step["total"], alpha * step["ssl"] + (1 - alpha) * by_hand, rtol=0, atol=close)


def test_the_reconstruction_target_is_what_the_encoder_saw():
    """After MixUp has mixed the batch, the images to reconstruct are the mixed ones."""
    mixing, other = MixTraining(1, 1.0), ca.MixUp(alpha=1.0)
    targets = []
    made = trainer(classifier(), [mixing, other], max_duration="1ba")
    objective = made.state.model.ssl_objective
    objective.register_forward_pre_hook(lambda module, args: targets.append(args[0].images.clone()))
    made.fit()
    batch = images(20)[:8]
    expected = (1 - other.mixing) * batch + other.mixing * batch[other.indices]
    torch.testing.assert_close(targets[0], expected)


def test_selective_backprop_scores_with_the_users_model():
    """Its scoring pass must see all tokens and leave no trace."""
    tokens = []
    model = classifier()
    model.module.blocks[0].register_forward_pre_hook(
        lambda module, args: tokens.append((module.training, args[0].shape[1]))
    )
    prune = ca.SelectiveBackprop(start=0.0, end=1.0, keep=0.5, interrupt=0)
    made = trainer(model, [MixTraining(1, objective=MAE(mask="input")), prune], max_duration="1ep")
    made.fit()
    assert {count for _, count in tokens} == {17, 5}
    assert [count for _, count in tokens].count(17) == [count for _, count in tokens].count(5)


def test_joint_loss_needs_terms():
    with pytest.raises(ValueError, match="found no 'ssl' and 'sl' in the loss"):
        trainer(algorithms=[JointLoss()]).fit()


def test_joint_loss_weighs_the_terms_of_a_models_own_loss():
    class TwoTerms(type(classifier())):
        def loss(self, outputs, batch):
            return {"ssl": outputs.square().mean(), "sl": F.cross_entropy(outputs, batch[1])}

    model = classifier()
    model.__class__ = TwoTerms
    made = trainer(model, [JointLoss(0.25)], max_duration="1ep")
    made.fit()
    for total, ssl, sl in zip(*(logged(made, f"loss/train/{n}") for n in ("total", "ssl", "sl")), strict=True):
        assert total == pytest.approx(0.25 * ssl + 0.75 * sl, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_microbatches_change_nothing(size):
    """Masks are drawn for each microbatch, so they are fixed here; partners are mixed for the whole batch."""

    results = []
    for microbatch in (size, 8):
        model = classifier().double()
        algorithm = MixTraining(objective=FirstVisible("input"), ssl_dataloader=ssl_loader(dtype=torch.float64))
        made = trainer(
            model,
            [algorithm],
            device_train_microbatch_size=microbatch,
            train_dataloader=loader(16, dtype=torch.float64),
            optimizer=torch.optim.SGD,
        )
        made.fit()
        results.append(dict(model.named_parameters()))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=0, atol=1e-10)
