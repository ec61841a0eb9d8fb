from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mixplug.lab.cli.main import COMMANDS, _parse, main
from mixplug.lab.recipes.schema import load_recipe

TINY = str(Path(__file__).parents[2] / "shared/tiny.yaml")


def test_plan(capsys):
    assert main(["plan", "--ssl", "100", "--sl", "100", "--rho", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "150 epochs instead of 200: e_mix = floor(0.5 * min(100, 100)) = 50 of each are merged"
    assert lines[1:4] == [
        "  SSL  epochs 1 to 50 (50)",
        "  MIX  epochs 51 to 100 (50)",
        "  SL   epochs 101 to 150 (50)",
    ]
    assert lines[4] == "  " + "░" * 20 + "▓" * 20 + "█" * 20


@pytest.mark.parametrize(
    ("more", "mix", "images", "apart"),
    [
        ([], "the 90 labelled images", 380 * 90, 420 * 90),
        (
            ["--ssl-images", "1000"],
            "the 90 labelled images, mixed pixel by pixel with 90 of the 1,000 SSL images",
            40 * 1000 + 340 * 90,
            80 * 1000 + 340 * 90,
        ),
        (
            ["--ssl-images", "1000", "--mixing", "side_by_side"],
            "the 1,000 SSL images, with 250 draws of the 90 labelled images by their side",
            40 * 1000 + 40 * 1250 + 300 * 90,
            80 * 1000 + 340 * 90,
        ),
    ],
)
def test_plan_says_what_epochs_pass_over_and_the_cost(capsys, more, mix, images, apart):
    assert main(["plan", "--ssl", "80", "--sl", "340", "--rho", "0.5", "--images", "90", *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    ssl = "the 1,000 SSL images" if more else "the 90 labelled images"
    assert lines[1:4] == [
        f"  SSL  epochs 1 to 40 (40), each over {ssl}",
        f"  MIX  epochs 41 to 80 (40), each over {mix}",
        "  SL   epochs 81 to 380 (300), each over the 90 labelled images",
    ]
    assert lines[5].startswith(f"  {images:,} images are learned from, {apart:,} in SSL and then SL")
    assert lines[6] == (
        f"  {images / 30:,.0f} forward passes of the plain encoder for each labelled image, and {apart / 30:,.0f}"
    )


def test_plan_of_smaller_images(capsys):
    assert main(["plan", "--ssl", "480", "--sl", "0", "--rho", "0", "--min-scale", "0.43"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:5] == [
        "  224 pixels from epoch 1 of self-supervised learning",
        "   96 pixels from epoch 81 of self-supervised learning",
    ]
    assert lines[9] == "  1.60 times cheaper, where a step costs as its pixels do"
    few = ["plan", "--ssl", "60", "--sl", "0", "--rho", "0", "--min-scale", "0.5", "--stages", "9"]
    assert main(few) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" pixels")[0].strip() for line in lines[3:-1]] == ["224", "128", "160", "192", "224"]


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    assert "digits: " in capsys.readouterr().out


def test_compare_and_train(capsys, tmp_path):
    assert main(["compare", TINY, "seeds=1", "--out", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr().out
    assert "3 methods, 1 seed, 3 runs" in printed
    assert "MixTraining" in printed
    assert (tmp_path / "c" / "results.json").exists()
    assert main(["compare", TINY, "--seeds", "1", "epochs=2", "--out", str(tmp_path / "c"), "pictures=2"]) == 0
    assert "holds 3 of 3 runs" in capsys.readouterr().out
    assert main(["train", TINY, "--method", "sl", "--seed", "3", "--out", str(tmp_path / "t")]) == 0
    assert "SL, seed 3: accuracy" in capsys.readouterr().out
    assert (tmp_path / "t" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--ssl", "100", "--sl", "100", "--rho", "1.5"],
        ["plan", "--ssl", "100", "--sl", "100", "--rho", "nan"],
        ["plan", "--ssl", "0", "--sl", "0", "--rho", "0.5"],
        ["plan", "--ssl", "9", "--sl", "0", "--rho", "0", "--min-scale", "0"],
        ["plan", "--ssl", "9", "--sl", "0", "--rho", "0", "--min-scale", "1", "--step", "0"],
        ["plan", "--ssl", "9", "--sl", "0", "--rho", "0", "--size", "64"],
        ["plan", "--ssl", "9", "--sl", "0", "--rho", "0", "--warmup", "0.3"],
        ["plan", "--ssl", "9", "--sl", "9", "--rho", "0", "--labelled-share", "0.3"],
        ["plan", "--ssl", "9", "--sl", "0", "--rho", "0", "--min-scale", "2"],
        ["plan", "--ssl", "-1", "--sl", "100", "--rho", "0.5"],
        ["plan", "--ssl", "9", "--sl", "9", "--rho", "0.5", "--ssl-images", "9"],
        ["plan", "--ssl", "9", "--sl", "9", "--rho", "0.5", "--images", "9", "--mixing", "side_by_side"],
        ["plan", "--ssl", "9", "--sl", "9", "--rho", "0.5", "--images", "0"],
        ["compare", "nowhere.yaml"],
        ["compare", "digitz"],
        ["compare", TINY, "sead=3"],
        ["compare", TINY, "seeds=x"],
        ["compare", TINY, "--seeds", "0"],
        ["compare", TINY, "--seeds", "1", "seeds=2"],
        ["compare", TINY, "epoch=2"],
        ["compare", TINY, "data.dataset=cifar11"],
        ["compare", TINY, "methods.mix.algorithms=[NoSuchThing]"],
        ["compare", TINY, "methods.mix.algorithms.0.MixTraining.rho=-0.1"],
        ["compare", TINY, "methods.mix.algorithms.0.MixTraining.alpha=1.5"],
        ["compare", TINY, "methods.mix.algorithms.0.MixTraining.ssl_duration=-1"],
        ["compare", TINY, "model.args.patch_size=3"],
        ["compare", TINY, "model={name: resnet18}"],
        ["train", TINY, "--method", "nope"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said, errors = capsys.readouterr()
    assert arguments[0] != "plan" or not said
    assert errors.startswith("mixplug: ")
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trane"],
        ["compare"],
        ["plan", "--rho", "half"],
        ["compare", TINY, "--seeds", "1", "epochs=1", "--sead", "3"],
        ["compare", TINY, "--seed", "3"],
        ["train", TINY, "--seeds", "3"],
        ["train", TINY, "--meth", "sl"],
        ["--vers"],
        ["compare", TINY, "epochs=1", "--nope"],
        ["recipes", "epochs=1"],
    ],
)
def test_bad_usage_is_exit_code_2_too(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_what_may_be_meant_by_an_unknown_option(capsys):
    with pytest.raises(SystemExit):
        main(["compare", TINY, "--seed", "3"])
    assert "unrecognized arguments: --seed 3; did you mean '--seeds'?" in capsys.readouterr().err


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_example_of_each_command_can_be_given(module, capsys):
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    example = capsys.readouterr().out.partition("example: mixplug ")[2]
    assert shlex.split(example)[0] == name
    options = _parse(shlex.split(example))
    if hasattr(options, "recipe"):
        overrides = [word for word in options.overrides if "=" in word and "," not in word]
        recipe = load_recipe(options.recipe, overrides)
        assert getattr(options, "method", None) in (None, *recipe.methods)


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"extends: {TINY}\n")
    assert load_recipe("~/own.yaml").methods
    extending = tmp_path / "other.yaml"
    extending.write_text("extends: ~/own.yaml\n")
    assert load_recipe(extending).methods
    for arguments in (["compare", "~/own.yaml"], ["gradient-error", "~/own.yaml", "untrained"], ["report", "~/runs"]):
        assert _parse([*arguments, "--out=~/x"]).out == tmp_path / "x"
    assert _parse(["report", "~/runs", "~nobody-of-that-name/x"]).folders[0] == tmp_path / "runs"
    assert _parse(["probe", "~/a.pt", "digits"]).checkpoint == tmp_path / "a.pt"


def test_checkpoints_in_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["gradient-error", TINY, "~/a.pt"]) == 2
    assert f"there is no checkpoint {str(tmp_path / 'a.pt')!r}" in capsys.readouterr().err


def run_in_ascii(*arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mixplug", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_no_encoding_of_a_terminal_ends_a_command(tmp_path):
    done = run_in_ascii("plan", "--ssl", "100", "--sl", "100", "--rho", "0.5")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "  " + "." * 20 + "+" * 20 + "#" * 20


def test_what_a_terminal_cannot_show_is_a_question_mark(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("mixplug.lab.recipes.files.describe", lambda path: "Übung")
    assert main(["recipes"]) == 0
    terminal.flush()
    assert b": ?bung\n" in terminal.buffer.getvalue()


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mixplug", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mixplug ")


def test_cuda_means_gpu():
    assert [load_recipe(TINY, [f"device={name}"]).device for name in ("cuda", "gpu", "CPU")] == ["gpu", "gpu", "cpu"]


def test_text_in_brackets_is_text(capsys, tmp_path):
    arguments = ["seeds=1", "description='[/x] y'", "methods.mix.label='[/red] x'", "--out", str(tmp_path)]
    assert main(["compare", TINY, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "[/x] y" in printed
    assert "[/red] x" in printed


def test_what_fails_while_training_is_one_line_and_exit_code_1(capsys, tmp_path):
    fails = ["algorithms=[GyroDropout]", "seeds=1"]
    assert main(["train", TINY, *fails, "--method", "sl", "--out", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert "--traceback shows where" in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_without_composer_it_says_where_there_is_one(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "composer", None)
    monkeypatch.delitem(sys.modules, "mixplug.lab.runs.experiment", raising=False)
    monkeypatch.delitem(sys.modules, "mixplug.lab.studies.train", raising=False)
    assert main(["train", TINY, "--method", "sl"]) == 1
    assert "needs Composer: run `pip install mixplug` with Python 3.10 to 3.12" in capsys.readouterr().err


def test_a_traceback_on_request():
    with pytest.raises(FileNotFoundError):
        main(["compare", "nowhere.yaml", "--traceback"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["recipes"], 0),
        (["plan", "--ssl", "9", "--sl", "9", "--rho", "0.5"], 0),
        (["compare", "digits", "rho=2"], 2),
        (["compare", "digits", "methods=[nothing]"], 2),
        (["train", "digits", "--method", "nothing"], 2),
    ],
)
def test_it_answers_in_a_second(arguments, code, tmp_path):
    """Of processor time, which other processes of a busy machine do not take; on an idle one it is half of it."""

    def seconds():
        before = os.times()
        command = [sys.executable, "-m", "mixplug.lab.cli.main", *arguments]
        assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode == code
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_help_of_a_command_loads_nothing_heavy(module):
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    code = (
        f"import contextlib, sys\nfrom mixplug.lab.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main([{name!r}, '--help'])\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"usage: mixplug {name}" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert module.__name__ in loaded
    assert not loaded & {"torch", "composer", "timm", "numpy", "matplotlib", "omegaconf", "rich", "yaml"}
