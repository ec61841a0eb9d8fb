from __future__ import annotations

import json

import pytest
import torch
from shared.hand_made import bench, cost
from shared.small_recipes import TINY

from mixplug.lab.bench import measure
from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe


def test_a_whole_benchmark(tmp_path, capsys):
    assert main(["bench", str(TINY), "ssl_duration=3ba", "--turns", "2", "--steps", "1", "--out", str(tmp_path)]) == 2
    assert "must have one unit" in capsys.readouterr().err
    arguments = ["data.batch_size=9", "--device", "cpu", "--turns", "2", "--steps", "1", "--out", str(tmp_path)]
    assert main(["bench", str(TINY), *arguments]) == 0
    printed = capsys.readouterr().out
    for words in ("3 methods, 2 turns of 1 step", "MFLOPs/image", "Of ideal", "SL step over a Trainer's", "--turns 2"):
        assert words in printed
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md", "parts.png", "parts.pdf"}
    page = (tmp_path / "bench.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert titles == ["# tiny", "## Steps", "## Parts of a step", "## Trainings", "## Targets"]
    assert "tiny.yaml data.batch_size=9 --device cpu --turns 2 --steps 1`, 2 turns of 1 step, " in page
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["settings"]["device"] == "cpu"
    assert [(s["method"], s["phase"], s["steps"]) for s in kept["stages"]] == [
        ("sl", "sl", 10),
        ("ssl_sl", "ssl", 10),
        ("ssl_sl", "sl", 10),
        ("mix", "ssl", 5),
        ("mix", "mix", 5),
        ("mix", "sl", 5),
    ]
    loops = [stage["loop"] for stage in kept["stages"]]
    assert set(loops) == set(kept["loops"])
    assert len(set(loops)) == 3
    for costs in (*kept["stages"], *kept["loops"].values()):
        assert [len(block) for block in costs["blocks"]] == [1, 1]
        assert min(min(block) for block in costs["blocks"]) > 0
    for stage in kept["stages"]:
        assert stage["images"] == 9
        assert stage["peak"] > 0
        assert stage["held"] > 0
        assert sum(stage["parts"].values()) > 0
        assert len(stage["forward"]) == len(stage["backward"]) == 1


def test_operations_that_change_are_counted_at_each_turn():
    ramp = "{mask: input, mask_ratio: {Ramp: {start: 0.75, stop: 0.25}}}"
    only = ["methods.sl=null", "methods.ssl_sl=null", "ssl_duration=8ba", "sl_duration=8ba"]
    mix = f"methods.mix.algorithms=[{{MixTraining: {{rho: 1, objective: {{MAE: {ramp}}}}}}}]"
    (stage,) = measure.measure(load_recipe(TINY, [*only, mix]), 4, 1).stages
    assert stage.steps == 8
    assert len(stage.forward) == 4
    assert stage.forward == sorted(stage.forward)
    assert stage.forward[0] < stage.forward[-1]


def test_a_missed_target_is_no_failure(tmp_path, capsys, monkeypatch):
    """Wall-clock ratios are for people; and where results go if nobody says where."""
    slower = bench(cost("sl", "sl"), cost("mix", "sl", "MAE (input)", 0.5, seconds=(1.1, 1.1)))
    calls = []
    monkeypatch.setattr(measure, "measure", lambda *arguments: calls.append(arguments) or slower)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "digits", "--turns", "3"]) == 0
    assert "missed" in capsys.readouterr().out
    recipe, turns, steps, _ = calls[0]
    assert (recipe.data.dataset, turns, steps) == ("digits", 3, 4)
    assert (tmp_path / "runs" / "digits-bench" / "bench.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--turns", "0"], "--turns must be a whole number of at least 1, got 0"),
        (["--steps", "-1"], "--steps must be a whole number of at least 1, got -1"),
        (["--device", "tpu"], "device must be one of"),
        (["sead=3"], "unknown key 'sead'"),
    ],
)
def test_bad_options(options, words, tmp_path, capsys):
    assert main(["bench", str(TINY), *options, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capsys):
    assert main(["bench", str(TINY), "--device", "gpu", "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("mixplug: ")
    assert "cuda is not available" in errors
    assert len(errors.strip().splitlines()) == 1
