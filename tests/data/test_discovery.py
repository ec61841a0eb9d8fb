from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from shared import image_files

from mixplug.data.datasets import load_dataset, load_unlabelled
from mixplug.data.discovery import find_labelled_images
from mixplug.data.subsets import is_small_validation, split_validation
from mixplug.data.tables import write_table


def found_in(root, labels=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_labelled_images(root, labels)


def of(found):
    """What each image is, by its path in the folder."""
    return {str(row.path.relative_to(found.folder)): (row.label, row.split) for row in found.rows}


def counts(found):
    return Counter((row.label, row.split) for row in found.rows)


def more(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image_files.picture(3000 + number, (12, 4)).save(root / name)


def test_a_folder_for_each_class(tmp_path):
    image_files.tree(tmp_path, count=4)
    more(tmp_path, "loose.png", "cat/deep/x.png", "Unlabeled/y.png", "unlabelled/a/b/z.png", ".hidden/q.png")
    found = found_in(tmp_path)
    assert counts(found) == {("cat", ""): 5, ("dog", ""): 4, ("", "unlabelled"): 3}
    assert (found.classes, found.width, found.height, found.channels) == ({"cat": 5, "dog": 4}, 8, 8, 3)
    more(tmp_path, *(f"unlabelled/{i}.png" for i in range(20)))
    assert (found_in(tmp_path).width, found_in(tmp_path).height) == (12, 4)


@pytest.mark.parametrize("train", ["train", "."])
@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folders_of_test_images(tmp_path, train, test):
    image_files.tree(tmp_path / train)
    image_files.tree(tmp_path / test, ("cat",), 2, first=500)
    more(tmp_path, "loose.png", "unlabelled/z.png")
    found = found_in(str(tmp_path))
    expected = {("cat", "train"): 6, ("dog", "train"): 6, ("cat", "test"): 2, ("", "unlabelled"): 2}
    assert (counts(found), found.classes) == (expected, {"cat": 6, "dog": 6})


def test_training_images_without_test_images(tmp_path):
    image_files.tree(tmp_path / "train")
    assert counts(found_in(tmp_path)) == {("cat", "train"): 6, ("dog", "train"): 6}


def test_tiny_imagenet(tmp_path):
    image_files.tiny_imagenet(tmp_path)
    with pytest.warns(
        UserWarning, match=r"4 images outside of a class folder passed over \(test/images/test_0\.png, .*unlabelled"
    ):
        found = find_labelled_images(tmp_path)
    split = load_dataset("image_folder", root=tmp_path, in_memory=False)
    theirs = {
        path: (split.names[label], name)
        for part, name in ((split.train, "train"), (split.test, "test"))
        for path, label in zip(part.paths, part.labels.tolist(), strict=True)
    }
    assert {row.path: (row.label, row.split) for row in found.rows} == theirs


def test_what_is_passed_over_is_told(tmp_path):
    image_files.train_and_test(tmp_path)
    more(tmp_path, "train/loose.png", "test/loose.png", "extra/a/b.png")
    (tmp_path / "train" / "cat" / "raw.heic").write_bytes(b"")
    loose = r"3 images outside of a class folder passed over \(extra/a/b\.png, test/loose\.png, train/loose\.png\)"
    with (
        pytest.warns(UserWarning, match=r"1 file passed over for the ending \(\.heic: 1\)"),
        pytest.warns(UserWarning, match=loose),
    ):
        assert len(find_labelled_images(tmp_path).rows) == 24


@pytest.mark.parametrize(("column", "place"), [("path", "in"), ("file", "beside"), ("image", "in")])
def test_a_table_of_labels(tmp_path, column, place):
    images = tmp_path / "images"
    more(images, "a.png", "b.png", "c.png", "d.png", "deep/e.png", "train/cat/f.png")
    file = (images if place == "in" else tmp_path) / "labels.csv"
    prefix = "" if place == "in" else "images/"
    lines = [f"{prefix}a.png,cat", f"{images}/b.png,dog", f"{prefix}deep/e.png,cat", f"{prefix}d.png,"]
    file.write_text("\n".join([f"{column},label", *lines]))
    found = found_in(images, file)
    assert of(found) == {
        "a.png": ("cat", ""),
        "b.png": ("dog", ""),
        "deep/e.png": ("cat", ""),
        **dict.fromkeys(("c.png", "d.png", "train/cat/f.png"), ("", "unlabelled")),
    }
    assert found.classes == {"cat": 2, "dog": 1}
    file.write_text(
        "\n".join(
            [
                f"{column},label,split",
                *(
                    f"{line},{split}"
                    for line, split in zip(lines, ("train", "train", "test", "unlabelled"), strict=True)
                ),
            ]
        )
    )
    assert of(found_in(images, file))["deep/e.png"] == ("cat", "test")


def test_the_rows_make_a_table_to_train_on(tmp_path):
    image_files.tree(tmp_path, count=5)
    more(tmp_path, "x.png", "unlabelled/y.png")
    found = find_labelled_images(tmp_path)
    labelled = [row for row in found.rows if row.label]
    held_out = {*split_validation([row.label for row in labelled], 0).tolist()}
    rows = [row._replace(split="test" if n in held_out else "train") for n, row in enumerate(labelled)]
    write_table(tmp_path / "t.csv", [*rows, *(row for row in found.rows if not row.label)])
    split = load_dataset("image_table", root=tmp_path / "t.csv", image_size=4)
    assert (len(split.train), len(split.test), split.names) == (8, 2, ("cat", "dog"))
    assert len(load_unlabelled("image_table", root=str(tmp_path / "t.csv"), image_size=4).images) == 10


@pytest.mark.parametrize(
    ("names", "labels", "error", "message"),
    [
        ([], None, FileNotFoundError, "holds no images; put images into FOLDER/CLASS/IMAGE or .* path,label"),
        (["a.png", "unlabelled/b.png"], None, ValueError, "none of its 2 images has a label to learn from; put"),
        (["cat/a.png", "x.png"], None, ValueError, "its labelled images have one class, 'cat'; put"),
        (["train/a.png", "test/b.png"], None, ValueError, "/test has no folder for each class .* rename it"),
        (["cat/a.png", "dog/b.png", "Train/c.png"], None, ValueError, "/Train has no folder for each class"),
        (
            ["cat/a.png", "dog/b.png", "test/cat/c.png", "test/cow/d.png"],
            None,
            ValueError,
            "has the class 'cow', which",
        ),
        (
            ["train/cat/a.png", "train/dog/b.png", "train/cow/c.txt"],
            None,
            FileNotFoundError,
            "train/cow holds no images",
        ),
        (
            ["a.png"],
            "path,label\na.png,cat\nz.png,dog\n",
            FileNotFoundError,
            r"line 3: there is no file .*z\.png'; 1 of 2 .* relative to .* or ",
        ),
        (["a.png"], "path,label\na.png,\n", ValueError, "none of its 1 image has a label"),
        (["a.png", "b.png"], "path,label\na.png,cat\nb.png,cat\n", ValueError, "one class, 'cat'"),
        (
            ["a.png", "b.png"],
            "picture,label\na.png,cat\n",
            ValueError,
            "no column 'path' or 'file' or 'image': .* path,label,",
        ),
        (["a.png", "b.png"], "path,label,split\na.png,cat,\n", ValueError, "line 2: split must be one of"),
        (
            ["a.png", "b.png"],
            "path,label,split\na.png,cat,train\nb.png,dog,test\n",
            ValueError,
            "line 3 has the class 'dog'",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path, names, labels, error, message):
    images = tmp_path / "images"
    images.mkdir()
    more(images, *(name for name in names if name.endswith("png")))
    for name in names:
        (images / name).parent.mkdir(exist_ok=True)
    file = None if labels is None else tmp_path / "labels.csv"
    if labels is not None:
        file.write_text(labels)
    with pytest.raises(error, match=message):
        find_labelled_images(images, file)
    with pytest.raises(FileNotFoundError, match="there is no folder 'nowhere'"):
        find_labelled_images("nowhere")
    with pytest.raises(FileNotFoundError, match="there is no file 'nowhere'"):
        find_labelled_images(tmp_path, "nowhere")


@pytest.mark.parametrize("as_tensor", [True, False])
def test_held_out_by_classes(as_tensor):
    labels = ["b"] * 50 + ["a"] * 10 + ["c"] * 2 + ["d"]
    given = torch.tensor([ord(label) for label in labels]) if as_tensor else labels
    held = split_validation(given, 3)
    assert held.tolist() == sorted({*held.tolist()})
    assert Counter(labels[n] for n in held) == {"b": 9, "a": 2, "c": 1}
    assert not torch.equal(held, split_validation(given, 4))
    assert torch.equal(held, split_validation(given, 3))
    assert is_small_validation(given, held)


def test_few_to_hold_out():
    assert len(split_validation(["a", "b"])) == len(split_validation([])) == 0
    assert len(split_validation(["a", "a", "b", "b"], share=0.99)) == 2
    labels = [number % 2 for number in range(250)]
    assert len(split_validation(labels)) == 50
    assert not is_small_validation(labels, split_validation(labels))
    assert is_small_validation(labels, split_validation(labels, share=0.19))
    rare = [0] * 300 + [1] * 5
    assert is_small_validation(rare, split_validation(rare))
    with pytest.raises(ValueError, match=r"share must be a number in \(0, 1\), got 1"):
        split_validation(labels, share=1)
