from __future__ import annotations

import pytest
import torch
from algorithms.settings import resumes_from_every_batch, ssl_loader
from conftest import labels
from torchvision import transforms
from torchvision.transforms import functional as TF

from mixplug import MixTraining
from mixplug.data.loaders import ImageLoader, crop, flip

PLAIN = {"mean": (0.0,), "std": (1 / 255,)}
"""Leaves bytes as they are, as floats."""


def pictures(count=20, channels=1, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def numbered(count):
    """Image i is all i."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def loader(count=20, batch_size=8, **options):
    return ImageLoader(numbered(count), torch.arange(count), batch_size, **{**PLAIN, **options})


def seen(batches):
    batches = list(batches)
    for x, y in batches:
        assert torch.equal(x[:, 0, 0, 0].round().long(), y)
    return torch.cat([y for _, y in batches]).tolist()


def test_without_options_the_images_come_in_order_as_normalised_floats():
    images = pictures(5, 3)
    (batch, targets), (last, _) = ImageLoader(images, labels(5), 4, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    expected = TF.normalize(images.float() / 255, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    torch.testing.assert_close(torch.cat([batch, last]), expected)
    assert batch.dtype == torch.float32
    assert torch.equal(targets, labels(5)[:4])


def test_each_epoch_has_an_order_of_its_own_and_each_run_the_same():
    first, again = loader(shuffle=True), loader(shuffle=True)
    orders = [seen(first) for _ in range(3)]
    assert orders == [seen(again) for _ in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    first.set_epoch(1)
    assert seen(first) == orders[1]
    assert seen(loader(shuffle=True, seed=1)) != orders[0]


@pytest.mark.parametrize(("drop_last", "batches", "images"), [(False, 3, 20), (True, 2, 16)])
def test_the_last_batch(drop_last, batches, images):
    made = loader(drop_last=drop_last)
    assert len(made) == batches == len(list(made))
    assert len(seen(made)) == images


@pytest.mark.parametrize("count", [1, 7, 20])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_the_images(count, processes, monkeypatch):
    shares = []
    for rank in range(processes):
        monkeypatch.setattr("mixplug.data.loaders.rank_and_processes", lambda rank=rank: (rank, processes))
        made = loader(count, 2, shuffle=True)
        shares.append(seen(made))
        assert len(made) == -(-len(shares[-1]) // 2)
    assert len({len(share) for share in shares}) == 1
    assert set().union(*shares) == set(range(count))
    assert sum(map(len, shares)) - count < processes


def test_a_batch_does_not_depend_on_those_before():
    """Nor does making it disturb other random numbers."""
    made = ImageLoader(pictures(), labels(20), 8, **PLAIN, shuffle=True, crop_padding=2, flip=True)
    whole = list(made)
    made.set_epoch(0)
    torch.manual_seed(3)
    batches = iter(made)
    torch.rand(5)
    left = torch.get_rng_state()
    next(batches)
    assert torch.equal(torch.get_rng_state(), left)
    torch.rand(7)
    assert torch.equal(next(batches)[0], whole[1][0])


def test_cropping_has_torchvisions_distribution():
    """Each of the 25 windows of an image with 2 pixels around, equally often; what is outside is black."""
    image = pictures(1).clamp(min=1)
    many = crop(image.expand(20_000, -1, -1, -1), 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image, (2,) * 4)[0]
    windows = [padded[:, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    counts = torch.tensor([float((many == window).all((1, 2, 3)).sum()) for window in windows])
    assert counts.sum() == 20_000
    chi_squared = ((counts - 800) ** 2 / 800).sum()
    assert chi_squared < 52  # 99.9% for 24 degrees of freedom
    torch.manual_seed(0)
    theirs = transforms.RandomCrop(8, padding=2)
    for cut in (theirs(image[0]) for _ in range(50)):
        assert any(torch.equal(cut, window) for window in windows)


def test_half_of_the_images_are_mirrored():
    images = pictures(10_000, size=4)
    out = flip(images, torch.Generator().manual_seed(0))
    mirrored = (out == images.flip(-1)).all((1, 2, 3))
    assert torch.equal(out[~mirrored], images[~mirrored])
    assert abs(mirrored.float().mean() - 0.5) < 0.02


def test_resizing_is_torchvisions():
    images = pictures(3, size=16)
    ((batch, _),) = ImageLoader(images, labels(3), 4, (0.0,), (1.0,), size=8)
    torch.testing.assert_close(batch, TF.resize(images.float() / 255, [8, 8], antialias=True))


@pytest.mark.parametrize(("other_data", "length", "interruptions"), [(False, "6ep", 17), (True, "3ep", 10)])
def test_a_run_over_it_resumes_from_every_batch(other_data, length, interruptions, tmp_path):
    def made():
        return ImageLoader(pictures(), labels(20), 8, (0.5,), (0.3,), shuffle=True, crop_padding=1, flip=True)

    def algorithms():
        return [MixTraining(ssl_dataloader=ssl_loader() if other_data else None)]

    options = {"train_dataloader": made, "max_duration": length}
    assert resumes_from_every_batch(tmp_path, algorithms, **options) == interruptions


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": pictures().float()}, TypeError, "uint8"),
        ({"images": pictures()[0]}, ValueError, r"\(N, C, H, W\)"),
        ({"labels": labels(19)}, ValueError, "20 images, 19 labels"),
        ({"mean": (0.1, 0.2)}, ValueError, "mean must have a number for each of the 1 channels"),
        ({"std": (0.0,)}, ValueError, "std must be above 0"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"crop_padding": -1}, ValueError, "crop_padding"),
        ({"size": 0}, ValueError, "size"),
        ({"batch_size": 21, "drop_last": True}, ValueError, "drop_last leaves no batch of 21"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ImageLoader(**{"images": pictures(), "labels": labels(20), "batch_size": 8, **PLAIN, **change})
