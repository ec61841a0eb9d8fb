from __future__ import annotations

import pytest
import torch

from mixplug.data.datasets import load_dataset


def images_of(dataset):
    return torch.stack([image for image, _ in dataset])


def test_digits():
    split = load_dataset("digits")
    assert len(split.train) + len(split.test) == 1797
    assert split.shape == tuple(split.train[0][0].shape) == (1, 8, 8)
    assert {int(label) for _, label in split.test} == set(range(split.classes))
    every = torch.cat([images_of(split.train), images_of(split.test)])
    assert every.mean().abs() < 1e-3, "the stated statistics are the data's"
    assert (every.std() - 1).abs() < 1e-3
    pixels = every * split.std[0] + split.mean[0]
    assert pixels.min().abs() < 1e-6
    assert (pixels.max() - 1).abs() < 1e-6


def test_the_subset_is_a_function_of_the_seed():
    whole = load_dataset("digits")
    first, again, other = (load_dataset("digits", 0.1, seed) for seed in (0, 0, 1))
    assert len(first.train) == round(0.1 * len(whole.train))
    assert torch.equal(images_of(first.train), images_of(again.train))
    assert not torch.equal(images_of(first.train), images_of(other.train))
    assert len({image.numpy().tobytes() for image in images_of(first.train)}) > 0.95 * len(first.train)
    assert torch.equal(images_of(first.test), images_of(whole.test))


@pytest.mark.parametrize(
    ("fraction", "error"), [(0, ValueError), (1.5, ValueError), (1e-9, ValueError), ("1", TypeError)]
)
def test_a_bad_fraction(fraction, error):
    with pytest.raises(error, match="fraction"):
        load_dataset("digits", fraction)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_dataset("digit")
