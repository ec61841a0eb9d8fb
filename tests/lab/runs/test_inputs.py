from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from shared import image_files

from mixplug.data import images
from mixplug.data.datasets import load_dataset, load_unlabelled
from mixplug.data.loaders import ImageLoader
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.experiment import Experiment
from mixplug.lab.runs.files import data_differences
from mixplug.lab.runs.inputs import check_images, make_inputs
from mixplug.lab.studies.compare import compare
from mixplug.lab.studies.train import train

TINY = Path(__file__).parents[2] / "shared/tiny.yaml"
CPU = torch.device("cpu")


def folder_recipe(root, *overrides):
    own = ["data.dataset=image_folder", f"data.root={root}", "data.fraction=1", "data.batch_size=4"]
    short = [] if any("sl_duration" in text for text in overrides) else ["ssl_duration=2ba", "sl_duration=2ba"]
    return load_recipe(TINY, [*own, *short, *overrides])


def test_what_the_recipe_says_reaches_the_loaders():
    inputs = make_inputs(load_recipe(TINY, ["data.crop_padding=1", "data.flip=true"]), 3, CPU)
    train, test = inputs.train, inputs.evaluation
    assert isinstance(train, ImageLoader)
    assert (train.batch_size, train.crop_padding, train.flip, train.sampler.shuffle, train.seed) == (
        32,
        1,
        True,
        True,
        3,
    )
    assert (test.batch_size, test.crop_padding, test.flip) == (512, 0, False)
    assert not test.sampler.shuffle
    assert inputs.ssl is None
    assert inputs.tasks == {"": 10}


def test_a_folder_of_images(tmp_path):
    recipe = folder_recipe(image_files.train_and_test(tmp_path))
    result = Experiment(recipe, "mix", 0).run()
    assert result.lengths == {"ssl": 1, "mix": 1, "sl": 1}
    assert 0 <= result.accuracy <= 1


def test_a_folder_read_by_workers(tmp_path):
    recipe = folder_recipe(image_files.train_and_test(tmp_path), "data.in_memory=false", "data.workers=1")
    assert 0 <= Experiment(recipe, "mix", 0).run().accuracy <= 1


def test_other_images_for_ssl_of_other_size_and_number(tmp_path):
    labelled, other = tmp_path / "labelled", tmp_path / "other"
    image_files.train_and_test(labelled)
    image_files.train_and_test(other, size=20, count=25, classes=("x", "y", "z"))
    own = [f"ssl_data={{dataset: image_folder, root: {other}, flip: true}}", "ssl_duration=2ep", "sl_duration=2ep"]
    recipe = folder_recipe(labelled, *own)
    made = Experiment(recipe, "mix", 0)
    assert len(made.inputs.ssl) == 19
    assert next(iter(made.inputs.ssl))[0].shape == (4, 3, 8, 8), "resized to the labelled images' size"
    result = made.run()
    # One epoch of 19 SSL batches, then 3 labelled ones of MIX and 3 of SL.
    assert made.trainer.state.timestamp.batch == 25
    assert [point[0] for point in result.history["ssl"]] == [1, 2]


@pytest.mark.parametrize(
    ("ssl_data", "error", "message"),
    [
        ("{dataset: digits}", ValueError, r"ssl_data: its images are \(1, 8, 8\), the labelled ones \(3, 8, 8\)"),
        ("{dataset: image_folder, root: nowhere}", FileNotFoundError, r"^ssl_data\.root='nowhere' .* is no folder"),
        ("{dataset: digits, fraction: 0}", ValueError, r"^ssl_data\.fraction"),
        ("{dataset: digits, mean: [1, 2]}", ValueError, r"^ssl_data\.mean"),
        ("{dataset: image_folder, root: '.', image_size: 0}", ValueError, r"^ssl_data\.image_size"),
    ],
)
def test_other_images_that_do_not_fit(tmp_path, ssl_data, error, message):
    recipe = folder_recipe(image_files.train_and_test(tmp_path), f"ssl_data={ssl_data}")
    with pytest.raises(error, match=message):
        make_inputs(recipe, 0, CPU)


def test_files_are_known_by_name_size_and_label(tmp_path):
    image_files.train_and_test(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    first, copied = (make_inputs(folder_recipe(tmp_path / name), 0, CPU).summary for name in ("one", "other"))
    assert first == copied
    changed = next((tmp_path / "other" / "train").rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b" ")
    assert re.fullmatch(
        r"data.training_files was 12 files, \d+ bytes, digest \w+, now 12 files, \d+ bytes, digest \w+",
        data_differences(first, make_inputs(folder_recipe(tmp_path / "other"), 1, CPU).summary),
    )
    older = {"data": {name: value for name, value in first["data"].items() if not name.endswith("_files")}}
    assert data_differences(older, first) == "", "an earlier version did not say"


def test_other_images_need_neither_classes_nor_a_test(tmp_path):
    image_files.train_and_test(tmp_path / "labelled")
    (tmp_path / "other").mkdir()
    for i in range(10):
        image_files.picture(i, 20).save(tmp_path / "other" / f"{i}.jpg")
    recipe = folder_recipe(
        tmp_path / "labelled", f"ssl_data={{dataset: image_folder, root: {tmp_path / 'other'}, crop_padding: 1}}"
    )
    inputs = make_inputs(recipe, 0, CPU)
    assert sum(len(images) for images, _ in inputs.ssl) == 10
    files = {
        key: [part.pop(name) for name in ("training_files", "test_files") if name in part]
        for key, part in inputs.summary.items()
    }
    assert [len(found) for found in files.values()] == [2, 1]
    assert re.fullmatch(r"10 files, \d+ bytes, digest [0-9a-f]{8}", files["ssl_data"][0])
    assert inputs.summary == {
        "data": {"training_images": 12, "test_images": 12, "classes": 2, "shape": [3, 8, 8]},
        "ssl_data": {"training_images": 10, "shape": [3, 8, 8]},
    }
    recipe.ssl_data.crop_padding = -1
    with pytest.raises(ValueError, match=r"^ssl_data: crop_padding must be"):
        make_inputs(recipe, 0, CPU)


def seeds_differ(root, section, in_memory):
    """A recipe of three seeds, and what of ``section`` the second draws that the first does not."""
    image_files.train_and_test(root, count=10)
    image_files.train_and_test(root / "other", count=10)
    ssl_data = f"ssl_data={{dataset: image_folder, root: {root / 'other'}, in_memory: {in_memory}, fraction: 0.4}}"
    own = [] if section == "data" else [ssl_data]
    recipe = folder_recipe(root, f"data.in_memory={in_memory}", "seeds=3", *own)
    recipe.data.fraction = 0.5 if section == "data" else 1.0
    load = partial(load_unlabelled, recipe.ssl_data) if section == "ssl_data" else partial(load_dataset, recipe.data)
    drawn = [load(seed=seed, in_memory=False) for seed in range(2)]
    paths = [{*(split.images if section == "ssl_data" else split.train).paths} for split in drawn]
    return recipe, sorted(paths[1] - paths[0])[0]


@pytest.mark.parametrize("in_memory", ["true", "false"])
@pytest.mark.parametrize("section", ["data", "ssl_data"])
def test_images_of_all_seeds_are_checked_before_the_first_run(tmp_path, section, in_memory):
    recipe, late = seeds_differ(tmp_path, section, in_memory)
    late.write_bytes(b"no image")
    check_images([(recipe, [0])])
    with pytest.raises(ValueError, match=rf"{late} cannot be read as an image"):
        compare(recipe, tmp_path / "out", announce=lambda line: None)
    assert not [*(tmp_path / "out" / "runs").glob("*.json")]
    with pytest.raises(ValueError, match=rf"{late} cannot be read as an image"):
        train(recipe, "sl", 1, tmp_path / "train")


def test_each_file_is_checked_once(tmp_path, monkeypatch):
    recipe, _ = seeds_differ(tmp_path, "data", "false")
    opened, read, told = [], images.read_square, []
    monkeypatch.setattr(images, "read_square", lambda path, size: opened.append(path) or read(path, size))
    check_images([(recipe, range(3)), (recipe, range(3))], told.append)
    assert len(opened) == len({*opened}) > 30
    assert told[:2] == [f"data, seed 0: decoding {n} files, to find damaged ones" for n in (10, 20)]


TWO_TASKS = "tasks={pets: {}, farm: {root: FARM, fraction: 0.5}}"


def two_tasks(tmp_path, **options):
    image_files.train_and_test(tmp_path / "pets")
    image_files.train_and_test(tmp_path / "farm", **{"classes": ("cow", "hen", "pig"), "count": 10, **options})
    return folder_recipe(tmp_path / "pets", TWO_TASKS.replace("FARM", str(tmp_path / "farm")))


def test_all_images_of_the_labelled_data_for_ssl(tmp_path):
    image_files.train_and_test(tmp_path / "pets")
    recipe = folder_recipe(tmp_path / "pets", "data.labels=6", "data.flip=true", "ssl_data={same: true}")
    inputs = make_inputs(recipe, 0, CPU)
    assert [inputs.summary[key]["training_images"] for key in ("data", "ssl_data")] == [6, 12]
    assert inputs.ssl_share == 2
    assert inputs.ssl.flip
    assert torch.equal(inputs.ssl.mean, inputs.train.mean)
    half = folder_recipe(tmp_path / "pets", "ssl_data={same: true, fraction: 0.5}")
    assert make_inputs(half, 0, CPU).ssl_share == 0.5
    with pytest.raises(ValueError, match=r"same=true takes data's crop_padding, and ssl_data\.crop_padding=2"):
        folder_recipe(tmp_path / "pets", "ssl_data={same: true, crop_padding: 2}")
    with pytest.raises(ValueError, match="there are several tasks"):
        folder_recipe(tmp_path / "pets", TWO_TASKS, "ssl_data={same: true}")


def test_several_tasks(tmp_path):
    recipe = two_tasks(tmp_path)
    inputs = make_inputs(recipe, 0, CPU)
    assert inputs.tasks == {"pets": 2, "farm": 3}
    assert [inputs.summary[f"tasks.{name}"]["training_images"] for name in inputs.tasks] == [12, 15]
    images, labels = next(iter(inputs.train))
    assert images.shape == (8, 3, 8, 8), "four images of each task"
    assert (labels < 2).tolist() == [True, False] * 4
    assert sum(len(y) for _, y in inputs.train) == 2 * 15, "an epoch is a pass over the longer task"
    assert sum(len(y) for _, y in inputs.evaluation) == 12 + 30, "every test image once"
    result = Experiment(recipe, "mix", 0).run()
    assert set(result.task_accuracies) == {"pets", "farm"}
    assert result.accuracy == pytest.approx(sum(result.task_accuracies.values()) / 2)
    assert result.history["accuracy"][-1][1] == pytest.approx(result.accuracy)


def test_tasks_of_other_shapes(tmp_path):
    with pytest.raises(ValueError, match=r"one shape.*set data\.image_size"):
        make_inputs(two_tasks(tmp_path, size=12), 0, CPU)


def test_a_task_whose_data_is_not_there(tmp_path):
    recipe = two_tasks(tmp_path)
    recipe.tasks["farm"]["root"] = "nowhere"
    with pytest.raises(FileNotFoundError, match=r"tasks\.farm\.root='nowhere'"):
        make_inputs(recipe, 0, CPU)
