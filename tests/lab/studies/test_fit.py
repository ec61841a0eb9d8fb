from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from shared.fake_runs import fake_comparison

from mixplug.backbones.predicting import load_classifier
from mixplug.data.discovery import find_labelled_images
from mixplug.lab.cli.main import main
from mixplug.lab.pages.mistakes import Mistakes, draw_confused, draw_worst
from mixplug.lab.recipes.schema import RecipeError, load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.studies import fit as fit_module
from mixplug.lab.studies.fit import fit
from mixplug.lab.studies.fit_choice import best_of_each, choose
from mixplug.lab.studies.fit_images import are_grey, of_split, split_images
from mixplug.lab.studies.fit_plan import FitPlan
from mixplug.lab.studies.fit_settings import (
    MODELS,
    Material,
    expected,
    fewest,
    image_size,
    longest,
    make_settings,
    patch_size,
    shortest_pilot,
)

LABELLED = Material(labelled=500, images=500, side=32, grey=False, gpu=False)
OTHERS = Material(labelled=100, images=1000, side=300, grey=True, gpu=False)


def write_images(folder, count, names=("cat", "dog"), size=(20, 16), colour=True):
    """Images whose class is how bright they are, so that little training tells them apart."""
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = torch.randint(60, (size[1], size[0], 3), generator=generator) + 190 * number
            pixels = pixels if colour else pixels[:, :, :1].expand(-1, -1, 3)
            Image.fromarray(pixels.byte().numpy()).save(folder / name / f"{index:03}.png")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of 2 classes, that lasts seconds."""
    folder = tmp_path_factory.mktemp("fit of pets")
    write_images(folder / "pets", 20)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "seconds_of_a_pass", lambda *_: 0.05)
        made = fit(folder / "pets", folder / "out", minutes=0.5, overrides=["lr=1e-3"], announce=lines.append)
    return made, folder, lines


def test_a_folder_becomes_a_model(fitted):
    made, _, lines = fitted
    assert lines[0].endswith(
        "40 labelled images of 2 classes (20 of each), 0 to test on, 0 without labels; about 20 x 16 pixels"
    )
    assert "judged by 8 labelled images of 40, held out, so few that close methods cannot be told apart" in lines[1]
    assert "a little flattering" in lines[1]
    classifier = load_classifier(made.model)
    assert classifier.spec.classes == {"": ("cat", "dog")}
    assert made.mistakes.accuracy >= 0.5
    assert len(made.mistakes.labels) == 8
    page = made.page.read_text()
    for text in (
        "## Verdict",
        "## Pilots 1",
        "## Pilots 2",
        "mixplug predict",
        "mixplug train",
        "(pilots-2/pareto.png)",
    ):
        assert text in page
    for label in ("SL", "SL, fewer tokens", "SSL+SL, fewer tokens", "MixTraining, fewer tokens"):
        assert f"| {label} |" in page


def test_the_second_pilots_are_one_of_each_kind(fitted):
    _, folder, _ = fitted
    second = json.loads((folder / "out/pilots-2/results.json").read_text())
    kinds = {run["method"]: run["objective"] is None for run in second["runs"]}
    assert sorted(kinds.values()) == [False, True]
    first = json.loads((folder / "out/pilots-1/results.json").read_text())
    assert second["recipe"]["max_cost"] == pytest.approx(4 * first["recipe"]["max_cost"])
    assert len({run["method"] for run in first["runs"]}) == 4


def test_the_recipe_makes_the_last_training_again(fitted):
    made, folder, _ = fitted
    (line,) = [line for line in made.page.read_text().splitlines() if line.startswith("mixplug train")]
    words = shlex.split(line)
    assert words[8:-2] == ["lr=1e-3"], "what was set is set again"
    recipe = load_recipe(words[2], words[7:-2])
    again = Experiment(recipe, words[4], int(words[6]))
    trained = json.loads((folder / "out/final/history.json").read_text())
    assert {span.phase.value: span.length for span in again.plan.phases} == trained["lengths"]
    again.run()
    ours = load_classifier(made.model).model.state_dict()
    theirs = again.model.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_finished_is_not_trained_again(fitted, monkeypatch):
    made, folder, _ = fitted
    monkeypatch.setattr(Experiment, "run", None)
    how = {"overrides": ["lr=1e-3"], "announce": lambda _: None}
    again = fit(folder / "pets", folder / "out", minutes=0.5, **how)
    assert torch.equal(again.mistakes.probabilities, made.mistakes.probabilities)
    with pytest.raises(RecipeError, match=r"holds a fit of something else: minutes was 0.5, now 9"):
        fit(folder / "pets", folder / "out", minutes=9, **how)
    pets, file = folder / "pets", folder / "pets.csv"
    # As many of each class, but two labels are exchanged.
    rows = [f"{p.relative_to(pets)},{p.parent.name}" for p in sorted(pets.rglob("*.png"))]
    rows[0], rows[-1] = rows[0].replace(",cat", ",dog"), rows[-1].replace(",dog", ",cat")
    file.write_text("\n".join(["path,label", *rows]))
    with pytest.raises(RecipeError, match="holds a fit of something else: images was"):
        fit(pets, folder / "out", file, minutes=0.5, **how)


def test_test_images_are_for_the_last_model(tmp_path):
    write_images(tmp_path / "train", 20)
    write_images(tmp_path / "test", 3)
    write_images(tmp_path, 5, names=("unlabelled",))
    pilots, rows, judged = split_images(find_labelled_images(tmp_path), 0)
    count = {
        name: {split: len(of_split(part, split)) for split in ("train", "test", "unlabelled")}
        for name, part in (("pilots", pilots), ("all", rows))
    }
    assert count["pilots"] == {"train": 32, "test": 8, "unlabelled": 5}
    assert count["all"] == {"train": 40, "test": 6, "unlabelled": 5}
    assert judged.endswith("the last model, trained on all, by 6 test images.")
    shown = {row.path for row in pilots if row.split == "test"}
    assert not shown & {row.path for row in rows if row.split == "test"}, "no test image chooses a method"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--minutes", "0"], "minutes must be a number in (0, inf), got 0"),
        (["--minutes", "1e-7"], "--minutes 1e-07 are too few (max_cost must be at least "),
        (["--seed", "-1"], "seed must be a whole number of at least 0, got -1"),
        (["model.args.embed_dimm=3"], "embed_dimm"),
        (["--labels", "none.csv"], "there is no file"),
        (["seeds=2"], "mixplug fit chooses seeds by its --minutes, got 'seeds=2'; leave it out"),
        (["cost=5"], "mixplug fit chooses cost by its --minutes, got 'cost=5'"),
        (["methods=[sl]"], "mixplug fit chooses methods by its --minutes"),
        (["data.root=x"], "mixplug fit chooses data.root by its IMAGES"),
    ],
)
def test_bad_input_is_refused(tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.setattr(fit_module, "seconds_of_a_pass", lambda *_: 0.05)
    write_images(tmp_path / "pets", 20)
    assert main(["fit", str(tmp_path / "pets"), *words, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err


def test_too_few_labels_are_refused(tmp_path):
    write_images(tmp_path / "pets", 1)
    with pytest.raises(ValueError, match="has 2 labelled images of 2 classes, too few to hold some out"):
        fit(tmp_path / "pets", tmp_path / "out")


@pytest.mark.parametrize(
    ("side", "gpu", "size", "patch"),
    [
        (8, False, 8, 2),
        (20, False, 20, 2),
        (28, False, 28, 4),
        (30, False, 32, 4),
        (100, False, 64, 8),
        (50, False, 48, 6),
        (500, True, 224, 16),
    ],
)
def test_sizes(side, gpu, size, patch):
    material = Material(100, 100, side, False, gpu)
    assert image_size(material) == size
    assert patch_size(size) == patch


def test_the_rules():
    alone, others = (make_settings(m, MODELS[0], "images.csv", "pets") for m in (LABELLED, OTHERS))
    assert "ssl_data" not in alone
    assert alone["data"]["flip"]
    assert alone["methods"]["mix_dropout"]["label"] == "MixTraining, fewer tokens"
    assert others["ssl_data"] == {"same": True}
    assert not others["data"]["flip"]
    assert others["methods"]["mix_dropout"]["algorithms"][0]["MixTraining"]["mixing"] == "side_by_side"
    assert int(others["sl_duration"][:-2]) > int(alone["sl_duration"][:-2]) == 20
    assert longest(1) == 400
    assert shortest_pilot(1) == 15
    assert shortest_pilot(81) == 615
    assert longest(11) == 2400
    assert fewest(100) == 1000
    assert fewest(5000) == 100


@pytest.mark.parametrize("material", [LABELLED, OTHERS], ids=["labelled", "others"])
def test_what_the_rules_make_is_a_recipe(material, tmp_path):
    write_images(tmp_path, 10, size=(material.side, material.side))
    table = tmp_path / "images.csv"
    rows = [f"{name}/{n:03}.png,{name if n < 8 else ''},{'train' if n < 6 else 'test' if n < 8 else 'unlabelled'}"
            for name in ("cat", "dog") for n in range(10)]  # fmt: skip
    table.write_text("\n".join(["path,label,split", *rows]))
    made = tmp_path / "recipe.yaml"
    made.write_text(yaml.safe_dump(make_settings(material, MODELS[0], str(table), "pets")))
    recipe = load_recipe(made)
    for method in recipe.methods:
        assert Experiment(recipe, method, 0).cost > 0


def test_colours(tmp_path):
    write_images(tmp_path / "a", 1)
    write_images(tmp_path / "b", 1, colour=False)
    assert not are_grey(sorted((tmp_path / "a").rglob("*.png")))
    assert are_grey(sorted((tmp_path / "b").rglob("*.png")))


def test_a_plan_counts_time_and_keeps_decisions(tmp_path):
    plan = FitPlan(tmp_path, {"minutes": 1})
    assert "cost" not in plan
    plan.decide(cost=3)
    with pytest.raises(KeyError), plan.counting():
        raise KeyError
    again = FitPlan(tmp_path, {"minutes": 1})
    assert again["cost"] == 3
    assert again.spent == plan.spent > 0
    (tmp_path / "plan.json").write_text("half writ")
    assert "cost" not in FitPlan(tmp_path, {"minutes": 2})


def test_what_is_confused(tmp_path):
    write_images(tmp_path, 4)
    paths = sorted(tmp_path.rglob("*.png"))
    labels = torch.tensor([0] * 4 + [1] * 4)
    sure = torch.tensor([0.9, 0.2, 0.4, 0.1, 0.8, 0.7, 0.3, 0.9])
    mistakes = Mistakes(paths, labels, torch.stack([sure, 1 - sure], 1), ["cat", "dog"])
    assert mistakes.accuracy == 2 / 8
    assert mistakes.confused(5) == [("cat", "dog", [1, 2, 3]), ("dog", "cat", [4, 5, 7])]
    assert mistakes.worst(3) == [3, 7, 1]
    assert len(draw_confused(mistakes).axes) == 12
    assert [axes.get_title() for axes in draw_worst(mistakes, 2).axes] == ["cat\ndog, 90%", "dog\ncat, 90%"]
    right = Mistakes(paths, labels, torch.nn.functional.one_hot(labels, 2).double(), ["cat", "dog"])
    assert draw_confused(right) is None
    assert draw_worst(right) is None


def test_names_are_no_formulas_and_16_bits_are_shown(tmp_path):
    path = tmp_path / "a.png"
    Image.new("I;16", (4, 4), 128 * 257).save(path)
    mistakes = Mistakes([path], torch.tensor([0]), torch.tensor([[0.0, 1.0]]), ["$\\5$", "10$ to $_"])
    worst = draw_worst(mistakes)
    for figure in (draw_confused(mistakes), worst):
        figure.canvas.draw()
    assert (worst.axes[0].images[0].get_array() == 128).all()


def test_a_damaged_image_is_named(tmp_path):
    write_images(tmp_path, 1, names=("cat",))
    path = tmp_path / "cat/000.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cat/000.png cannot be read as an image"):
        are_grey([path])


@pytest.mark.parametrize(
    ("images", "out"),
    [("pets", "pets"), ("pets", "pets/runs/pets"), ("runs/pictures", "runs"), ("a/../pets", "pets/b")],
)
def test_a_fit_is_kept_apart_from_its_images(tmp_path, images, out):
    with pytest.raises(RecipeError, match=r"pictures of the fit would be learned too; choose one beside it"):
        fit(tmp_path / images, tmp_path / out)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["images.csv", "report.md", "pictures/worst.png"])
def test_files_of_others_stay(tmp_path, name, overwrite):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    write_images(tmp_path / "pets", 20)
    with pytest.raises(RecipeError, match=f"holds {name}, which no fit left there; choose another --out"):
        fit(tmp_path / "pets", tmp_path / "out", overwrite=overwrite)
    assert file.read_text() == "mine"


def test_to_start_anew_removes_what_a_fit_left_alone(tmp_path):
    FitPlan(tmp_path, {}).keep()
    for name in ("report.md", "pictures/worst.png", "pictures/mine.png", "notes.md", "final/history.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError):
        fit(tmp_path / "pets", tmp_path, overwrite=True)
    assert (tmp_path / "report.md").exists(), "what cannot begin removes nothing"
    fit_module._clear(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"mine.png", "notes.md"}


def test_a_file_is_no_folder_of_a_fit(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
        fit(tmp_path / "pets", tmp_path / "out")


def test_a_plan_that_nothing_was_trained_by_is_forgotten(tmp_path):
    FitPlan(tmp_path, {"minutes": 1}).decide(cost=3)
    assert "cost" in FitPlan(tmp_path, {"minutes": 1}, begun=False)
    assert "cost" not in FitPlan(tmp_path, {"minutes": 2}, begun=False)
    with pytest.raises(RecipeError, match="minutes was 1, now 2"):
        FitPlan(tmp_path, {"minutes": 2}, begun=True)


def test_methods_that_diverged_leave_the_choice_to_the_others():
    runs = {"sl": [0.5, 0.7], "sl_dropout": [0.9], "ssl_sl_dropout": [], "mix_dropout": []}
    compared = SimpleNamespace(
        recipe=SimpleNamespace(methods={method: SimpleNamespace(label=method) for method in runs}),
        finished=lambda method: [SimpleNamespace(accuracy=accuracy, test_images=9) for accuracy in runs[method]],
    )
    assert best_of_each(compared) == ["sl_dropout"]
    runs.update(sl=[], sl_dropout=[])
    with pytest.raises(RecipeError, match=r"all runs of sl, .* diverged; start anew with --overwrite and a lower rate"):
        best_of_each(compared)


def test_what_pilots_cannot_tell_is_as_expected():
    made = fake_comparison("seeds=2", "methods=[sl,mix]")
    for (method, _), run in made.runs.items():
        run.accuracy, run.test_images = {"sl": 0.52, "mix": 0.5}[method], 1000
    chosen, reason = choose(made, ["sl", "mix"], "mix")
    assert chosen == "mix"
    assert reason.startswith("SL is 2.0 points ahead of MixTraining in the pilots, which 1000 images cannot tell")
    assert choose(made, ["sl", "mix"], "sl") == ("sl", "SL did best in the pilots")
    for run in made.runs.values():
        run.test_images = 2000
    chosen, reason = choose(made, ["sl", "mix"], "mix")
    assert chosen == "sl"
    assert reason.endswith("more than the standard error of 1.6 points")
    assert choose(made, ["sl"], "mix")[0] == "sl", "what was expected diverged"


def test_what_is_expected():
    assert expected(Material(5000, 5000, 32, False, False)) == "mix_dropout"
    assert expected(LABELLED) == "sl_dropout"
    assert expected(OTHERS) == "mix_dropout"
    assert expected(Material(5000, 5000, 28, True, False)) == "sl_dropout"


def test_short_pilots_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "seconds_of_a_pass", lambda *_: 0.5)
    write_images(tmp_path / "pets", 20)
    lines = []
    fit(tmp_path / "pets", tmp_path / "out", minutes=1, announce=lines.append)
    assert "1 round of pilots" in lines[2]
    tried = json.loads((tmp_path / "out/pilots-1/results.json").read_text())
    assert {run["method"] for run in tried["runs"]} == {"sl_dropout", "mix_dropout"}
    assert not (tmp_path / "out/pilots-2").exists()
