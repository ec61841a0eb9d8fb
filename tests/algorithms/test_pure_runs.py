"""Runs of one kind of learning alone: a plan without the other."""

from __future__ import annotations

import pytest
import torch
from shared.settings import logged, resumes_from_every_batch, ssl_loader, trainer, weights

from mixplug import MAE, MixTraining, PhaseScheduler

KINDS = {"ssl": ("6ep", "0ep"), "sl": ("0ep", "6ep")}


def pure(kind, **options):
    return [MixTraining(0.5, 0.5, *KINDS[kind], objective=MAE(mask="input"), reset_optimizer=True, **options)]


@pytest.mark.parametrize("other_data", [False, True])
def test_self_supervised_learning_alone(other_data):
    made = trainer(algorithms=pure("ssl", ssl_dataloader=ssl_loader() if other_data else None))
    before = weights(made.state.model)
    made.fit()
    after = weights(made.state.model)
    # 22 unlabelled images in batches of 5, or 20 labelled ones in batches of 8.
    assert logged(made, "mixtraining/phase") == [0] * 6 * (5 if other_data else 3)
    assert logged(made, "loss/train/total") == logged(made, "loss/train/ssl")
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"module.head.weight", "module.head.bias"}


@pytest.mark.parametrize("other_data", [False, True])
def test_supervised_learning_alone_is_a_run_without_mixtraining(other_data):
    made = trainer(algorithms=pure("sl", ssl_dataloader=ssl_loader() if other_data else None))
    plain = trainer()
    for each in (made, plain):
        each.fit()
    assert logged(made, "mixtraining/phase") == [2] * 18
    assert logged(made, "loss/train/total") == logged(plain, "loss/train/total")
    for name, value in weights(plain.state.model).items():
        assert torch.equal(value, weights(made.state.model)[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("durations", [("6ep", "0ep"), ("4ba", "0ba")])
def test_its_schedule_is_that_of_the_one_phase(kind, durations):
    length = durations[0]
    given = durations if kind == "ssl" else durations[::-1]
    algorithm = MixTraining(0.5, 0.5, *given, objective=MAE(mask="input"))
    schedule = PhaseScheduler(ssl_factor=0.5, sl_factor=0.25)
    made = trainer(algorithms=[algorithm], max_duration=length, schedulers=schedule, lr=1.0)
    assert made.state.optimizers[0].param_groups[0]["lr"] == {"ssl": 0.5, "sl": 0.25}[kind]
    made.fit()
    assert made.state.timestamp.batch == {"6ep": 18, "4ba": 4}[length]


@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes_from_every_batch(kind, tmp_path):
    assert resumes_from_every_batch(tmp_path, lambda: pure(kind)) == 17
