"""What people see while something runs: lines outside of a terminal, bars in one, short warnings."""

from __future__ import annotations

import io
import re
import warnings

import pytest
from rich.console import Console
from shared.fake_runs import TINY

from mixplug.lab.cli import train as train_command
from mixplug.lab.cli.console import make_lines, show_progress
from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs import progress as progress_module
from mixplug.lab.runs.experiment import Experiment


def test_outside_of_a_terminal_each_epoch_has_a_line(tmp_path, capsys):
    words = ["sweep", str(TINY), "alpha=0.25,0.75", "seeds=1", "eval_interval=2ep", "methods=[mix]", "pictures=0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    name = r"\(%d/2\) alpha=0.%d5: \[1/1\] MixTraining, seed 0: "
    ends = r", \d+ images/s, 0:00:\d\d left"
    number = r"\d+\.\d{3}"
    expected = [
        (name % (number_of_point, digit)) + of_epoch + ends
        for number_of_point, digit in ((1, 2), (2, 7))
        for of_epoch in (
            rf"SSL, epoch 1 of 3: loss {number}",
            rf"MIX, epoch 2 of 3: loss {number} \(ssl {number}, sl {number}\), accuracy \d+\.\d\d%",
            rf"SL, epoch 3 of 3: loss {number}, accuracy \d+\.\d\d%",
        )
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_the_last_part_of_an_epoch_has_its_line_too():
    lines: list[str] = []
    recipe = load_recipe(TINY, ["ssl_duration=3ba", "sl_duration=3ba", "pictures=0"])
    Experiment(recipe, "sl", 0, announce=lines.append).run()
    assert [re.match(r"SL, batch (\d) of 3: ", line).group(1) for line in lines] == ["2", "3"]


def test_a_bar_moves_by_batches(monkeypatch):
    monkeypatch.setattr(progress_module, "_EVERY", 0)
    steps: list[tuple[float, float, str]] = []
    recipe = load_recipe(TINY, ["data.batch_size=15", "pictures=0"])
    Experiment(recipe, "sl", 0, lambda *step: steps.append(step)).run()
    assert [round(done, 2) for done, _, _ in steps] == [0.33, 0.67, 1, 1.33, 1.67, 2]
    assert {total for _, total, _ in steps} == {2}
    assert [text[:18] for _, _, text in steps] == ["SL, epoch 1 of 2, "] * 3 + ["SL, epoch 2 of 2, "] * 3


def test_a_bar_and_the_time_left_go_by_cost_where_an_epoch_of_one_phase_passes_over_more_images(monkeypatch):
    monkeypatch.setattr(progress_module, "_EVERY", 0)
    steps: list[float] = []
    other = ["data.fraction=1", "data.labels=90", "ssl_data={same: true}", "pictures=0", "eval_interval=1dur"]
    recipe = load_recipe(TINY, [*other, "ssl_duration=1ep", "sl_duration=2ep"])
    experiment = Experiment(recipe, "ssl_sl", 0, lambda done, total, text: steps.append(done))
    costs = experiment.run().unit_costs
    of_ssl = 3 * costs["ssl"] / (costs["ssl"] + 2 * costs["sl"])
    assert of_ssl > 1.5  # of three units, though SSL is one of three epochs
    assert [step for step in steps if abs(step - of_ssl) < 1e-9]
    assert steps[-1] == 3
    assert steps == sorted(steps)


def test_while_nothing_has_trained_a_classifier_lines_name_the_probe(tmp_path, capsys):
    words = ["compare", str(TINY), "methods=[ssl_sl]", "sl_duration=0ep", "seeds=1", "pictures=0", "probes=[knn]"]
    assert main([*words, "eval_interval=1ep", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"SSL\+SL, seed 0: kNN \d+\.\d\d% in ", out)
    assert "accuracy" not in out


def test_a_terminal_of_80_characters():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    assert make_lines(console) is None
    with show_progress(console) as progress:
        name = "(3/12) alpha=0.1, rho=0.25: [12/21] SSL+SL, half of the tokens, patches twice as large, seed 2"
        progress(11.5, 340, f"{name}: MIX, epoch 12 of 340, loss 1.234")
        console.print("a line above")
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) == 80
    at = max(index for index, line in enumerate(lines) if line.startswith(name[:70]))
    assert lines[at].endswith("…")
    assert re.search(r"MIX, epoch 12 of 340, loss 1\.234 +--:--$", lines[at + 1])


def test_warnings_come_once_in_one_line_without_files(monkeypatch, capsys):
    def run(options):
        for _ in range(2):
            warnings.warn("something\n  to know", UserWarning, stacklevel=1)

    before = warnings.showwarning
    monkeypatch.setattr(train_command, "run", run)
    assert main(["train", str(TINY)]) == 0
    assert capsys.readouterr().err == "mixplug: warning: something to know\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("interval", ["often", "0ep"])
def test_a_wrong_interval_is_refused(interval, tmp_path, capsys):
    assert main(["train", str(TINY), "--save-interval", interval, "--out", str(tmp_path / "out")]) == 2
    assert "save_interval must be" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(130), 130), (SystemExit(143), 143)])
def test_an_interruption_is_said_by_every_command(stop, code, monkeypatch, capsys):
    def run(options):
        raise stop

    monkeypatch.setattr(train_command, "run", run)
    assert main(["train", str(TINY)]) == code
    assert capsys.readouterr().err == "mixplug: interrupted; start the same command again\n"
