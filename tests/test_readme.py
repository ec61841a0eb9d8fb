"""What the README shows of recipes, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
from composer import Trainer
from composer.models import ComposerClassifier
from shared import image_files
from shared.settings import logged, trainer
from shared.tiny import loader, tiny_vit
from shared.two_view import tiny_cnn, views

import mixplug.objectives
from mixplug import MixTraining, MultiTaskClassifier
from mixplug.data.loaders import ImageLoader
from mixplug.data.multi_task import MultiTaskLoader
from mixplug.lab.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def images_of_ten_classes(count):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageLoader(pixels, torch.arange(count) % 10, 2, (0.5,) * 3, (0.5,) * 3, shuffle=True)


def test_several_tasks():
    section = README.read_text().split("## Several tasks at once")[1]
    text = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    assert '"150ep"' in text
    made = {
        "timm": timm,
        "Trainer": Trainer,
        "MixTraining": MixTraining,
        "MultiTaskClassifier": MultiTaskClassifier,
        "MultiTaskLoader": MultiTaskLoader,
        "cifar10_loader": images_of_ten_classes(2),
        "svhn_loader": images_of_ten_classes(4),
    }
    exec(compile(text.replace('"150ep"', '"3ep"'), "README.md", "exec"), made)
    assert len(made["train"]) == 2
    assert made["model"].ssl_objective is not None, "it went through SSL and MIX"


def two_views_section():
    section = README.read_text().split("## Two views, on any backbone")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_two_views_on_a_residual_network():
    text, _ = two_views_section()
    train = ImageLoader(
        torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8),
        torch.arange(8),
        4,
        (0.5,) * 3,
        (0.5,) * 3,
        shuffle=True,
    )
    made = {**vars(mixplug.objectives), "timm": timm, "Trainer": Trainer, "ComposerClassifier": ComposerClassifier}
    made |= {"MixTraining": MixTraining, "Views": mixplug.Views, "small_image_stem": mixplug.small_image_stem}
    made |= {"train": train, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    small = text.replace('"150ep"', '"3ep"').replace('"resnet18"', '"resnet18", channels=(8, 8, 8, 16)')
    assert small != text
    exec(compile(small, "README.md", "exec"), made)
    assert made["model"].maxpool.__class__ is torch.nn.Identity


def test_an_objective_of_your_own():
    _, text = two_views_section()
    assert len(text.splitlines()) <= 30
    made = {"TwoView": mixplug.objectives.TwoView, "nn": torch.nn, "torch": torch}
    exec(compile(text, "README.md", "exec"), made)
    for model, images in ((tiny_vit(), 8), (tiny_cnn(), 8)):
        objective = made["BarlowTwins"](views("byol"), out_dim=8)
        run = trainer(
            ComposerClassifier(model), [MixTraining(objective=objective)], train_dataloader=loader(2 * images)
        )
        run.fit()
        losses = logged(run, "loss/train/ssl")
        assert all(loss > 0 for loss in losses[:8])
        assert run.state.model.ssl_objective.projector[0].in_features == 16
        assert "off_diagonal=0.005" in repr(objective)


def test_from_a_folder_of_images_to_a_table(tmp_path, monkeypatch, capsys):
    section = README.read_text().split("## Your own images")[1]
    text = re.search(r"```yaml\n(.*?)```", section, re.DOTALL).group(1)
    assert len(text.splitlines()) < 25
    image_files.train_and_test(tmp_path / "flowers", classes=("daisy", "rose", "tulip"), count=8, size=(90, 70))
    (tmp_path / "flowers.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    # As it stands there but for its length: 2 epochs, one of them merged, in place of 30.
    assert main(["compare", "flowers.yaml", "epochs=2", "data.batch_size=6", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    for label in ("SL", "SSL+SL (input)", "MixTraining (input)", "MixTraining (input, ramps)", "1+1+1 ep"):
        assert label in printed
    assert "features" not in printed
    assert "paper" not in printed.lower(), "the paper has no figures for flowers"
    assert (tmp_path / "runs" / "flowers" / "pareto.png").exists()
