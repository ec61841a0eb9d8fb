"""Plain models out of what a Trainer left."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from shared.settings import ROWS, classifier, trainer
from shared.tiny import images, tiny_vit

import mixplug
from mixplug import MixTraining


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    made = trainer(algorithms=[MixTraining()], save_folder=str(folder), save_filename="{epoch}.pt", save_interval="1ep")
    made.fit()
    return made, folder


def same_logits(path, model):
    plain = tiny_vit()
    plain.load_state_dict(load_file(path), strict=True)
    return torch.equal(plain.eval()(images(3)), model.module.eval()(images(3)))


def test_from_a_trainer(trained, tmp_path):
    made, _ = trained
    path = mixplug.export(made, tmp_path / "model.safetensors")
    assert same_logits(path, made.state.model)


def test_from_a_checkpoint_of_any_phase(trained, tmp_path):
    made, folder = trained
    assert same_logits(mixplug.export(folder / "6.pt", tmp_path / "a.safetensors"), made.state.model)
    earlier = mixplug.export(str(folder / "1.pt"), str(tmp_path / "b.safetensors"))
    assert set(load_file(earlier)) == set(tiny_vit().state_dict())


def test_a_model_of_its_own_class_keeps_its_names(tmp_path):
    class Own(type(classifier())):
        pass

    model = classifier()
    model.__class__ = Own
    model.scale = torch.nn.Parameter(torch.ones(()))
    names = set(load_file(mixplug.export(trainer(model, [MixTraining()]), tmp_path / "m.safetensors")))
    assert names == {"scale", *(f"module.{name}" for name in tiny_vit().state_dict())}


@pytest.mark.parametrize("row", [row for row in ROWS if row.name.startswith("MixTraining")], ids=lambda row: row.name)
def test_to_torchscript(row):
    model = trainer(row.model(), row.make()).state.model.eval()
    batch = images(2), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(torch.jit.script(model)(batch), model(batch))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_mixplug_puts_into_a_checkpoint_is_primitives(row, tmp_path):
    made = trainer(row.model(), row.make())
    torch.save([algorithm.state_dict() for algorithm in made.state.algorithms], tmp_path / "state.pt")
    assert len(torch.load(tmp_path / "state.pt", weights_only=True)) == len(made.state.algorithms)
