"""mixplug gradient-error: stages of a training, and the schedule that they give."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shared.fake_runs import TINY

from mixplug import CompressionSchedule, PhasePlan, Strategy, gradient_error
from mixplug.data.passes import repeatable_pass
from mixplug.lab.cli.main import main
from mixplug.lab.pages.error_tables import error_table, stage_table
from mixplug.lab.pages.heat_maps import error_maps
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.measured_stages import MeasuredStages
from mixplug.lab.studies.gradient_error import measure_stages
from mixplug.training.costs import CostCounter
from mixplug.training.error_estimates import Estimate
from mixplug.training.gradient_error import GradientError, StrategyError

OBJECTIVE = "{SimSiam: {hidden_dim: 16, out_dim: 8, bottleneck_dim: 4}}"
SETTINGS = [
    "pictures=0",
    "ssl_duration=4ep",
    "model.args.patch_size=2",
    f"methods.mix.algorithms=[{{MixTraining: {{rho: 0.5, objective: {OBJECTIVE}}}}}]",
]
SAMPLES, SUB_BATCH = 128, 8
STRATEGIES = [Strategy(), Strategy(0.5), Strategy(0.0, 4), Strategy(0.5, 4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 3 epochs of SSL, 1 of MIX and 1 of SL, with checkpoints of each fifth."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = Experiment(load_recipe(TINY, SETTINGS), "mix", 0, save_folder=folder, checkpoints=5)
    experiment.run()
    return experiment, folder


def test_checkpoints_in_between_are_kept(trained):
    _, folder = trained
    kept = {path.name for path in folder.glob("*.pt")}
    assert kept == {f"checkpoint{part}.pt" for part in ("", "-ssl", "-mix", "-20", "-40", "-60", "-80")}


def test_stages_of_a_training(trained):
    experiment, folder = trained
    last = str(folder / "checkpoint.pt")
    checkpoints = ["untrained", str(folder / "checkpoint-40.pt"), str(folder / "checkpoint-ssl.pt"), last]
    measured = measure_stages(
        load_recipe(TINY, SETTINGS), "mix", 0, checkpoints, (0.0, 0.5), None, SAMPLES, SUB_BATCH, budget=2.0
    )
    assert measured.native == 2
    assert {*measured.stages, *measured.hidden} == set(checkpoints)
    assert last in measured.stages
    places = {Path(n).name: (str(e.position.phase), e.position.progress) for n, e in measured.stages.items()}
    expected = {
        "untrained": ("ssl", 0),
        "checkpoint-40.pt": ("ssl", pytest.approx(2 / 3)),
        "checkpoint-ssl.pt": ("ssl", 1),
        "checkpoint.pt": ("sl", 1),
    }
    assert places == {name: expected[name] for name in places}
    # The last one is the model that the run ended with, on its own images and labels.
    found = measured.stages[last]
    assert [row.strategy for row in found.rows] == STRATEGIES
    batches = [b for epoch in range(3) for b in repeatable_pass(experiment.inputs.train, 0, epoch)]
    cost = CostCounter(experiment.model.module, None, (1, 8, 8), 32).at(found.position).passes
    direct = gradient_error(
        experiment.model.module, None, batches, STRATEGIES, 2 * 32 * cost, SAMPLES, SUB_BATCH, found.position
    )
    assert found == direct


def test_the_command_and_what_reads_it(trained, capsys, tmp_path):
    _, folder = trained
    words = ["gradient-error", str(TINY), str(folder / "checkpoint.pt"), *SETTINGS, "--method", "mix", "--patches", "2"]
    options = ["--rates", "0", "0.5", "--samples", str(SAMPLES), "--sub-batch", str(SUB_BATCH), "--out", str(tmp_path)]
    assert main([*words, *options]) == 0
    out = capsys.readouterr().out
    assert out.split()[:4] == ["Checkpoint", "Phase", "Dropped", "Patch"]
    assert "checkpoint.pt  SL 100%" in out
    assert {path.name for path in tmp_path.iterdir()} == {
        f"gradient_error.{kind}" for kind in ("json", "md", "pdf", "png")
    }
    content = json.loads((tmp_path / "gradient_error.json").read_text())
    assert [row["rate"] for row in content["stages"][0]["rows"]] == [0.0, 0.5]
    assert "Squared bias" in (tmp_path / "gradient_error.md").read_text()


def fake_stages():
    """Two stages, in the first of which a strategy with a bias below 0 is best; noise hides a third."""

    def error(progress, values):
        rows = tuple(
            StrategyError(s, 1.0, Estimate(v - 0.2, 0.01), Estimate(0.2, 0.02), Estimate(v, 0.03))
            for s, v in zip(STRATEGIES, values, strict=True)
        )
        return GradientError(
            rows, Estimate(1.0, 0.1), 64.0, 128, 8, "negatives", PhasePlan(10, 0, 0).position(10 * progress)
        )

    stages = {"untrained": error(0.0, (0.4, 0.3, 0.2, 0.1)), "x/later.pt": error(0.5, (0.3, 0.4, 0.5, 0.6))}
    return MeasuredStages(stages, {"y/last.pt": "noise"}, 2)


def test_tables_pictures_and_the_schedule(tmp_path):
    measured = fake_stages()
    best = stage_table(measured)
    assert [row[:4] for row in best.rows] == [("untrained", "SSL 0%", "50%", "4"), ("later.pt", "SSL 50%", "0%", "2")]
    assert best.rows[0][-2:] == ("0.1 +- 0.03", "0.4 +- 0.03")
    assert any("last.pt: noise" in note for note in best.notes)
    assert any("negatives" in note for note in best.notes)
    assert len(error_table(measured).rows) == 8
    axes = [axes for axes in error_maps(measured).axes if axes.images]
    assert len(axes) == 6
    path = tmp_path / "gradient_error.json"
    path.write_text(json.dumps({"stages": [measured.numbers(name) for name in measured.stages]}))
    assert CompressionSchedule.read(path) == CompressionSchedule({0: (0.5, 4), 0.25: (0.0, 2)})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pt"], "no checkpoint 'none.pt'"),
        (["untrained", "--budget", "0"], "--budget"),
        (["untrained", "--samples", "20"], "at least 512, got 20|512"),
        (["untrained", "--rates", "1"], r"rate.*\[0, 1\)"),
        (["untrained", "--patches", "3"], "cannot be cut"),
        (["untrained", "--method", "ssl_sl"], "MAE chooses tokens"),
        (["sl_duration=3ep"], "at least one CHECKPOINT"),
    ],
)
def test_bad_input_is_refused(words, message, capsys, tmp_path):
    assert main(["gradient-error", str(TINY), *SETTINGS, *words, "--out", str(tmp_path)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_checkpoints_of_other_trainings_are_refused(trained, capsys, tmp_path):
    _, folder = trained
    shorter = [setting for setting in SETTINGS if not setting.startswith("ssl_duration")]
    for settings, message in (
        (shorter, "epoch 5, and the recipe's lasts 3"),
        ([*SETTINGS, "model.args.depth=2"], "another model"),
    ):
        assert (
            main(["gradient-error", str(TINY), str(folder / "checkpoint.pt"), *settings, "--out", str(tmp_path)]) == 2
        )
        assert message in capsys.readouterr().err
