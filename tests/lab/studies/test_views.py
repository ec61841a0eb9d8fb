from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shared import image_files

from mixplug.lab.cli.main import main
from mixplug.lab.pages.pictures import views
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.studies.views import DRAWS, draw_views
from mixplug.views.views import Views

TINY = str(Path(__file__).parents[2] / "shared/tiny.yaml")
CPU = torch.device("cpu")


def shown(figure):
    """Pixels of each image of a figure, by its place: (left to right, top to bottom)."""
    figure.draw_without_rendering()
    places = [(axes.get_position().x0, -axes.get_position().y0, axes) for axes in figure.axes]
    return [axes.images[0].get_array() for *_, axes in sorted(places, key=lambda place: place[:2])]


def test_a_row_for_each_image_and_draws_side_by_side():
    original, drawn = torch.rand(1, 2, 3, 6, 6), torch.rand(3, 2, 3, 4, 4)
    figure = views({"original": original, "view 0": drawn})
    expected = [image.permute(1, 2, 0).numpy() for column in (*original, *drawn) for image in column]
    found = shown(figure)
    assert len(found) == 8
    assert all((mine == other).all() for mine, other in zip(found, expected, strict=True))
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")] == ["original", "view 0"]


def test_images_of_other_than_three_channels_are_shown_by_their_mean():
    (found,) = shown(views({"": torch.tensor([0.0, 0.5, 1.0, 0.1, 0.4]).view(1, 1, 5, 1, 1).expand(-1, -1, -1, 2, 2)}))
    assert found.tolist() == [[pytest.approx(0.4)] * 2] * 2


def test_what_is_drawn_is_in_0_to_1_again():
    recipe = load_recipe(TINY, ["data.batch_size=5"])
    inputs = make_inputs(recipe, 0, CPU)
    images, _ = next(iter(inputs.train))
    made = Views("dino").normalised_by(*inputs.normalisation)
    drawn = draw_views(images, made, inputs, local_size=3)
    assert {name: tuple(block.shape) for name, block in drawn.items()} == {
        "original": (1, 5, 1, 8, 8),
        "view 0": (DRAWS, 5, 1, 8, 8),
        "view 1": (DRAWS, 5, 1, 8, 8),
        "local": (DRAWS, 5, 1, 3, 3),
    }
    for block in drawn.values():
        assert -1e-5 < block.min() <= block.max() < 1 + 1e-5
    assert "local" not in draw_views(images, made, inputs)


def test_by_what_images_are_normalised(tmp_path):
    other = image_files.train_and_test(tmp_path)
    own = ["data.mean=[0.2]", "data.std=[0.3]"]
    assert make_inputs(load_recipe(TINY, own), 0, CPU).normalisation == ((0.2,), (0.3,))
    folder = ["data.dataset=image_folder", f"data.root={other}", "data.fraction=1", "data.batch_size=2"]
    ssl = [f"ssl_data={{dataset: image_folder, root: {other}, mean: [0.1,0.2,0.3], std: [1,1,1]}}"]
    found = make_inputs(load_recipe(TINY, [*folder, *ssl]), 0, CPU).normalisation
    assert found == ((0.1, 0.2, 0.3), (1, 1, 1))
    tasks = ["tasks={a: {mean: [0.2]}, b: {mean: [0.3]}}"]
    assert make_inputs(load_recipe(TINY, tasks), 0, CPU).normalisation is None
    assert make_inputs(load_recipe(TINY, ["tasks={a: {}, b: {}}", *own]), 0, CPU).normalisation == ((0.2,), (0.3,))


def test_the_command(tmp_path, capsys):
    for out, more in (("a", []), ("b", ["--magnitude", "0.2"]), ("c", [])):
        own = ["--views", "simclr", "--count", "2", "--out", str(tmp_path / out)]
        assert main(["views", TINY, *own, *more]) == 0
        assert f"The picture is {tmp_path / out / 'views-simclr.png'}" in capsys.readouterr().out
    first, weaker, again = ((tmp_path / out / "views-simclr.png").read_bytes() for out in "abc")
    assert first.startswith(b"\x89PNG")
    assert first == again
    assert first != weaker


def test_the_views_of_a_methods_own_objective(tmp_path, capsys):
    views = "{views: {Views: {recipe: byol, blur: false}}}"
    method = f"methods.own={{label: Own, algorithms: [MixTraining: {{objective: {{BYOL: {views}}}}}]}}"
    assert main(["views", TINY, method, "--count", "2", "--out", str(tmp_path / "own")]) == 0
    same = ["--views", "byol", "--no-blur", "--count", "2", "--out", str(tmp_path / "byol")]
    assert main(["views", TINY, *same]) == 0
    own, byol = (tmp_path / name for name in ("own/views-own.png", "byol/views-byol.png"))
    assert own.read_bytes() == byol.read_bytes()
    assert main(["views", TINY, method, "--method", "sl", "--out", str(tmp_path)]) == 2
    assert "method 'sl' has no objective of two views; those of the recipe that have one are ['own']" in (
        capsys.readouterr().err
    )


def test_mixed_batches_of_a_method_that_mixes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mixplug.lab.pages.pictures.views", lambda *given: drawn.append(given) or views(*given))
    objective = "{SimCLR: {views: {Views: {recipe: simclr, blur: false}}}}"
    mixing = "SDMP: {mixers: [mixup, patchmix], patch: 2}"
    method = f"methods.own={{label: Own, algorithms: [MixTraining: {{objective: {objective}}}, {mixing}]}}"
    assert main(["views", TINY, method, "--count", "3", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "views-own.png").exists()
    ((columns, notes),) = drawn
    assert [*columns] == ["original", "view 0", "view 1", "Mixup", "PatchMix"]
    clean, mixed = columns["view 1"][0], columns["Mixup"][0]
    shares = torch.tensor([float(note) for note in notes["Mixup"]]).view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, shares * clean + (1 - shares) * clean.flip(0), rtol=0, atol=0.01)
    assert [*notes] == ["Mixup", "PatchMix"]
    texts = [axes.get_ylabel() for axes in views(columns, notes).axes if axes.get_ylabel()]
    assert texts == [*notes["Mixup"], *notes["PatchMix"]]


def test_the_command_reads_only_the_files_that_it_shows(tmp_path):
    root = image_files.train_and_test(tmp_path / "data")
    for broken in (root / "test").rglob("*.png"):
        if broken.stem != "0":
            broken.write_bytes(b"no image")
    own = ["data.dataset=image_folder", f"data.root={root}", "data.fraction=1"]
    assert main(["views", TINY, *own, "--views", "dino", "--count", "3", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "views-dino.png").exists()


def test_several_tasks_need_one_normalisation(tmp_path, capsys):
    assert (
        main(["views", TINY, "tasks={a: {}, b: {}}", "--views", "simclr", "--count", "2", "--out", str(tmp_path)]) == 0
    )
    assert main(["views", TINY, "tasks={a: {mean: [0.2]}, b: {}}", "--views", "simclr", "--out", str(tmp_path)]) == 2
    assert "give all the same, data.mean and data.std" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "simclrr"], "did you mean 'simclr'"),
        (["--count", "0"], "--count must be a whole number of at least 1, got 0"),
        (["--magnitude", "1.5"], "--magnitude must be a number in [0, 1], got 1.5"),
        (["--local-size", "1"], "--local-size must be a whole number of at least 2, got 1"),
        (["--views", "simclr", "data.dataset=cifar11"], "cifar11"),
        (["epoch=3"], "epoch"),
        ([], "has no objective of two views. Name views, such as --views simclr"),
        (["--views", "simclr", "--method", "sl"], "give --views simclr or --method sl, not both"),
        (["--no-blur"], "--no-blur goes with --views"),
    ],
)
def test_bad_input_of_the_command(arguments, message, capsys, tmp_path):
    assert main(["views", TINY, "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
