from __future__ import annotations

import warnings

import pytest
import torch
from composer import Trainer
from composer.core import Callback
from composer.optim import DecoupledSGDW
from shared.settings import classifier, trainer
from shared.tiny import loader

from mixplug import MAE, MixTraining, OptimizerSettings, TokenDropout, decay_groups


class Recorder(Callback):
    """Notes something of the state before each step."""

    def __init__(self, read):
        self.read = read
        self.seen = []

    def before_forward(self, state, logger):
        self.seen.append(self.read(state))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"sssl": {}}, ValueError, "did you mean 'ssl'"),
        ({"ssl": {"lr": 1}}, ValueError, "PhaseScheduler"),
        ({"ssl": 0.1}, TypeError, "must map options to values"),
        ([1], TypeError, "must map phases to options"),
        ({"ssl": {"weight_decay": -1}}, ValueError, r"\['ssl'\]\['weight_decay'\]"),
        ({"ssl": {"weight_decay": "x"}}, TypeError, "weight_decay"),
        ({"ssl": {"betas": (0.9,)}}, ValueError, "two numbers"),
        ({"ssl": {"betas": (0.9, 2)}}, ValueError, "betas"),
    ],
)
def test_bad_overrides_are_refused_at_construction(overrides, error, message):
    for make in (OptimizerSettings, lambda given: MixTraining(optimizer_overrides=given)):
        with pytest.raises(error, match=message):
            make(overrides)


def test_a_bad_reset():
    for make in (lambda given: OptimizerSettings(reset=given), lambda given: MixTraining(reset_optimizer=given)):
        with pytest.raises(TypeError, match="the optimizer's reset must be true or false, got 'yes'"):
            make("yes")


def test_options_that_the_optimizer_lacks():
    with pytest.raises(ValueError, match=r"must be one of .*momentum"):
        trainer(algorithms=[OptimizerSettings({"ssl": {"betas": (0.9, 0.95)}})], optimizer=torch.optim.SGD)


def overridden():
    return MixTraining(
        0.5,
        objective=MAE(mask="input"),
        optimizer_overrides={"ssl": {"weight_decay": 0.15, "betas": [0.9, 0.95]}, "sl": {"betas": (0.8, 0.9)}},
    )


def settings_by_phase(made):
    recorder = Recorder(
        lambda s: (s.optimizers[0].param_groups[0]["weight_decay"], s.optimizers[0].param_groups[0]["betas"])
    )
    made.state.callbacks.append(recorder)
    made.fit()
    return recorder.seen


def test_options_change_by_phase_and_come_back():
    seen = settings_by_phase(trainer(algorithms=[overridden()]))
    assert seen == [(0.15, (0.9, 0.95))] * 6 + [(0.01, (0.9, 0.999))] * 6 + [(0.01, (0.8, 0.9))] * 6


def test_a_run_resumed_in_a_later_phase_still_knows_the_optimizers_own_options(tmp_path):
    whole = trainer(
        algorithms=[overridden()], save_folder=str(tmp_path), save_filename="{epoch}.pt", save_interval="1ep"
    )
    whole.fit()
    resumed = trainer(algorithms=[overridden()], load_path=str(tmp_path / "1.pt"))
    assert (
        settings_by_phase(resumed) == [(0.15, (0.9, 0.95))] * 3 + [(0.01, (0.9, 0.999))] * 6 + [(0.01, (0.8, 0.9))] * 6
    )


def test_groups_without_weight_decay_keep_none():
    decays = Recorder(lambda s: [g["weight_decay"] for g in s.optimizers[0].param_groups])
    model = classifier()
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3
    )
    made = Trainer(
        model=model,
        optimizers=optimizer,
        algorithms=[overridden()],
        train_dataloader=loader(),
        max_duration="3ep",
        callbacks=[decays],
        progress_bar=False,
        device="cpu",
    )
    made.fit()
    assert decays.seen == [[0.15, 0.0]] * 3 + [[0.05, 0.0]] * 6
    # The head's parameters joined the groups of their kind.
    head = dict(model.ssl_objective.named_parameters())
    groups = [{id(p) for p in g["params"]} for g in optimizer.param_groups]
    assert all(id(p) in groups[p.ndim <= 1] for p in head.values())


def test_weight_decay_can_be_switched_on():
    algorithm = MixTraining(optimizer_overrides={"ssl": {"weight_decay": 0.15}})
    decays = Recorder(lambda s: s.optimizers[0].param_groups[0]["weight_decay"])
    trainer(algorithms=[algorithm], optimizer=torch.optim.Adam, callbacks=[decays]).fit()
    assert decays.seen == [0.15] * 6 + [0] * 12


def test_reset_forgets_moments_at_each_switch():
    steps = Recorder(lambda s: int(max(v["step"].item() for v in s.optimizers[0].state.values())))
    made = trainer(algorithms=[MixTraining(0.5, reset_optimizer=True)], callbacks=[steps])
    made.fit()
    assert steps.seen == [0, 1, 2, 3, 4, 5] * 3
    through = Recorder(steps.read)
    made = trainer(algorithms=[MixTraining(0.5)], callbacks=[through])
    made.fit()
    assert through.seen == list(range(18))


def test_without_phases_the_run_is_one_mix_phase():
    decays = Recorder(lambda s: s.optimizers[0].param_groups[0]["weight_decay"])
    settings = OptimizerSettings({"mix": {"weight_decay": 0.15}, "sl": {"weight_decay": 0.3}})
    trainer(algorithms=[settings], callbacks=[decays]).fit()
    assert decays.seen == [0.15] * 18


@pytest.mark.parametrize("algorithm", [MixTraining, lambda: TokenDropout(0.5)])
def test_the_optimizer_that_composer_falls_back_to_is_warned_of(algorithm):
    options = {"model": classifier(), "train_dataloader": loader(), "max_duration": "2ep", "progress_bar": False}
    with pytest.warns(UserWarning, match=r"DecoupledSGDW\(lr=0.1\), which Composer takes .* give it one, such as"):
        Trainer(**options, algorithms=[algorithm()])
    parameters = options["model"].parameters()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(**options, algorithms=[algorithm()], optimizers=DecoupledSGDW(parameters, lr=0.1, momentum=0.9))
    assert not [w for w in caught if "DecoupledSGDW" in str(w.message)]


def test_the_head_joins_the_groups_by_the_same_rule():
    model = classifier()
    optimizer = torch.optim.AdamW(decay_groups(model), lr=1e-3, weight_decay=0.1)
    made = trainer(model, [MixTraining()], optimizer=lambda parameters, **_: optimizer)
    exempt, decayed = made.state.optimizers[0].param_groups
    assert (exempt["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    head = dict(made.state.model.ssl_objective.named_parameters())
    of_exempt, of_decayed = ({id(p) for p in group["params"]} for group in (exempt, decayed))
    assert {name for name, p in head.items() if id(p) in of_exempt} == {n for n, p in head.items() if p.ndim <= 1}
    assert {name for name, p in head.items() if id(p) in of_decayed} == {n for n, p in head.items() if p.ndim > 1}
