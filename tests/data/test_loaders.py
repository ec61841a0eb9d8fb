from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from shared.tiny import labels
from torchvision import transforms
from torchvision.transforms import functional as TF

from mixplug.data.loaders import ImageLoader
from mixplug.views.augmentation import crop, flip

PLAIN = {"mean": (0.0,), "std": (1 / 255,)}
"""Leaves bytes as they are, as floats."""

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def pictures(count=20, channels=1, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def numbered(count):
    """Image i is all i."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def loader(count=20, batch_size=8, **options):
    return ImageLoader(numbered(count), torch.arange(count), batch_size, **{**PLAIN, **options})


def augmenting(**options):
    options = {"shuffle": True, "crop_padding": 2, "flip": True, **options}
    return ImageLoader(pictures(24), labels(24), options.pop("batch_size", 8), **PLAIN, **options)


def seen(batches):
    batches = list(batches)
    for x, y in batches:
        assert torch.equal(x[:, 0, 0, 0].round().long(), y)
    return torch.cat([y for _, y in batches]).tolist()


@pytest.fixture
def in_process(monkeypatch):
    def enter(rank, processes):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(processes))

    return enter


def by_torchvision(image, top=None, left=None, padding=0, mirrored=False):
    """One image (C, H, W), uint8, by way of PIL."""
    height, width = image.shape[1:]
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    if padding:
        pil = TF.crop(TF.pad(pil, padding), top, left, height, width)
    pil = TF.hflip(pil) if mirrored else pil
    return TF.normalize(TF.to_tensor(pil), MEAN, STD)


def test_without_options_the_images_come_in_order_as_torchvisions_floats():
    images = pictures(5, 3)
    (batch, targets), (last, _) = ImageLoader(images, labels(5), 4, MEAN, STD)
    assert torch.equal(torch.cat([batch, last]), torch.stack([by_torchvision(image) for image in images]))
    assert batch.dtype == torch.float32
    assert torch.equal(targets, labels(5)[:4])


@pytest.mark.parametrize("shape", [(3, 6, 9), (1, 5, 5), (2, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_window_and_its_mirror_image_is_torchvisions(shape, layout):
    padding = 2
    choices = list(itertools.product(range(5), range(5), (False, True)))
    images = pictures(len(choices), *shape).to(memory_format=layout)
    top, left, mirrored = (torch.tensor(numbers) for numbers in zip(*choices, strict=True))
    out = flip(crop(images, padding, torch.stack([top, left])), mirrored)
    for image, made, (i, j, turned) in zip(images, out, choices, strict=True):
        expected = TF.crop(TF.pad(image, padding), i, j, *shape[1:])
        assert torch.equal(made, TF.hflip(expected) if turned else expected)


def outcomes(batches, padding, image):
    """Of each picture, which of all windows and mirror images it is, to the bit."""
    choices = itertools.product(range(2 * padding + 1), range(2 * padding + 1), (False, True))
    known = {
        by_torchvision(image, i, j, padding, turned).numpy().tobytes(): n for n, (i, j, turned) in enumerate(choices)
    }
    assert len(known) == 2 * (2 * padding + 1) ** 2
    return [known[np.ascontiguousarray(made).tobytes()] for batch in batches for made in batch.numpy()]


def test_augmentation_has_torchvisions_distribution():
    """All 50 windows and mirror images of a picture with 2 pixels around, equally often, and as often as theirs."""
    (image,) = pictures(1, 3, 4, 4).clamp(min=1)
    many = ImageLoader(image.expand(20_000, -1, -1, -1), labels(20_000), 64, MEAN, STD, crop_padding=2, flip=True)
    ours = np.bincount(outcomes((x for x, _ in many), 2, image), minlength=50)
    recipe = transforms.Compose(
        [
            transforms.RandomCrop(4, padding=2),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    torch.manual_seed(0)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    theirs = np.bincount(outcomes([torch.stack([recipe(pil) for _ in range(2_500)])], 2, image), minlength=50)
    assert stats.chisquare(ours).pvalue > 0.01
    assert stats.chi2_contingency([ours, theirs]).pvalue > 0.01


def test_images_are_augmented_independently_of_each_other_and_of_other_epochs():
    """Of 18 outcomes, each pair of neighbours, and of the same picture in two epochs, equally often."""
    (image,) = pictures(1, 3, 4, 4).clamp(min=1)
    many = ImageLoader(image.expand(8_000, -1, -1, -1), labels(8_000), 64, MEAN, STD, crop_padding=1, flip=True)
    first, second = (np.array(outcomes((x for x, _ in many), 1, image)) for _ in range(2))
    for these, those in ((first[:-1], first[1:]), (first, second)):
        assert stats.chisquare(np.bincount(18 * these + those, minlength=18**2)).pvalue > 0.01


def test_orders_are_uniform():
    """All 24 of 4 images, equally often over the epochs."""
    made = loader(4, 4, shuffle=True)
    counts = np.unique([seen(made) for _ in range(2_400)], axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("size", [8, 24])
@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_resizing_is_torchvisions(size, shape):
    images = pictures(3, 3, *shape)
    ((batch, _),) = ImageLoader(images, labels(3), 4, MEAN, STD, size=size)
    expected = TF.resize(TF.normalize(images.float() / 255, MEAN, STD), [size, size], antialias=True)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)


def test_each_epoch_has_an_order_of_its_own_and_each_run_the_same():
    first, again = loader(shuffle=True), loader(shuffle=True)
    orders = [seen(first) for _ in range(3)]
    assert orders == [seen(again) for _ in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    first.set_epoch(1)
    assert [seen(first), seen(first)] == orders[1:]
    other = loader(shuffle=True, seed=1)
    assert not {tuple(seen(other)) for _ in range(3)} & {tuple(order) for order in orders}


def test_a_pass_that_has_begun_keeps_its_epoch():
    made = loader(shuffle=True)
    whole = seen(made)
    made.set_epoch(0)
    begun = iter(made)
    made.set_epoch(7)
    assert seen(begun) == whole


def test_passes_at_once_do_not_disturb_each_other():
    made = augmenting()
    (first, second) = ([x for x, _ in made] for _ in range(2))
    made.set_epoch(0)
    for (x, _), (y, _), a, b in zip(made, made, first, second, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


@pytest.mark.parametrize(("drop_last", "batches", "images"), [(False, 3, 20), (True, 2, 16)])
def test_the_last_batch(drop_last, batches, images):
    made = loader(drop_last=drop_last)
    assert len(made) == batches == len(list(made))
    assert len(seen(made)) == images


def shares_of(count, processes, in_process, **options):
    shares = []
    for rank in range(processes):
        in_process(rank, processes)
        made = loader(count, 2, **options)
        batches = list(made)
        assert len(made) == len(batches)
        shares.append(seen(batches))
    return shares


@pytest.mark.parametrize("count", [1, 7, 20])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_the_images(count, processes, in_process):
    shares = shares_of(count, processes, in_process, shuffle=True)
    assert len({len(share) for share in shares}) == 1
    assert set().union(*shares) == set(range(count))
    assert sum(map(len, shares)) - count < processes


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_with_drop_last_no_image_is_seen_twice(processes, in_process):
    shares = shares_of(23, processes, in_process, shuffle=True, drop_last=True)
    assert {len(share) for share in shares} == {23 // processes // 2 * 2}
    assert len(set().union(*shares)) == sum(map(len, shares))


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_total_batches_do_not_depend_on_the_number_of_processes(processes, in_process):
    one = list(augmenting(batch_size=12))
    shares = []
    for rank in range(processes):
        in_process(rank, processes)
        shares.append(list(augmenting(batch_size=12 // processes)))
    for (images, targets), *parts in zip(one, *shares, strict=True):
        assert torch.equal(images, torch.stack([x for x, _ in parts], 1).flatten(0, 1))
        assert torch.equal(targets, torch.stack([y for _, y in parts], 1).flatten(0, 1))


def test_a_number_of_processes_that_changes_is_refused(in_process):
    made = loader()
    in_process(1, 2)
    with pytest.raises(RuntimeError, match=r"built for process 0 of 1, but this is process 1 of 2; build it after"):
        iter(made)


def test_a_batch_does_not_depend_on_those_before():
    """Nor does making it disturb other random numbers."""
    made = augmenting()
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
    made.set_epoch(0)
    ((last, targets),) = itertools.islice(made, 2, None)
    assert torch.equal(last, whole[2][0])
    assert torch.equal(targets, whole[2][1])


def test_samples_of_the_data_set_make_a_batch_of_the_same_kind():
    made = ImageLoader(pictures(4, 3), torch.rand(4, 5), 2, MEAN, STD, size=16, crop_padding=2, flip=True)
    sample, batch = made.collate_fn([made.dataset[0], made.dataset[3]]), next(iter(made))
    for ours, theirs in zip(sample, batch, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
    plain = ImageLoader(pictures(4, 3), torch.rand(4, 5), 2, MEAN, STD, size=16)
    assert torch.equal(sample[0][0], next(iter(plain))[0][0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_the_same_batches():
    for (x, y), (on_gpu, its) in zip(augmenting(), augmenting(device="cuda"), strict=True):
        assert on_gpu.is_cuda
        assert its.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), x)
        assert torch.equal(its.cpu(), y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": pictures().float()}, TypeError, "uint8 tensor .* got torch.float32"),
        ({"images": [1, 2]}, TypeError, "uint8 tensor .* got <class 'list'>"),
        ({"images": pictures()[0]}, ValueError, r"\(N, C, H, W\)"),
        ({"images": pictures(0), "labels": labels(0)}, ValueError, "at least one image"),
        ({"labels": labels(19)}, ValueError, r"each of the 20 images, got \(19,\)"),
        ({"labels": [0] * 20}, TypeError, r"labels must be a tensor .* got list; use torch.tensor"),
        ({"mean": (0.1, 0.2)}, ValueError, "mean must have a number for the one channel"),
        ({"mean": 0.1}, ValueError, "mean must have a number for the one channel"),
        ({"mean": ("0.1",)}, TypeError, "mean must be a number"),
        ({"std": (0.0,)}, ValueError, r"std must be a number in \(0, 1\], got 0.0"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"crop_padding": -1}, ValueError, "crop_padding"),
        ({"size": 0}, ValueError, "size"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 21, "drop_last": True}, ValueError, "drop_last leaves no batch of 21"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        ImageLoader(**{"images": pictures(), "labels": labels(20), "batch_size": 8, **PLAIN, **change})


def test_an_epoch_below_0_is_refused():
    with pytest.raises(ValueError, match="epoch must be a whole number of at least 0, got -1"):
        loader().set_epoch(-1)
