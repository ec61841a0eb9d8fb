"""mixplug lr-range: the range test of a recipe's method."""

from __future__ import annotations

import json

import pytest
import torch
from composer.core import Callback
from shared.fake_runs import TINY

from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.studies.lr_range import _without_schedule, measure_range
from mixplug.training.lr_range import RULE


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def batch_end(self, state, logger):
        self.losses.append(state.total_loss_dict["loss/train/total"])


@pytest.mark.parametrize("method", ["sl", "mix"])
def test_it_trains_as_the_method_does_and_leaves_random_numbers(method):
    recipe = load_recipe(TINY, ["epochs=20"])
    state = torch.get_rng_state()
    found = measure_range(recipe, method, 0, 1e-3, 1e-3 * (1 + 1e-9), 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert recipe.scheduler is not None
    # At what is all but one rate, the losses are those of a training with that rate.
    plain = Experiment(_without_schedule(recipe, method), method, 0)
    log = Losses()
    plain.trainer.state.callbacks.append(log)
    plain.trainer.fit(duration="6ba") if method == "sl" else plain.trainer.fit()
    assert list(found.losses) == pytest.approx(log.losses[:6], rel=1e-5)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "range"
    words = ["lr-range", str(TINY), "epochs=20", "--method", "mix", "--high", "100", "--steps", "20", "--out", str(out)]
    assert main(words) == 0
    assert f"{RULE} (" in capsys.readouterr().out
    content = json.loads((out / "lr_range.json").read_text())
    assert content["suggestion"] == pytest.approx(content["largest"] / 3)
    assert content["rates"][0] == 1e-5
    assert (out / "lr_range.png").stat().st_size > 10_000
    assert {path.name for path in out.iterdir()} == {"lr_range.json", "lr_range.png", "lr_range.pdf"}


def test_more_steps_than_the_first_phase_has(capsys):
    assert main(["lr-range", str(TINY), "--method", "mix", "--steps", "50"]) == 2
    assert "--steps must be at most 2, the batches of the ssl phase" in " ".join(capsys.readouterr().err.split())
