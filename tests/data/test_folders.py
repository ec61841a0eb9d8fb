from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shared import image_files
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as TF

from mixplug.data.datasets import IMAGENET_STATISTICS, load_dataset, load_unlabelled
from mixplug.data.images import read_square
from mixplug.data.loaders import ImageLoader
from mixplug.data.metadata import pixels_alone


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
    with pytest.warns(UserWarning, match=r"no images of 1 of the 3 classes of .*train \(bee\)"):
        split = load_dataset("image_folder", root=tmp_path)
    assert set(split.test.labels.tolist()) == {0, 2}


def test_training_images_as_test_images_are_warned_about(tmp_path):
    image_files.train_and_test(tmp_path)
    with pytest.warns(UserWarning, match=r"data\.test='train' is the folder of the training images"):
        load_dataset("image_folder", root=tmp_path, test="train")


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    image_files.train_and_test(tmp_path)
    for tree in ("train", "test"):
        image_files.tree(tmp_path / tree, (".ipynb_checkpoints", "cat/.thumbs"), 1)
        (tmp_path / tree / "cat" / "._0.png").write_bytes(b"no image")
    split = load_dataset("image_folder", root=tmp_path)
    assert (split.classes, len(split.train), len(split.test)) == (2, 12, 12)
    assert len(load_unlabelled("image_folder", root=tmp_path).images) == 12


def test_images_of_other_sizes_are_brought_to_one(tmp_path):
    image_files.tree(tmp_path / "train", ("a", "b"), 2, (12, 16))
    image_files.tree(tmp_path / "test", ("a", "b"), 2, (12, 16))
    image_files.picture(7, 9).save(tmp_path / "train" / "a" / "odd.png")
    with pytest.raises(ValueError, match=r"must have one size.*odd\.png.*set data\.image_size"):
        load_dataset("image_folder", root=tmp_path)
    loader = load_dataset("image_folder", root=tmp_path, in_memory=False).train_loader(2, workers=1)
    with pytest.raises(ValueError, match=r"^images must have one size.*odd\.png.*set data\.image_size"):
        list(loader)
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


@pytest.mark.parametrize("in_memory", [None, False])
def test_training_and_test_images_of_other_sizes_are_refused(tmp_path, in_memory):
    image_files.tree(tmp_path / "train", size=(12, 16))
    image_files.tree(tmp_path / "test", size=(16, 12))
    with pytest.raises(ValueError, match=r"\(16, 12\) and test images \(12, 16\).*set data\.image_size"):
        load_dataset("image_folder", root=tmp_path, in_memory=in_memory)
    assert load_dataset("image_folder", root=tmp_path, in_memory=in_memory, image_size=8).shape == (3, 8, 8)


def test_the_size_of_an_image_that_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    image_files.train_and_test(tmp_path, size=(6, 4))
    for name in ("train", "test"):
        for file in (tmp_path / name).rglob("*.png"):
            image_files.picture(0, (6, 4)).save(file, exif=exif)
    split = load_dataset("image_folder", root=tmp_path, in_memory=False)
    assert split.shape == (3, 6, 4)
    assert next(iter(split.train_loader(12)))[0].shape == (12, 3, 6, 4)


def test_a_worker_says_what_is_wrong_in_a_line(tmp_path):
    image_files.train_and_test(tmp_path)
    (tmp_path / "test" / "cat" / "1.png").write_bytes(b"no image")
    loader = load_dataset("image_folder", root=tmp_path, in_memory=False).eval_loader(4, workers=1)
    with pytest.raises(ValueError, match=r"^\S*1\.png cannot be read as an image .*take it away$"):
        list(loader)


def with_text(path, size=2 << 20):
    text = PngInfo()
    text.add_text("comment", "x" * size, zip=True)
    image_files.picture(3).save(path, pnginfo=text)


def with_broken_comment(path):
    text = PngInfo()
    text.add_text("comment", "all is well")
    image_files.picture(3).save(path, pnginfo=text)
    path.write_bytes(path.read_bytes().replace(b"all is well", b"all is gone"))  # the checksum is of what was


def with_broken_exif(path):
    image_files.picture(3).save(path, exif=b"Exif\0\0no such thing")


def with_broken_profile(path):
    image_files.picture(3).save(path, icc_profile=b"x" * (2 << 20))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("write", [with_text, with_broken_comment, with_broken_exif, with_broken_profile])
def test_metadata_that_cannot_be_read_does_not_stop_pixels(tmp_path, write, in_memory):
    image_files.train_and_test(tmp_path)
    write(tmp_path / "train" / "cat" / "0.png")
    split = load_dataset("image_folder", root=tmp_path, in_memory=in_memory)
    assert split.shape == (3, 8, 8)
    pixels = next(iter(split.train_loader(1, shuffle=False)))[0][0]
    means, stds = (torch.tensor(numbers).view(3, 1, 1) for numbers in IMAGENET_STATISTICS)
    assert torch.allclose(pixels * stds + means, TF.to_tensor(image_files.picture(3)), atol=1e-5)


def test_exif_with_a_number_over_0_still_says_which_side_is_up(tmp_path):
    orientation, resolution = struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHII", 0x011A, 10, 1, 38)
    entries = struct.pack("<H", 2) + orientation + resolution + bytes(4)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<ii", -1, 0)
    picture = image_files.picture(3)
    with_first(tmp_path, picture, exif=exif)
    assert torch.equal(read_first(tmp_path), TF.pil_to_tensor(picture).rot90(-1, (1, 2)))


def test_a_jpeg_without_its_metadata_is_the_same_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = image_files.picture(3, 16)
    picture.save(tmp_path / "a.jpg", exif=exif, comment=b"c" * 99, icc_profile=b"x" * 999)
    content = (tmp_path / "a.jpg").read_bytes()
    stripped = pixels_alone(content)
    assert len(content) - len(stripped) > 999 + 99
    (tmp_path / "b.jpg").write_bytes(stripped)
    assert np.array_equal(read_square(tmp_path / "a.jpg", None), read_square(tmp_path / "b.jpg", None))


@pytest.mark.parametrize("error", [ValueError("text"), struct.error("size"), ZeroDivisionError(), KeyError(1)])
@pytest.mark.parametrize("workers", [None, 0, 1])
def test_an_error_of_any_type_names_the_file(tmp_path, monkeypatch, error, workers):
    image_files.train_and_test(tmp_path, count=1)

    def load(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ValueError, match=r"^\S*0\.png cannot be read as an image \(.+\); mend it or take it away$"):
        list(
            load_dataset("image_folder", root=tmp_path, in_memory=workers is None).train_loader(1, workers=workers or 0)
        )


def test_files_passed_over_for_their_ending_are_counted(tmp_path):
    image_files.train_and_test(tmp_path)
    for name in ("a.jfif", "b.gif", "c.heic", "d.GIF", "noending", "notes.txt", ".hidden.gif"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"train: 5 files passed over for the ending \(\.gif: 2, ") as caught:
        split = load_dataset("image_folder", root=tmp_path)
    assert all(text in str(caught[0].message) for text in (".jfif: 1", ".heic: 1", "none: 1"))
    assert (len(caught), len(split.train)) == (1, 12)
    with pytest.warns(UserWarning, match=r"5 files passed over for the ending"):
        assert len(load_unlabelled("image_folder", root=tmp_path).images) == 12


def test_images_outside_of_a_class_folder_are_counted(tmp_path):
    image_files.train_and_test(tmp_path)
    image_files.picture(0).save(tmp_path / "test" / "lost.png")
    with pytest.warns(UserWarning, match=r"test: 1 image outside of a class folder passed over \(lost\.png\)"):
        load_dataset("image_folder", root=tmp_path)


def test_images_without_an_annotation_are_counted(tmp_path):
    image_files.tiny_imagenet(tmp_path)
    image_files.picture(0).save(tmp_path / "val" / "images" / "lost.png")
    with pytest.warns(UserWarning, match=r"images: 1 image without a line in val_annotations\.txt passed over"):
        load_dataset("image_folder", root=tmp_path)


def test_a_folder_without_others_says_nothing(tmp_path, recwarn):
    image_files.train_and_test(tmp_path / "classes")
    load_dataset("image_folder", root=tmp_path / "classes")
    load_unlabelled("image_folder", root=tmp_path / "classes")
    load_dataset("image_folder", root=image_files.tiny_imagenet(tmp_path / "tiny"))
    assert not recwarn


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat/deeper"])
def test_a_folder_that_links_lead_to_again_is_read_once(tmp_path, target):
    image_files.train_and_test(tmp_path, count=3)
    image_files.tree(tmp_path / "train" / "cat", ("deeper",), 1)
    (tmp_path / "train" / "cat" / "loop").symlink_to(target, target_is_directory=True)
    split = load_dataset("image_folder", root=tmp_path)
    assert split.train.labels.tolist() == [0] * 4 + [1] * 3
    assert len(load_unlabelled("image_folder", root=tmp_path).images) == 7


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    image_files.train_and_test(tmp_path, count=3)
    image_files.tree(tmp_path / "store", ("more",), 2)
    (tmp_path / "train" / "dog" / "more").symlink_to(tmp_path / "store" / "more")
    assert load_dataset("image_folder", root=tmp_path).train.labels.tolist() == [0] * 3 + [1] * 5


@pytest.mark.parametrize("target", ["cat", ".", ".."])
def test_a_class_that_is_another_folder_by_a_link(tmp_path, target):
    image_files.train_and_test(tmp_path)
    (tmp_path / "train" / "eel").symlink_to(target, target_is_directory=True)
    with pytest.raises(ValueError, match=r"train/eel is, by a link, the folder \S+, and its images would be of two"):
        load_dataset("image_folder", root=tmp_path)


def test_test_images_that_are_training_images_by_a_link(tmp_path):
    image_files.train_and_test(tmp_path)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.unlink()
    (tmp_path / "test" / "dog").rmdir()
    (tmp_path / "test" / "dog").symlink_to(tmp_path / "train" / "dog")
    with pytest.warns(UserWarning, match=r"test/dog is, by a link, a folder of the training images"):
        load_dataset("image_folder", root=tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    image_files.train_and_test(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError, match="dog"):
        load_unlabelled("image_folder", root=tmp_path)


@pytest.mark.parametrize("folder", ["train", "", "train/deep/er"])
def test_unlabelled_images_lie_anywhere(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for i in range(3):
        image_files.picture(i).save(tmp_path / folder / f"{i}.PNG")
    loaded = load_unlabelled("image_folder", root=tmp_path)
    assert torch.equal(loaded.images.images[2], TF.pil_to_tensor(image_files.picture(2)))
    assert not loaded.images.labels.any()
    assert next(iter(loaded.loader(2)))[0].shape == (2, 3, 8, 8)
    read = load_unlabelled("image_folder", 2 / 3, root=tmp_path, in_memory=False)
    assert len(read.images) == 2


def test_unlabelled_images_do_without_those_for_the_test(tmp_path):
    image_files.train_and_test(tmp_path)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    labelled = ImageFolder(tmp_path / "train")
    images = load_unlabelled("image_folder", root=tmp_path).images.images
    assert torch.equal(images, torch.stack([TF.pil_to_tensor(image) for image, _ in labelled]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": "photos"}, FileNotFoundError, r"photos is no folder of images; set ssl_data\.root and ssl_data\.tr"),
        ({}, FileNotFoundError, r"holds no images .*set ssl_data\.root"),
        ({"sampling": "stratified"}, ValueError, r"ssl_data\.sampling='stratified' needs labels"),
    ],
)
def test_unlabelled_images_that_are_not_there(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        load_unlabelled("image_folder", root=tmp_path, **options)


def test_images_are_decoded_once_for_several_data_sets(tmp_path, monkeypatch):
    for number in range(6):
        image_files.train_and_test(tmp_path / str(number), first=10_000 * number, count=1)
    first = [load_dataset("image_folder", root=tmp_path / str(number)) for number in range(6)]
    monkeypatch.setattr("mixplug.data.images.read_square", None)
    again = [load_dataset("image_folder", root=tmp_path / str(number)) for number in range(6)]
    assert all(torch.equal(a.train.images, b.train.images) for a, b in zip(first, again, strict=True))


def one_class(root):
    image_files.train_and_test(root, classes=("cat",))


def a_class_without_images(root):
    image_files.train_and_test(root)
    (root / "train" / "eel").mkdir()


def other_encoding(root):
    image_files.tiny_imagenet(root)
    (root / "val" / "val_annotations.txt").write_bytes("val_0.png\tn01\t\xe9\n".encode("latin-1"))


def empty(root):
    (root / "train" / "cat").mkdir(parents=True)
    (root / "train" / "dog").mkdir(parents=True)
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
        (other_encoding, ValueError, "val_annotations.txt is not in UTF-8"),
        (one_class, ValueError, "train has one class, 'cat'; there must be at least two"),
        (a_class_without_images, FileNotFoundError, "eel holds no images .*take the folder away"),
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
