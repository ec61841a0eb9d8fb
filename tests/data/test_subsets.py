from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import image_files

from mixplug.data.datasets import load_dataset
from mixplug.data.subsets import draw, draw_labels, draw_per_class

settings = {
    "labels": st.lists(st.integers(0, 4), min_size=4, max_size=60).map(torch.tensor),
    "fraction": st.floats(0.3, 1.0),
    "seed": st.integers(0, 2**31),
    "sampling": st.sampled_from(["uniform", "stratified"]),
}


@given(**settings)
def test_so_many_distinct_images_a_function_of_the_seed(labels, fraction, seed, sampling):
    kept = draw(labels, fraction, seed, sampling)
    assert len(kept) == round(len(labels) * fraction)
    assert len(kept.unique()) == len(kept)
    assert kept.max() < len(labels)
    assert torch.equal(kept, draw(labels, fraction, seed, sampling))


@given(labels=settings["labels"], fraction=settings["fraction"], seed=settings["seed"])
def test_stratified_gives_each_class_its_share_up_to_one_image(labels, fraction, seed):
    kept = labels[draw(labels, fraction, seed, "stratified")]
    names, share = labels.unique(), len(kept) / len(labels)
    sizes = torch.tensor([(labels == name).sum() for name in names])
    counts = torch.tensor([(kept == name).sum() for name in names])
    assert (counts > 0).sum() == min(len(kept), len(names)), "one image at least of each class where it can"
    if (share * sizes >= 1).all():
        assert ((counts - share * sizes).abs() < 1).all()


def test_stratified_takes_a_small_class_from_the_largest():
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] + [3])
    assert labels[draw(labels, 0.05, 0, "stratified")].bincount(minlength=4).tolist() == [2, 1, 1, 1]
    assert labels[draw(labels, 0.03, 0, "stratified")].bincount(minlength=4).max() == 1


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_classes_that_lose_all_images_are_named(tmp_path, sampling):
    image_files.train_and_test(tmp_path, classes=("ant", "bee", "cat"), count=2)
    with pytest.warns(
        UserWarning, match=r"data: 1 of the 3 classes cannot be learned .* in the 2 of 6 .* that seed 3 drew"
    ):
        split = load_dataset("image_folder", 1 / 3, 3, root=tmp_path, sampling=sampling)
    lost = {*split.names} - {split.names[label] for label in split.train.labels.tolist()}
    with pytest.warns(UserWarning, match=rf"cannot be learned \({lost.pop()}\): no image is left"):
        load_dataset("image_folder", 1 / 3, 3, root=tmp_path, sampling=sampling)


def test_classes_that_keep_an_image_are_not(recwarn):
    load_dataset("digits", labels=10, sampling="stratified")
    load_dataset("digits", 0.5)
    assert not recwarn


def test_equal_classes_stay_equal():
    labels = torch.arange(10).repeat(50)
    assert labels[draw(labels, 0.1, 3, "stratified")].bincount().tolist() == [5] * 10


def test_uniform_is_uniform():
    drawn = torch.cat([draw(torch.zeros(10), 0.3, seed) for seed in range(4000)]).bincount()
    # Each image is kept with probability 0.3: five standard deviations.
    assert (drawn - 1200).abs().max() < 5 * (4000 * 0.3 * 0.7) ** 0.5


def test_other_seeds_draw_others():
    labels = torch.zeros(100)
    assert not torch.equal(draw(labels, 0.5, 0), draw(labels, 0.5, 1))


def test_all_is_all_in_its_own_order():
    assert draw(torch.zeros(7), 1.0, 5).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("fraction", "error"), [(0, ValueError), (1.5, ValueError), (1e-9, ValueError), ("1", TypeError)]
)
def test_a_bad_fraction(fraction, error):
    with pytest.raises(error, match="fraction"):
        draw(torch.zeros(10), fraction)


def test_an_unknown_sampling():
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        draw(torch.zeros(10), 0.5, sampling="unifrom")


def test_a_number_of_labels_is_a_fraction():
    labels = torch.arange(10).repeat(50)
    assert torch.equal(draw_labels(labels, 90, 3), draw(labels, 0.18, 3))
    assert labels[draw_labels(labels, 90, 3, "stratified")].bincount().tolist() == [9] * 10
    with pytest.raises(ValueError, match=r"data\.labels must be at most 500, .* got 501"):
        draw_labels(labels, 501)


@given(labels=settings["labels"], seed=settings["seed"])
def test_as_many_of_each_class(labels, seed):
    _, sizes = labels.unique(return_counts=True)
    count = int(sizes.min())
    kept = draw_per_class(labels, count, seed)
    assert labels[kept].unique(return_counts=True)[1].tolist() == [count] * len(sizes)
    assert len(kept.unique()) == len(kept)
    with pytest.raises(ValueError, match=rf"data\.per_class must be at most {count}, .* got {count + 1}"):
        draw_per_class(labels, count + 1, seed)


def test_the_options_say_one_number():
    assert len(load_dataset("digits", labels=90).train) == 90
    assert len(load_dataset("digits", per_class=9).train) == 90
    with pytest.raises(ValueError, match=r"data\.fraction=0\.5 and data\.labels=90 each say how many"):
        load_dataset("digits", fraction=0.5, labels=90)
    with pytest.raises(ValueError, match=r"data\.labels must be .* at least 1"):
        load_dataset("digits", labels=0)
