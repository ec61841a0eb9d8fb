from __future__ import annotations

import csv

import pytest
import torch
from shared.fake_runs import fake_comparison, fake_sweep

from mixplug.lab.pages.curves import curves, schedules, spent
from mixplug.lab.pages.figures import save_figure, write_curves, write_pareto, write_sweep
from mixplug.lab.pages.styles import method_styles
from mixplug.lab.pages.sweep_pictures import trade_off
from mixplug.lab.pages.trade_offs import FRONTIER, frontier, of_seeds, pareto
from mixplug.lab.runs.experiment import _different_images

FAMILY = "methods.late={algorithms: [{MixTraining: {rho: 0.25}}]}"
DROPPED = (
    "methods.ssl_sl_half={algorithms: [{MixTraining: {rho: 0}}]}",
    "methods.mix_half={algorithms: [{MixTraining: {rho: 0.5}}]}",
)


def styles(*overrides):
    made = fake_comparison(*overrides)
    return method_styles(made.recipe, {method: made.of(method)[0] for method in made.recipe.methods})


def hue(colour):
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    low, high = min(red, green, blue), max(red, green, blue)
    return [round((part - low) / (high - low), 1) for part in (red, green, blue)]


# -------------------------------------------------------------------------------------------------------------- colours


def test_a_colour_belongs_to_a_method_whatever_is_beside_it():
    whole, alone, other = styles(), styles("methods=[mix,ssl_sl]"), styles(FAMILY)
    for method in ("ssl_sl", "mix"):
        assert whole[method] == alone[method]
    assert other["ssl_sl"] == whole["ssl_sl"]
    assert len({style.colour for style in other.values()}) == 4


def test_a_baseline_and_its_mixtraining_share_a_hue():
    made = styles(FAMILY)
    near = [hue(made[method].colour) for method in ("ssl_sl", "mix", "late")]
    for other in near[1:]:
        assert other == pytest.approx(near[0], abs=0.35)
    assert [made[m].marker for m in ("sl", "ssl_sl", "mix")] == ["s", "o", "D"]


def test_with_other_algorithms_the_baseline_is_the_one_that_has_them_too():
    made = fake_comparison(*DROPPED)
    for method in ("ssl_sl_half", "mix_half"):
        made.recipe.methods[method].algorithms.append({"TokenDropout": {"rate": 0.5}})
    found = method_styles(made.recipe, {method: made.of(method)[0] for method in made.recipe.methods})
    assert len({style.colour for style in found.values()}) == 5
    assert hue(found["mix_half"].colour) == pytest.approx(hue(found["ssl_sl_half"].colour), abs=0.35)
    assert hue(found["mix"].colour) != pytest.approx(hue(found["mix_half"].colour), abs=0.35)


# ----------------------------------------------------------------------------------------------------------- trade-offs


def test_the_frontier_is_what_nothing_beats():
    assert frontier([(3, 5), (1, 2), (2, 1), (2, 4), (4, 4), (3, 6)]) == [(1, 2), (2, 4), (3, 6)]


def test_a_trade_off_draws_the_frontier_and_says_how_many_seeds():
    made = fake_comparison("seeds=3")
    (axes,) = pareto(made).axes
    (drawn,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    best = frontier((row.cost, 100 * row.accuracy.mean) for row in made.rows())
    assert axes.get_xlabel().startswith("cost")
    assert drawn.get_xydata()[: len(best)].tolist() == [list(point) for point in best]
    (legend,) = axes.figure.legends
    assert legend.get_title().get_text() == "mean ± std, 3 seeds"
    assert [text.get_text() for text in legend.get_texts()] == ["SL", "SSL+SL", "MixTraining", FRONTIER]
    assert of_seeds(1) == "one seed"


def test_the_panels_of_a_sweep_have_one_scale_and_a_frontier_each():
    figure = trade_off(fake_sweep("epochs=20,40", "fraction=0.1,0.5"))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 2
    assert len({axes.get_xlim() for axes in shown}) == len({axes.get_ylim() for axes in shown}) == 1
    for axes in shown:
        assert [line.get_drawstyle() for line in axes.lines].count("steps-post") == 1


# --------------------------------------------------------------------------------------------------------------- curves


def with_costs(run, **costs):
    run.unit_costs = costs
    return run


def long_run(**costs):
    """Phases of 2, 1 and 1 epochs, with points in all of them."""
    run = fake_comparison("ssl_duration=3ep").runs["mix", 0]
    assert run.lengths == {"ssl": 2, "mix": 1, "sl": 1}
    for name in run.history:
        run.history[name] = [[time, 0.1 * time] for time in (1, 2, 3, 4)]
    run.history["accuracy"] = [[4, 0.5]]
    return with_costs(run, **costs)


def test_methods_are_laid_over_each_other_against_cost():
    run, other = long_run(ssl=1.0, mix=4.0, sl=3.0), fake_comparison().runs["sl", 0]
    with_costs(other, sl=3.0)
    assert spent(run, [0, 1, 2, 3, 3.5, 4]) == [0, 1, 2, 6, 7.5, 9]
    figure = curves({"a": [run], "b": [other]})
    phases, accuracy, sl, ssl = figure.axes
    assert [(bar.get_x(), bar.get_width()) for bar in phases.patches] == [(0, 2), (2, 4), (6, 3), (0, 6)]
    assert [text.get_text() for text in phases.texts] == ["SSL", "MIX", "SL", "SL"]
    assert len(accuracy.lines) >= 2
    # A loss is drawn where it is trained on alone.
    assert sl.lines[0].get_xdata().tolist() == [6, 9]
    assert ssl.lines[0].get_xdata().tolist() == [1, 2, 6]
    assert ssl.get_xlabel().startswith("cost")


def test_without_costs_they_are_laid_over_time():
    figure = curves({"a": [long_run()]})
    assert figure.axes[-1].get_xlabel() == "epoch"
    assert figure.axes[2].lines[0].get_xdata().tolist() == [3, 4]


def test_losses_of_other_objectives_have_panels_of_their_own():
    run, other = long_run(), long_run()
    other.objective = "another"
    titles = [axes.get_ylabel() for axes in curves({"a": [run], "b": [other]}).axes]
    assert titles[1:] == ["test accuracy (%)", "SL loss", "SSL loss\nfeatures", "SSL loss\nanother"]


def test_settings_have_a_panel_where_they_change_or_differ():
    run, other = long_run(), long_run()
    assert schedules({"a": [run], "b": [other]}) is None
    run.settings = {
        "learning_rate": [[1, 0.1], [4, 0.1]],
        "view_jitter": [[1, 1.0], [4, 1.0]],
        "w_ssl": [[1, 1.0], [4, 0]],
    }
    other.settings = {"learning_rate": [[1, 0.2], [4, 0.2]], "view_jitter": [[1, 1.0], [2, 1.0]]}
    _, rate, weight = schedules({"a": [run], "b": [other]}).axes
    assert rate.get_ylabel() == "learning rate"
    assert [line.get_ydata().tolist() for line in rate.lines if len(line.get_ydata()) > 1] == [[0.1, 0.1], [0.2, 0.2]]
    assert weight.get_ylabel() == "w ssl"
    assert len(weight.lines) == 2  # a line and its end


@pytest.mark.parametrize(("count", "markers"), [(1, ["o"]), (2, ["None", "o"])])
def test_a_single_evaluation_can_be_seen(count, markers):
    run = fake_comparison().runs["mix", 0]
    run.history["accuracy"] = [[epoch + 1, 0.5] for epoch in range(count)]
    accuracy = curves({"a": [run, run]}).axes[1]
    assert [line.get_marker() for line in accuracy.lines] == markers


# ---------------------------------------------------------------------------------------------------------------- files


def rows_of(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_points_are_left_as_csv(tmp_path):
    made = fake_comparison()
    write_pareto(made, tmp_path / "p.csv")
    rows = rows_of(tmp_path / "p.csv")
    assert [row["method"] for row in rows] == ["sl", "ssl_sl", "mix"]
    assert float(rows[0]["accuracy"]) == pytest.approx(made.rows()[0].accuracy.mean)
    assert {row["on_frontier"] for row in rows} <= {"True", "False"}
    run = long_run(ssl=1.0, mix=4.0, sl=3.0)
    run.settings = {"learning_rate": [[1, 0.1], [4, 0.0]]}
    write_curves({"a": [run]}, tmp_path / "c.csv")
    found = [(r["quantity"], r["phase"], float(r["time"]), float(r["cost"])) for r in rows_of(tmp_path / "c.csv")]
    assert found[0] == ("accuracy", "sl", 4, 9)
    assert ("sl", "mix", 3, 6) in found
    assert found[-2:] == [("learning_rate", "ssl", 1, 1), ("learning_rate", "sl", 4, 9)]
    assert not any(quantity == "sl" and phase == "ssl" for quantity, phase, _, _ in found)
    write_sweep(fake_sweep("epochs=20,40"), tmp_path / "s.csv")
    swept = rows_of(tmp_path / "s.csv")
    assert [(row["epochs"], row["method"]) for row in swept[2:4]] == [("20", "mix"), ("40", "sl")]


def test_a_picture_is_left_as_pdf_too(tmp_path):
    for name in ("a", "b"):
        save_figure(pareto(fake_comparison()), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


# ------------------------------------------------------------------------------------------------------ reconstructions


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 0, 1, 1, 2], 3, [0, 3, 5]),
        ([2, 2, 1, 1, 0, 0], 4, [4, 2, 0, 5]),
        ([0, 0, 0, 0, 0, 0], 2, [0, 1]),
        ([1, 0, 0, 0, 0, 0], 9, [1, 0, 2, 3, 4, 5]),
    ],
)
def test_reconstructions_show_different_classes(labels, count, expected):
    images = torch.arange(6.0).view(6, 1, 1, 1)
    batches = zip(images.split(2), torch.tensor(labels).split(2), strict=True)
    assert _different_images(batches, count, 3).flatten().tolist() == expected
