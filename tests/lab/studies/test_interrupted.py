"""Nothing is lost: interrupted runs go on bit for bit, other runs' folders are refused, what diverges is marked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from shared.fake_runs import TINY, FakeExperiment, fake_comparison, fake_studies
from shared.image_files import train_and_test

import mixplug.lab.studies.compare as compare_module
from mixplug.lab.cli.main import main
from mixplug.lab.pages.figures import write_pareto
from mixplug.lab.pages.sweep_pictures import accuracy as sweep_accuracy
from mixplug.lab.pages.sweep_pictures import trade_off
from mixplug.lab.pages.tables import comparison_table, sweep_table
from mixplug.lab.pages.trade_offs import FRONTIER, pareto
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs import progress as progress_module
from mixplug.lab.runs import resumption
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.interruption import Interrupted, RunError
from mixplug.lab.runs.mean_std import MeanStd
from mixplug.lab.runs.results import Point, RunResult, Sweep
from mixplug.lab.studies.compare import compare
from mixplug.lab.studies.report import report
from mixplug.lab.studies.sweep import sweep
from mixplug.lab.studies.train import train

RANDOM = ("seeds=1", "model.args.proj_drop_rate=0.2", "data.crop_padding=1", "methods.ssl_sl=null")
DIVERGES = "methods.sl.optimizer={SGD: {lr: 1.0e+30}}"

CURVES = [f"curves.{end}" for end in ("png", "pdf", "csv")]


@pytest.fixture
def saved_each_epoch(monkeypatch):
    monkeypatch.setattr(resumption, "_SHARE", 0)


def interrupt_at(count):
    """What raises as Ctrl-C does when it is called for the ``count``-th time."""
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            raise SystemExit(130)

    return call


def same(one: RunResult, other: RunResult) -> None:
    first, second = one.numbers(), other.numbers()
    assert first["cpu_seconds"] > 0 < second["cpu_seconds"]
    assert {**first, "seconds": 0, "cpu_seconds": 0} == {**second, "seconds": 0, "cpu_seconds": 0}
    if one.reconstruction is not None:
        assert torch.equal(one.reconstruction.prediction, other.reconstruction.prediction)


def quiet(line: str) -> None:
    pass


def test_a_comparison_goes_on_within_a_run(tmp_path, saved_each_epoch):
    recipe = load_recipe(TINY, [*RANDOM, "eval_interval=1ep"])
    whole = compare(recipe, tmp_path / "whole", quiet)
    out, runs = tmp_path / "out", tmp_path / "out" / "runs"
    lines: list[str] = []
    # The second of two epochs of SL, then the third of three of MixTraining.
    for at, says in ((2, r"keeps 0 of 2 runs, and SL, seed 0, up to epoch 1 of 2"), (4, "1 of 2 .* epoch 2 of 3")):
        with pytest.raises(Interrupted, match=says) as caught:
            compare(recipe, out, lines.append, epochs=interrupt_at(at))
        assert caught.value.code == 130
    assert [path.name for path in runs.glob("*.unfinished")] == ["mix-seed0.unfinished"]
    resumed = compare(recipe, out, lines.append)
    assert "[1/2] SL, seed 0: going on after epoch 1 of 2" in lines
    assert "[2/2] MixTraining, seed 0: going on after epoch 2 of 3" in lines
    for cell, run in whole.runs.items():
        same(run, resumed.runs[cell])
    assert {path.name for path in runs.iterdir()} == {path.name for path in (tmp_path / "whole" / "runs").iterdir()}


@pytest.mark.parametrize(("method", "images"), [("sl", "files"), ("mix", "memory")])
def test_training_goes_on_within_an_epoch(method, images, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "_EVERY", 0)
    own = ["data.batch_size=9"]
    if images == "files":  # augmented in a process that draws its seed where an epoch starts
        root = train_and_test(tmp_path / "images", count=15)
        own = ["data.dataset=image_folder", f"data.root={root}", "data.fraction=1", "data.in_memory=false"]
        own += ["data.flip=true", "data.batch_size=6", "data.workers=1"]
    recipe = load_recipe(TINY, [*RANDOM, *own])
    whole = train(recipe, method, 0, tmp_path / "whole", announce=quiet)
    lines: list[str] = []
    with pytest.raises(Interrupted, match=r"out keeps the run up to epoch 1 and 3 batches of"):
        train(recipe, method, 0, tmp_path / "out", interrupt_at(9), announce=lines.append, save_interval="4ba")
    assert not any("going on" in line for line in lines)
    resumed = train(recipe, method, 0, tmp_path / "out", announce=lines.append)
    assert "going on after epoch 1 and 3 batches of" in lines[-1]
    same(whole, resumed)
    states = [torch.load(tmp_path / o / "checkpoint.pt", weights_only=False)["state"] for o in ("whole", "out")]
    torch.testing.assert_close(states[0]["model"], states[1]["model"], rtol=0, atol=0)
    left = [{path.name for path in (tmp_path / out).iterdir()} for out in ("whole", "out")]
    assert left[0] == left[1]
    again = train(recipe, method, 0, tmp_path / "out", announce=lines.append)
    assert "it is finished; --overwrite" in lines[-1]
    assert again.accuracy == whole.accuracy


def test_saving_waits_until_it_is_cheap(tmp_path):
    saver = resumption.ProgressSaver(tmp_path)
    saver._cost = 1.0
    events = resumption.Event.EPOCH_CHECKPOINT, resumption.Event.BATCH_CHECKPOINT
    state = Experiment(load_recipe(TINY), "sl", 0).trainer.state
    expected = {99: (False, False), 101: (True, False), 599: (True, False), 601: (True, True)}
    for elapsed, due in expected.items():
        saver._saved_at = resumption.time.monotonic() - elapsed
        assert tuple(saver._is_cheap(state, event) for event in events) == due


def test_an_unfinished_run_of_other_settings_or_data_is_refused(tmp_path, saved_each_epoch):
    recipe = load_recipe(TINY, RANDOM)
    with pytest.raises(Interrupted):
        train(recipe, "sl", 0, tmp_path, epochs=interrupt_at(2), announce=quiet)
    with pytest.raises(RecipeError, match=r"unfinished run with other settings: seed was 0 and is 1; .*--overwrite"):
        train(recipe, "sl", 1, tmp_path)
    path = tmp_path / "unfinished" / "run.json"
    content = json.loads(path.read_text())
    content["data"]["data"]["training_images"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"other data: data.training_images was 7, now \d+; put the data back"):
        train(recipe, "sl", 0, tmp_path)


def test_a_finished_run_is_not_written_over(tmp_path):
    out = tmp_path / "runs" / "out"
    words = ["train", str(TINY), "epochs=1", "pictures=1", "--method", "mix", "--out", str(out)]
    assert main(words) == 0
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([*words, "epochs=2"]) == 2, "two settings of the same"
    other = [*words[:2], "epochs=1", "pictures=0", *words[4:]]
    assert main(other) == 2
    assert main([*other, "data.fraction=7", "--overwrite"]) == 2, "bad settings remove nothing"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*other[:5], "sl", *other[6:], "--overwrite"]) == 0
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "history.json", *CURVES, "notes.txt"}


def test_wrong_settings_are_told_before_the_folder(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["compare", str(TINY), "epochs=1", "seeds=1", "methods=[sl]", *out]) == 0
    capsys.readouterr()
    assert main(["compare", str(TINY), "seeds=1", "methods=[sl]", "model.args.patch_size=3", *out]) == 2
    assert "patch_size" in capsys.readouterr().err
    assert main(["compare", str(TINY), "seeds=1", "methods=[sl]", *out]) == 2
    assert "choose another --out, or start anew with --overwrite" in capsys.readouterr().err
    assert main(["train", str(TINY), "--method", "sl", *out]) == 2
    assert "holds a comparison, and a training cannot go to the same folder" in capsys.readouterr().err


@pytest.fixture
def fake(monkeypatch):
    """Runs and pictures that cost nothing."""
    fake_studies(monkeypatch)
    monkeypatch.setattr(FakeExperiment, "trained", [])
    return FakeExperiment


def test_comparisons_and_sweeps_start_anew(tmp_path, fake):
    one, two = tmp_path / "one", tmp_path / "two"
    compare(load_recipe(TINY), one, quiet)
    sweep(TINY, ["epochs=2,4", "seeds=1"], two, quiet)
    (two / "notes.txt").write_text("mine")
    fake.trained.clear()
    compare(load_recipe(TINY, ["data.fraction=0.1", "methods=[sl]"]), one, quiet, overwrite=True)
    sweep(TINY, ["epochs=2,8", "seeds=1", "methods=[sl]"], two, quiet, overwrite=True)
    assert len(fake.trained) == 2 + 2
    assert {path.name for path in (one / "runs").iterdir()} == {"sl-seed0.json", "sl-seed1.json"}
    assert {path.name for path in two.iterdir() if path.is_dir()} == {"epochs=2", "epochs=8"}
    assert (two / "notes.txt").exists()


def test_a_failure_says_whose_it_is(tmp_path, fake, monkeypatch):
    for error, kind in ((RuntimeError("no memory"), RunError), (ValueError("no memory"), ValueError)):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr(fake, "run", fail)
        with pytest.raises(kind, match=r"\[1/6\] SL, seed 0: .*no memory"):
            compare(load_recipe(TINY), tmp_path, quiet)


def test_what_diverges_is_marked_and_the_others_go_on(tmp_path, capsys):
    settings = [DIVERGES, "epochs=1", "seeds=1", "methods=[sl,mix]", "pictures=0"]
    words = ["compare", str(TINY), *settings, "--out", str(tmp_path)]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "[1/2] SL, seed 0: diverged at batch 1: the total loss of batch 1 (epoch 0) is not finite" in printed
    assert "[2/2] MixTraining, seed 0: accuracy" in printed
    table = (tmp_path / "table.md").read_text()
    assert "| SL | diverged at batch 1 |" in table
    assert "Diverged, and in no mean: SL, seed 0, at batch 1." in table
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert [row["accuracy"] is None for row in content["table"]] == [True, False]
    assert [run["diverged"] for run in content["runs"] if run["method"] == "sl"] == [1]
    page = report([tmp_path], tmp_path / "report").read_text()
    assert "diverged at batch 1" in page
    assert main(words) == 1
    assert "holds 2 of 2 runs" in capsys.readouterr().out
    started = {"command": "", **compare_module.expected_runs(load_recipe(TINY, settings))}
    (tmp_path / "started.json").write_text(json.dumps(started))
    assert "| SL | 0 | diverged at batch 1 |" in report([tmp_path], tmp_path / "report").read_text()


def test_means_leave_out_what_diverged(tmp_path):
    comparison = fake_comparison("seeds=3")
    for run, batch in (
        (comparison.runs["mix", 0], 12),
        *((comparison.runs["ssl_sl", seed], seed) for seed in range(3)),
    ):
        run.accuracy, run.diverged = math.nan, batch
    rows = {row.method: row for row in comparison.rows()}
    assert rows["mix"].accuracy == MeanStd.of(comparison.runs["mix", seed].accuracy for seed in (1, 2))
    assert rows["mix"].speedup is None, "its baseline has no finished run"
    text = comparison_table(comparison).markdown()
    assert f"{rows['mix'].accuracy.format(2, 100)}, 1 diverged" in text
    assert "MixTraining, seed 0, at batch 12" in text
    point = Point({"rho": 0.5}, "rho=0.5", comparison)
    for picture in (pareto(comparison), sweep_accuracy(Sweep((point,))), trade_off(Sweep((point,)))):
        names = [text.get_text() for text in picture.legends[0].get_texts() if text.get_text() != FRONTIER]
        assert names == ["SL", "MixTraining"]
    write_pareto(comparison, tmp_path / "pareto.csv")
    assert [line.split(",")[:3:2] for line in (tmp_path / "pareto.csv").read_text().splitlines()[1:]] == [
        ["sl", "3"],
        ["mix", "2"],
    ]
    assert "rho=0.5: MixTraining, seed 0, at batch 12" in sweep_table(Sweep((point,))).markdown()
    for run in comparison.runs.values():
        run.diverged = 0
    for picture in (pareto(comparison), sweep_accuracy(Sweep((point,))), trade_off(Sweep((point,)))):
        assert not picture.legends[0].get_texts()


def test_a_training_that_diverges_says_whose_it_is(tmp_path, capsys):
    assert main(["train", str(TINY), DIVERGES, "--method", "sl", "--out", str(tmp_path)]) == 1
    assert "SL, seed 0: the total loss of batch 1 (epoch 0) is not finite: total = nan" in capsys.readouterr().err


def test_weights_that_the_last_step_spoilt(tmp_path):
    lines: list[str] = []
    recipe = load_recipe(
        TINY,
        [
            DIVERGES.replace("lr", "weight_decay: 1.0e+30, lr"),
            "ssl_duration=1ba",
            "sl_duration=1ba",
            "seeds=1",
            "methods=[sl]",
        ],
    )
    compare(recipe, tmp_path, lines.append)
    assert "diverged at batch 0: the last batch left weights that are not finite" in lines[0]


def test_ctrl_c_says_what_was_kept_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    for number, code in ((130, 130), (143, 143)):
        monkeypatch.setattr(Experiment, "run", interrupt_with(number))
        assert main(["train", str(TINY), "--out", str(tmp_path / "out")]) == code
        error = capsys.readouterr().err
        assert "mixplug: interrupted; nothing is kept yet; the same command begins anew" in error
    assert main(["compare", str(TINY), "seeds=1", "--out", str(tmp_path / "c")]) == 143
    assert "c keeps 0 of 3 runs; the same command goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(Experiment, "run", interrupt_with(3))
    with pytest.raises(SystemExit):
        main(["train", str(TINY), "--out", str(tmp_path / "out")])


def interrupt_with(code):
    def run(self):
        raise SystemExit(code)

    return run


def test_several_processes_are_refused(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", str(TINY), "--out", str(tmp_path / "out")]) == 2
    assert "mixplug compare runs in one process, and was started as one of 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_seeds_are_added_until_the_order_is_decided(tmp_path, fake, capsys):
    """Fake runs are as good as they are long, and equally so with each seed."""
    recipe, command = ["compare", str(TINY), "pictures=0"], ["--until-decided", "--max-seeds"]
    out = ["--out", str(tmp_path / "long")]
    assert main([*recipe, "epochs=100", *command, "9", *out]) == 0
    added = [cell for cell in fake.trained if cell[1] > 1]
    assert added
    assert {method for method, _ in added} == {"sl", "ssl_sl", "mix"}
    assert max(seed for _, seed in added) < 8
    assert "Verdict: SSL+SL is best" in capsys.readouterr().out
    content = json.loads((tmp_path / "long" / "results.json").read_text())
    assert content["verdict"]["decided"]
    assert "--until-decided --max-seeds 9" in content["command"]
    assert content["verdict"]["intervals"] == "confidence sequence"
    fake.trained.clear()
    assert main([*recipe, "epochs=100", *command, "9", *out]) == 0
    assert not fake.trained, "all are there"


def test_seeds_are_added_until_there_are_enough(tmp_path, fake, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["compare", str(TINY), "pictures=0", "--until-decided", "--max-seeds", "3", *out]) == 0
    assert {seed for _, seed in fake.trained} == {0, 1, 2}
    assert "Verdict: undecided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-seeds", "4"], "--max-seeds is the limit of --until-decided; give both"),
        (["--until-decided", "--max-seeds", "1"], "max_seeds must be a whole number of at least 2, got 1"),
    ],
)
def test_bad_limits_of_seeds(tmp_path, capsys, words, says):
    assert main(["compare", str(TINY), *words, "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
