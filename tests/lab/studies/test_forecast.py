from __future__ import annotations

from pathlib import Path

import pytest
from composer import Trainer

from mixplug.lab.cli.main import main
from mixplug.lab.pages.durations import duration
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.studies.forecast import forecast, forecast_table

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


def refuse_to_train(monkeypatch):
    def fit(self, *_, **__):
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(Trainer, "fit", fit)


def test_what_will_run_and_what_it_costs(monkeypatch):
    refuse_to_train(monkeypatch)
    recipe = load_recipe(TINY, ["ssl_duration=4ep"])
    made = forecast(recipe, timed=False)
    assert [(p.label, p.phase, p.start, p.length, p.steps) for p in made.phases] == [
        ("SL", "sl", 0, 2, 4),
        ("SSL+SL", "ssl", 0, 4, 8),
        ("SSL+SL", "sl", 4, 2, 4),
        ("MixTraining", "ssl", 0, 3, 6),
        ("MixTraining", "mix", 3, 1, 2),
        ("MixTraining", "sl", 4, 1, 2),
    ]
    for method, label in (("sl", "SL"), ("mix", "MixTraining")):
        own = [p for p in made.phases if p.label == label]
        experiment = Experiment(recipe, method, 0)
        assert sum(p.passes for p in own) == pytest.approx(experiment.cost)
        flops = experiment.cost * experiment.run_cost.encoder_flops * 45
        assert sum(p.flops for p in own) == pytest.approx(flops)
    assert made.seconds is None


@pytest.mark.parametrize(("mixing", "steps"), [("{}", 2), ("side_by_side", 6)])
def test_side_by_side_mix_passes_over_the_ssl_data(mixing, steps):
    own = "" if mixing == "{}" else f", mixing: {mixing}, labelled_per_step: 4, objective: {{MAE: {{mask: input}}}}"
    method = f"methods={{mix: {{algorithms: [{{MixTraining: {{rho: 0.5{own}}}}}]}}}}"
    made = forecast(load_recipe(TINY, [method, "ssl_data={same: true, fraction: 0.2}"]), timed=False)
    assert [(p.phase, p.steps) for p in made.phases] == [("ssl", 6), ("mix", steps), ("sl", 2)]


def test_time_by_a_few_steps(monkeypatch):
    taken = iter([3.0, 1.0, 2.0, 9.0, 5.0, 5.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr("mixplug.lab.bench.stages.MethodOnTrainer.run", lambda *_: [next(taken) for _ in range(3)])
    made = forecast(load_recipe(TINY, ["methods=[sl]"]))
    assert made.phases[0].seconds == pytest.approx(4 * (2 + 5 + 1) / 3)
    assert made.seconds == 2 * made.phases[0].seconds


def test_an_algorithm_of_others_leaves_the_cost_open():
    made = forecast(load_recipe(TINY, ["methods=[sl]", "algorithms=[LabelSmoothing]"]), timed=False)
    assert made.phases[0].passes is None
    table = forecast_table(made)
    assert "It cannot be told beforehand where it is empty." in table.notes


def test_smaller_images_say_what_they_save():
    smaller = "{SuperProgressiveLearning: {min_scale: 0.5, step: 4}}"
    objective = "{MixTraining: {rho: 0, objective: {SimSiam: {hidden_dim: 8, out_dim: 8}}}}"
    made = forecast(
        load_recipe(
            TINY,
            [
                f"methods.mix.algorithms=[{objective}, {smaller}]",
                "methods=[mix]",
                "model.args.dynamic_img_size=true",
                "sl_duration=0ep",
            ],
        ),
        timed=False,
    )
    (remark,) = made.remarks
    assert remark.startswith("MixTraining: images of 8, 4, 4, 8, 8, 8 pixels, 1.33 times cheaper on that clock")
    counted = float(remark.split("; ")[1].split()[0])
    assert 1.0 < counted < 1.33


def test_the_command_prints_a_recipe_that_can_be_run_and_the_table(capsys, tmp_path, monkeypatch):
    refuse_to_train(monkeypatch)
    assert main(["show", str(TINY), "epochs=3", "--cost-only"]) == 0
    recipe, _, table = capsys.readouterr().out.partition("\n\n")
    (tmp_path / "shown.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "shown.yaml") == load_recipe(TINY, ["epochs=3"])
    assert "MIX, epoch 3" in table
    assert "Time" not in table


def test_the_command_times_steps(capsys):
    assert main(["show", str(TINY), "methods=[sl]"]) == 0
    printed = capsys.readouterr().out
    assert "all methods with 2 seeds" in printed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86000, "23 h 53 min"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
