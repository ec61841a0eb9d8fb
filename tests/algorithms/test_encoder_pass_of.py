"""A user's own algorithm amends the passes of a Composer run: the room's README, run as it stands there."""

from __future__ import annotations

import pytest
import torch
from composer.core import Event
from shared import readmes
from shared.settings import classifier, logged, resumes_from_every_batch, trainer
from shared.tiny import images, loader
from shared.two_view import OBJECTIVES

import mixplug
from mixplug import MAE, MixTraining, PhaseSwitch


def drop_tokens():
    text = readmes.block("mixplug/algorithms/README.md", "class DropTokens")
    assert len(text.splitlines()) <= 20
    return readmes.run(text)["DropTokens"](0.5)


def lengths_by_phase(algorithms, **options):
    made = trainer(classifier(**options), algorithms, eval_dataloader=loader())
    lengths = []
    block = made.state.model.module.blocks[0]
    block.register_forward_pre_hook(
        lambda module, args: lengths.append((module.training, args[0].shape[1] - 1)) and None
    )
    made.fit()
    trained = [tokens for training, tokens in lengths if training]
    assert {tokens for training, tokens in lengths if not training} == {16}
    return made, trained


@pytest.mark.parametrize("order", [1, -1])
def test_token_dropout_in_the_sl_phase(order):
    made, trained = lengths_by_phase([MixTraining(objective=MAE(mask="features")), drop_tokens()][::order])
    phases = logged(made, "mixtraining/phase")
    assert trained == [8 if phase == 2 else 16 for phase in phases]


def test_beside_an_objective_that_drops_tokens_in_its_own_phases():
    _, trained = lengths_by_phase([MixTraining(objective=MAE(mask="input")), drop_tokens()])
    assert trained == [4] * 12 + [8] * 6


def test_in_a_plain_supervised_run_with_phases():
    _, trained = lengths_by_phase([PhaseSwitch(0.5, "0ep", "6ep"), drop_tokens()])
    assert trained == [8] * 18


def test_without_anything_of_mixplugs_the_run_is_one_sl_phase():
    made, trained = lengths_by_phase([drop_tokens()])
    assert trained == [8] * 18
    assert made.state.model.module(images(2)).shape == (2, 10)


def test_two_trainers_one_after_the_other():
    model = classifier()
    for _ in range(2):
        made = trainer(model, [MixTraining(), drop_tokens()])
        made.fit()
        assert len(mixplug.encoder_pass_of(made.state).amendments) == 1
    assert not hasattr(type(model.module.patch_drop), "backbone")
    assert torch.equal(model.module(images(2)), model.module(images(2)))


@pytest.mark.parametrize(
    "make", [lambda: [MixTraining(objective=MAE(mask="input")), drop_tokens()], lambda: [drop_tokens()]]
)
def test_it_resumes_from_every_batch(make, tmp_path):
    assert resumes_from_every_batch(tmp_path, make, model=classifier) == 17


def test_a_key_pass_is_amended_too():
    algorithm, seen = drop_tokens(), []
    algorithm.amend = lambda request: seen.append((str(request.position.phase), str(request.role))) or request
    made = trainer(classifier(), [MixTraining(objective=OBJECTIVES["MoCoV3"]()), algorithm])
    made.fit()
    assert {role for phase, role in seen if phase == "ssl"} == {"shared", "query", "key"}
    assert {role for phase, role in seen if phase == "mix"} == {"shared", "key"}
    assert {role for phase, role in seen if phase == "sl"} == {"shared"}


def test_events_are_not_added_where_nobody_wants_anything():
    """A step of the SL phase costs what it did."""
    algorithm = MixTraining()
    made = trainer(classifier(), [algorithm], "3ep")
    made.fit()
    handled = [event for event in Event if algorithm.match(event, made.state)]
    assert not {Event.BEFORE_FORWARD, Event.AFTER_FORWARD} & set(handled)
