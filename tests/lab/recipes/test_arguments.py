from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixplug.lab.recipes.arguments import settled
from mixplug.lab.recipes.schema import RecipeError, load_recipe

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
RHO = "methods.mix.algorithms.0.MixTraining.rho"


@pytest.mark.parametrize(
    ("arguments", "first", "second", "path"),
    [
        (["data.fraction=0.1", "fraction=0.2"], "data.fraction=0.1", "fraction=0.2", "data.fraction"),
        (["epochs=2", "sl_duration=3ep"], "epochs=2", "sl_duration=3ep", "sl_duration"),
        (["seeds=2", "seeds=3"], "seeds=2", "seeds=3", "seeds"),
        (["rho=0.1", f"{RHO}=0.2"], f"{RHO}=0.2", "rho=0.1", RHO),
        (["methods[mix].algorithms[0].MixTraining.rho=1", f"{RHO}=0"], "methods[mix]", f"{RHO}=0", RHO),
        (["alpha=0.1", "alpha=0.2"], "alpha=0.1", "alpha=0.2", "alpha"),
    ],
)
def test_two_that_set_the_same_are_refused(arguments, first, second, path):
    with pytest.raises(RecipeError) as caught:
        settled(TINY, arguments)
    message = str(caught.value)
    assert message.startswith(f"'{first}")
    assert f"{second!r} both set {path}; give one of them" in message


def test_and_so_are_two_that_are_the_same():
    with pytest.raises(RecipeError, match="'epochs=2' and 'epochs=2' both set ssl_duration"):
        settled(TINY, ["epochs=2", "epochs=2"])


def test_the_option_is_one_of_them():
    with pytest.raises(RecipeError, match="'--seeds 3' and 'seeds=2' both set seeds"):
        settled(TINY, ["seeds=2"], 3)


def test_what_is_next_to_each_other_is_not_the_same():
    arguments = [f"{RHO}=0.25", "alpha=0.1", "epochs=3", "methods.ssl_sl.algorithms.0.MixTraining.alpha=0.3"]
    recipe = load_recipe(TINY, settled(TINY, arguments))
    assert recipe.methods["mix"].algorithms == [{"MixTraining": {"rho": 0.25, "alpha": 0.1}}]
    assert recipe.methods["ssl_sl"].algorithms == [{"MixTraining": {"rho": 0, "alpha": 0.3}}]


@pytest.mark.parametrize("arguments", [["rho=0", "alpha=0.1"], ["alpha=0.1", "rho=0"]])
def test_any_order_gives_the_same(arguments):
    recipe = load_recipe(TINY, settled(TINY, arguments))
    assert recipe.methods["mix"].algorithms == [{"MixTraining": {"rho": 0, "alpha": 0.1}}]


def test_methods_that_are_given_come_before_what_is_to_be_written_into_them():
    arguments = ["rho=0.25", "methods={a: {algorithms: [MixTraining]}}"]
    recipe = load_recipe(TINY, settled(TINY, arguments))
    assert recipe.methods["a"].algorithms == [{"MixTraining": {"rho": 0.25}}]


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("epoch=3", "did you mean 'epochs'"), ("fractions=.1", "did you mean 'fraction'"), ("alhpa=1", "mean 'alpha'")],
)
def test_a_misspelt_short_key(argument, hint):
    with pytest.raises(RecipeError, match=re.escape(hint)):
        settled(TINY, [argument])


def test_other_misspelt_keys_are_for_the_recipe_to_refuse():
    assert settled(TINY, ["sead=3", "nonsense=1"]) == ["sead=3", "nonsense=1"]
