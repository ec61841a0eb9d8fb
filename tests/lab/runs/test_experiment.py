"""An experiment's parts as its recipe says."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import settings_of
from mixplug.lab.runs.inputs import make_inputs

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


@pytest.mark.parametrize(("decay", "groups"), [("all", 1), ("weights", 2)])
def test_weight_decay_holds_for_what_the_recipe_says(decay, groups):
    recipe = load_recipe(TINY, [f"decay={decay}"])
    made = Experiment(recipe, "mix", 0)
    made.trainer.close()
    (optimizer,) = made.trainer.state.optimizers
    assert len(optimizer.param_groups) == groups
    exempt = [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    assert bool(exempt) is (decay == "weights")
    assert ("decay" in settings_of(recipe, "mix")) is (decay == "weights")


def test_a_last_batch_may_be_left_out():
    for drop, batches in ((False, 4), (True, 3)):
        recipe = load_recipe(TINY, [f"data.drop_last={drop}", "data.batch_size=13", "ssl_data.same=true"])
        inputs = make_inputs(recipe, 0, torch.device("cpu"))
        assert (len(inputs.train), len(inputs.evaluation)) == (batches, len(inputs.evaluation))
        assert len(inputs.ssl) == 899 // 13 + (not drop)
        assert ("drop_last" in settings_of(recipe, "mix")["data"]) is drop


def test_another_decay_is_refused():
    with pytest.raises(ValueError, match=r"decay must be one of .*got 'norms'"):
        load_recipe(TINY, ["decay=norms"])


def test_a_run_that_is_over_leaves_nothing_in_memory():
    made = Experiment(load_recipe(TINY, ["pictures=0"]), "mix", 0)
    model = weakref.ref(made.model)
    made.run()
    del made
    gc.collect()
    assert model() is None
