from __future__ import annotations

import math

import pytest
from composer.core import Callback
from composer.optim import (
    ComposerScheduler,
    ConstantScheduler,
    CosineAnnealingWithWarmupScheduler,
    LinearScheduler,
    StepScheduler,
)
from shared.settings import ssl_loader, trainer
from shared.tiny import images

from mixplug import MAE, MixTraining, Phase, PhaseScheduler


class Rates(Callback):
    """The learning rate of each step."""

    def __init__(self):
        self.seen = []

    def before_forward(self, state, logger):
        self.seen.append(state.optimizers[0].param_groups[0]["lr"])


def rates(scheduler, algorithms, **options):
    recorder = Rates()
    made = trainer(algorithms=algorithms, schedulers=scheduler, callbacks=[recorder], lr=1.0, **options)
    made.fit()
    return recorder.seen


def test_each_phase_is_scheduled_like_a_run_of_its_own():
    """Bit for bit, Composer's lag of one batch included."""
    phases = PhaseScheduler(
        ssl=CosineAnnealingWithWarmupScheduler("1ep"), mix=LinearScheduler(1.0, 0.5), sl_factor=2.0, ssl_factor=0.5
    )
    joined = rates(phases, [MixTraining(0.5, 0.5, "5ep", "4ep")], max_duration="7ep")
    apart = [
        rates(phases.alone(phase), [], max_duration=f"{length}ep")
        for phase, length in ((Phase.SSL, 3), (Phase.MIX, 2), (Phase.SL, 2))
    ]
    assert joined == [rate for part in apart for rate in part]
    assert joined[9] == 1.0
    assert joined[15] == 2.0


def test_in_batches():
    phases = PhaseScheduler(ssl=CosineAnnealingWithWarmupScheduler("2ba"))
    joined = rates(phases, [MixTraining(0.5, 0.5, "6ba", "6ba")], max_duration="9ba")
    apart = [rates(phases.alone(phase), [], max_duration="3ba") for phase in Phase]
    assert joined == [rate for part in apart for rate in part]


def test_the_length_of_an_ssl_epoch_is_that_of_the_ssl_data():
    """5 batches an epoch in SSL, 3 in the other phases."""
    phases = PhaseScheduler(mix=ConstantScheduler(), sl=ConstantScheduler())
    seen = rates(phases, [MixTraining(0.5, ssl_dataloader=ssl_loader(22, 5))])
    assert len(seen) == 10 + 12
    lagged = [0, *range(9)]
    assert seen[:10] == pytest.approx([(1 + math.cos(math.pi * t / 10)) / 2 for t in lagged])
    assert seen[10:] == [1.0] * 12


def test_resuming_keeps_the_schedule(tmp_path):
    scheduler = PhaseScheduler(ssl_factor=0.5)
    whole = rates(
        scheduler,
        [MixTraining()],
        save_folder=str(tmp_path),
        save_filename="{batch}.pt",
        save_interval="1ba",
    )
    for batch in range(1, 18):
        resumed = rates(scheduler, [MixTraining()], load_path=str(tmp_path / f"{batch}.pt"))
        assert resumed == whole[batch:], batch


def test_the_table_of_the_paper_can_be_written_down():
    """Li et al., Table 7: warmup 20 and 5 epochs, base learning rates 1.5e-4 and 1e-3."""
    scheduler = PhaseScheduler(
        ssl=CosineAnnealingWithWarmupScheduler("20ep"),
        mix=CosineAnnealingWithWarmupScheduler("5ep"),
        sl=CosineAnnealingWithWarmupScheduler("5ep"),
        ssl_factor=0.15,
    )
    algorithm = MixTraining(
        0.5,
        0.5,
        "100ep",
        "100ep",
        reset_optimizer=True,
        optimizer_overrides={"ssl": {"weight_decay": 0.15, "betas": (0.9, 0.95)}, "sl": {"weight_decay": 0.05}},
    )
    seen = [r * 1e-3 for r in rates(scheduler, [algorithm], max_duration="150ep")]
    assert max(seen[:150]) == pytest.approx(1.5e-4)
    assert seen.index(max(seen[:150])) == 20 * 3 + 1
    assert max(seen[150:300]) == max(seen[300:]) == pytest.approx(1e-3)


class Twice(ComposerScheduler):
    """A schedule like any other of Composer's, that doubles the rate."""

    def __call__(self, state, ssr=1.0):
        return 2.0


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("later", [False, True])
def test_each_phase_begins_with_its_own_rate_wherever_the_schedule_stands(place, later, tmp_path):
    """Also where it is given to fit(), or follows another, or the run is resumed right before a switch."""
    constant = {phase: ConstantScheduler() for phase in ("ssl", "mix", "sl")}
    schedulers = [Twice(), PhaseScheduler(**constant, mix_factor=0.5, sl_factor=0.25)]

    def run(**options):
        recorder = Rates()
        made = trainer(algorithms=[MixTraining()], callbacks=[recorder], lr=1.0, **options)
        made.fit(**given)
        return recorder.seen

    given = {"schedulers": schedulers[place:]} if later else {}
    options = {} if later else {"schedulers": schedulers[place:]}
    whole = run(save_folder=str(tmp_path), save_filename="{batch}.pt", save_interval="6ba", **options)
    # Composer multiplies what a list of schedules gives, except where each sets the whole rate, as its own do.
    assert whole == [1.0] * 6 + [0.5] * 6 + [0.25] * 6
    assert run(load_path=str(tmp_path / "6.pt"), **options) == whole[6:]


def test_it_needs_phases():
    with pytest.raises(ValueError, match="add MixTraining or PhaseSwitch"):
        trainer(schedulers=PhaseScheduler())


def test_it_needs_a_length():
    with pytest.raises(ValueError, match="max_duration"):
        trainer(algorithms=[MixTraining()], schedulers=PhaseScheduler(), max_duration=None)


def test_it_needs_the_length_of_an_epoch():
    class Unsized:
        def __iter__(self):
            return iter([images(4, seed=30)])

    with pytest.raises(ValueError, match="give its loader a __len__"):
        trainer(algorithms=[MixTraining(ssl_dataloader=Unsized())], schedulers=PhaseScheduler()).fit()


def test_a_schedule_in_other_units_is_refused():
    with pytest.raises(ValueError, match="epochs or batches, not 'sp'"):
        trainer(algorithms=[MixTraining()], schedulers=PhaseScheduler(ssl=StepScheduler("5sp")))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ssl": "cosine"}, TypeError, "ssl must be a Composer scheduler"),
        ({"mix": ConstantScheduler}, TypeError, "an object, not a class"),
        ({"mix": MAE()}, TypeError, "mix must be a Composer scheduler"),
        ({"sl_factor": 0}, ValueError, "sl_factor"),
        ({"mix_factor": float("nan")}, ValueError, "mix_factor"),
        ({"ssl_factor": "1"}, TypeError, "ssl_factor"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        PhaseScheduler(**options)


@pytest.mark.parametrize(("warmup", "length"), [("2ep", "2ep"), ("5ep", "2ep"), ("6ba", "6ba")])
def test_a_warmup_that_its_phase_does_not_reach(warmup, length):
    """Three batches are an epoch: SSL, MIX and SL of two epochs each."""
    phases = PhaseScheduler(sl=CosineAnnealingWithWarmupScheduler(warmup))
    with pytest.warns(UserWarning, match=f"warms up for {warmup}, but the sl phase lasts {length}: .*t_warmup below"):
        rates(phases, [MixTraining(0.5, 0.5, "4ep", "4ep")], max_duration="6ep")


@pytest.mark.parametrize("warmup", ["1ep", "5ba", "0.5dur"])
def test_a_warmup_that_is_short_enough(warmup, recwarn):
    phases = PhaseScheduler(sl=CosineAnnealingWithWarmupScheduler(warmup))
    rates(phases, [MixTraining(0.5, 0.5, "4ep", "4ep")], max_duration="6ep")
    assert not [w for w in recwarn if "warms up" in str(w.message)]
