from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixplug.lab.recipes.overrides import expand
from mixplug.lab.recipes.schema import RecipeError, load_recipe

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
RHO = "methods.mix.algorithms.0.MixTraining.rho"
RAMP = {"Ramp": {"start": 1.0, "stop": 0.0}}


def algorithms(recipe):
    return {key: method.algorithms for key, method in recipe.methods.items()}


def recipe_of(tmp_path, methods: str, shared: str = "[]"):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"algorithms: {shared}\nmethods:\n{methods}")
    return path


def test_epochs_and_fraction():
    recipe = load_recipe(TINY, ["epochs=7", "fraction=0.25"])
    assert (recipe.ssl_duration, recipe.sl_duration, recipe.data.fraction) == ("7ep", "7ep", 0.25)


def test_batch_size_and_lr(tmp_path):
    recipe = load_recipe(TINY, ["batch_size=7", "lr=0.5"])
    assert (recipe.data.batch_size, recipe.optimizer) == (7, {"AdamW": {"lr": 0.5}})


def test_lr_of_every_optimizer_and_nothing_else(tmp_path):
    path = recipe_of(tmp_path, "  a: {optimizer: '${vars.own}'}\n  b: {}\n  c: {optimizer: '${vars.own}'}")
    path.write_text(f"{path.read_text()}\nvars: {{own: {{SGD: {{lr: 1, momentum: 0.9}}}}}}\n")
    recipe = load_recipe(path, ["methods.c.optimizer={SGD: {momentum: 0.5}}", "lr=0.5"])
    assert recipe.optimizer == {"AdamW": {"lr": 0.5, "weight_decay": 0.05}}, "the default's other settings stay"
    assert recipe.methods["a"].optimizer == {"SGD": {"lr": 0.5, "momentum": 0.9}}
    assert recipe.methods["b"].optimizer is None
    assert recipe.methods["c"].optimizer == {"SGD": {"momentum": 0.5, "lr": 0.5}}
    assert load_recipe(TINY, ["optimizer={SGD: {}}", "lr=0.5"]).optimizer == {"SGD": {"lr": 0.5}}
    with pytest.raises(RecipeError, match=r"both set optimizer\.AdamW\.lr"):
        load_recipe(TINY, ["optimizer.AdamW.lr=0.1", "lr=0.5"])


def test_alpha_and_rho_find_algorithms_in_any_case(tmp_path):
    path = recipe_of(
        tmp_path, "  a: {algorithms: [mixtraining: {rho: 0.5}]}\n  b: {algorithms: [mixtraining: {rho: 0}]}"
    )
    assert algorithms(load_recipe(path, ["rho=1"])) == {
        "a": [{"mixtraining": {"rho": 1}}],
        "b": [{"mixtraining": {"rho": 0}}],
    }


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("data.train=01", lambda recipe: recipe.data.train),
        ("data.train=no", lambda recipe: recipe.data.train),
        ("data.root=/d/plain #2", lambda recipe: recipe.data.root),
        ("data.root=[old] {x}: y", lambda recipe: recipe.data.root),
        ("ssl_data.root=1e3", lambda recipe: recipe.ssl_data.root),
        ("methods.sl.label=2024", lambda recipe: recipe.methods["sl"].label),
        ("methods[sl].label=null", lambda recipe: recipe.methods["sl"].label),
        ("tasks.a.train=01", lambda recipe: recipe.task_data()["a"].train),
        ("expect.source=Table 1: ours", lambda recipe: recipe.expect.source),
        ("compile=", lambda recipe: recipe.compile),
    ],
)
def test_text_is_taken_as_it_is_written(override, read):
    more = ["tasks={a: {}, b: {}}"] if "tasks" in override else []
    assert read(load_recipe(TINY, [*more, override])) == override.partition("=")[2]


@pytest.mark.parametrize("override", ["cost=", "max_cost= ", "data.fraction=", "methods.sl="])
def test_what_is_no_text_needs_a_value(override):
    with pytest.raises(RecipeError, match=f"{override!r} has no value; .* or {override.split('=')[0]}=null"):
        load_recipe(TINY, [override])
    assert load_recipe(TINY, ["max_cost=null"]).max_cost is None


@pytest.mark.parametrize("quoted", ["'it is #1'", '"it is #1"'])
def test_text_in_quotes_is_what_they_hold(quoted):
    assert load_recipe(TINY, [f"description={quoted}"]).description == "it is #1"


def test_what_is_no_text_is_yaml_as_ever():
    recipe = load_recipe(TINY, ["data.flip=yes", "model.args={depth: 2, a: '1'}", "data.mean=[0.5]"])
    assert (recipe.data.flip, recipe.model.args, recipe.data.mean) == (True, {"depth": 2, "a": "1"}, [0.5])


def test_alpha_and_rho_leave_the_baseline_alone():
    recipe = load_recipe(TINY, ["alpha=0.1", "rho=0.25"])
    assert algorithms(recipe) == {
        "sl": [],
        "ssl_sl": [{"MixTraining": {"rho": 0}}],
        "mix": [{"MixTraining": {"rho": 0.25, "alpha": 0.1}}],
    }


def test_a_ramp_is_another_method_and_stays(tmp_path):
    path = recipe_of(
        tmp_path,
        "  a: {algorithms: [MixTraining: {alpha: {Ramp: {start: 1.0, stop: 0.0}}}]}\n  b: {algorithms: [MixTraining]}",
    )
    recipe = load_recipe(path, ["alpha=0.1", "rho=0.25"])
    assert algorithms(recipe) == {
        "a": [{"MixTraining": {"alpha": RAMP, "rho": 0.25}}],
        "b": [{"MixTraining": {"alpha": 0.1, "rho": 0.25}}],
    }


def test_a_ramp_may_be_given(tmp_path):
    recipe = load_recipe(TINY, ["alpha={Ramp: {start: 1.0, stop: 0.0}}"])
    assert algorithms(recipe)["mix"] == [{"MixTraining": {"rho": 0.5, "alpha": RAMP}}]


@pytest.mark.parametrize("written", ["MixTraining", "MixTraining: ", "MixTraining: {}", "{MixTraining: {rho: 0.5}}"])
def test_however_an_algorithm_is_written(tmp_path, written):
    recipe = load_recipe(
        recipe_of(tmp_path, f"  a.b: {{algorithms: [LabelSmoothing, {written}]}}"), ["alpha=0.1", "rho=1"]
    )
    assert algorithms(recipe)["a.b"] == ["LabelSmoothing", {"MixTraining": {"alpha": 0.1, "rho": 1}}]


def test_the_pieces_have_them_too(tmp_path):
    pieces = "[PhaseSwitch: {rho: %s}, FusedBackbonePass, JointLoss: {alpha: 0.5}]"
    path = recipe_of(tmp_path, f"  a: {{algorithms: {pieces % 0.5}}}\n  b: {{algorithms: {pieces % 0}}}")
    recipe = load_recipe(path, ["alpha=0.1", "rho=0.25"])
    assert algorithms(recipe) == {
        "a": [{"PhaseSwitch": {"rho": 0.25}}, "FusedBackbonePass", {"JointLoss": {"alpha": 0.1}}],
        "b": [{"PhaseSwitch": {"rho": 0}}, "FusedBackbonePass", {"JointLoss": {"alpha": 0.5}}],
    }


def test_algorithms_that_all_methods_share(tmp_path):
    path = recipe_of(
        tmp_path, "  a: {algorithms: []}\n  b: {algorithms: [LabelSmoothing]}", "[MixTraining: {rho: 0.5}]"
    )
    assert load_recipe(path, ["rho=0.25"]).algorithms == [{"MixTraining": {"rho": 0.25}}]
    zero = recipe_of(tmp_path, "  a: {algorithms: [JointLoss]}", "[PhaseSwitch: {rho: 0}]")
    with pytest.raises(RecipeError, match="whose rho is not 0"):
        load_recipe(zero, ["alpha=0.25"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epochs=0"], "the override 'epochs=0' cannot be applied: epochs must be a whole number of at least 1, got 0"),
        (["epochs=2.5"], "epochs must be a whole number of at least 1, got 2.5"),
        (["epochs=50ep"], "epochs must be a whole number of at least 1, got '50ep'"),
        (["methods={sl: {}}", "alpha=0.1"], "no method has a MixTraining or JointLoss whose rho is not 0"),
        (["methods={sl: {}}", "rho=0.1"], "name the full key, such as methods.KEY.algorithms.0.MixTraining.rho"),
        (
            ["methods.mix.algorithms=[{MixTraining: {alpha: {Ramp: {start: 1, stop: 0}}}}]", "alpha=0.1"],
            "not a schedule",
        ),
        (["methods=[sl]", "alpha=0.1"], "no method has"),
        (["methods={a: {algorithms: 3}, b: 4, c: {algorithms: [3, {a: 1, b: 2}]}}", "alpha=0.1"], "no method has"),
        (["fraction=much"], "data.fraction must be a number, got 'much'"),
        (["lr=fast"], "lr must be a number in (0, inf), got 'fast'"),
        (["lr=0"], "lr must be a number in (0, inf), got 0"),
    ],
)
def test_what_cannot_be_applied(overrides, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(TINY, overrides)


def test_full_keys_go_on_working():
    assert expand({}, "data.fraction", 1) == {"data.fraction": 1}
    recipe = load_recipe(TINY, ["methods.ssl_sl.algorithms.0.MixTraining.rho=0.25"])
    assert algorithms(recipe)["ssl_sl"] == [{"MixTraining": {"rho": 0.25}}]


@pytest.mark.parametrize(
    ("arguments", "first", "second", "path"),
    [
        (["data.fraction=0.1", "fraction=0.2"], "data.fraction=0.1", "fraction=0.2", "data.fraction"),
        (["epochs=2", "sl_duration=3ep"], "epochs=2", "sl_duration=3ep", "sl_duration"),
        (["seeds=2", "seeds=3"], "seeds=2", "seeds=3", "seeds"),
        (["rho=0.1", f"{RHO}=0.2"], f"{RHO}=0.2", "rho=0.1", RHO),
        (["methods[mix].algorithms[0].MixTraining.rho=1", f"{RHO}=0"], "methods[mix]", f"{RHO}=0", RHO),
        (["alpha=0.1", "alpha=0.2"], "alpha=0.1", "alpha=0.2", RHO.replace("rho", "alpha")),
    ],
)
def test_two_that_set_the_same_are_refused(arguments, first, second, path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(TINY, arguments)
    message = str(caught.value)
    assert message.startswith(f"'{first}")
    assert f"{second!r} both set {path}; give one of them" in message


def test_and_so_are_two_that_are_the_same():
    with pytest.raises(RecipeError, match="'epochs=2' and 'epochs=2' both set ssl_duration"):
        load_recipe(TINY, ["epochs=2", "epochs=2"])


def test_what_is_next_to_each_other_is_not_the_same():
    arguments = [f"{RHO}=0.25", "alpha=0.1", "epochs=3", "methods.ssl_sl.algorithms.0.MixTraining.alpha=0.3"]
    recipe = load_recipe(TINY, arguments)
    assert recipe.methods["mix"].algorithms == [{"MixTraining": {"rho": 0.25, "alpha": 0.1}}]
    assert recipe.methods["ssl_sl"].algorithms == [{"MixTraining": {"rho": 0, "alpha": 0.3}}]


@pytest.mark.parametrize("arguments", [["rho=0", "alpha=0.1"], ["alpha=0.1", "rho=0"]])
def test_any_order_gives_the_same(arguments):
    recipe = load_recipe(TINY, arguments)
    assert recipe.methods["mix"].algorithms == [{"MixTraining": {"rho": 0, "alpha": 0.1}}]


def test_methods_that_are_given_come_before_what_is_to_be_written_into_them():
    arguments = ["rho=0.25", "methods={a: {algorithms: [MixTraining]}}"]
    recipe = load_recipe(TINY, arguments)
    assert recipe.methods["a"].algorithms == [{"MixTraining": {"rho": 0.25}}]


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("epoch=3", "did you mean 'epochs'"), ("fractions=.1", "did you mean 'fraction'"), ("alhpa=1", "mean 'alpha'")],
)
def test_a_misspelt_short_key(argument, hint):
    with pytest.raises(RecipeError, match=re.escape(hint)):
        load_recipe(TINY, [argument])


@pytest.mark.parametrize(("short", "full"), [("cost", "max_cost"), ("flops", "max_flops"), ("minutes", "max_minutes")])
def test_a_budget_stands_in_place_of_any_other(short, full):
    recipe = load_recipe("digits", [f"{short}=7"])
    assert recipe.budgets == [full]
    assert getattr(recipe, full) == 7
    with pytest.raises(RecipeError, match=rf"both set {full}"):
        load_recipe(TINY, [f"{short}=7", f"{full}=8"])


def test_epochs_stand_in_place_of_a_budget():
    assert load_recipe("digits", ["epochs=7"]).budgets == []
    assert load_recipe("digits").budgets == ["max_cost"]


def test_two_budgets_are_refused():
    with pytest.raises(
        RecipeError, match=r"max_cost and max_minutes are budgets, of which a run has one.*cost= or flops="
    ):
        load_recipe(TINY, ["max_cost=7", "max_minutes=8"])
