"""What within-batch mixing makes of pixels, and how its shares are distributed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mixplug.views.augmentation import shrink_into
from mixplug.views.batch_mixing import MIXERS, CutMix, Mixup, PatchMix, RandomMixer, ResizeMix, partners_of

BOXES = {"cutmix": CutMix, "resizemix": ResizeMix}
shapes = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 6).map(lambda n: 4 * n), st.integers(4, 24))


def made(name, **options):
    return MIXERS[name](**({"patch": 2} if name == "patchmix" else {}), **options)


def noise(batch, channels, height, width, dtype=torch.float64):
    return torch.rand(batch, channels, height, width, dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def numbered(batch, height, width):
    """Image i is all i."""
    return torch.arange(batch, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, height, width).contiguous()


every = pytest.mark.parametrize("name", MIXERS)
few = settings(max_examples=25)


@every
@few
@given(shape=shapes, lam=st.sampled_from(["sample", "batch"]), seed=st.integers(0, 999))
def test_pixels_are_convex_combinations_and_shares_are_those_of_the_pixels(name, shape, lam, seed):
    batch, channels, height, width = shape
    shape = (batch, channels, height, 2 * width)
    images = noise(*shape)
    mixed = made(name, lam=lam)(images, seeded(seed))
    others = images.flip(0)
    assert mixed.images.shape == images.shape
    assert mixed.images.dtype == images.dtype
    assert torch.equal(mixed.partners, partners_of(batch))
    assert ((mixed.lam >= 0) & (mixed.lam <= 1)).all()
    if name != "resizemix":
        low, high = torch.minimum(images, others), torch.maximum(images, others)
        assert ((mixed.images >= low - 1e-12) & (mixed.images <= high + 1e-12)).all()
    else:
        both = torch.cat([images.flatten(1), others.flatten(1)], dim=1)
        assert (mixed.images.flatten(1) >= both.amin(1, keepdim=True) - 1e-6).all()
        assert (mixed.images.flatten(1) <= both.amax(1, keepdim=True) + 1e-6).all()
    # In images of one number each, the mean is the mixture of the two; a middle image stays as it is.
    flat = numbered(batch, *shape[-2:])
    mean = made(name, lam=lam)(flat, seeded(seed)).images.mean((1, 2, 3))
    own = torch.arange(batch, dtype=torch.float64)
    torch.testing.assert_close(mean, mixed.lam * own + (1 - mixed.lam) * own.flip(0), rtol=1e-6, atol=1e-6)


@every
@few
@given(batch=st.integers(1, 9))
def test_pairs_are_symmetric_and_the_middle_of_an_odd_batch_is_its_own_partner(name, batch):
    partners = made(name)(noise(batch, 1, 4, 4)).partners
    assert torch.equal(partners[partners], torch.arange(batch))
    assert (partners == torch.arange(batch)).sum() == batch % 2
    if batch % 2 and name != "resizemix":
        images = noise(batch, 1, 4, 4)
        torch.testing.assert_close(made(name)(images).images[batch // 2], images[batch // 2])


@few
@given(shape=shapes, seed=st.integers(0, 999), share=st.floats(0, 1))
@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_inside_of_whole_pixels_and_of_the_shape_of_the_image(name, shape, seed, share):
    batch, _, height, width = shape
    images = numbered(batch, height, width)
    mixed = BOXES[name]().mix(images, torch.full((batch,), share, dtype=torch.float64), seeded(seed))
    rows, columns = (round(math.sqrt(1 - share) * side) for side in (height, width))
    for index in range(batch):
        if index == batch - 1 - index:
            continue
        pasted = (mixed.images[index, 0] - index).abs() > 0.5
        assert int(pasted.sum()) == rows * columns
        assert int(pasted.any(1).sum()) == (rows if rows * columns else 0)
        assert int(pasted.any(0).sum()) == (columns if rows * columns else 0)
        assert float(mixed.lam[index]) == pytest.approx(1 - rows * columns / (height * width), abs=1e-12)


@few
@given(shape=shapes, seed=st.integers(0, 999))
def test_what_is_pasted_is_the_partner_at_its_own_place(shape, seed):
    images = noise(*shape)
    mixed = CutMix()(images, seeded(seed)).images
    assert ((mixed == images) | (mixed == images.flip(0))).all()


@few
@given(shape=shapes, share=st.floats(0.05, 0.95), seed=st.integers(0, 999))
def test_what_is_pasted_is_the_whole_partner_made_smaller(shape, share, seed):
    batch, _, height, width = shape
    images = noise(*shape)
    rows, columns = (max(1, round(math.sqrt(1 - share) * side)) for side in (height, width))
    top, left = (
        torch.randint(0, room + 1, (batch,), generator=seeded(seed)) for room in (height - rows, width - columns)
    )
    boxes = torch.stack([top, left, torch.full((batch,), rows), torch.full((batch,), columns)])
    shrunk = shrink_into(images, boxes)
    expected = F.interpolate(images, (rows, columns), mode="bilinear")
    for index in range(batch):
        box = shrunk[index, :, top[index] : top[index] + rows, left[index] : left[index] + columns]
        torch.testing.assert_close(box, expected[index], rtol=0, atol=1e-12)


@few
@given(count=st.integers(1, 6), patch=st.sampled_from([1, 2, 4]), seed=st.integers(0, 999))
def test_patches_are_whole(count, patch, seed):
    images = numbered(count, 8, 12)
    mixed = PatchMix(patch)(images, seeded(seed))
    patches = mixed.images.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4)
    assert (patches == patches[..., :1]).all()
    theirs = (patches[:, 0, ..., 0] != images[:, :, :1, 0]).flatten(1).double().mean(1)
    other = torch.arange(count) != mixed.partners
    torch.testing.assert_close(theirs[other], 1 - mixed.lam[other])


@pytest.mark.parametrize(("lam", "alpha"), [("sample", 0.5), ("sample", 1.0), ("sample", 3.0), ("batch", 1.0)])
def test_shares_are_beta_distributed(lam, alpha):
    """Kolmogorov and Smirnov's distance from Beta(alpha, alpha), 99.9% quantile, of as many shares as are drawn."""
    scipy = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    mixer, images = Mixup(alpha, lam), torch.zeros(4000 if lam == "sample" else 3, 1, 1, 1)
    drawn = [mixer(images).lam for _ in range(1 if lam == "sample" else 800)]
    if lam == "batch":
        assert all((one == one[0]).all() for one in drawn)
        drawn = [one[:1] for one in drawn]
    found = torch.cat(drawn).numpy()
    assert scipy.kstest(found, scipy.beta(alpha, alpha).cdf).statistic < 1.95 / math.sqrt(len(found))


def test_resizemix_keeps_shares_between_its_limits():
    torch.manual_seed(0)
    drawn = ResizeMix()(torch.zeros(4000, 1, 8, 8)).drawn
    assert 0.1 <= drawn.min() < 0.11
    assert 0.89 < drawn.max() <= 0.9
    assert float(ResizeMix(limits=(0.5, 0.5))(torch.zeros(1, 1, 8, 8)).drawn) == 0.5


def test_corners_of_boxes_are_uniform():
    """Chi-square over the 5 places that a box of 4 of 8 pixels has along each axis, 99.9% quantile."""
    torch.manual_seed(0)
    images = torch.cat([torch.zeros(2000, 1, 8, 8), torch.ones(2000, 1, 8, 8)])
    mixed = CutMix().mix(images, torch.full((4000,), 0.75, dtype=torch.float64)).images[:2000, 0]
    for axis in (1, 2):
        first = mixed.amax(axis).argmax(1)
        counts = torch.bincount(first, minlength=5).double()
        assert len(counts) == 5
        assert float(((counts - 400) ** 2 / 400).sum()) < 18.5


@every
def test_other_views_are_mixed_likewise(name):
    images, others = noise(6, 1, 8, 8), noise(6, 1, 16, 16)
    mixed = made(name)(images, seeded(1))
    same = mixed.mix_likewise(images, seeded(2))
    assert torch.equal(same.lam, mixed.lam)
    assert torch.equal(same.images, mixed.images) == (name == "mixup"), "boxes are drawn for each view"
    larger = mixed.mix_likewise(others)
    assert (larger.lam - mixed.lam).abs().max() < 0.15
    assert torch.equal(larger.drawn, mixed.drawn)


@every
def test_share_1_is_the_image_and_share_0_the_partner(name):
    images = noise(6, 3, 8, 8, torch.float32)
    ones = torch.ones(6, dtype=torch.float64)
    assert torch.equal(made(name).mix(images, ones).images, images)
    zero = made(name).mix(images, 0 * ones)
    assert not zero.lam.any()
    torch.testing.assert_close(zero.images, images.flip(0), rtol=0, atol=1e-6)


@every
def test_the_same_generator_gives_the_same_mix(name):
    images = noise(5, 3, 8, 8)
    first, second, other = (made(name)(images, seeded(seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    made(name)(images, seeded(1))
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn elsewhere"


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(name, dtype):
    images = noise(4, 1, 8, 8).to(dtype)
    mixed = made(name)(images, seeded(0)).images
    exact = made(name)(images.double(), seeded(0)).images
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        cast = made(name)(images.float(), seeded(0)).images
    torch.testing.assert_close(cast, made(name)(images.float(), seeded(0)).images, rtol=0, atol=0)


@every
def test_on_tensors_without_values(name):
    mixed = made(name)(torch.zeros(4, 3, 8, 8, device="meta"))
    assert mixed.images.shape == (4, 3, 8, 8)
    assert mixed.lam.device.type == "cpu"


def test_one_of_a_set_is_drawn_for_each_batch_by_weight():
    torch.manual_seed(0)
    images = noise(4, 1, 8, 8)
    mixer = RandomMixer([Mixup(), CutMix(), ResizeMix()], [1, 2, 0])
    kinds = [type(mixer(images).mixer).__name__ for _ in range(600)]
    assert set(kinds) == {"Mixup", "CutMix"}
    # Four standard deviations.
    assert abs(kinds.count("CutMix") - 400) < 4 * math.sqrt(600 * 2 / 9)
    even = RandomMixer([Mixup(), CutMix()])
    assert {type(even(images).mixer) for _ in range(30)} == {Mixup, CutMix}


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: Mixup(0), ValueError, r"alpha must be a number in \(0, inf\), got 0"),
        (lambda: Mixup("1"), TypeError, "alpha must be a number"),
        (lambda: Mixup(lam="image"), ValueError, r"lam must be one of \['sample', 'batch'\], got 'image'"),
        (lambda: ResizeMix(limits=(0.9, 0.1)), ValueError, "limits must be .* swap them"),
        (lambda: PatchMix(0), ValueError, "patch must be a whole number of at least 1, got 0"),
        (lambda: PatchMix(3)(torch.zeros(2, 1, 8, 9)), ValueError, "8x9 pixels cannot be cut into patches of 3"),
        (lambda: Mixup()(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), TypeError, "got torch.uint8; normalise"),
        (lambda: Mixup()([1]), TypeError, "got list"),
        (lambda: Mixup()(3), TypeError, "got int"),
        (lambda: Mixup().mix(torch.zeros(2, 1, 4, 4), torch.tensor([2.0, -1.0])), ValueError, r"in \[0, 1\], got"),
        (lambda: Mixup().mix(torch.zeros(2, 1, 4, 4), torch.tensor([0.5])), ValueError, r"a tensor \(2,\)"),
        (lambda: CutMix()(torch.zeros(2, 4, 4)), ValueError, r"must be \(B, C, H, W\), got \(2, 4, 4\)"),
        (lambda: RandomMixer([]), ValueError, "at least one"),
        (lambda: RandomMixer([Mixup]), TypeError, "mixers must be mixers"),
        (lambda: RandomMixer([Mixup()], [1, 2]), ValueError, r"1 numbers, one for each, got \[1, 2\]"),
        (lambda: RandomMixer(Mixup()), TypeError, "must be a list of mixers"),
        (lambda: RandomMixer([Mixup()], [-1]), ValueError, "a mixer's weight"),
        (lambda: RandomMixer([Mixup()], [0]), ValueError, "not all be 0"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()
