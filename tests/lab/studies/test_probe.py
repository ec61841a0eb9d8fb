"""mixplug probe: a checkpoint's encoder beside the untrained one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mixplug
from mixplug import backbone_of
from mixplug.backbones.probing import extract_features, knn_accuracy, linear_probe_accuracy
from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.inputs import make_inputs, probe_loaders
from mixplug.lab.studies.probe import probe, probe_table

TINY = str(Path(__file__).parents[2] / "shared/tiny.yaml")
SETTINGS = ["pictures=0", "sl_duration=6ep", "methods.sl.optimizer={AdamW: {lr: 0.01}}"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the recipe, with its checkpoint and what was exported of it."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = Experiment(load_recipe(TINY, SETTINGS), "sl", 1, save_folder=folder)
    experiment.run()
    mixplug.export(folder / "checkpoint.pt", folder / "model.safetensors")
    return experiment, folder


def test_a_checkpoint_and_what_is_exported_of_it(trained):
    experiment, folder = trained
    recipe = load_recipe(TINY, SETTINGS)
    results = probe(folder / "checkpoint.pt", recipe, "sl", 1)
    assert [result.encoder for result in results] == ["untrained", "checkpoint.pt"]
    torch.manual_seed(1)
    fresh = Experiment(recipe, "sl", 1).model
    for result, model in zip(results, (fresh, experiment.model), strict=True):
        train, test = probe_loaders(recipe, 1, CPU)[""]
        features = [*extract_features(backbone_of(model), train), *extract_features(backbone_of(model), test)]
        assert result.knn == knn_accuracy(*features)
        assert result.linear == linear_probe_accuracy(*features)
        assert (result.training_images, result.test_images) == (len(features[1]), len(features[3])) == (45, 898)
    assert results[1] != results[0]
    exported = probe(folder / "model.safetensors", recipe, "sl", 1)
    assert [(r.knn, r.linear) for r in exported] == [(r.knn, r.linear) for r in results]


def test_probes_of_a_recipes_runs(trained):
    _, folder = trained
    recipe = load_recipe(TINY, [*SETTINGS, "probes=[linear,knn]"])
    judged = probe(folder / "checkpoint.pt", recipe, "sl", 1)[1]
    result = Experiment(recipe, "sl", 1).run()
    assert list(result.probes.items()) == [("linear", judged.linear), ("knn", judged.knn)]
    assert result.accuracy == result.history["accuracy"][-1][1] != judged.linear
    unsupervised = load_recipe(TINY, ["pictures=0", "sl_duration=0ep", "ssl_duration=1ep", "probes=[linear]"])
    result = Experiment(unsupervised, "ssl_sl", 1).run()
    assert result.accuracy == result.probes["linear"], "no label has trained the classifier"


def test_what_cannot_judge():
    with pytest.raises(ValueError, match=r"probes: the probe must be one of .*'trees'"):
        load_recipe(TINY, ["probes=[trees]"])
    with pytest.raises(ValueError, match="knn200 has 200 neighbours vote, and there are 45 training images"):
        Experiment(load_recipe(TINY, ["probes=[knn200]"]), "sl", 0)


def test_the_command(trained, capsys):
    _, folder = trained
    arguments = ["probe", str(folder / "checkpoint.pt"), TINY, *SETTINGS, "--method", "sl", "--seed", "1", "--k", "5"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "Encoder kNN, k=5 (%) Linear probe (%)"
    shown = [line.split() for line in lines[1:3]]
    expected = probe(folder / "checkpoint.pt", load_recipe(TINY, SETTINGS), "sl", 1, 5)
    assert shown == [[r.encoder, f"{100 * r.knn:.2f}", f"{100 * r.linear:.2f}"] for r in expected]
    assert lines[3] == "Accuracy on frozen features; 45 training and 898 test images."


def test_the_method_whose_ssl_head_is_in_the_checkpoint_need_not_be_named(trained, tmp_path):
    Experiment(load_recipe(TINY, ["pictures=0"]), "mix", 0, save_folder=tmp_path).run()
    recipe = load_recipe(TINY)
    of_mix, of_sl = (probe(tmp_path / "checkpoint.pt", recipe, method, 0) for method in ("mix", "sl"))
    assert of_mix == of_sl


def test_other_classes_and_several_tasks_are_no_other_encoder(trained):
    _, folder = trained
    tasks = ["tasks={a: {fraction: 0.1}, b: {fraction: 0.06}}"]
    results = probe(folder / "checkpoint.pt", load_recipe(TINY, [*SETTINGS, *tasks]), "sl", 1, k=3)
    assert [(r.task, r.encoder) for r in results] == [
        (task, encoder) for task in "ab" for encoder in ("untrained", "checkpoint.pt")
    ]
    assert [r.training_images for r in results] == [90, 90, 54, 54]
    columns = [column.title for column in probe_table(results, 3).columns]
    assert columns == ["Task", "Encoder", "kNN, k=3 (%)", "Linear probe (%)"]
    assert "a: 90 training and 898 test images; b: 54" in probe_table(results, 3).notes[0]


def test_images_of_a_probe_are_those_of_the_training_in_order_and_as_they_are():
    recipe = load_recipe(TINY, ["data.flip=true", "data.crop_padding=2"])
    train, test = probe_loaders(recipe, 4, CPU)[""]
    inputs = make_inputs(recipe, 4, CPU)
    assert torch.equal(train.images, inputs.train.images)
    assert not train.flip
    assert not train.crop_padding
    assert not train.sampler.shuffle
    assert torch.equal(
        torch.cat([labels for _, labels in test]), torch.cat([labels for _, labels in inputs.evaluation])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.args.depth=2", r"another model .* without: blocks.1.norm1.weight, .* and 9 more; give the recipe"),
        ("model.args.depth=3", r"and 21 more"),
        ("model.args.embed_dim=32", r"with other shapes: cls_token \(1, 1, 16\) instead of \(1, 1, 32\)"),
        ("model={name: resnet10t, args: {}}", r"this ResNet of the recipe, without: .* with others: "),
    ],
)
def test_a_checkpoint_of_another_model(trained, change, message):
    _, folder = trained
    with pytest.raises(ValueError, match=message):
        probe(folder / "model.safetensors", load_recipe(TINY, [change]), "sl", 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt", None, "there is no checkpoint 'missing.pt'; mixplug train leaves one"),
        ("missing.safetensors", None, "there is no checkpoint 'missing.safetensors'"),
        ("x.pt", b"nothing of that kind", "'x.pt' is no Composer checkpoint, or a damaged one"),
        ("empty.pt", b"", "'empty.pt' is no Composer checkpoint, or a damaged one"),
        ("x.safetensors", b"nothing of that kind", "'x.safetensors' is no safetensors file"),
    ],
)
def test_files_that_are_no_checkpoints(name, content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    assert main(["probe", name, TINY]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "0"], "--k must be a whole number of at least 1"),
        (["--k", "46"], "k=46 neighbours of 45 training images"),
        (["--method", "nope"], "method must be one of"),
        (["epoch=3"], "epoch"),
    ],
)
def test_bad_options(trained, options, message, capsys):
    assert main(["probe", str(trained[1] / "model.safetensors"), TINY, *options]) == 2
    assert message in capsys.readouterr().err
