"""How cost grows: recipes that differ in one quantity, what is measured of them, and what is left in the folder."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from mixplug.lab.bench.scaling.growth import Growth, Line, Point
from mixplug.lab.bench.scaling.measure import measure_scaling
from mixplug.lab.bench.scaling.pages import growth_table, left_out_lines, write_growth
from mixplug.lab.bench.scaling.variants import around, default_method, vary
from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.runs.parts import make_module

SMALL = ("data.batch_size=16", "model.args.embed_dim=16", "model.args.num_heads=2", "model.args.depth=2")


def digits(*overrides):
    return load_recipe("digits_epochs", [*SMALL, *overrides])


def by_name(quantities):
    return {quantity.name: quantity.recipes for quantity in quantities}


def test_recipes_differ_in_one_quantity_only():
    recipe = digits()
    before = dataclasses.asdict(recipe)
    quantities, left_out = vary(recipe, "mix_input")
    found = by_name(quantities)
    assert left_out == []
    assert {name: list(recipes) for name, recipes in found.items()} == {
        "tokens": [4, 9, 16, 36],
        "depth": [1, 2, 3, 4],
        "batch size": [4, 8, 16, 32],
        "mask ratio": [0.0, 0.25, 0.5, 0.75, 0.9],
    }
    assert dataclasses.asdict(recipe) == before
    for name, own in {"tokens": 16, "depth": 2, "batch size": 16}.items():
        assert dataclasses.asdict(found[name][own]) == before
    for tokens, variant in found["tokens"].items():
        inputs = make_inputs(variant, 0, torch.device("cpu"))
        assert make_module(variant, inputs).patch_embed.num_patches == tokens
        assert variant.model.args["patch_size"] == recipe.model.args["patch_size"]
    for ratio, variant in found["mask ratio"].items():
        changed = variant.methods["mix_input"].algorithms[0]["MixTraining"]["objective"]["MAE"]
        assert changed.pop("mask_ratio") == ratio
        assert dataclasses.asdict(variant) == before


def test_a_ramp_of_the_mask_ratio_gives_way_to_numbers():
    quantities, _ = vary(digits(), "mix_input_ramps")
    assert list(by_name(quantities)["mask ratio"]) == [0.0, 0.25, 0.5, 0.75, 0.9]


def test_what_a_model_cannot_vary_is_said():
    recipe = digits("model={name: resnet18}", "data.image_size=12")
    quantities, left_out = vary(recipe, "sl")
    assert list(by_name(quantities)) == ["pixels", "batch size"]
    assert [variant.data.image_size for variant in by_name(quantities)["pixels"].values()] == [6, 9, 12, 18]
    assert all("img_size" not in variant.model.args for variant in by_name(quantities)["pixels"].values())
    assert [line.partition(":")[0] for line in left_out] == ["depth", "mask ratio"]
    assert "resnet18 has no depth" in left_out[0]
    assert "sl has no MAE with mask: input" in left_out[1]


@pytest.mark.parametrize(
    ("own", "low", "values"),
    [(12, 1, [3, 6, 12, 18]), (1, 1, [1, 2, 3, 4]), (1, 2, [1, 2, 3, 4]), (3, 2, [2, 3, 4, 5])],
)
def test_values_around_a_number_are_different_and_hold_it(own, low, values):
    assert around(own, (0.25, 0.5, 1, 1.5), low) == values


@pytest.mark.parametrize(("recipe", "method"), [("bench", "mix_input"), ("digits_epochs", "mix_input_ramps")])
def test_the_method_that_is_measured_by_default(recipe, method):
    assert default_method(load_recipe(recipe)) == method


def test_without_masked_input_the_last_method_is_measured():
    assert default_method(load_recipe(Path(__file__).parents[3] / "shared/tiny.yaml")) == "mix"


def test_a_line_and_how_far_points_are_off_it():
    line = Line.through([1e9, 2e9, 4e9], [0.03, 0.05, 0.09])
    assert line is not None
    assert (line.base, line.slope) == (pytest.approx(0.01), pytest.approx(2e-11))
    assert line.deviation == pytest.approx([0, 0, 0], abs=1e-12)
    assert line.at(3e9) == pytest.approx(0.07)
    off = Line.through([0, 1, 2], [1.0, 4.0, 1.0])
    assert off is not None
    assert off.deviation == pytest.approx([-0.5, 1.0, -0.5])
    assert Line.through([1, 2], [1.0, 2.0]) is None


def test_two_points_have_no_line():
    points = [Point("depth", depth, 8.0, 1e6 * depth, [[0.01 * depth]], 1000) for depth in (1, 2)]
    growth = Growth("r", {}, "m", "M", "mix", points, ["tokens: not varied,\n  since so"], {})
    assert [row[4] for row in growth_table(growth).rows] == ["-", "-"]
    assert left_out_lines(growth) == [
        "tokens: not varied, since so",
        "depth: no lines, since 2 points say nothing of one",
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The growth, and the folder of a run of the command."""
    folder = tmp_path_factory.mktemp("scaling")
    command = ["bench", "digits", *SMALL, "data.fraction=0.2", "--scaling", "--method"]
    code = main([*command, "mix_input", "--turns", "2", "--steps", "1", "--out", str(folder), "--traceback"])
    assert code == 0
    return json.loads((folder / "scaling.json").read_text()), folder


@pytest.mark.slow
def test_what_is_measured_of_each_value(measured):
    growth, _ = measured
    assert (growth["method"], growth["phase"]) == ("mix_input", "mix")
    points = {(p["quantity"], p["value"]): p for p in growth["points"]}
    for point in points.values():
        assert [len(block) for block in point["blocks"]] == [1, 1]
        assert min(second for block in point["blocks"] for second in block) > 0
    flops = {name: [p["flops"] for (q, _), p in points.items() if q == name] for name, _ in points}
    peaks = {name: [p["peak"] for (q, _), p in points.items() if q == name] for name, _ in points}
    assert len(set(flops["batch size"])) == 1
    for name in ("tokens", "depth"):
        assert flops[name] == sorted(set(flops[name]))
        assert peaks[name] == sorted(set(peaks[name]))
    assert peaks["batch size"] == sorted(set(peaks["batch size"]))
    assert flops["mask ratio"] == sorted(set(flops["mask ratio"]), reverse=True)
    # A block more is the same arithmetic and memory each time.
    depths = flops["depth"]
    assert {b - a for a, b in itertools.pairwise(depths)} == {depths[1] - depths[0]}
    assert max(map(abs, growth["lines"]["depth"]["memory"]["deviation"])) < 0.02
    assert [p["images"] for (q, _), p in points.items() if q == "batch size"] == [4, 8, 16, 32]
    assert "--scaling --method mix_input" in growth["command"]


@pytest.mark.slow
def test_what_is_left_in_the_folder(measured):
    growth, folder = measured
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "scaling.md").read_text()
    assert page.count("\n| ") == len(growth["points"]) + 2
    for word in ("| mask ratio | 0.9 |", "GFLOP/s", "2 turns of 1 step", "Tokens: patches of an image"):
        assert word in page


def test_batches_that_an_epoch_has_too_few_of_are_left_out_with_words(tmp_path):
    recipe = load_recipe(
        Path(__file__).parents[3] / "shared/tiny.yaml",
        ["data.fraction=0.05", "data.batch_size=16", "model.args.img_size=8"],
    )
    growth = measure_scaling(recipe, 1, 1, "sl")
    assert [p.value for p in growth.quantities["batch size"]] == [4, 8, 16]
    assert any(line.startswith("batch size 32: left out: an epoch has 2 batch(es) of 32") for line in growth.left_out)
    write_growth(growth, tmp_path)
    page = (tmp_path / "scaling.md").read_text()
    assert "- batch size 32: left out" in page
    assert "- mask ratio: not varied" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scaling", "--quick"], "--scaling and --quick do not go together"),
        (["--method", "sl"], "--method goes with --scaling"),
        (["--quick", "--steps", "2"], "--turns and --steps do not go with --quick"),
        (["--scaling", "--method", "mixinput"], "--method must be one of .* did you mean 'mix_input'"),
        (["--scaling", "--method", "ssl_sl_input"], "has the phases SSL and SL and no MIX"),
        (["--scaling", "data.fraction=0.02"], r"an epoch has 2 batch\(es\) of 16 and must have at least 3"),
    ],
    ids=str,
)
def test_what_is_refused(arguments, words, capsys, tmp_path):
    assert main(["bench", "digits", *SMALL, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
