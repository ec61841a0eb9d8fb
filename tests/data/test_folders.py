from __future__ import annotations

import image_files
import numpy as np
import pytest
import torch
from algorithms.settings import classifier, resumes_from_every_batch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as TF

from mixplug import ExactResumption
from mixplug.data.datasets import IMAGENET_STATISTICS, load_dataset
from mixplug.data.loaders import ImageLoader


def test_as_torchvisions_image_folder_reads_it(tmp_path):
    image_files.train_and_test(tmp_path)
    split = load_dataset("image_folder", root=tmp_path)
    assert split.classes == 2
    assert split.shape == (3, 8, 8)
    assert (split.mean, split.std) == IMAGENET_STATISTICS
    for part, name in ((split.train, "train"), (split.test, "test")):
        theirs = ImageFolder(tmp_path / name)
        assert part.labels.tolist() == theirs.targets
        assert torch.equal(part.images, torch.stack([TF.pil_to_tensor(image) for image, _ in theirs]))


def test_tiny_imagenet_as_it_comes(tmp_path):
    split = load_dataset("image_folder", root=image_files.tiny_imagenet(tmp_path))
    assert split.classes == 2
    assert len(split.train) == 8
    assert split.test.labels.tolist() == [0, 1, 0, 1], "from val_annotations.txt; test/images has no labels"
    assert torch.equal(split.test.images[1], TF.pil_to_tensor(image_files.picture(901)))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "held_out"])
def test_the_name_of_the_test_tree(tmp_path, name):
    image_files.train_and_test(tmp_path)
    (tmp_path / "test").rename(tmp_path / name)
    options = {"test": name} if name == "held_out" else {}
    assert len(load_dataset("image_folder", root=tmp_path, **options).test) == 12


def test_a_test_tree_without_one_of_the_classes_keeps_the_numbers(tmp_path):
    image_files.tree(tmp_path / "train", ("ant", "bee", "cat"))
    image_files.tree(tmp_path / "test", ("ant", "cat"))
    assert set(load_dataset("image_folder", root=tmp_path).test.labels.tolist()) == {0, 2}


def test_images_of_other_sizes_are_brought_to_one(tmp_path):
    image_files.tree(tmp_path / "train", ("a",), 2, (12, 16))
    image_files.tree(tmp_path / "test", ("a",), 2, (20, 10))
    image_files.picture(7, 9).save(tmp_path / "train" / "a" / "odd.png")
    with pytest.raises(ValueError, match=r"must have one size.*set data\.image_size"):
        load_dataset("image_folder", root=tmp_path)
    split = load_dataset("image_folder", root=tmp_path, image_size=8)
    assert split.shape == tuple(split.test.images.shape[1:]) == (3, 8, 8)
    picture = image_files.picture(0, (12, 16))
    expected = TF.center_crop(TF.resize(picture, 8, antialias=True), 8)
    assert torch.equal(split.train.images[0], TF.pil_to_tensor(expected))


def test_large_images_go_through_workers(tmp_path):
    image_files.train_and_test(tmp_path)
    kept = load_dataset("image_folder", root=tmp_path)
    read = load_dataset("image_folder", root=tmp_path, in_memory=False)
    assert isinstance(kept.eval_loader(5), ImageLoader)
    loader = read.eval_loader(5, workers=2)
    assert isinstance(loader, DataLoader)
    for (a, y), (b, z) in zip(kept.eval_loader(5), loader, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert torch.equal(y, z)
    shuffled = read.train_loader(5, crop_padding=2, flip=True, workers=1, seed=1)
    orders = []
    for epoch in range(2):
        shuffled.sampler.set_epoch(epoch)
        batches = list(shuffled)
        assert sum(len(y) for _, y in batches) == 12
        assert batches[0][0].shape == (5, 3, 8, 8)
        orders.append(torch.cat([y for _, y in batches]))
    assert not torch.equal(*orders)


@pytest.mark.parametrize("workers", [1, 2])
def test_augmented_by_workers_runs_resume_bit_for_bit(tmp_path, workers):
    image_files.train_and_test(tmp_path / "data", count=3)
    split = load_dataset("image_folder", root=tmp_path / "data", in_memory=False)

    def loader():
        return split.train_loader(3, crop_padding=2, flip=True, workers=workers, seed=1)

    interruptions = resumes_from_every_batch(
        tmp_path / "checkpoints",
        lambda: [ExactResumption()],
        model=lambda: classifier(in_chans=3),
        train_dataloader=loader,
        max_duration="3ep",
    )
    assert interruptions == 5


def test_large_images_are_not_kept(tmp_path, monkeypatch):
    image_files.train_and_test(tmp_path)
    monkeypatch.setattr("mixplug.data.datasets.IN_MEMORY_BYTES", 24 * 3 * 64)
    assert isinstance(load_dataset("image_folder", root=tmp_path).train_loader(5), DataLoader)
    assert isinstance(load_dataset("image_folder", root=tmp_path, in_memory=True).train_loader(5), ImageLoader)


def read_first(root, **options):
    return load_dataset("image_folder", root=root, **options).train.images[0]


def with_first(root, image, name="0.png", **options):
    """A tree whose first training image is ``image``."""
    image_files.train_and_test(root)
    (root / "train" / "cat" / "0.png").unlink()
    image.save(root / "train" / "cat" / name, **options)
    return root


@pytest.mark.parametrize(("kind", "name"), [("I;16", "0.png"), ("I;16", "0.tif"), ("I", "0.tif")])
def test_16_bits_become_8(tmp_path, kind, name):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    image = Image.fromarray(pixels if kind == "I;16" else pixels.astype(np.int32))
    assert image.mode == kind
    read = read_first(with_first(tmp_path, image, name))
    assert torch.equal(read[0], torch.from_numpy(np.round(pixels / 257).astype(np.uint8)))
    assert torch.equal(read[0], read[2])


def test_integers_of_more_than_16_bits_and_floats_are_refused(tmp_path):
    pixels = np.full((8, 8), 70000, np.int32)
    with pytest.raises(ValueError, match=r"0\.tif has values from 70000 to 70000.*16 bits"):
        read_first(with_first(tmp_path / "integers", Image.fromarray(pixels), "0.tif"))
    with pytest.raises(ValueError, match=r"0\.tif holds floating point numbers"):
        read_first(with_first(tmp_path / "floats", Image.fromarray(pixels.astype(np.float32)), "0.tif"))


def test_images_are_turned_as_their_exif_says(tmp_path):
    picture, exif = image_files.picture(3), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    read = read_first(with_first(tmp_path, picture, exif=exif))
    assert torch.equal(read, TF.pil_to_tensor(picture).rot90(-1, (1, 2)))


def test_transparent_pixels_are_laid_on_black(tmp_path):
    picture = image_files.picture(3)
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    picture.putalpha(Image.fromarray(alpha))
    read = read_first(with_first(tmp_path, picture))
    assert torch.equal(read[:, :, :4], torch.zeros(3, 8, 4, dtype=torch.uint8))
    assert torch.equal(read[:, :, 4:], TF.pil_to_tensor(image_files.picture(3))[:, :, 4:])


def test_too_many_pixels_are_refused_by_name(tmp_path, monkeypatch):
    image_files.train_and_test(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"0\.png has too many pixels"):
        load_dataset("image_folder", root=tmp_path)


def empty(root):
    (root / "train" / "cat").mkdir(parents=True)
    (root / "test").mkdir()


def unlabelled_test(root):
    image_files.tree(root / "train")
    image_files.tree(root / "test", ("images",))


def another_class(root):
    image_files.tree(root / "train")
    image_files.tree(root / "test", ("cat", "cow"))


def damaged(root):
    image_files.train_and_test(root)
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")


def no_classes(root):
    (root / "train").mkdir()
    image_files.picture(0).save(root / "train" / "0.png")


def no_test_images(root):
    image_files.train_and_test(root)
    for file in (root / "test").rglob("*.png"):
        file.unlink()


def bad_annotations(root):
    image_files.tiny_imagenet(root)
    (root / "val" / "val_annotations.txt").write_text("val_0.png n01\n")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: None, FileNotFoundError, "no folder 'train'.*CLASS/IMAGE"),
        (empty, FileNotFoundError, "no test images with labels"),
        (unlabelled_test, FileNotFoundError, "no test images with labels"),
        (another_class, ValueError, "the class 'cow', which the training images lack"),
        (damaged, ValueError, r"0.png cannot be read as an image"),
        (no_classes, FileNotFoundError, "no folder for each class"),
        (no_test_images, FileNotFoundError, "test holds no images"),
        (bad_annotations, ValueError, "val_annotations.txt, line 1"),
    ],
)
def test_trees_that_cannot_be_read(tmp_path, make, error, message):
    make(tmp_path)
    with pytest.raises(error, match=message):
        load_dataset("image_folder", root=tmp_path)


def test_a_test_tree_that_is_not_there(tmp_path):
    image_files.train_and_test(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder 'val'.*set data\.test"):
        load_dataset("image_folder", root=tmp_path, test="val")
