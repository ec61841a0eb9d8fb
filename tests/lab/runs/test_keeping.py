"""Which weights a run of a recipe ends with, and what is known of it by signals that need no labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shared.two_view import OBJECTIVES

from mixplug import KeepBest
from mixplug.algorithms.trainer.contract import find_in
from mixplug.lab.pages.curves import curves
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import load_run, save_run, settings_of

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
PURE = ("sl_duration=0ep", "methods.sl=null", "ssl_duration=3ep", "pictures=0")


@pytest.mark.parametrize(
    ("keep", "overrides"), [("rankme", PURE), ("ssl_loss", PURE), ("knn", PURE), ("accuracy", ("pictures=0",))]
)
def test_a_run_ends_with_what_it_keeps(tmp_path, monkeypatch, keep, overrides):
    values = iter([3.0, 1.0, 2.0] if keep == "ssl_loss" else [1.0, 3.0, 2.0])
    monkeypatch.setattr(KeepBest, "_measure", lambda self, state: next(values))
    recipe = load_recipe(TINY, [f"keep={keep}", *overrides, *(["sl_duration=3ep"] if keep == "accuracy" else [])])
    method = "sl" if keep == "accuracy" else "mix"
    made = Experiment(recipe, method, 0, save_folder=tmp_path)
    result = made.run()
    assert result.kept == {"signal": keep, "value": 1.0 if keep == "ssl_loss" else 3.0, "at": 2.0}
    best = find_in(made.algorithms, KeepBest).progress()["best"]["model"]
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=False)["state"]["model"]
    ended = made.model.state_dict()
    assert all(torch.equal(best[name], ended[name]) for name in best)
    assert all(torch.equal(best[name], saved[name]) for name in best)
    points = dict(result.history["accuracy"])
    assert result.accuracy == pytest.approx(points[2 if keep == "accuracy" else 3])
    (tmp_path / "runs").mkdir()
    save_run(recipe, method, 0, tmp_path, result, made.inputs.summary)
    assert load_run(recipe, method, 0, tmp_path).kept == result.kept


def test_without_keep_runs_are_those_from_before(tmp_path):
    assert "keep" not in settings_of(load_recipe(TINY), "mix")
    assert settings_of(load_recipe(TINY, ["keep=knn"]), "mix")["keep"] == "knn"
    (tmp_path / "runs").mkdir()
    recipe = load_recipe(TINY)
    result = {"accuracy": 0.5, "seconds": 1.0, "lengths": {"sl": 2}, "unit": "ep", "objective": None, "rho": None}
    result["history"] = {"ssl": [], "sl": [], "accuracy": []}
    content = {"settings": settings_of(recipe, "sl"), "result": result}
    (tmp_path / "runs/sl-seed0.json").write_text(json.dumps(content))
    assert load_run(recipe, "sl", 0, tmp_path).kept is None


def test_it_is_measured_as_often_as_the_recipe_says():
    for overrides, interval in (([], "1ep"), (["eval_interval=5ba"], "5ba")):
        made = Experiment(load_recipe(TINY, ["keep=accuracy", *overrides]), "sl", 0)
        made.trainer.close()
        assert find_in(made.algorithms, KeepBest).interval.to_timestring() == interval


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["keep=best"], ValueError, "keep must be one of .*got 'best'"),
        (["keep=ssl_loss"], ValueError, "keep=ssl_loss chooses in a run's last phase"),
        (["keep=knn", "tasks={a: {}, b: {fraction: 0.1}}"], RecipeError, "for one labelled data set, and there are 2"),
    ],
)
def test_bad_input(overrides, error, message):
    with pytest.raises(error, match=message):
        Experiment(load_recipe(TINY, overrides), "mix", 0)


@pytest.mark.parametrize("name", ["MAE", *OBJECTIVES])
def test_every_objectives_history_has_its_loss_and_rank(name):
    """Of an SSL phase of two epochs and a MIX phase of one: a step in fifty is looked at, the run's first."""
    options = {"DINO": "hidden_dim: 16, bottleneck_dim: 8, prototypes: 12", "MAE": ""}
    options = options.get(name, "hidden_dim: 16, out_dim: 8")
    objective = f"methods.mix.algorithms.0.MixTraining.objective={{{name}: {{{options}}}}}"
    recipe = load_recipe(TINY, ["pictures=0", objective])
    logs = {}

    made = Experiment(recipe, "mix", 0)
    history, log = made._history, made._history.log_metrics
    history.log_metrics = lambda metrics, step=None: (logs.update(metrics), log(metrics, step))
    result = made.run()
    assert [time for time, _ in result.history["ssl"]] == [1, 2]
    ((time, rank),) = result.history["rank_me"]
    assert time == 1
    assert 1 <= rank <= 32
    assert logs["mixtraining/rank_me"] == pytest.approx(rank)
    assert logs["mixtraining/embedding_std"] >= 0
    titles = [axes.get_ylabel() for axes in curves({"mix": [result]}).axes]
    assert {"SSL loss", "RankMe"} <= set(titles)


def test_a_rank_has_the_batch_it_was_measured_at():
    recipe = load_recipe(TINY, ["pictures=0", "ssl_duration=3ba", "sl_duration=3ba"])
    result = Experiment(recipe, "mix", 0).run()
    assert [time for time, _ in result.history["rank_me"]] == [1]
