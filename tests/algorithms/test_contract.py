"""The order of mixplug's algorithms, and the clock that they find."""

from __future__ import annotations

from itertools import permutations

import pytest
from composer.algorithms import CutOut, LabelSmoothing
from composer.core import Callback, Time
from shared.settings import trainer

from mixplug import (
    ExactResumption,
    FusedBackbonePass,
    JointLoss,
    MixTraining,
    MixupSSLData,
    OptimizerSettings,
    Phase,
    PhasePlan,
    PhaseSwitch,
    Position,
)
from mixplug.algorithms.trainer.contract import Clock, PhasedAlgorithm, Stage, position_of


class Resizing(PhasedAlgorithm):
    """A user's own algorithm."""

    stage = Stage.VIEWS


PARTS = [PhaseSwitch, OptimizerSettings, MixupSSLData, Resizing, FusedBackbonePass, JointLoss, ExactResumption]


def names(made):
    return [type(algorithm).__name__ for algorithm in made.state.algorithms]


@pytest.mark.parametrize("order", [*list(permutations(range(len(PARTS))))[::997]], ids=str)
def test_stages_decide_whatever_the_users_order(order):
    algorithms = [PARTS[index]() for index in order]
    made = trainer(algorithms=[*algorithms[:3], CutOut(), *algorithms[3:], LabelSmoothing()])
    assert names(made) == ["CutOut", "LabelSmoothing", *(kind.__name__ for kind in PARTS)]


def test_parts_are_listed_in_the_order_of_their_stages():
    stages = [part.stage for part in MixTraining().parts]
    assert stages == sorted(stages)
    assert set(stages) == set(Stage) - {Stage.VIEWS, Stage.FURTHER_LOSS, Stage.WEIGHTS}


@pytest.mark.parametrize("first", [True, False])
def test_a_bundle_stands_where_its_first_part_must(first):
    algorithms = [MixTraining(), Resizing(), CutOut()]
    assert names(trainer(algorithms=algorithms if first else algorithms[::-1])) == ["CutOut", "MixTraining", "Resizing"]


class HalfTime(Clock):
    """A user's own clock: supervised learning in the second half."""

    def position(self, state):
        return Position(Phase.MIX if state.timestamp.epoch < 3 else Phase.SL)

    def phases(self, state):
        return [Phase.MIX, Phase.SL]


class Positions(Callback):
    """Where the run is at each step."""

    def __init__(self):
        self.seen = []

    def before_forward(self, state, logger):
        self.seen.append(position_of(state))


def positions(algorithms, max_duration="6ep"):
    recorder = Positions()
    made = trainer(algorithms=algorithms, callbacks=[recorder], max_duration=max_duration)
    made.fit()
    recorder.seen.append(position_of(made.state))
    return recorder.seen


def test_a_clock_of_the_users_own():
    seen = positions([JointLoss(), FusedBackbonePass(), HalfTime()])
    assert [position.phase for position in seen[:-1]] == [Phase.MIX] * 9 + [Phase.SL] * 9


def test_without_a_clock_the_run_is_one_mix_phase():
    seen = positions([FusedBackbonePass()])
    assert len(seen) == 19
    for step, position in enumerate(seen):
        assert (position.phase, position.step, position.span) == (Phase.MIX, step, None)
        assert position.progress == position.ssl_progress == position.run_progress == pytest.approx(step / 18)


@pytest.mark.parametrize(("unit", "per_batch"), [("ep", 1 / 3), ("ba", 1)])
def test_the_clock_of_phases(unit, per_batch):
    plan = PhasePlan(4, 6, 0.5)
    algorithm = MixTraining(0.5, 0.5, *(Time(length, unit) for length in (4, 6)))
    seen = positions([algorithm], f"8{unit}")
    assert len(seen) == 8 / per_batch + 1
    for step, position in enumerate(seen):
        expected = plan.position(min(8, step * per_batch), step=step)
        assert (position.phase, position.step, position.span) == (expected.phase, step, expected.span)
        for name in ("progress", "ssl_progress", "run_progress"):
            assert getattr(position, name) == pytest.approx(getattr(expected, name))
    assert (seen[-1].progress, seen[-1].run_progress) == (1, 1)
