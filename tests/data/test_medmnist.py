from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from mixplug.data.datasets import load_dataset, load_unlabelled
from mixplug.data.medmnist import MEDMNIST

GREY = ("octmnist", "pneumoniamnist", "breastmnist", "tissuemnist", "organamnist", "organcmnist", "organsmnist")


def arrays(name="pathmnist", size=28, count=6, classes=2):
    """As MedMNIST's files hold them; the validation images are others."""
    rng, shape = np.random.default_rng(size), (size, size) if name in GREY else (size, size, 3)
    made = {}
    for split, number in (("train", count), ("val", 3), ("test", count - 2)):
        made[f"{split}_images"] = rng.integers(0, 256, (number, *shape), np.uint8)
        made[f"{split}_labels"] = (np.arange(number, dtype=np.uint8) % classes)[:, None]
    return made


@pytest.mark.parametrize("name", MEDMNIST)
def test_each_set(tmp_path, name):
    own = name.removeprefix("medmnist_")
    classes = {"pathmnist": 9, "dermamnist": 7, "octmnist": 4, "bloodmnist": 8, "tissuemnist": 8}
    expected = classes.get(own, 11 if own.startswith("organ") else 2)
    made = arrays(own, classes=expected, count=13)
    np.savez(tmp_path / f"{own}.npz", **made)
    split = load_dataset(name, root=tmp_path)
    channels = 1 if own in GREY else 3
    assert (split.classes, len(set(split.names)), split.shape) == (expected, expected, (channels, 28, 28))
    assert split.mean == split.std == (0.5,) * channels
    for part, theirs in ((split.train, "train"), (split.test, "test")):
        assert part.labels.dtype == torch.long
        assert part.labels.tolist() == made[f"{theirs}_labels"].ravel().tolist()
        for image, pixels in zip(part.images, made[f"{theirs}_images"], strict=True):
            assert torch.equal(image, TF.pil_to_tensor(TF.to_pil_image(pixels)))


def test_sizes_and_files_that_change(tmp_path):
    for size in (28, 64):
        np.savez(tmp_path / f"pathmnist{'' if size == 28 else '_64'}.npz", **arrays(size=size))
    small, large, other = (load_dataset("medmnist_pathmnist", root=tmp_path, image_size=n) for n in (28, 64, 32))
    assert large.test.images[0].permute(1, 2, 0).equal(torch.from_numpy(arrays(size=64)["test_images"][0]))
    assert torch.equal(other.test.images, TF.resize(small.test.images, [32, 32], antialias=True))
    assert torch.equal(load_unlabelled("MedMNIST_PathMNIST", root=str(tmp_path)).images.images, small.train.images)
    with pytest.raises(FileNotFoundError, match=r"pathmnist_128\.npz is not in data\.root=.*data\.download=true"):
        load_dataset("medmnist_pathmnist", root=tmp_path, image_size=128)
    np.savez(tmp_path / "pathmnist.npz", **arrays(count=9))
    assert len(load_dataset("medmnist_pathmnist", root=tmp_path).train) == 9


@pytest.mark.parametrize(
    ("name", "why"),
    [("chestmnist", "several labels"), ("RetinaMNIST", "grades with an order"), ("nodulemnist3d", "volumes")],
)
def test_sets_for_other_tasks(name, why):
    with pytest.raises(ValueError, match=rf"data\.dataset='medmnist_{name}' has {why}.*'medmnist_pathmnist'"):
        load_dataset(f"medmnist_{name}")
    with pytest.raises(ValueError, match="did you mean 'medmnist_pathmnist'"):
        load_dataset("medmnist_patmnist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.pop("test_labels"), "test_labels"),
        (lambda made: made.update(train_labels=np.zeros((6, 14), np.uint8)), r"train: .*labels \(6, 14\)"),
        (lambda made: made.update(train_labels=np.full((6, 1), 9, np.uint8)), "labels are from 9 to 9, of 9 classes"),
        (lambda made: made.update(test_images=made["test_images"] / 255), r"test: images are torch\.float64"),
    ],
)
def test_files_that_are_none_of_medmnists(tmp_path, change, message):
    made = arrays()
    change(made)
    np.savez(tmp_path / "pathmnist.npz", **made)
    with pytest.raises(ValueError, match=rf"pathmnist\.npz cannot be read .*{message}.*data\.download=true"):
        load_dataset("medmnist_pathmnist", root=tmp_path)
    (tmp_path / "pathmnist.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"pathmnist\.npz cannot be read"):
        load_dataset("medmnist_pathmnist", root=tmp_path)


def test_what_the_package_fetches(tmp_path, monkeypatch):
    """By the package's own class, as its release 3.0.2 has it."""

    class PathMNIST:
        def __init__(self, split, *, root, size, download):
            if size == 224:
                raise RuntimeError("\n  Automatic download failed!\n")
            assert download
            np.savez(f"{root}/pathmnist{'' if size == 28 else f'_{size}'}.npz", **arrays(size=size))

    fake = types.SimpleNamespace(INFO={"pathmnist": {"python_class": "PathMNIST"}}, PathMNIST=PathMNIST)
    monkeypatch.setitem(sys.modules, "medmnist", fake)
    for size in (None, 64, 40):
        split = load_dataset("medmnist_pathmnist", root=tmp_path / "new" / str(size), image_size=size, download=True)
        assert split.shape == (3, size or 28, size or 28)
    with pytest.raises(
        OSError, match=r"could not fetch pathmnist_224\.npz into data\.root.* \(Automatic download failed!\)"
    ):
        load_dataset("medmnist_pathmnist", root=tmp_path, image_size=224, download=True)
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(ImportError, match=r"needs the package medmnist: pip install 'mixplug\[medmnist\]'"):
        load_dataset("medmnist_bloodmnist", root=tmp_path, download=True)
