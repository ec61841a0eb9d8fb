from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shared.fake_runs import TINY, FakeExperiment, fake_studies, fake_sweep

from mixplug.lab.cli.main import main
from mixplug.lab.pages.sweep_pictures import accuracy, trade_off
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.studies import compare as compare_module
from mixplug.lab.studies.sweep import sweep


@pytest.fixture
def fake(monkeypatch):
    """Runs and pictures that cost nothing; counts what is built and trained."""
    fake_studies(monkeypatch)
    monkeypatch.setattr(FakeExperiment, "built", [])
    monkeypatch.setattr(FakeExperiment, "trained", [])
    return FakeExperiment


def run(out, *arguments, seeds=None):
    lines: list[str] = []
    more = () if seeds is None else (f"seeds={seeds}",)
    return sweep(TINY, [*arguments, *more], out, lines.append), lines


def test_a_real_one(tmp_path, capsys):
    assert main(["sweep", str(TINY), "alpha=0.1,0.9", "pictures=0", "--seeds", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 2 points, 3 methods, 1 seed, 6 runs" in printed
    assert "(2/2) alpha=0.9: SSL+SL, seed 0: same settings as alpha=0.1, reused" in printed
    assert "(2/2) alpha=0.9: [3/3] MixTraining, seed 0: accuracy" in printed
    assert "those of each point in a folder of its own" in printed
    histories = []
    for folder in ("alpha=0.1", "alpha=0.9"):
        point = json.loads((tmp_path / folder / "results.json").read_text())
        histories.append({r["method"]: r["history"] for r in point["runs"]})
    assert histories[0]["ssl_sl"] == histories[1]["ssl_sl"]
    # What alpha weighs is seen in MIX.
    assert histories[0]["mix"]["total"] != histories[1]["mix"]["total"]
    for name in ("accuracy.png", "pareto.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_what_it_leaves_behind(tmp_path, fake, monkeypatch):
    monkeypatch.chdir(TINY.parent)
    finished, _ = run(tmp_path, "epochs=2,4", "fraction=0.1", seeds=2)
    assert finished.keys == ["epochs"]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["kind"] == "sweep"
    assert content["command"] == "mixplug sweep tiny.yaml epochs=2,4 fraction=0.1 seeds=2"
    assert [(p["values"], p["folder"], len(p["runs"])) for p in content["points"]] == [
        ({"epochs": 2}, "epochs=2", 6),
        ({"epochs": 4}, "epochs=4", 6),
    ]
    assert {"versions", "machine", "date"} <= set(content)
    assert (tmp_path / "table.md").read_text().startswith("| epochs | SL (%) | SL (s) |")
    point = json.loads((tmp_path / "epochs=4" / "results.json").read_text())
    assert point["command"] == "mixplug compare tiny.yaml epochs=4 fraction=0.1 seeds=2"
    assert point["recipe"]["seeds"] == 2
    assert not list(tmp_path.rglob("started.json"))
    assert not list(tmp_path.rglob("*.part"))


def test_equal_runs_are_trained_once(tmp_path, fake):
    finished, lines = run(tmp_path, "alpha=0.1,0.5,0.9")
    assert len(fake.trained) == 2 * (2 + 3)
    assert sum("reused" in line for line in lines) == 2 * 2 * 2
    assert all(len(comparison.runs) == 6 for comparison in finished.comparisons)
    assert "Trained once for all rows that have the same settings: 8 of 18 runs." in (tmp_path / "table.md").read_text()
    copied = json.loads((tmp_path / "alpha=0.9" / "runs" / "sl-seed1.json").read_text())
    assert copied["reused_from"] == "alpha=0.1"
    assert "reused_from" not in json.loads((tmp_path / "alpha=0.1" / "runs" / "sl-seed1.json").read_text())


def test_what_depends_on_the_swept_key_is_not_reused(tmp_path, fake):
    run(tmp_path, "epochs=2,4", seeds=1)
    assert len(fake.trained) == 6


def test_points_of_both_keys_share_what_they_can(tmp_path, fake):
    run(tmp_path, "rho=0.5,1", "epochs=2,4", seeds=1)
    # By epochs: SL, SSL+SL and MixTraining at either rho.
    assert len(fake.trained) == 2 * (2 + 2)


def test_each_method_is_built_once_before_anything_is_trained(tmp_path, fake):
    run(tmp_path, "alpha=0.1,0.9", seeds=1)
    checked = fake.built[: len(fake.built) - len(fake.trained)]
    assert checked == [("sl", 0), ("ssl_sl", 0), ("mix", 0), ("mix", 0)]


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_it_goes_on_where_it_stopped(tmp_path, fake, after):
    trained = []

    def stop(line):
        trained.extend([line] if "accuracy" in line else [])
        if len(trained) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(TINY, ["alpha=0.1,0.5,0.9", "seeds=1"], tmp_path, stop)
    assert (tmp_path / "started.json").exists()
    assert not (tmp_path / "results.json").exists()
    assert len(fake.trained) == after
    run(tmp_path, "alpha=0.1,0.5,0.9", seeds=1)
    assert len(fake.trained) == 5
    assert len(set(tmp_path.glob("*/runs/*.json"))) == 9
    run(tmp_path, "alpha=0.1,0.5,0.9", seeds=1)
    assert len(fake.trained) == 5


def test_a_value_more_uses_the_runs_that_are_there(tmp_path, fake):
    run(tmp_path, "alpha=0.5,0.9", seeds=1)
    before = len(fake.trained)
    finished, lines = run(tmp_path, "alpha=0.1,0.5,0.9", seeds=1)
    assert len(fake.trained) == before + 1
    assert "(1/3) alpha=0.1: SL, seed 0: same settings as alpha=0.5, reused" in lines
    assert len(finished.points) == 3


def test_what_is_wrong_at_the_last_point_stops_it_before_any_training(tmp_path, fake, monkeypatch):
    with pytest.raises(RecipeError, match="epochs must be a whole number"):
        run(tmp_path, "epochs=2,half")
    monkeypatch.undo()
    lines: list[str] = []
    with pytest.raises(ValueError, match="rho must be a number in"):
        sweep(TINY, ["rho=0.5,1.5", "seeds=1"], tmp_path, lines.append)
    assert lines == []
    assert not list(tmp_path.rglob("*.json"))


def test_runs_of_other_settings_stop_it_before_any_training(tmp_path, fake):
    run(tmp_path, "alpha=0.1,0.9", seeds=1)
    (tmp_path / "alpha=0.1" / "runs" / "sl-seed0.json").unlink()
    before = len(fake.trained)
    with pytest.raises(
        RecipeError, match=r"alpha=0.1 holds a run of 'ssl_sl' with other settings: data.fraction was 0.05 and is 0.5"
    ):
        run(tmp_path, "alpha=0.1,0.9", "fraction=0.5", seeds=1)
    assert len(fake.trained) == before


def test_a_comparison_and_a_sweep_do_not_share_a_folder(tmp_path, fake):
    run(tmp_path / "sweep", "alpha=0.1,0.9", seeds=1)
    compare_module.compare(load_recipe(TINY, ["seeds=1"]), tmp_path / "one", lambda _: None)
    trained = len(fake.trained)
    with pytest.raises(RecipeError, match=r"one holds a comparison, and a sweep cannot go to the same folder"):
        run(tmp_path / "one", "alpha=0.1,0.9", seeds=1)
    with pytest.raises(RecipeError, match=r"sweep holds a sweep, and a comparison cannot .* choose another --out"):
        compare_module.compare(load_recipe(TINY), tmp_path / "sweep", lambda _: None)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "started.json").write_text('{"kind": "sweep"}')
    with pytest.raises(RecipeError, match="half holds a sweep"):
        compare_module.compare(load_recipe(TINY), tmp_path / "half", lambda _: None)
    assert len(fake.trained) == trained


def test_the_command_to_start_it_again_names_the_folder(tmp_path, fake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Path("tiny.yaml")
    recipe.write_text(TINY.read_text())

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(recipe, ["alpha=0.1,0.9", "seeds=1"], tmp_path / "my runs", stop)
    command = "mixplug sweep tiny.yaml alpha=0.1,0.9 seeds=1 --out 'my runs'"
    assert json.loads(Path("my runs/started.json").read_text())["command"] == command
    started = json.loads(Path("my runs/alpha=0.1/started.json").read_text())
    assert started["command"] == "mixplug compare tiny.yaml alpha=0.1 seeds=1 --out 'my runs/alpha=0.1'"


def test_what_somebody_else_removed_is_not_missed(tmp_path, fake):
    def remove(_):
        for path in tmp_path.rglob("started.json"):
            path.unlink()

    sweep(TINY, ["alpha=0.1,0.9", "seeds=1"], tmp_path, remove)
    assert (tmp_path / "results.json").exists()


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for arguments in (["sweep", str(TINY), "alpha=0.1,0.9"], ["compare", str(TINY)], ["report", str(tmp_path)]):
            assert main([*arguments, "--out", str(out)]) == 2
            assert f"{tmp_path / 'file'} is a file; name a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mixplug.lab.cli.main",
        "sweep",
        str(TINY),
        "alpha=0.1,0.9",
        "pictures=0",
        "--seeds",
        "1",
    ]
    command += ["--out", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("*/runs/ssl_sl*.json")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    first.communicate(timeout=60)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/runs/*.json")}
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"holds {len(done)} of 3 runs; going on with the other {3 - len(done)}" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(tmp_path.glob("*/runs/*.json"))) == 6
    assert not list(tmp_path.rglob("started.json"))


def titles(picture):
    return [axes.get_title() for axes in picture.axes if axes.get_visible()]


def test_one_curve_a_method_through_the_swept_values():
    picture = trade_off(fake_sweep("epochs=4,2,8"))
    (axes,) = picture.axes
    curves = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert list(curves) == ["SL", "SSL+SL", "MixTraining"]
    for points in curves.values():
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert len(points) == 3
    assert [text.get_text() for text in axes.texts] == ["2", "4", "8"] * 3
    assert axes.containers[0].has_yerr
    assert axes.get_xlabel().startswith("cost")


def test_a_trade_off_is_against_latency_where_a_cost_is_not_known():
    finished = fake_sweep("epochs=4,2,8")
    finished.points[0].comparison.runs["mix", 0].cost = finished.points[0].comparison.runs["mix", 1].cost = None
    (axes,) = trade_off(finished).axes
    assert axes.get_xlabel() == "training latency (s)"
    assert axes.containers[0].has_xerr


def test_numbers_have_an_axis_of_numbers():
    (axes,) = accuracy(fake_sweep("epochs=2,4,10")).axes
    assert axes.get_xscale() == "linear"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "10"]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [2, 4, 10]


@pytest.mark.parametrize(
    ("argument", "scale"),
    [
        ("optimizer.AdamW.lr=1e-4,1e-3,1e-2", "log"),
        ("epochs=2,20", "log"),
        ("data.fraction=0.1,1", "log"),
        ("epochs=2,18", "linear"),
        ("alpha=0.01,0.5", "linear"),
        ("methods.mix.algorithms.0.MixTraining.rho=0.01,0.5", "linear"),
        ("optimizer.AdamW.weight_decay=0,1", "linear"),
    ],
)
def test_far_apart_is_logarithmic(argument, scale):
    (axes,) = accuracy(fake_sweep(argument)).axes
    assert axes.get_xscale() == scale


@pytest.mark.parametrize(("draw", "more"), [(accuracy, []), (trade_off, ["frontier"])])
def test_one_legend_outside_of_the_axes(draw, more):
    picture = draw(fake_sweep("epochs=2,4", "fraction=0.1,1"))
    assert [axes.get_legend() for axes in picture.axes] == [None] * len(picture.axes)
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SL", "SSL+SL", "MixTraining", *more]
    picture.canvas.draw()
    below = legend.get_window_extent().y1
    assert all(axes.get_window_extent().y0 > below for axes in picture.axes)


def test_points_at_one_latency_have_no_names():
    (axes,) = trade_off(fake_sweep("alpha=0.1,0.5,0.9")).axes
    assert not axes.texts


def test_words_have_an_axis_of_words():
    (axes,) = accuracy(fake_sweep("alpha=0.5,{Ramp: {start: 1, stop: 0}}")).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "{Ramp: {start: 1, stop: 0}}"]


def test_a_panel_for_each_value_of_further_keys():
    picture = accuracy(fake_sweep("epochs=2,4", "fraction=0.1,1", "alpha=0.1,0.9"))
    assert titles(picture) == [
        f"fraction = {fraction}, alpha = {alpha}" for fraction in ("0.1", "1") for alpha in ("0.1", "0.9")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a sweep needs a key with several values"),
        (["seeds=1"], "a sweep needs a key with several values"),
        (["epochs=1,0"], "epochs must be a whole number of at least 1, got 0"),
        (["alpha=0.1,2"], "alpha must be a number in [0, 1], got 2"),
        (["data.fractoin=0.1,1"], "did you mean 'fraction'"),
        (["alpha=0.1,0.9", "--seeds", "0"], "seeds must be a whole number"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", str(TINY), *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("mixplug: ")
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_where_results_go(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = Path("tiny.yaml")
    recipe.write_text(TINY.read_text())
    assert main(["sweep", "tiny.yaml", "data.fraction=0.1,0.2", "seeds=1,2"]) == 0
    assert (tmp_path / "runs" / "tiny-sweep-fraction-seeds" / "data.fraction=0.1,seeds=1" / "table.md").exists()
    assert "4 points, 3 methods, 1 seed, 18 runs" in capsys.readouterr().out
