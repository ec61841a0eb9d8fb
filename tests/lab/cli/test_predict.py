"""From a folder of images to predictions: train, export, predict."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from shared import image_files

import mixplug
from mixplug.backbones.predicting import find_images, load_classifier, predict, read_description
from mixplug.lab.cli.main import main
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

SHARED = Path(__file__).parents[2] / "shared"
CLASSES = ("daisy", "rose", "tulip")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images, what a Trainer's model says of the test images, and the run's folder."""
    root = tmp_path_factory.mktemp("flowers")
    image_files.train_and_test(root / "images", classes=CLASSES, count=5, size=(12, 10))
    data = f"{{dataset: image_folder, root: {root / 'images'}, image_size: 8, batch_size: 4, fraction: 1.0}}"
    recipe = load_recipe(SHARED / "tiny.yaml", [f"data={data}", "data.std=[0.2,0.3,0.4]"])
    experiment = Experiment(recipe, "mix", 0, save_folder=root / "run")
    experiment.trainer.fit()
    logits = torch.cat(experiment.trainer.predict(experiment.inputs.evaluation))
    experiment.trainer.close()
    return root, logits, root / "run"


@pytest.fixture(scope="module")
def model(trained):
    run = trained[2]
    assert main(["export", str(run)]) == 0
    return run / "model.safetensors"


def test_an_export_says_of_images_what_the_trainer_did(trained, model, capsys):
    root, logits, _ = trained
    paths = find_images([root / "images" / "test"])
    assert [path.parent.name for path in paths] == [name for name in CLASSES for _ in range(5)]
    (found,) = predict(load_classifier(model), paths, batch_size=4).values()
    torch.testing.assert_close(found, logits.softmax(1), rtol=0, atol=1e-6)


def test_the_table_and_the_file(trained, model, tmp_path, capsys):
    root, logits, _ = trained
    first = root / "images" / "test" / "daisy" / "0.png"
    folder = root / "images" / "test" / "rose"
    capsys.readouterr()
    assert main(["predict", str(model), str(first), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = logits.softmax(1).max(1)
    assert lines[0].split() == ["Image", "Class", "Probability"]
    assert lines[1].split() == [str(first), CLASSES[best.indices[0]], f"{best.values[0]:.4f}"]
    assert len(lines) == 1 + 1 + 5
    file = tmp_path / "found.csv"
    assert main(["predict", str(model), str(folder), "--top", "9", "--csv", str(file)]) == 0
    assert "The classes of 5 images are in" in capsys.readouterr().out
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert list(rows[0]) == ["image", "rank", "class", "probability"]
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    assert {row["class"] for row in rows[:3]} == set(CLASSES)
    assert sum(float(row["probability"]) for row in rows[:3]) == pytest.approx(1, abs=2e-4)
    assert len(rows) == 15


def test_metadata_are_all_that_it_needs(model, tmp_path, monkeypatch):
    shutil.copy(model, tmp_path / "moved.safetensors")
    monkeypatch.chdir(tmp_path)
    spec, needs = read_description("moved.safetensors")
    assert needs == ""
    assert spec.name == "vit_tiny_patch16_224"
    assert spec.args["embed_dim"] == 16
    assert (spec.shape, spec.classes) == ((3, 8, 8), {"": CLASSES})
    assert spec.statistics == {"": ((0.485, 0.456, 0.406), (0.2, 0.3, 0.4))}


@pytest.mark.slow
def test_predict_needs_no_composer(model, trained):
    image = str(trained[0] / "images" / "test" / "daisy" / "0.png")
    run = f"main({['predict', str(model), image]!r})"
    code = f"import sys; sys.modules['composer'] = None\nfrom mixplug.lab.cli.main import main\n{run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert image in done.stdout


def test_the_public_function_writes_what_the_lab_or_the_user_says(trained, tmp_path):
    run = trained[2]
    file = mixplug.export(run / "checkpoint-ssl.pt", tmp_path / "a.safetensors")
    spec, _ = read_description(file)
    assert spec.classes == {"": CLASSES}
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(file), bare)
    with pytest.raises(ValueError, match=r"does not say what its model is made of; export .* spec=ModelSpec"):
        read_description(bare)
    state = torch.load(run / "checkpoint.pt", weights_only=False)
    state["state"].pop("callbacks")
    torch.save(state, tmp_path / "own.pt")
    mixplug.export(tmp_path / "own.pt", bare, spec=spec)
    assert load_classifier(bare).spec == spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nowhere"], "there is no checkpoint 'nowhere'; mixplug train leaves one"),
        (["predict", "nowhere.safetensors", "x.png"], "there is no model 'nowhere.safetensors'; mixplug export RUN"),
        (["predict", "MODEL", "nowhere"], "there is no image or folder 'nowhere'"),
        (["predict", "MODEL", "empty"], "holds no images"),
        (["predict", "MODEL", "text.txt"], "text.txt cannot be read as an image"),
        (["predict", "text.txt", "text.txt"], "'text.txt' is no safetensors file"),
        (["predict", "MODEL", "text.txt", "--top", "0"], "--top must be a whole number of at least 1, got 0"),
        (["predict", "MODEL", "text.txt", "--device", "tpu"], "--device must be one of"),
        (["predict", "MODEL", "text.txt", "--csv", "no/x.csv"], "there is no folder 'no'"),
    ],
)
def test_bad_input(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    assert main([str(model) if word == "MODEL" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_whose_layers_an_algorithm_changed_is_refused(tmp_path, capsys):
    overrides = ["model={name: resnet18, args: {}}", "algorithms=[SqueezeExcite]", "methods=[sl]"]
    experiment = Experiment(load_recipe(SHARED / "tiny.yaml", overrides), "sl", 0)
    experiment.trainer.save_checkpoint(str(tmp_path / "checkpoint.pt"))
    assert main(["export", str(tmp_path)]) == 2
    assert "not those of 'resnet18', perhaps since an algorithm of the training changed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_grey_images_and_several_tasks(tmp_path):
    experiment = Experiment(load_recipe(SHARED / "tiny.yaml", ["tasks={a: {}, b: {mean: [0.1]}}"]), "sl", 0)
    file = mixplug.export(experiment.trainer, tmp_path / "m.safetensors")
    classifier = load_classifier(file)
    images = []
    for number, pixels in enumerate(experiment.inputs.evaluation.loaders["a"].images[:3]):
        Image.fromarray(pixels[0].numpy()).save(tmp_path / f"{number}.png")
        images.append(pixels)
    found = predict(classifier, find_images([tmp_path / f"{n}.png" for n in range(3)]))
    module = experiment.model.module.cpu().eval()
    for first, (task, mean) in zip((0, 10), {"a": 0.3053, "b": 0.1}.items(), strict=True):
        logits = module((torch.stack(images) / 255 - mean) / 0.3760)[:, first : first + 10]
        torch.testing.assert_close(found[task], logits.softmax(1).detach(), rtol=0, atol=1e-5)


def test_a_model_of_ones_own_needs_its_module_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_parts.py", "tiny.yaml"):
        shutil.copy(SHARED / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    overrides = ["imports=[own_parts]", "model={name: own_parts.make_model}"]
    experiment = Experiment(load_recipe("tiny.yaml", overrides), "sl", 0)
    experiment.trainer.save_checkpoint("checkpoint.pt")
    image_files.picture(0).save("x.png")
    try:
        assert main(["export", "."]) == 0
        assert "whoever loads it needs the module 'own_parts'" in capsys.readouterr().out
        assert main(["predict", "model.safetensors", "x.png"]) == 2
        assert "code that is not in the file; allow it with --import own_parts" in capsys.readouterr().err
        assert main(["predict", "model.safetensors", "x.png", "--import", "own_parts"]) == 0
        assert "x.png" in capsys.readouterr().out
    finally:
        sys.modules.pop("own_parts", None)
