from __future__ import annotations

from dataclasses import dataclass
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from shared import image_files

from mixplug.data.cache import ByteBoundedCache
from mixplug.data.datasets import load_dataset, load_unlabelled
from mixplug.data.images import Pipeline
from mixplug.data.loaders import ImageLoader
from mixplug.data.options import ImageOptions, LabelledOptions
from mixplug.views.views import Views


def pixels(images, split):
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (split.mean, split.std))
    return (images.images.float() / 255 - mean) / std


def test_digits():
    split = load_dataset("digits")
    assert len(split.train) + len(split.test) == 1797
    assert split.shape == tuple(split.train.images.shape[1:]) == (1, 8, 8)
    assert set(split.test.labels.tolist()) == set(range(split.classes))
    every = torch.cat([pixels(split.train, split), pixels(split.test, split)])
    assert every.mean().abs() < 1e-3, "the stated statistics are the data's"
    assert (every.std() - 1).abs() < 1e-3
    assert every.max() == (1 - split.mean[0]) / split.std[0]


def test_noise():
    split = load_dataset("noise")
    assert (len(split.train), len(split.test), split.classes) == (5000, 1000, 10)
    assert split.shape == (3, 32, 32)
    assert split.train.images.dtype == torch.uint8
    every = pixels(split.train, split)
    assert every.mean().abs() < 1e-2, "the stated statistics are the data's"
    assert (every.std() - 1).abs() < 1e-2
    assert set(split.train.labels.tolist()) == set(range(10))
    assert not torch.equal(split.train.images[:1000], split.test.images)
    again, larger = load_dataset("noise", 0.1), load_dataset("noise", image_size=40)
    assert torch.equal(again.test.images, split.test.images)
    assert len(again.train) == 500
    assert larger.shape == (3, 40, 40)
    assert load_unlabelled("noise").shape == split.shape


def test_noise_is_not_downloaded():
    with pytest.raises(ValueError, match=r"data\.download=true is for"):
        load_dataset("noise", download=True)


def test_the_subset_is_a_function_of_the_seed():
    whole = load_dataset("digits")
    first, again, other = (load_dataset("digits", 0.1, seed) for seed in (0, 0, 1))
    assert len(first.train) == round(0.1 * len(whole.train))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert torch.equal(first.test.images, whole.test.images)


def test_loaders():
    split = load_dataset("digits", 0.1)
    train, test = split.train_loader(16, seed=3), split.eval_loader(100)
    assert isinstance(train, ImageLoader)
    epochs = [torch.cat([y for _, y in train]) for _ in range(2)]
    assert not torch.equal(*epochs), "each epoch has an order of its own"
    assert torch.equal(epochs[0].sort().values, epochs[1].sort().values)
    images, labels = (torch.cat(part) for part in zip(*test, strict=True))
    assert torch.equal(labels, split.test.labels)
    assert torch.allclose(images, pixels(split.test, split), atol=1e-6)


def test_options_at_once_and_by_name():
    options = LabelledOptions("digits", fraction=0.1, crop_padding=1, flip=True)
    at_once, by_name = load_dataset(options), load_dataset("digits", 0.1, crop_padding=1, flip=True)
    assert torch.equal(at_once.train.images, by_name.train.images)
    for split in (at_once, by_name):
        train, test = split.train_loader(4), split.eval_loader(4)
        assert [(loader.crop_padding, loader.flip) for loader in (train, test)] == [(1, True), (0, False)]
        assert split.train_loader(4, flip=False).flip is False
    other = load_unlabelled(ImageOptions("digits", flip=True), fraction=0.5)
    assert (len(other.images), other.loader(4).flip) == (450, True)
    assert len(load_dataset(options, 0.5).train) == 450, "what is given beside them wins"
    assert options.fraction == 0.1
    with pytest.raises(TypeError, match="data has no option 'imagesize'; did you mean 'image_size'"):
        load_dataset("digits", imagesize=8)
    with pytest.raises(TypeError, match="ssl_data has no option 'test'"):
        load_unlabelled("digits", test="val")


FILES = {
    "cifar10": (image_files.cifar10_files, (3, 32, 32), 20),
    "cifar100": (image_files.cifar100_files, (3, 32, 32), 4),
    "svhn": (image_files.svhn_files, (3, 32, 32), 4),
    "fashion_mnist": (image_files.fashion_mnist_files, (1, 28, 28), 4),
}


@pytest.fixture
def any_file_will_do(monkeypatch):
    """Generated files are not torchvision's, byte for byte."""
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)


@pytest.mark.usefixtures("any_file_will_do")
@pytest.mark.parametrize("name", FILES)
def test_torchvisions_data_sets(tmp_path, name):
    write, shape, count = FILES[name]
    split = load_dataset(name, root=write(tmp_path / "data"))
    assert split.shape == shape
    assert len(split.train) == count
    assert len(split.test) == 4
    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "fashion_mnist": "FashionMNIST"}[name]
    theirs = getattr(torchvision.datasets, kind)(str(tmp_path / "data"))
    for i in range(count):
        image, label = theirs[i]
        assert torch.equal(split.train.images[i], torchvision.transforms.functional.pil_to_tensor(image))
        assert split.train.labels[i] == label
    assert len(split.mean) == len(split.std) == shape[0]


@pytest.mark.usefixtures("any_file_will_do")
def test_resized(tmp_path):
    image_files.svhn_files(tmp_path)
    own, larger = load_dataset("svhn", root=tmp_path), load_dataset("svhn", root=tmp_path, image_size=48)
    assert larger.shape == (3, 48, 48)
    expected = torchvision.transforms.functional.resize(own.train.images, 48, antialias=True)
    assert torch.equal(larger.train.images, expected)


@pytest.mark.parametrize("name", FILES)
def test_missing_data_says_how_to_get_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"data\.download=true.*data\.root"):
        load_dataset(name, root=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "val"}, "data.test is for an image_folder"),
        ({"train": "training"}, "data.train is for an image_folder"),
        ({"in_memory": False}, "data.in_memory is for an image_folder"),
        ({"download": True}, "data.download=true is for"),
        ({"mean": [0.1, 0.2, 0.3]}, "data.mean must have a number for the one channel"),
        ({"image_size": 0}, "data.image_size must be a whole number of at least 1"),
    ],
)
def test_options_that_the_data_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("digits", **options)


BAD_PIPELINES = [
    ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, got 0"),
    ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
    ({"workers": -1}, ValueError, "workers must be a whole number of at least 0"),
    ({"workers": 1.0}, TypeError, "workers must be a whole number"),
    ({"crop_padding": -2}, ValueError, "crop_padding must be a whole number of at least 0"),
    ({"shuffle": 1}, TypeError, "shuffle must be true or false, got 1"),
    ({"flip": "yes"}, TypeError, "flip must be true or false, got 'yes'"),
    ({"mean": (float("nan"),) * 3}, ValueError, "mean must be a number in .*got nan"),
    ({"mean": (0.1,)}, ValueError, "mean must have a number for each of the 3 channels"),
    ({"std": (0.1, 0.1, 0)}, ValueError, r"std must be a number in \(0, 1\], got 0"),
    ({"std": ("1", "1", "1")}, TypeError, "std must be a number"),
]


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize(("options", "error", "message"), BAD_PIPELINES)
def test_pipelines_that_memory_and_files_refuse_alike(tmp_path, kind, options, error, message):
    image_files.train_and_test(tmp_path, count=1)
    images = load_dataset("image_folder", root=tmp_path, in_memory=kind == "memory").train
    with pytest.raises(error, match=message):
        images.loader(Pipeline(**{"batch_size": 2, "mean": (0.5,) * 3, "std": (0.5,) * 3, **options}))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": 0.5}, ValueError, "x.mean must have a number for each of the 3 channels, such as .* got 0.5"),
        ({"std": (1, 1, 0)}, ValueError, r"x.std must be a number in \(0, 1\], got 0"),
        ({"mean": (0, 0, float("inf"))}, ValueError, "x.mean must be a number in .*got inf"),
        ({"in_memory": 1}, TypeError, "x.in_memory must be true or false, got 1"),
        ({"download": "no"}, TypeError, "x.download must be true or false, got 'no'"),
        ({"root": None}, TypeError, "x.root must be the path of a folder .*got None"),
        ({"train": None}, TypeError, "x.train a name, got .*None"),
        ({"fraction": 2}, ValueError, "x.fraction"),
    ],
)
@pytest.mark.parametrize("load", [load_dataset, load_unlabelled])
def test_options_of_the_wrong_kind(tmp_path, load, options, error, message):
    image_files.train_and_test(tmp_path, count=1)
    with pytest.raises(error, match=message):
        load("image_folder", **{"root": tmp_path, "key": "x", **options})


@pytest.mark.usefixtures("any_file_will_do")
def test_the_training_images_of_a_named_data_set_without_their_labels(tmp_path):
    image_files.cifar10_files(tmp_path)
    split, unlabelled = load_dataset("cifar10", root=tmp_path), load_unlabelled("cifar10", root=tmp_path)
    assert torch.equal(unlabelled.images.images, split.train.images)
    assert (unlabelled.mean, unlabelled.std) == (split.mean, split.std)


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading")])
def test_a_download_without_a_connection(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    with pytest.raises(OSError, match=r"could not fetch CIFAR10 into data\.root.*leave data\.download out"):
        load_dataset("cifar10", root=tmp_path, download=True)


@dataclass
class Block:
    nbytes: int


def test_the_cache_holds_so_many_bytes():
    made, cache = [], ByteBoundedCache(100)

    def get(name, size):
        def make():
            made.append(name)
            return Block(size)

        return cache.get(name, make)

    assert get("a", 40) is get("a", 40)
    get("b", 40)
    get("a", 40)
    get("c", 40)
    assert made == ["a", "b", "c"]
    get("a", 40)
    assert made == ["a", "b", "c"], "b was used least recently"
    get("b", 40)
    assert made == ["a", "b", "c", "b"]
    assert get("large", 500) is get("large", 500), "the newest is kept"
    get("a", 40)
    assert made[-2:] == ["large", "a"]


@pytest.mark.usefixtures("any_file_will_do")
def test_files_that_changed_are_read_anew(tmp_path):
    image_files.cifar10_files(tmp_path)
    before = load_dataset("cifar10", root=tmp_path)
    for file in (tmp_path / "cifar-10-batches-py").iterdir():
        file.touch()
    image_files.train_and_test(tmp_path)
    photos = load_dataset("image_folder", root=tmp_path)
    image_files.picture(77).save(tmp_path / "train" / "cat" / "0.png")
    assert not torch.equal(load_dataset("image_folder", root=tmp_path).train.images[0], photos.train.images[0])
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes((tmp_path / "cifar-10-batches-py" / "data_batch_1").read_bytes())
    assert not torch.equal(load_dataset("cifar10", root=tmp_path).test.images, before.test.images)


def test_the_same_relative_folder_elsewhere_is_another(tmp_path, monkeypatch):
    for number, name in enumerate(("here", "there")):
        image_files.train_and_test(tmp_path / name / "data", first=100 * number)
    firsts = []
    for name in ("here", "there"):
        monkeypatch.chdir(tmp_path / name)
        firsts.append(load_dataset("image_folder", root="data").train.images[0])
    assert not torch.equal(*firsts)


@pytest.mark.parametrize("name", ["digits", "image_folder"])
def test_nobody_changes_the_images_of_the_next(tmp_path, name):
    image_files.train_and_test(tmp_path)
    one, other = (load_dataset(name, root=tmp_path) for _ in range(2))
    for part in (one.train, one.test):
        part.images.numpy()[:] = 0
        part.labels.zero_()
    for split in (other, load_dataset(name, root=tmp_path)):
        assert all(part.images.any() and part.labels.any() for part in (split.train, split.test))


@pytest.mark.parametrize("given", [np.array, torch.tensor, lambda numbers: [torch.tensor(n) for n in numbers]])
def test_statistics_as_arrays_and_tensors(given):
    mean, std = given([0.25]), given([0.5])
    split = load_dataset("digits", mean=mean, std=std)
    assert (split.mean, split.std) == ((0.25,), (0.5,))
    loader = ImageLoader(split.train.images, split.train.labels, 4, mean=mean, std=std)
    assert (loader.mean, loader.std) == (0.25, 0.5)
    assert Views(mean=mean, std=std).mean == (0.25,)


def test_statistics_as_they_are_broadcast():
    assert Views(mean=torch.full((1, 3, 1, 1), 0.5), std=np.full((3, 1, 1), 0.25)).std == (0.25,) * 3


@pytest.mark.parametrize("make", [lambda **given: load_dataset("digits", **given), Views], ids=["data", "views"])
@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": [77.85], "std": [95.88]}, r"mean must be .*\[0, 1\], got 77.85.*divided by 255: \[0.3053\]"),
        ({"mean": [0.3], "std": [95.88]}, r"std must be .*\(0, 1\], got 95.88.*divided by 255: \[0.376\]"),
        ({"mean": [-0.1], "std": [0.3]}, r"mean must be a number in \[0, 1\], got -0.1$"),
        ({"mean": [0.5], "std": [0]}, r"std must be a number in \(0, 1\], got 0$"),
        ({"mean": [np.nan], "std": [0.3]}, r"mean must be a number in \[0, 1\], got nan$"),
    ],
)
def test_statistics_that_cannot_be_of_images_in_0_to_1(make, statistics, message):
    with pytest.raises(ValueError, match=message):
        make(**statistics)


def test_a_root_that_is_not_there_is_shown_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = rf"root='photos' \({tmp_path / 'photos'}\)"
    for load, name in ((load_dataset, "image_folder"), (load_unlabelled, "image_folder"), (load_dataset, "cifar10")):
        with pytest.raises(FileNotFoundError, match=where):
            load(name, root="photos")
    with pytest.raises(FileNotFoundError, match=rf"root='{tmp_path}' has no"):
        load_dataset("image_folder", root=str(tmp_path))


def test_a_name_in_any_case():
    assert load_dataset("Digits").shape == (1, 8, 8)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_dataset("digit")
