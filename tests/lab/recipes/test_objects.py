from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from composer.core import Algorithm
from composer.optim import ComposerScheduler
from torch import nn
from torch.optim import AdamW, Optimizer

import mixplug
from mixplug import MAE, Cosine, FusedBackbonePass, MixTraining, Objective, PhaseScheduler, Points, Ramp, Steps
from mixplug.algorithms.trainer.contract import find_in
from mixplug.lab.recipes.objects import build, public_classes
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.schedules.shapes import Shape

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"


def test_every_kind_by_name():
    assert build("MAE", Objective, "x").mask == MAE().mask
    assert build({"Cosine": {"start": 1, "stop": 0}}, Shape, "x") == Cosine(1, 0)
    points = {"Points": {"points": [[0, 0.5], [1, 0]]}}
    assert build({"Points": points["Points"]}, Shape, "x") == Points([(0, 0.5), (1, 0)])
    assert isinstance(
        build({"PhaseScheduler": {"ssl": {"ConstantScheduler": None}}}, ComposerScheduler, "x"), PhaseScheduler
    )
    assert isinstance(build({"SGD": {"lr": 1}}, Optimizer, "x", params=nn.Linear(1, 1).parameters()), Optimizer)
    mixed = build({"MixTraining": {"alpha": {"Steps": {"points": [[0, 1], [0.5, 0]]}}}}, Algorithm, "x")
    assert mixed.joint_loss.alpha == Steps([(0, 1), (0.5, 0)])


def test_names_in_any_case():
    assert isinstance(build({"adamw": {"lr": 1}}, Optimizer, "x", params=nn.Linear(1, 1).parameters()), AdamW)
    mixed = build({"mixtraining": {"alpha": {"ramp": {"start": 1, "stop": 0}}}}, Algorithm, "x")
    assert mixed.joint_loss.alpha == Ramp(1, 0)
    overrides = {"MixTraining": {"optimizer_overrides": {"sl": {"weight_decay": 0}}}}
    assert build(overrides, Algorithm, "x").optimizer_settings.settings()


@pytest.mark.parametrize("name", ["SimSiam", "simsiam", {"SimSiam": None}])
def test_a_bare_objective(name):
    assert build({"MixTraining": {"objective": name}}, Algorithm, "x").fused_backbone_pass.objective.kind == "SimSiam"
    assert build({"MixTraining": {"objective": "auto"}}, Algorithm, "x").fused_backbone_pass.objective is not None


@pytest.mark.parametrize(
    ("spec", "kind", "error", "message"),
    [
        ("SimSiam", Algorithm, ValueError, r"^x must be one of .*'MixTraining'.* got 'SimSiam'"),
        ("Objective", Objective, ValueError, r"got 'Objective'"),
        ({"MixTraining": {"alpha": {"Ramp": {"stat": 1}}}}, Algorithm, ValueError, r"^x.MixTraining.alpha.Ramp has no"),
        ({"MixTraining": {"alpha": {"Ramp": 1}}}, Algorithm, TypeError, r"^x.MixTraining.alpha must be a name or"),
        ({"MixTraining": {"alpha": {"Rampp": None}}}, Algorithm, ValueError, r"^x.MixTraining.alpha.*mean 'Ramp'"),
        ({"Ramp": {"start": 1}}, Shape, TypeError, r"^x.Ramp needs the argument\(s\) \['stop'\]"),
        ({"Ramp": {"start": "1", "stop": 0}}, Shape, TypeError, r"^x.Ramp: .*got {'start': '1', 'stop': 0}"),
        ({"MAE": {"decoder_depth": -1}}, Objective, ValueError, r"^x.MAE: decoder_depth"),
    ],
)
def test_what_cannot_be_built_is_named_by_its_key(spec, kind, error, message):
    with pytest.raises(error, match=message):
        build(spec, kind, "x")


def test_a_constructor_takes_what_it_has_parameters_for():
    offers = {"ssl_duration": "4ep", "sl_duration": "2ep", "tasks": {"a": 2}}
    made = build({"MixTraining": {"sl_duration": "3ep"}}, Algorithm, "x", **offers)
    assert (str(made.phase_switch.ssl_duration), str(made.phase_switch.sl_duration)) == ("4ep", "3ep")
    assert build("JointLoss", Algorithm, "x", **offers).alpha == 0.5


@dataclass(frozen=True)
class Constant(Shape):
    """A shape that nobody has heard of."""

    value: float
    over: str | None = None

    @property
    def values(self):
        return (self.value,)

    def at(self, time):
        return self.value


class Watch(Algorithm):
    """An algorithm that nobody has heard of, which takes what it is offered."""

    def __init__(self, weight, ssl_duration, normalisation, tasks):
        self.weight, self.offered = weight, (ssl_duration, normalisation, tasks)

    def match(self, event, state):
        return False

    def apply(self, event, state, logger):
        raise AssertionError("it matches no event")


def test_a_public_name_is_all_that_a_new_class_needs(monkeypatch):
    for kind in (Constant, Watch):
        monkeypatch.setattr(mixplug, kind.__name__, kind, raising=False)
    monkeypatch.setattr(mixplug, "__all__", [*mixplug.__all__, "Constant", "Watch"])
    assert public_classes()["Watch"] is Watch
    recipe = load_recipe(TINY, ["algorithms=[{Watch: {weight: {Constant: {value: 0.25}}}}]"])
    watch = Experiment(recipe, "sl", 0).algorithms[0]
    assert watch.weight == Constant(0.25)
    assert watch.offered == ("2ep", ((0.3053,), (0.3760,)), {"": 10})


@pytest.mark.parametrize(
    ("views", "mean"),
    [
        ("", (0.3053,)),
        ("views: simclr", (0.3053,)),
        ("views: {Views: {recipe: simclr, blur: false}}", (0.3053,)),
        ("views: {Views: {mean: [0.25], std: [0.5]}}", (0.25,)),
    ],
)
def test_views_learn_by_what_the_images_are_normalised(views, mean):
    options = f"{{objective: {{SimSiam: {{{views}}}}}}}"
    experiment = Experiment(load_recipe(TINY, [f"methods.mix.algorithms=[{{MixTraining: {options}}}]"]), "mix", 0)
    (mixed,) = experiment.algorithms
    assert isinstance(mixed, MixTraining)
    assert find_in([mixed], FusedBackbonePass).objective.views.mean == mean
