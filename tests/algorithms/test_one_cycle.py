"""FixedOneCycleScheduler in Composer's Trainer."""

from __future__ import annotations

import functools

import pytest
import torch
from composer.core import Callback, Time
from composer.optim import ConstantScheduler
from shared.settings import resumes_from_every_batch, trainer

from mixplug import FixedOneCycleScheduler, MixTraining, OneCycle, PhaseScheduler, PhaseSwitch

SGD = functools.partial(torch.optim.SGD, momentum=0.9)
RMSPROP = functools.partial(torch.optim.RMSprop, momentum=0.9)


class Seen(Callback):
    """Learning rate and momentum of each step."""

    def __init__(self):
        self.rates, self.momenta = [], []

    def before_forward(self, state, logger):
        (group,) = state.optimizers[0].param_groups
        self.rates.append(group["lr"])
        self.momenta.append(group["betas"][0] if "betas" in group else group["momentum"])


def steps(scheduler, algorithms=(), lr=1.0, **options):
    seen = Seen()
    trainer(algorithms=algorithms, schedulers=scheduler, callbacks=[seen], lr=lr, **options).fit()
    return seen


def lagged(count):
    """The times of a run's steps: Composer sets a step's rate before it advances the clock."""
    return [0, *range(count - 1)]


@pytest.mark.parametrize("optimizer", [SGD, RMSPROP, torch.optim.AdamW], ids=["SGD", "RMSprop", "AdamW"])
@pytest.mark.parametrize(
    ("warmup", "length", "count"),
    [("2ep", "6ep", 6), ("6ba", "6ep", 6), ("0.25dur", "8ba", 2), ("2ba", "8ba", 2), ("1ep", "9ba", 3)],
)
def test_at_each_step_it_is_eq_8_in_each_unit(optimizer, warmup, length, count):
    total = 18 if length == "6ep" else int(length[:-2])
    seen = steps(FixedOneCycleScheduler(warmup, (0.8, 0.95)), optimizer=optimizer, max_duration=length, lr=0.01)
    share = count / total
    assert seen.rates == [0.01 * OneCycle(0.0, 1.0, share).at(t / total) for t in lagged(total)]
    assert seen.momenta == [OneCycle(0.95, 0.8, share).at(t / total) for t in lagged(total)]


def test_cosine_with_linear_warmup_and_a_momentum_of_its_own():
    seen = steps(FixedOneCycleScheduler("2ep", None, "linear"), optimizer=SGD)
    assert seen.rates == [OneCycle(0.0, 1.0, 6 / 18, "linear").at(t / 18) for t in lagged(18)]
    assert seen.momenta == [0.9] * 18


@pytest.mark.parametrize("algorithm", [lambda: PhaseSwitch(0.5), lambda: MixTraining(reset_optimizer=True)])
def test_in_phases_each_has_its_own_cycle_or_momentum(algorithm):
    """Phases of 6 batches."""
    schedules = PhaseScheduler(
        FixedOneCycleScheduler("1ep"), FixedOneCycleScheduler("2ba", (0.5, 0.6)), ConstantScheduler(), ssl_factor=0.5
    )
    seen = steps(schedules, [algorithm()], optimizer=SGD, lr=0.01)
    expected = [0.5 * OneCycle(0.0, 1.0, 0.5).at(t / 6) for t in lagged(6)]
    expected += [OneCycle(0.0, 1.0, 2 / 6).at(t / 6) for t in lagged(6)]
    assert seen.rates == pytest.approx([0.01 * factor for factor in expected] + [0.01] * 6)
    momenta = [OneCycle(0.95, 0.85, 0.5).at(t / 6) for t in lagged(6)]
    momenta += [OneCycle(0.6, 0.5, 2 / 6).at(t / 6) for t in lagged(6)]
    assert seen.momenta == pytest.approx(momenta + [0.9] * 6)


@pytest.mark.parametrize("optimizer", [SGD, pytest.param(torch.optim.AdamW, marks=pytest.mark.slow)])
def test_it_resumes_from_every_batch(optimizer, tmp_path):
    scheduler = PhaseScheduler(FixedOneCycleScheduler("1ep"), FixedOneCycleScheduler("2ba"), ConstantScheduler())
    options = {"optimizer": optimizer, "max_duration": "3ep", "schedulers": scheduler}
    assert resumes_from_every_batch(tmp_path, lambda: [PhaseSwitch(0.5)], **options) == 8


def test_a_warmup_as_long_as_the_run_is_warned_of():
    with pytest.warns(UserWarning, match="warms up for 18ba, and there are 18ba"):
        trainer(schedulers=FixedOneCycleScheduler("6ep"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("x",), ValueError, "t_warmup must be like '80ep'.*got 'x'"),
        ((5,), TypeError, "t_warmup must be like"),
        ((Time(-1, "ep"),), ValueError, "at least 0"),
        (("1ep", (0.9, 0.8)), ValueError, "swap them"),
        (("1ep", None, "cubic"), ValueError, "rise"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        FixedOneCycleScheduler(*arguments)


def test_what_it_cannot_work_with():
    with pytest.raises(ValueError, match="must be in the unit of the run's length"):
        trainer(schedulers=FixedOneCycleScheduler("4sp"))
    with pytest.raises(ValueError, match="both set the optimizer's momentum \\(betas\\)"):
        trainer(
            algorithms=[MixTraining(optimizer_overrides={"sl": {"betas": (0.8, 0.9)}})],
            schedulers=PhaseScheduler(FixedOneCycleScheduler("1ep")),
        )
    with pytest.raises(ValueError, match="has no momentum to change"):
        trainer(schedulers=FixedOneCycleScheduler("1ep"), optimizer=torch.optim.SGD)
