from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from shared.fake_runs import fake_run

from mixplug.lab.pages.tables import comparison_table, measured
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs.files import settings_of
from mixplug.lab.runs.mean_std import MeanStd
from mixplug.lab.studies.compare import compare
from mixplug.lab.studies.train import train

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    lines: list[str] = []
    steps: list[tuple[int, int]] = []
    comparison = compare(load_recipe(TINY), out, lines.append, lambda done, total, text: steps.append((done, total)))
    return comparison, out, lines, steps


def test_the_table(finished):
    comparison, *_ = finished
    rows = {row.method: row for row in comparison.rows()}
    assert list(rows) == ["sl", "ssl_sl", "mix"]
    assert rows["sl"].lengths == {"sl": 2}
    assert rows["ssl_sl"].lengths == {"ssl": 2, "sl": 2}
    assert rows["mix"].lengths == {"ssl": 1, "mix": 1, "sl": 1}
    assert rows["sl"].speedup is None
    assert rows["ssl_sl"].is_baseline
    assert rows["mix"].speedup == rows["ssl_sl"].cost / rows["mix"].cost > 1
    assert rows["mix"].flops / rows["sl"].flops == pytest.approx(rows["mix"].cost / rows["sl"].cost)
    text = comparison_table(comparison).markdown(measured(comparison))
    assert all(label in text for label in ("SL", "SSL+SL", "MixTraining", "baseline", "1+1+1 ep", "over 2 seeds"))


def test_what_it_leaves_behind(finished):
    _, out, lines, steps = finished
    report = json.loads((out / "results.json").read_text())
    assert len(report["runs"]) == 6
    assert report["verdict"]["text"] in " ".join((out / "table.md").read_text().split("\n\n"))
    assert report["verdict"]["intervals"] == "Student"
    assert {"torch", "mosaicml", "timm", "mixplug", "python"} <= set(report["versions"])
    assert report["machine"]["cores"] == os.cpu_count()
    assert report["recipe"]["data"]["batch_size"] == 32
    for run in report["runs"]:
        assert 0 <= run["accuracy"] <= 1
        assert run["seconds"] > 0
        assert run["history"]["accuracy"]
    for name in ("pareto.png", "curves.png", "schedules.png", "reconstructions.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    assert (out / "table.md").read_text().startswith("| Method |")
    assert not list(out.rglob("*.part"))
    assert len(lines) == 6
    assert (3, 3) in steps


def test_the_history(finished):
    comparison, *_ = finished
    history = comparison.runs["mix", 0].history
    assert [t for t, _ in history["ssl"]] == [1, 2]
    assert [t for t, _ in history["sl"]] == [t for t, _ in history["total"]] == [1, 2, 3]
    assert [t for t, _ in history["accuracy"]] == [3]
    assert comparison.runs["sl", 0].history["ssl"] == []


def test_methods_of_a_seed_see_the_same_data_and_seeds_differ(finished):
    comparison, *_ = finished
    pictures = [comparison.runs[method, 0].reconstruction for method in ("ssl_sl", "mix")]
    assert torch.equal(pictures[0].masked, pictures[1].masked)
    assert not torch.equal(pictures[0].prediction, pictures[1].prediction)
    assert comparison.runs["sl", 0].history["sl"] != comparison.runs["sl", 1].history["sl"]


def test_it_goes_on_where_it_stopped(finished, tmp_path):
    comparison, out, *_ = finished
    kept = tmp_path / "runs"
    kept.mkdir()
    for path in (out / "runs").glob("*seed0*"):
        (kept / path.name).write_bytes(path.read_bytes())
    (kept / "mix-seed1.json.part").write_text("half writ")
    lines: list[str] = []
    again = compare(load_recipe(TINY), tmp_path, lines.append)
    assert lines[0].endswith("holds 3 of 6 runs; going on with the other 3")
    assert len(lines) == 4
    for cell, run in comparison.runs.items():
        assert again.runs[cell].accuracy == run.accuracy
        assert (again.runs[cell].seconds == run.seconds) is (cell[1] == 0)
    assert torch.equal(
        again.runs["mix", 0].reconstruction.prediction, comparison.runs["mix", 0].reconstruction.prediction
    )


def test_more_seeds_use_the_runs_that_are_there(finished, tmp_path):
    _, out, *_ = finished
    lines: list[str] = []
    (tmp_path / "runs").mkdir()
    for path in (out / "runs").iterdir():
        (tmp_path / "runs" / path.name).write_bytes(path.read_bytes())
    compare(load_recipe(TINY, ["seeds=3"]), tmp_path, lines.append)
    assert "holds 6 of 9" in lines[0]
    assert (tmp_path / "reconstructions.png").exists()
    fewer: list[str] = []
    compare(load_recipe(TINY, ["seeds=3", "methods=[sl]"]), tmp_path, fewer.append)
    assert fewer[0].endswith("keeps 6 runs of other methods or seeds, of which nothing is said here")
    assert not (tmp_path / "reconstructions.png").exists(), "SL makes none"


def test_other_settings_in_the_same_folder_are_refused(finished):
    _, out, *_ = finished
    with pytest.raises(RecipeError, match=r"other settings: data.fraction was 0.05 and is 0.1; choose"):
        compare(load_recipe(TINY, ["data.fraction=0.1"]), out)


def wrong_types():
    """Results that are JSON of the right keys, each with a value that is of another type."""
    recipe = load_recipe(TINY)
    for change in (
        {"accuracy": "high"},
        {"seconds": None},
        {"cpu_seconds": "long"},
        {"kept": {"signal": "knn"}},
        {"lengths": [2]},
        {"lengths": {"sl": "2"}},
        {"unit": 3},
        {"history": {}},
        {"history": {"ssl": [], "sl": [1], "accuracy": []}},
        {"history": {"ssl": [], "sl": [[1, "x"]], "accuracy": []}},
        {"task_accuracies": [1]},
    ):
        result = fake_run(recipe, "sl", 0).numbers() | change
        yield json.dumps({"settings": settings_of(recipe, "sl"), "result": result})
    yield json.dumps({"settings": 3, "result": fake_run(recipe, "sl", 0).numbers()})


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    for text in ("half writ", "[]", '{"settings": {}, "result": {"accuracy": 1}}', *wrong_types()):
        (tmp_path / "runs" / "sl-seed0.json").write_text(text)
        with pytest.raises(RecipeError, match=r"sl-seed0.json is not a finished run .* remove it"):
            compare(load_recipe(TINY), tmp_path)


def test_pictures_that_cannot_be_read_are_named(finished, tmp_path):
    _, out, *_ = finished
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mix-seed0.json").write_bytes((out / "runs" / "mix-seed0.json").read_bytes())
    (tmp_path / "runs" / "mix-seed0.npz").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"remove .*mix-seed0.json"):
        compare(load_recipe(TINY), tmp_path)


def test_a_broken_method_stops_it_before_any_training(tmp_path):
    recipe = load_recipe(TINY, ["methods.mix.algorithms.0.MixTraining.alpha=2"])
    lines: list[str] = []
    with pytest.raises(ValueError, match="alpha"):
        compare(recipe, tmp_path, lines.append)
    assert lines == []


def test_training_once(tmp_path):
    result = train(load_recipe(TINY), "mix", 0, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint.pt", "history.json", "curves.png", "reconstructions.png"} <= names
    ends = {"checkpoint-ssl.pt": 1, "checkpoint-mix.pt": 2, "checkpoint.pt": 3}
    assert {name for name in names if name.endswith(".pt")} == set(ends)
    for name, epoch in ends.items():
        saved = torch.load(tmp_path / name, weights_only=False)["state"]["timestamp"]["Timestamp"]
        assert saved["epoch"] == epoch
    content = json.loads((tmp_path / "history.json").read_text())
    assert content["accuracy"] == result.accuracy
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=False)["state"]
    assert any(name.startswith("ssl_objective.") for name in state["model"])


def test_mean_and_standard_deviation():
    assert MeanStd.of([1.0, 3.0]) == MeanStd(2.0, pytest.approx(2**0.5))
    assert MeanStd.of([2.0]).format(1) == "2.0"
    assert MeanStd.of([0.5, 0.5]).format(2, 100) == "50.00 ± 0.00"


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.slow
def test_interrupted_by_a_signal_and_started_again(tmp_path, how, code):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mixplug.lab.cli.main", "compare", str(TINY), "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*.json")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(how)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == code
    assert "Traceback" not in errors
    done = len(list(out.glob("runs/*.json")))
    assert 1 <= done < 6
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"holds {done} of 6 runs; going on with the other {6 - done}" in second.stdout
    assert len(list(out.glob("runs/*.json"))) == 6
