from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shared import image_files

from mixplug.data.datasets import IMAGENET_STATISTICS, load_dataset, load_unlabelled
from mixplug.data.loaders import ImageLoader
from mixplug.data.tables import TableRow, read_lines, write_table
from mixplug.lab.recipes.schema import load_recipe
from mixplug.lab.runs.inputs import check_images, make_inputs
from mixplug.lab.studies.views import _for_one_batch

TINY = Path(__file__).parents[1] / "shared/tiny.yaml"
HEADER = "path,label,split\n"


def tabled(root, unlabelled=5):
    """Twelve training images of two classes, twelve test images, others without labels, and their table."""
    image_files.train_and_test(root)
    image_files.tree(root / "more", ("x",), unlabelled, first=700)
    rows = [
        TableRow(path, "" if split == "unlabelled" else path.parent.name, split)
        for folder, split in (("test", "test"), ("train", "train"), ("more", "unlabelled"))
        for path in sorted((root / folder).rglob("*.png"))
    ]
    write_table(root / "images.csv", rows)
    return root / "images.csv"


def test_as_the_folder_of_the_same_images(tmp_path):
    table, folder = load_dataset("image_table", root=tabled(tmp_path)), load_dataset("image_folder", root=tmp_path)
    assert (table.names, table.classes) == (folder.names, 2) == (("cat", "dog"), 2)
    assert (table.mean, table.std) == IMAGENET_STATISTICS
    for ours, theirs in ((table.train, folder.train), (table.test, folder.test)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    drawn = [
        load_dataset(name, 0.5, 3, root=root).train
        for name, root in (("image_table", tmp_path / "images.csv"), ("image_folder", tmp_path))
    ]
    assert torch.equal(drawn[0].images, drawn[1].images)
    files = load_dataset("image_table", root=tmp_path / "images.csv", in_memory=False, image_size=4)
    assert files.train.paths == load_dataset("image_folder", root=tmp_path, in_memory=False).train.paths
    assert next(iter(files.eval_loader(3)))[0].shape == (3, 3, 4, 4)


def test_ssl_sees_what_has_no_label_too(tmp_path):
    file = tabled(tmp_path)
    seen = load_unlabelled("image_table", root=str(file), in_memory=False).images
    assert {path.relative_to(tmp_path).parts[0] for path in seen.paths} == {"train", "more"}
    assert (len(seen), seen.labels.tolist()) == (17, [0] * 17)
    own = ["data.dataset=Image_Table", f"data.root={file}", "data.fraction=0.5", "data.batch_size=4"]
    inputs = make_inputs(load_recipe(TINY, [*own, "ssl_data={same: true}"]), 0, torch.device("cpu"))
    assert [inputs.summary[key]["training_images"] for key in ("data", "ssl_data")] == [6, 17]
    assert inputs.names == {"": ("cat", "dog")}
    assert isinstance(inputs.ssl, ImageLoader)
    less = load_recipe(TINY, [*own, f"ssl_data={{dataset: image_table, root: {file}, fraction: 0.5}}"])
    assert make_inputs(less, 0, torch.device("cpu")).summary["ssl_data"]["training_images"] == 8
    shown = _for_one_batch(less, 3)
    assert shown.data.in_memory is shown.ssl_data.in_memory is False


def test_damaged_images_of_a_table_are_found_before_the_first_run(tmp_path):
    file = tabled(tmp_path)
    (tmp_path / "more" / "x" / "3.png").write_bytes(b"no image")
    own = ["data.dataset=image_table", f"data.root={file}", "data.in_memory=false", "data.fraction=1"]
    with pytest.raises(ValueError, match=r"more/x/3\.png cannot be read as an image"):
        check_images([(load_recipe(TINY, [*own, "ssl_data={same: true}"]), [0])])


def test_what_is_written_is_read_again(tmp_path):
    rows = []
    for number, name in enumerate(["a,b.png", 'quo"te.png', " space.png", "näme.png", "deep/x.png", "../out.png"]):
        path = tmp_path / "table" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image_files.picture(number).save(path)
        rows.append(TableRow(path.resolve(), "ça, va" if number % 2 else "", "train" if number % 2 else "unlabelled"))
    file = tmp_path / "table" / "t.csv"
    write_table(file, rows)
    assert [row for _, row in read_lines(file, [file.parent])] == rows
    assert "\ndeep/x.png," in file.read_text("utf-8")
    assert str(rows[-1].path) in file.read_text("utf-8")
    with pytest.raises(ValueError, match="not in UTF-8; rename the file"):
        write_table(file, [TableRow(Path("\udcff.png"), "a", "train")])


def test_a_table_out_of_a_spreadsheet(tmp_path):
    lines = tabled(tmp_path).read_text().splitlines()[1:]
    rows = (line.split(",") for line in lines)
    text = "id,SPLIT, Label ,Path\r\n" + "".join(
        f"7, {split.title()}, {label} ,{path}\r\n" for path, label, split in rows
    )
    (tmp_path / "sheet.csv").write_bytes(f"\ufeff{text}\r\n".encode())
    split = load_dataset("image_table", root=tmp_path / "sheet.csv")
    assert (split.names, len(split.train), len(split.test)) == (("cat", "dog"), 12, 12)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, r"no column 'path': its first line must be path,label,split, with commas, got ''"),
        ("path;label;split\n", ValueError, "no column 'path'.* got 'path;label;split'"),
        ("path,label\na.png,cat\n", ValueError, "no column 'split'"),
        ("path,split\na.png,train\n", ValueError, "no column 'label'"),
        (HEADER, ValueError, "a header and no rows"),
        (
            HEADER + "a.png,cat,train\nb.png,dog,val\n",
            ValueError,
            "line 3: split must be one of .*'unlabelled'.* got 'val'",
        ),
        (
            HEADER + "a.png,cat,train\n\nb.png,,train\n",
            ValueError,
            "line 4: an image of the split 'train' has no label",
        ),
        (HEADER + "a.png, ,test\n", ValueError, "line 2: an image of the split 'test' has no label"),
        (HEADER + "a.png,cat,unlabelled\n", ValueError, "line 2: .*'unlabelled' has the label 'cat'"),
        (HEADER + ",cat,train\n", ValueError, "line 2: the path is empty"),
        (HEADER + "a.png,cat\n", ValueError, "line 2 has 2 fields and the header 3"),
        (HEADER + "a.png,cat,dog,train\n", ValueError, "line 2 has 4 fields .*between double quotes"),
        (HEADER + 'a.png,"cat,train\n', ValueError, "line 2: .*each image has a line"),
        (
            HEADER + "a.png,cat,train\nz.png,dog,train\ny.png,dog,train\n",
            FileNotFoundError,
            r"line 3: there is no file '.*/z\.png'; 2 of 3 files are missing",
        ),
        (HEADER + "a.png,cat,train\n.,dog,train\n", FileNotFoundError, r"line 3: .*; 1 of 2 files is missing"),
        (
            HEADER + "a.png,cat,train\nb.png,dog,train\n./a.png,cat,test\n",
            ValueError,
            r"line 4: '.*a\.png' is the image of line 2 already \(test and train\)",
        ),
        (
            HEADER + "a.png,cat,train\nlink.png,cat,train\n",
            ValueError,
            r"line 3: '.*link\.png' is the image of line 2 already; take",
        ),
        (
            HEADER + "a.png,cat,train\nb.png,cat,test\n",
            ValueError,
            "one class, 'cat', in its rows of the split 'train'",
        ),
        (HEADER + "a.png,cat,test\n", ValueError, "no rows of the split 'train'"),
        (HEADER + "a.png,cat,train\nb.png,dog,train\n", ValueError, "no rows of the split 'test'"),
        (
            HEADER + "a.png,cat,train\nb.png,dog,train\nc.png,cow,test\n",
            ValueError,
            "line 4 has the class 'cow', which the training images lack .*cat, dog",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path, text, error, message):
    for number, name in enumerate("abc"):
        image_files.picture(number).save(tmp_path / f"{name}.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(error, match=rf"t\.csv.*{message}"):
        load_dataset("image_table", root=tmp_path / "t.csv")


def test_more_that_is_refused_or_told(tmp_path):
    file = tabled(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ssl_data\.root='.*' is no file; of an image_table"):
        load_unlabelled("image_table", root=str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.train is for an image_folder, not for 'image_table'"):
        load_dataset("image_table", root=file, train="x")
    with pytest.raises(ValueError, match="needs labels, which are not read here"):
        load_unlabelled("image_table", root=file, sampling="stratified")
    lines = [line for line in file.read_text().splitlines() if not line.startswith("test/dog")]
    file.write_text("\n".join(lines))
    with pytest.warns(
        UserWarning, match=r"the split 'test' of .*images\.csv has no images of 1 of the 2 classes .*\(dog\)"
    ):
        load_dataset("image_table", root=file)
    file.write_text(HEADER + "test/cat/0.png,cat,test\n")
    with pytest.raises(ValueError, match="test images alone"):
        load_unlabelled("image_table", root=file)
    file.write_bytes(HEADER.encode() + b"train/cat/0.png,b\xe4r,train\n")
    with pytest.raises(ValueError, match=r"images\.csv is not in UTF-8"):
        load_dataset("image_table", root=file)
