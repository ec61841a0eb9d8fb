"""Recipes that name a user's own classes and functions, in a module beside them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from composer.callbacks import SpeedMonitor
from composer.core import Algorithm
from composer.optim import ComposerScheduler
from torch.optim import Optimizer

from mixplug.lab.recipes.objects import build
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import settings_of

SHARED = Path(__file__).parents[2] / "shared"
RECIPE = """
extends: tiny.yaml
imports: [own_parts]
model: {name: own_parts.make_model, args: {width: 12}, backbone: features}
optimizer: {own_parts.make_optimizer: {lr: 0.01}}
scheduler: {own_parts.Halved: {}}
algorithms: [{own_parts.Watch: {weight: {own_parts.Weight: {value: 3}}}}]
callbacks: [SpeedMonitor, {own_parts.Note: {word: seen}}]
methods:
  mix: {algorithms: [{MixTraining: {rho: 0.5, objective: {own_parts.Twins: {hidden_dim: 8}}}}]}
  ssl_sl: null
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe file, its module and tiny.yaml in a folder of their own, which Python forgets afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for file in ("own_parts.py", "tiny.yaml"):
        shutil.copy(SHARED / file, tmp_path / file)
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE)
    yield path
    sys.modules.pop("own_parts", None)


def test_a_run_of_own_classes_beside_the_recipe(recipe):
    loaded = load_recipe(recipe)
    own = Experiment(loaded, "mix", 0)
    parts = sys.modules["own_parts"]
    assert isinstance(own.model.module, parts.Net)
    assert own.model.module.features[0].out_channels == 12
    assert own.trainer.state.optimizers[0].param_groups[0]["lr"] == 0.01 / 2  # the scheduler's half
    assert isinstance(own.model.ssl_objective, parts.Twins)
    watch = next(a for a in own.algorithms if isinstance(a, parts.Watch))
    assert watch.weight.value == 3
    assert watch.tasks == {"": 10}  # offered
    assert {SpeedMonitor, parts.Note} <= {type(c) for c in own.trainer.state.callbacks}
    result = own.run()
    assert result.cost is None, "what an algorithm of others makes of a step is not known"
    assert parts.Note.words == ["seen"]


def test_costs_of_a_named_encoder(recipe):
    plain = Experiment(load_recipe(recipe, ["algorithms=[]", "callbacks=[]"]), "mix", 0)
    assert plain.cost is not None
    assert plain.cost > 0
    unnamed = Experiment(load_recipe(recipe, ["algorithms=[]", "model.backbone=''"]), "sl", 0)
    assert unnamed.cost is None


def test_a_recipe_laid_over_it_finds_the_module(recipe, tmp_path):
    (tmp_path / "deeper").mkdir()
    over = tmp_path / "deeper" / "over.yaml"
    over.write_text("extends: ../own.yaml\nimports: [json]\n")
    loaded = load_recipe(over)
    assert loaded.imports == ["own_parts", "json"]
    assert Experiment(loaded, "sl", 0).model.module is not None


def test_a_module_in_the_working_directory_for_the_command_line(recipe, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    loaded = load_recipe("tiny.yaml", ["imports=[own_parts]", "model={name: own_parts.make_model, args: {width: 3}}"])
    assert type(Experiment(loaded, "sl", 0).model.module).__name__ == "Net"


def test_a_module_with_the_name_of_another_is_refused(recipe):
    (recipe.parent / "json.py").write_text("")
    recipe.write_text("extends: tiny.yaml\nimports: [json]\n")
    with pytest.raises(RecipeError, match=r"has a module 'json', and Python has another of that name; rename"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("imports=[nowhere_at_all]", ValueError, r"^imports: there is no module 'nowhere_at_all'; install it, or put"),
        ("imports=[own_parts, own_parts.broken]", ValueError, r"^imports: there is no module 'own_parts.broken'"),
        ("algorithms=[own_parts.Wach]", ValueError, r"algorithms.0: the module 'own_parts' has no 'Wach'.*'Watch'"),
        ("algorithms=[own_parts.Twins]", TypeError, r"own_parts.Twins must be an Algorithm \(composer's\)"),
        ("algorithms=[own_parts.make_optimizer: {params: []}]", ValueError, r"^algorithms.0.own_parts.make_optimizer"),
        ("algorithms=[own_parts.nothing]", TypeError, r"own_parts.nothing must make an Algorithm .*got None"),
        ("algorithms=[{own_parts.Watch: {wight: 1}}]", ValueError, r"own_parts.Watch has no argument 'wight'"),
        ("callbacks=[SpeedMonitr]", ValueError, r"^callbacks.0 must be one of .*mean 'SpeedMonitor'"),
        ("model.name=own_parts.wrapped", TypeError, r"not wrapped for Composer, got ComposerClassifier"),
        ("model.name=own_parts.seven", ValueError, r"must give 10 logits, \(1, 10\) for one image, got \(1, 7\)"),
        ("model.name=own_parts.nothing", ValueError, r"^model: own_parts.nothing with {'width': 12} fails"),
        ("model.name=resnet_18.a1", ValueError, r"^model.name: there is no module 'resnet_18'"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_named(recipe, override, error, message):
    with pytest.raises(error, match=message):
        Experiment(load_recipe(recipe, [override]), "sl", 0)


def test_a_module_that_fails_says_how(recipe):
    (recipe.parent / "own_broken.py").write_text("1 / 0")
    with pytest.raises(
        ValueError, match=r"^imports: importing 'own_broken' fails: ZeroDivisionError: division by zero"
    ):
        Experiment(load_recipe(recipe, ["imports=[own_parts, own_broken]"]), "sl", 0)


def test_dotted_names_of_libraries():
    assert isinstance(build({"torch.optim.SGD": {"lr": 1, "params": _parameters()}}, Optimizer, "x"), Optimizer)
    assert isinstance(build("composer.algorithms.LabelSmoothing", Algorithm, "x"), Algorithm)
    assert callable(build("composer.optim.ConstantScheduler", ComposerScheduler, "x"))


def _parameters():
    import torch

    return [torch.nn.Parameter(torch.zeros(1))]


# ------------------------------------------------------------------------------------------------------------- loggers


def test_a_logger_writes_beside_the_results(tmp_path):
    recipe = load_recipe(SHARED / "tiny.yaml", ["loggers=[{FileLogger: {flush_interval: 1}}]"])
    for number in ("", "-2"):  # a second time it leaves what the first has logged
        Experiment(recipe, "sl", 0, logs=tmp_path).run()
        assert "loss/train/total" in (tmp_path / f"sl-seed0{number}-rank0.txt").read_text()
    Experiment(recipe, "sl", 0)
    assert len(list(tmp_path.iterdir())) == 2, "what is not run logs nothing"


def test_a_logger_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe(SHARED / "tiny.yaml", ["loggers=[{WandBLogger: {project: p}}]"])
    with pytest.raises(ValueError, match=r"^loggers.0.WandBLogger: .*`pip install 'mosaicml\[wandb\]'`"):
        Experiment(recipe, "sl", 0, logs=tmp_path)


def test_folders_from_before_own_code_go_on():
    tiny = SHARED / "tiny.yaml"
    before = settings_of(load_recipe(tiny), "sl")
    assert not {"callbacks", "loggers", "imports"} & before.keys()
    assert "backbone" not in before["model"]
    assert settings_of(load_recipe(tiny, ["loggers=[FileLogger]"]), "sl") == before
    assert settings_of(load_recipe(tiny, ["callbacks=[SpeedMonitor]"]), "sl") != before
