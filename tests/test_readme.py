"""What the READMEs say, held to what there is: code runs, recipes load, commands parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import composer
import composer.optim
import pytest
import timm
import torch
from shared import image_files, readmes
from shared.fake_runs import fake_comparison
from shared.readmes import READMES, ROOT, block, blocks, run
from shared.settings import classifier, logged, trainer
from shared.tiny import images, labels, loader, tiny_vit
from shared.two_view import tiny_cnn, views
from torch.utils.data import DataLoader, TensorDataset

import mixplug
from mixplug import MixTraining
from mixplug.data.loaders import ImageLoader
from mixplug.lab.cli import main as cli
from mixplug.lab.pages.tables import comparison_table
from mixplug.lab.recipes.files import shipped_recipes
from mixplug.lab.recipes.grid import grid_points, read_points
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment

ROOMS = sorted(path.name for path in (ROOT / "mixplug").iterdir() if (path / "__init__.py").is_file())
LAB, DATA, OBJECTIVES = (f"mixplug/{room}/README.md" for room in ("lab", "data", "objectives"))
ALGORITHMS, TRAINING, BACKBONES = (f"mixplug/{room}/README.md" for room in ("algorithms", "training", "backbones"))


# ------------------------------------------------------------------------------------------------------- code that runs


def colour_images(count: int, classes: int = 10, batch_size: int = 2) -> ImageLoader:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageLoader(pixels, torch.arange(count) % classes, batch_size, (0.5,) * 3, (0.5,) * 3, shuffle=True)


def still_images() -> DataLoader:
    return DataLoader(TensorDataset(images(24, 3, 32, 32), labels(24)), batch_size=24)


def for_a_trainer() -> dict[str, Any]:
    """What a snippet of a Composer training takes as known."""
    names = {name: getattr(mixplug, name) for name in mixplug.__all__}
    names |= {
        "AdamW": torch.optim.AdamW,
        "Trainer": composer.Trainer,
        "ComposerClassifier": composer.models.ComposerClassifier,
        "timm": timm,
    }
    return names | {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def two_tasks() -> dict[str, Any]:
    return {**for_a_trainer(), "cifar10_loader": colour_images(2), "svhn_loader": colour_images(4)}


def bytes_in_memory() -> dict[str, Any]:
    pixels = torch.zeros(70, 3, 8, 8, dtype=torch.uint8)
    return {"images": pixels, "labels": labels(70), "mean": (0.5,) * 3, "std": (0.5,) * 3}


def table_7() -> dict[str, Any]:
    schedulers = vars(composer.optim)
    return {**schedulers, **for_a_trainer(), "model": classifier(), "train": loader()}


def trained() -> dict[str, Any]:
    """A Trainer of timm's model with ``arguments``."""
    arguments = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 12, "depth": 1}
    model = composer.models.ComposerClassifier(timm.create_model("vit_tiny_patch16_224", **arguments))
    return {"trainer": trainer(model, [MixTraining()]), "arguments": arguments}


def went_through_all_phases(names: dict[str, Any]) -> None:
    assert names["model"].ssl_objective is not None


def gives_batches(names: dict[str, Any]) -> None:
    assert [x.shape for x, _ in names["train"]] == [(64, 3, 8, 8), (6, 3, 8, 8)]


def barlow_twins_trains(names: dict[str, Any]) -> None:
    for model, count in ((tiny_vit(), 8), (tiny_cnn(), 8)):
        objective = names["BarlowTwins"](views("byol"), out_dim=8)
        module = composer.models.ComposerClassifier(model)
        made = trainer(module, [MixTraining(objective=objective)], train_dataloader=loader(2 * count))
        made.fit()
        assert all(loss > 0 for loss in logged(made, "loss/train/ssl")[:8])
        assert made.state.model.ssl_objective.projector[0].in_features == 16
        assert "off_diagonal=0.005" in repr(objective)


def tokens_are_dropped(names: dict[str, Any]) -> None:
    trainer(algorithms=[MixTraining(), names["DropTokens"](0.5)]).fit()


@dataclass(frozen=True)
class Example:
    """A block of Python: where it stands, a part that no other has, and how it is run in a second."""

    readme: str
    part: str
    given: Callable[[], dict[str, Any]] = dict
    shorter: dict[str, str] = field(default_factory=dict)
    check: Callable[[dict[str, Any]], None] = lambda names: None


EXAMPLES = [
    Example(
        "README.md",
        "eval_metric_values",
        shorter={'"240ep"': '"3ep"', '"40ep", "220ep"': '"2ep", "2ep"', '"5ep"': '"0ep"'},
        check=went_through_all_phases,
    ),
    Example(ALGORITHMS, "ssl_factor", table_7),
    Example(ALGORITHMS, "class DropTokens", check=tokens_are_dropped),
    Example(BACKBONES, "backbone_of", lambda: {"images": images(4)}),
    Example(BACKBONES, "export(", trained),
    Example(DATA, "crop_padding", bytes_in_memory, check=gives_batches),
    Example(
        DATA,
        "MultiTaskLoader",
        two_tasks,
        {'"150ep"': '"3ep"', "patch_size=2": "patch_size=8, depth=2"},
        went_through_all_phases,
    ),
    Example(
        OBJECTIVES,
        "small_image_stem",
        lambda: {
            **for_a_trainer(),
            "train": colour_images(8, 8, 4),
            **dict.fromkeys(("labelled", "test"), still_images()),
        },
        {'"150ep"': '"3ep"', '"resnet18"': '"resnet18", channels=(8, 8, 8, 16)'},
        went_through_all_phases,
    ),
    Example(OBJECTIVES, "class BarlowTwins", check=barlow_twins_trains),
    Example("mixplug/schedules/README.md", "PhasePlan("),
    Example(TRAINING, "for epoch in"),
    Example(TRAINING, "def drop_half", lambda: run(block(TRAINING, "for epoch in"))),
    Example("mixplug/views/README.md", "Views("),
]


def name_of(example: Example) -> str:
    return f"{example.readme}: {example.part}"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_the_code_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = block(example.readme, example.part)
    for long, short in example.shorter.items():
        assert long in text
        text = text.replace(long, short)
    example.check(run(text, example.given()))


def test_all_code_is_among_the_examples():
    python = [each for readme in READMES for each in blocks(readme) if each.language == "python"]
    for each in python:
        (_,) = [e for e in EXAMPLES if e.readme == each.readme and e.part in each.text]
    assert len(python) == len(EXAMPLES)


@pytest.mark.slow
def test_the_first_example_learns_what_it_says():
    text = block("README.md", "eval_metric_values")
    names = run(text)
    said = float(re.search(r"MulticlassAccuracy: ([\d.]+)", text).group(1))
    assert names["trainer"].state.eval_metric_values["MulticlassAccuracy"] == pytest.approx(said, abs=0.03)


# --------------------------------------------------------------------------------------------- recipes, printed output


def check_yaml(text: str, folder: Path) -> None:
    """It is a recipe, or the part of one over ``digits``, and its new methods can be built where data allow."""
    path = folder / "recipe.yaml"
    path.write_text(text if "extends:" in text else f"extends: digits\n{text}")
    recipe = load_recipe(path)
    if recipe.data.dataset == "digits" and not recipe.tasks:
        Experiment(recipe, list(recipe.methods)[-1], 0)


def check_shell(text: str) -> None:
    for line in text.splitlines():
        for command in line.partition(" #")[0].split("&&"):
            if command.strip().startswith("mixplug "):
                check_command(command)
            else:
                assert command.split()[0] in ("pip", "pytest"), command
            check_extras(command)


def check_tree(text: str) -> None:
    """Each line of the house's tree names what is there."""
    assert {line.split()[0].strip("/") for line in text.splitlines() if line.startswith("  ")} >= set(ROOMS)
    folder = ROOT
    for line in text.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
        assert (folder / name if line.startswith(" ") else folder).exists(), line


def table_cells(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in text.splitlines()]


def check_table(each: readmes.Block) -> None:
    """Columns are those that are printed; the first README has the recipe's methods, others may have older ones."""
    printed = {column.title for column in comparison_table(fake_comparison()).columns}
    header, *lines = table_cells(each.text)
    # Of larger runs operations are counted in a larger unit.
    assert {re.sub(r"^[EPT]FLOPs$", "GFLOPs", title) for title in header} <= printed
    written = [line[0] for line in lines if line[-1].endswith(" ep")]
    assert written
    if each.readme == "README.md":
        assert written == [method.label for method in load_recipe("digits").methods.values()]


@pytest.mark.parametrize("readme", READMES)
def test_blocks_of_other_languages(readme, tmp_path, capsys):
    for each in blocks(readme):
        if each.language == "yaml":
            check_yaml(each.text, tmp_path)
        elif each.language == "sh":
            check_shell(each.text)
        elif each.text.startswith("$ mixplug "):
            command, _, printed = each.text.partition("\n")
            assert cli.main(shlex.split(command)[2:]) == 0
            assert capsys.readouterr().out == printed
        elif each.text.startswith("Method "):
            check_table(each)
        elif each.text.startswith("mixplug/\n"):
            check_tree(each.text)
        else:
            assert each.language == "python", f"nobody checks {each.first_line}"


@pytest.mark.parametrize("readme", READMES)
def test_every_fence_is_one_of_a_block(readme):
    fences = [line for line in readmes.read(readme).splitlines() if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(blocks(readme))


def test_from_a_folder_of_images_to_a_table(tmp_path, monkeypatch, capsys):
    text = block(LAB, "# flowers.yaml")
    assert len(text.splitlines()) < 25
    image_files.train_and_test(tmp_path / "flowers", classes=("daisy", "rose", "tulip"), count=8, size=(90, 70))
    (tmp_path / "flowers.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    # As it stands there but for its length: 2 epochs, one of them merged, in place of 30.
    assert cli.main(["compare", "flowers.yaml", "epochs=2", "data.batch_size=6", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    for label in ("SL", "SSL+SL (input)", "MixTraining (input)", "MixTraining (input, ramps)", "1+1+1 ep"):
        assert label in printed
    assert "features" not in printed
    assert "Li et al." not in printed, "nobody has figures for flowers"
    assert (tmp_path / "runs" / "flowers" / "pareto.png").exists()


# -------------------------------------------------------------------------------------------------- commands, extras

STATISTICS = "'data.mean=[0.4914,0.4822,0.4465]' 'data.std=[0.2470,0.2435,0.2616]'"
PLACEHOLDERS = {
    r"\[key2?=\S*( \.\.\.)?\]": "",
    r"\[(--[^\]]*)\]": r"\1",
    r"\bkey=v1,v2": "epochs=20,40",
    r"(--(?:(?:max-)?seeds?|turns|steps|count|top|minutes)) [A-Z]\b": r"\1 2",
    r"(--(?:low|high)) R\b": r"\1 0.1",
    r"\bDIR\.\.\.": "DIR",
    r"\bIMAGES\b": "data.dataset=image_folder data.root=FOLDER STATISTICS",
    r"\bSTATISTICS\b": STATISTICS,
    r"\bRECIPE\b": "cifar10",
    r"_NAME\b": "_simsiam",
}
"""What stands for something in commands, and what it may be."""


def check_command(command: str) -> None:
    """argparse takes it, and its recipe the changes."""
    for placeholder, value in PLACEHOLDERS.items():
        command = re.sub(placeholder, value, command)
    verb, *arguments = shlex.split(command)[1:]
    assert verb in {module.__name__.rpartition(".")[2].replace("_", "-") for module in cli.COMMANDS}, command
    if not arguments:
        return
    options = cli._parse([verb, *arguments])
    if verb == "sweep":
        read_points(options.recipe, grid_points(options.overrides))
    elif hasattr(options, "recipe"):
        load_recipe(options.recipe, [word for word in options.overrides if "CHECKPOINT" not in word])


def check_extras(text: str) -> None:
    for extra in re.findall(r"pip install -e '\.\[(\w+)\]'", text):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra


@pytest.mark.parametrize("readme", READMES)
def test_commands_in_the_text(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("flowers.yaml").write_text(block(LAB, "# flowers.yaml"))
    for span in readmes.spans(readme):
        command = re.sub(r"^(\w+=\S+ )+(?=mixplug )", "", span)
        if command.startswith("mixplug "):
            check_command(command)
        elif match := re.match(r"python -m (mixplug\.[\w.]+)", span):
            assert find_spec(match.group(1)) is not None
        check_extras(span)


@pytest.mark.parametrize("command", ["mixplug compare digits epoch=3", "mixplug compare nothing", "mixplug sing"])
def test_a_wrong_command_is_found(command):
    with pytest.raises((ValueError, OSError, AssertionError)):
        check_command(command)


# ---------------------------------------------------------------------------------------------- links, files, lengths


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    for target in re.findall(r"\]\(([^)\s]+)\)", readmes.read(readme)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        to = (ROOT / readme).parent / path if path else ROOT / readme
        assert to.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", to.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_a_readme_whose_files_are_there(room):
    readme = f"mixplug/{room}/README.md"
    text = readmes.read(readme)
    assert 30 <= len(text.splitlines()) <= 130
    assert "\nMay import" in text
    assert re.search(r"^## How to add", text, re.MULTILINE)
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell)]
    assert named
    for name in named:
        assert (ROOT / "mixplug" / room / name).exists(), name


def test_the_first_readme_is_one_screen_and_no_more():
    assert len(readmes.read("README.md").splitlines()) <= 150
    assert len(block("README.md", "eval_metric_values").splitlines()) <= 20


def test_all_recipes_are_in_their_index():
    index = re.findall(r"`([\w/]+)`", " ".join(re.findall(r"^\| (`.*?) \|", readmes.read("recipes/README.md"), re.M)))
    assert set(shipped_recipes()) <= set(index)
