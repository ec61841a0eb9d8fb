"""The CPU time of training, from where to where Composer counts wall-clock time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from composer import Callback
from shared.settings import trainer
from shared.tiny import loader

from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.cpu_time import CPUTime
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import load_run, save_run
from mixplug.lab.runs.resumption import Unfinished

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


class Clock:
    """A process whose CPU time passes only where it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "process_time", lambda: self.now)


class Working(Callback):
    """Takes 1 s for a step, 10 for an evaluation, 100 for what comes before and after training."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_load(self, state, logger) -> None:
        self.clock.now += 100

    def before_train_batch(self, state, logger) -> None:
        self.clock.now += 1

    def eval_start(self, state, logger) -> None:
        self.clock.now += 10

    def fit_end(self, state, logger) -> None:
        self.clock.now += 100


def test_training_counts_and_evaluation_does_not_also_where_it_goes_on(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    def run(*others, **options):
        counted = CPUTime()
        evaluation = {"eval_dataloader": loader(), "eval_interval": "2ba"}
        made = trainer(None, [], callbacks=[counted, Working(clock), *others], **evaluation, **options)
        made.fit()
        return counted.seconds

    saving = {"save_folder": str(tmp_path), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    assert run(max_duration="3ep", **saving) == 9
    for batch in (3, 4, 8):
        assert run(max_duration="3ep", load_path=str(tmp_path / f"{batch}.pt")) == 9
    trainer(None, [], "3ep", save_folder=str(tmp_path / "old"), save_filename="{batch}.pt").fit()
    assert run(max_duration="3ep", load_path=str(tmp_path / "old/3.pt")) is None


def test_a_result_has_it(tmp_path):
    recipe = load_recipe(TINY, ["pictures=0"])
    began = time.process_time()
    made = Experiment(recipe, "sl", 0, unfinished=Unfinished.of(recipe, "sl", 0, tmp_path))
    result = made.run()
    assert 0 < result.cpu_seconds < time.process_time() - began
    save_run(recipe, "sl", 0, tmp_path, result, made.inputs.summary)
    assert load_run(recipe, "sl", 0, tmp_path).cpu_seconds == pytest.approx(result.cpu_seconds)
