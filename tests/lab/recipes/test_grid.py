from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mixplug.lab.recipes.grid import grid_points, read_points, text_of

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("alpha=0.1,0.5", [0.1, 0.5]),
        ("alpha=0.1, 0.5", [0.1, 0.5]),
        ("ssl_duration=50ep,100ep", ["50ep", "100ep"]),
        ("alpha=0.5,{Ramp: {start: 1, stop: 0}}", [0.5, {"Ramp": {"start": 1, "stop": 0}}]),
        ("betas=[0.9,0.95],[0.9,0.999]", [[0.9, 0.95], [0.9, 0.999]]),
        ("description='a, b',c", ["a, b", "c"]),
        ("lr=1e-3,1e-4", [0.001, 0.0001]),
        ("scheduler=null,ConstantScheduler", [None, "ConstantScheduler"]),
        ("flag=true,false", [True, False]),
    ],
)
def test_several_values_are_swept(argument, values):
    key = argument.partition("=")[0]
    points = grid_points([argument])
    assert [point.values for point in points] == [{key: value} for value in values]
    # What a point is read with means the same value again.
    assert [OmegaConf.create(p.overrides[0].replace("=", ": ", 1))[key] for p in points] == values


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("data.train=01,02", ["01", "02"]),
        ("data.train=no, off", ["no", "off"]),
        ("data.root=/d/plain #1,/d/plain #2", ["/d/plain #1", "/d/plain #2"]),
        ("data.root='a,b',c", ["a,b", "c"]),
    ],
)
def test_text_that_is_swept_is_as_it_is_written(argument, values):
    points = grid_points([argument])
    assert [[*point.values.values()] for point in points] == [[value] for value in values]
    key = argument.partition("=")[0].rpartition(".")[2]
    assert [getattr(recipe.data, key) for recipe in read_points(TINY, points)] == values


@pytest.mark.parametrize("single", ["alpha=0.1", "betas=[0.9,0.95]", "x={a: 1, b: 2}", "d='a,b'", "x=[1,2", "x", "x="])
def test_a_single_value_holds_at_every_point(single):
    points = grid_points(["epochs=1,2", single] if not single.startswith("epochs") else ["alpha=1,0", single])
    assert [single in point.overrides for point in points] == [True, True]


def test_the_product_in_the_order_given():
    points = grid_points(["epochs=20,10", "seeds=2", "fraction=0.1,1"])
    assert [point.label for point in points] == [
        "epochs=20, fraction=0.1",
        "epochs=20, fraction=1",
        "epochs=10, fraction=0.1",
        "epochs=10, fraction=1",
    ]
    assert points[1].overrides == ["epochs=20", "seeds=2", "fraction=1"]
    assert points[1].folder == "epochs=20,fraction=1"


def test_folders_of_odd_values_are_safe_and_differ():
    values = [
        "../x",
        "a/b",
        "a b",
        "a\\b",
        "'*'",
        "é",
        "{Ramp: {start: 1, stop: 0}}",
        "{Ramp: {start: 0, stop: 1}}",
        "x" * 300,
    ]
    folders = [point.folder for point in grid_points([f"key={','.join(values)}"])]
    assert len({folder.lower() for folder in folders}) == len(values)
    for folder in folders:
        assert re.fullmatch(r"key=[A-Za-z0-9._+=,-]*", folder)
        assert len(folder) < 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a key with several values, such as epochs=20,40,80"),
        (["alpha=0.1"], "'mixplug compare' runs a recipe with single ones"),
        (["alpha=0.1,0.5", "alpha=0.9"], "'alpha' is given 2 times; give all of its values at once: alpha=v1,v2"),
        (["alpha=0.1,0.5,0.10"], "names the value 0.1 2 times"),
        (["epochs=1,", "alpha=0.1,0.5"], "'epochs=1,' has an empty value"),
        (["epochs=1,,2"], "'epochs=1,,2' has an empty value"),
        (["betas=[0.9,0.95],"], "has an empty value"),
        (["epochs=[1,2]", "alpha=0.1,0.5"], "'epochs=[1,2]': write epochs=1,2 without brackets to sweep"),
        (["data.fraction=[0.1, 1]"], "write data.fraction=0.1, 1 without brackets to sweep"),
    ],
)
def test_what_is_no_sweep(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        grid_points(arguments)


def test_recipes_of_the_points():
    recipes = read_points(TINY, grid_points(["epochs=1,3", "rho=0.25", "seeds=5"]))
    assert [recipe.ssl_duration for recipe in recipes] == ["1ep", "3ep"]
    assert [recipe.methods["mix"].algorithms for recipe in recipes] == [[{"MixTraining": {"rho": 0.25}}]] * 2
    assert [recipe.seeds for recipe in recipes] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epochs=1,0"], "epochs must be a whole number of at least 1, got 0"),
        (["epochs=1,2", "sead=3"], "did you mean 'seeds'"),
        (["epochs=1,2", "seeds=0"], "seeds must be a whole number of at least 1"),
        (["methods.mix.label=a,b"], "the same methods at each point"),
        (["data.fraction=0.1,0.2", "fraction=1"], "'data.fraction=0.1' and 'fraction=1' both set data.fraction"),
    ],
)
def test_what_is_wrong_at_one_point(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_points(TINY, grid_points(arguments))


@pytest.mark.parametrize("arguments", [["rho=0,0.5", "alpha=0.1,0.5"], ["alpha=0.1,0.5", "rho=0,0.5"]])
def test_keys_in_any_order(arguments):
    grid = grid_points(arguments)
    found = [(p.values, r.methods["mix"].algorithms) for p, r in zip(grid, read_points(TINY, grid), strict=True)]
    assert len(found) == 4
    assert all(algorithms == [{"MixTraining": values}] for values, algorithms in found)


def test_values_as_text():
    assert [text_of(value) for value in (0.5, 50, "50ep", "0.5", None, True, [1, 2])] == [
        "0.5", "50", "50ep", "'0.5'", "null", "true", "[1, 2]"
    ]  # fmt: skip
