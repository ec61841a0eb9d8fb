from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
from shared.fake_runs import DATA, TINY, FakeExperiment

import mixplug.lab.studies.compare as compare_module
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs.files import load_run, run_paths


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A comparison's folder that lacks one run."""
    monkeypatch.setattr(compare_module, "Experiment", FakeExperiment)
    compare_module.compare(load_recipe(TINY), tmp_path)
    run_paths("mix", 1, tmp_path)[0].unlink()
    return tmp_path


class Changed(FakeExperiment):
    """An experiment whose data has changed: one labelled image more, and images for SSL."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        data = copy.deepcopy(DATA)
        data["data"]["training_images"] = 7
        self.inputs = SimpleNamespace(summary={**data, "ssl_data": {"training_images": 3}})


def test_a_run_says_what_was_loaded(unfinished):
    assert json.loads(run_paths("mix", 0, unfinished)[0].read_text())["data"] == DATA
    compare_module.compare(load_recipe(TINY), unfinished)
    assert load_run(load_recipe(TINY), "mix", 1, unfinished) is not None


def test_going_on_with_other_data_is_refused(unfinished, monkeypatch):
    monkeypatch.setattr(compare_module, "Experiment", Changed)
    message = r"other data: data\.training_images was 6, now 7; ssl_data\.training_images was None, now 3; .*--out"
    with pytest.raises(RecipeError, match=message):
        compare_module.compare(load_recipe(TINY), unfinished)
    assert not run_paths("mix", 1, unfinished)[0].exists()


def test_runs_that_do_not_say_what_was_loaded_are_gone_on_from(unfinished, monkeypatch):
    for path in (unfinished / "runs").glob("*.json"):
        content = json.loads(path.read_text())
        del content["data"]
        path.write_text(json.dumps(content))
    monkeypatch.setattr(compare_module, "Experiment", Changed)
    finished = compare_module.compare(load_recipe(TINY), unfinished)
    assert len(finished.runs) == 6
