from __future__ import annotations

import json

import pytest
from shared.fake_runs import TINY

from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.studies import budget
from mixplug.lab.studies.budget import with_cost_for_minutes
from mixplug.lab.studies.forecast import Forecast, PhaseForecast


def phase(label, passes, seconds):
    return PhaseForecast(label, "sl", 0, 1, "ep", 1, passes, None, seconds)


@pytest.fixture
def timed(monkeypatch):
    """Steps that take what the test says; counts how often they are timed."""
    calls = []

    def forecast(recipe, **_):
        calls.append(recipe)
        return Forecast([phase("SL", 6, 3), phase("MIX", 4, 4), phase("MIX", 2, 5)], 1, [])

    monkeypatch.setattr(budget, "forecast", forecast)
    return calls


def test_the_slowest_method_sets_the_cost(timed, tmp_path):
    lines = []
    made = with_cost_for_minutes(load_recipe(TINY, ["minutes=2"]), tmp_path, lines.append)
    assert made.max_cost == pytest.approx(120 / (9 / 6)), "MIX takes 1.5 s a pass, SL 0.5"
    assert made.max_minutes is None
    assert lines == ["2 minutes a run are a cost of 80 on this machine as it is now"]
    assert timed[0].max_minutes is None, "timed by the durations as they are"


def test_without_minutes_nothing_is_timed(timed, tmp_path):
    recipe = load_recipe(TINY)
    assert with_cost_for_minutes(recipe, tmp_path) is recipe
    assert not timed


def test_a_folder_keeps_its_cost(timed, tmp_path):
    (tmp_path / "budget.json").write_text(json.dumps({"minutes": 2.0, "max_cost": 77}))
    assert with_cost_for_minutes(load_recipe(TINY, ["minutes=2"]), tmp_path).max_cost == 77
    assert not timed
    with pytest.raises(RecipeError, match=r"holds runs of 2 minutes, not of 3; choose another --out"):
        with_cost_for_minutes(load_recipe(TINY, ["minutes=3"]), tmp_path)
    made = with_cost_for_minutes(load_recipe(TINY, ["minutes=3"]), tmp_path, lambda _: None, overwrite=True)
    assert made.max_cost == pytest.approx(120)
    (tmp_path / "budget.json").write_text("half writ")
    assert with_cost_for_minutes(load_recipe(TINY, ["minutes=2"]), tmp_path, lambda _: None).max_cost == 80


def test_a_cost_that_cannot_be_counted_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "forecast", lambda *_, **__: Forecast([phase("SL", None, 1)], 1, []))
    with pytest.raises(RecipeError, match="what 'SL' costs cannot be counted"):
        with_cost_for_minutes(load_recipe(TINY, ["minutes=2"]), tmp_path)


def test_minutes_on_the_command_line_last_about_as_long(tmp_path, capsys):
    """A busy machine may take twice as long: what is tested is the unit."""
    command = [
        "compare",
        str(TINY),
        "minutes=0.02",
        "seeds=1",
        "pictures=0",
        "methods=[sl,mix]",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "0.02 minutes a run are a cost of" in printed
    content = json.loads((tmp_path / "results.json").read_text())
    cost = content["recipe"]["max_cost"]
    assert all(0.7 * cost < run["cost"] <= cost for run in content["runs"])
    assert all(0.1 < run["seconds"] < 6 for run in content["runs"])
    assert main(command) == 0, "it goes on with the lengths that it had"
    assert "minutes a run are" not in capsys.readouterr().out
