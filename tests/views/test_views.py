"""Views against torchvision's transforms of single images, and what training needs of them."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import kornia
import pytest
import torch
from torch import nn
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from mixplug import Position, Ramp, ViewRecipe, Views
from mixplug.views.augmentation import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    blur,
    resized_crop,
    shift_hue,
)
from mixplug.views.recipes import VIEW_RECIPES

NOTHING = {"flip_p": 0.0, "jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0}
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}


def only(**settings):
    """Views that do one thing."""
    return Views(ViewRecipe(**{**NOTHING, **WHOLE, **settings}))


def colours(count=32, size=12, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def changed(views, images, seed=0):
    """Which images a view changes."""
    torch.manual_seed(seed)
    return (views(images) != images).flatten(1).any(1)


# What each operation does, against torchvision's on every image


@pytest.mark.parametrize("large", [1, 10**9], ids=["image by image", "all at once"])
@pytest.mark.parametrize("target", [(12, 16), (5, 7), (24, 30)])
def test_a_resized_crop_is_torchvisions(target, large, monkeypatch):
    monkeypatch.setattr("mixplug.views.augmentation._LARGE", large)
    images = colours(8, 16)[:, :, :12]
    windows = torch.tensor([[0, 2, 3, 11, 0, 5, 1, 0], [0, 1, 15, 4, 3, 2, 6, 0], [12, 7, 9, 1, 1, 6, 2, 12]])
    widths = torch.tensor([16, 9, 1, 12, 13, 3, 2, 1])
    windows = torch.cat([windows, widths[None]])
    expected = torch.stack(
        [
            TF.resized_crop(image, *window, list(target), antialias=True)
            for image, window in zip(images, windows.T.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(resized_crop(images, windows, target), expected, atol=2e-6, rtol=0)
    mirrored = torch.arange(8) % 3 == 0
    expected[mirrored] = expected[mirrored].flip(-1)
    torch.testing.assert_close(resized_crop(images, windows, target, mirrored), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "torchvisions", "kornias"),
    [
        (adjust_brightness, TF.adjust_brightness, "adjust_brightness_accumulative"),
        (adjust_contrast, TF.adjust_contrast, "adjust_contrast_with_mean_subtraction"),
        (adjust_saturation, TF.adjust_saturation, "adjust_saturation_with_gray_subtraction"),
    ],
)
def test_colours_change_by_a_factor_for_each_image(ours, torchvisions, kornias):
    images, factors = colours(), torch.linspace(0, 2, 32)
    expected = [torchvisions(image, float(factor)) for image, factor in zip(images, factors, strict=True)]
    torch.testing.assert_close(ours(images, factors), torch.stack(expected), atol=1e-5, rtol=0)
    expected = [getattr(kornia.enhance, kornias)(*pair) for pair in zip(images.split(1), factors.split(1), strict=True)]
    torch.testing.assert_close(ours(images, factors), torch.cat(expected), atol=5e-4, rtol=0)  # other weights of grey


@pytest.mark.parametrize("kernel", [3, 7, 23])
def test_blur_is_kornias_and_torchvisions_for_each_image(kernel):
    images, sigmas = colours(size=40), torch.linspace(0.1, 3, 32)
    blurred = blur(images, sigmas, kernel)
    expected = kornia.filters.gaussian_blur2d(images, (kernel, kernel), sigmas[:, None].expand(-1, 2))
    torch.testing.assert_close(blurred, expected, atol=5e-6, rtol=0)
    one_by_one = [TF.gaussian_blur(one, [kernel] * 2, [float(by)] * 2) for one, by in zip(images, sigmas, strict=True)]
    torch.testing.assert_close(blurred, torch.stack(one_by_one), atol=5e-6, rtol=0)


@pytest.mark.parametrize("which", [0, 1])
def test_how_much_is_worked_on_at_once_changes_nothing(which, monkeypatch):
    images, views, made = colours(24, 20), Views("byol"), []
    for cached in (1, 3 * 20 * 20 * 7, 10**9):
        monkeypatch.setattr("mixplug.views.views._CACHED", cached)
        torch.manual_seed(0)
        made.append((views(images, which), views.local(images, 8)))
    for parts in made[:2]:
        for part, whole in zip(parts, made[2], strict=True):
            # Solarisation jumps at its threshold, which rounding may cross.
            assert ((part - whole).abs() < 1e-5).float().mean() > 0.999


def test_a_shift_of_hue_is_torchvisions():
    images = torch.cat([colours(), torch.full((1, 3, 12, 12), 0.3), torch.zeros(1, 3, 12, 12)])
    images[:4] = (images[:4] * 2).round() / 2  # equal channels, black, white
    turns = torch.linspace(-0.5, 0.5, len(images))
    expected = [TF.adjust_hue(image, float(turn)) for image, turn in zip(images, turns, strict=True)]
    torch.testing.assert_close(shift_hue(images, turns), torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("part", "adjust"),
    [(0, TF.adjust_brightness), (1, TF.adjust_contrast), (2, TF.adjust_saturation), (3, TF.adjust_hue)],
)
def test_each_part_of_the_jitter_is_torchvisions_within_its_strength(part, adjust):
    images = 0.25 + 0.5 * colours(64, 4)
    strengths = [0.0, 0.0, 0.0, 0.0]
    strengths[part] = 0.4
    torch.manual_seed(0)
    views = only(jitter_p=1.0, jitter=strengths)(images)
    offset = 0.0 if part == 3 else 1.0
    factors = [offset + 0.005 * step for step in range(-80, 81)]
    errors = torch.stack([(adjust(images, factor) - views).abs().flatten(1).amax(1) for factor in factors])
    assert errors.amin(0).max() < 0.02
    found = [factors[best] - offset for best in errors.argmin(0).tolist()]
    # Uniform in [-0.4, 0.4]: each image its own, ends reached, mean 0 (standard error 0.029).
    assert len(set(found)) > 40
    assert min(found) < -0.3
    assert max(found) > 0.3
    assert abs(sum(found) / len(found)) < 0.1


def test_the_order_of_the_jitter_changes(monkeypatch):
    order = []
    for name in ("adjust_contrast", "shift_hue"):
        monkeypatch.setattr(f"mixplug.views.views.{name}", lambda some, _, name=name: order.append(name) or some)
    views = only(jitter_p=1.0, jitter=(0, 0.4, 0, 0.1))
    torch.manual_seed(0)
    for _ in range(60):
        views(colours(1, 4))
    first, second = order[::2], order[1::2]
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert 15 < first.count("shift_hue") < 45  # half of them, within 4 standard deviations


def test_blur_is_torchvisions_with_a_tenth_of_the_side():
    images = colours(4, 60)
    torch.manual_seed(0)
    views = only(blur_p=1.0, blur_sigma=(1.3, 1.3))(images)
    torch.testing.assert_close(views, TF.gaussian_blur(images, [7, 7], [1.3, 1.3]), atol=1e-5, rtol=0)
    small = only(blur_p=1.0, blur_sigma=(0.7, 0.7))(images[..., :8, :8])
    torch.testing.assert_close(small, TF.gaussian_blur(images[..., :8, :8], [3, 3], [0.7, 0.7]), atol=1e-5, rtol=0)


def test_each_image_is_blurred_by_its_own_sigma():
    image = colours(1, 20)
    torch.manual_seed(0)
    roughness = only(blur_p=1.0)(image.expand(32, -1, -1, -1)).var((1, 2, 3))
    assert len(roughness.unique()) == 32


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_solarisation_inverts_what_is_bright(threshold):
    images = colours()
    views = only(solarise_p=1.0, solarise_threshold=threshold)(images)
    torch.testing.assert_close(views, TF.solarize(images, threshold), atol=0, rtol=0)


def test_grayscale_is_torchvisions():
    images = colours()
    torch.testing.assert_close(only(grayscale_p=1.0)(images), TF.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0)


def test_a_flip_mirrors_left_to_right():
    images = colours()
    assert torch.equal(only(flip_p=1.0)(images), images.flip(-1))


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    "operation",
    [
        {"flip_p": 1},
        {"grayscale_p": 1},
        {"jitter_p": 1},
        {"blur_p": 1, "blur_sigma": (1, 2)},
        {"solarise_p": 1, "solarise_threshold": 0.4},
    ],
    ids=lambda operation: next(iter(operation)),
)
def test_as_many_images_are_changed_as_the_probability_says(operation, probability):
    name = next(iter(operation))
    share = changed(only(**{**operation, name: probability}), colours(1000, 4)).float().mean()
    assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 1000)


def coordinates(count, height, width):
    """Images whose first channel is the pixel's row, the second its column, both in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(height) / 255, torch.arange(width) / 255, indexing="ij")
    return torch.stack([rows, columns, torch.zeros(height, width)]).expand(count, -1, -1, -1)


def windows_of(views):
    """Of crops of ``coordinates``: the extent in pixels by the slope in the middle, and the place of the centre."""
    height, width = views.shape[-2:]
    middle = views[:, :, height // 4 : -(height // 4), width // 4 : -(width // 4)] * 255
    tall = (middle[:, 0, -1] - middle[:, 0, 0]).mean(1) / (middle.shape[2] - 1) * height
    wide = (middle[:, 1, :, -1] - middle[:, 1, :, 0]).mean(1) / (middle.shape[3] - 1) * width
    return tall, wide, middle[:, 0].mean((1, 2)), middle[:, 1].mean((1, 2))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 80)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 0.6)])
def test_windows_are_distributed_as_torchvisions(height, width, scale):
    images = coordinates(600, height, width)
    torch.manual_seed(0)
    ours = windows_of(only(crop_scale=scale, crop_ratio=(3 / 4, 4 / 3))(images))
    theirs = [T.RandomResizedCrop.get_params(images[0], scale, (3 / 4, 4 / 3)) for _ in range(5000)]
    top, left, tall, wide = torch.tensor(theirs, dtype=torch.float32).T
    expected = (tall, wide, top + (tall - 1) / 2, left + (wide - 1) / 2)
    for mine, other in zip((*ours, ours[0] * ours[1]), (*expected, tall * wide), strict=True):
        # Mean and spread, within 4 standard errors of the difference.
        assert abs(mine.mean() - other.mean()) < 4 * other.std() * math.sqrt(1 / 600 + 1 / 5000)
        assert abs(mine.std() / other.std() - 1) < 4 * math.sqrt(1 / 1200 + 1 / 10000)
    area = ours[0] * ours[1] / (height * width)
    assert area.min() > scale[0] * 0.9
    assert area.max() < scale[1] * 1.05


def test_windows_are_as_often_at_the_edges_as_elsewhere():
    torch.manual_seed(0)
    # Of one pixel each: the view is that pixel.
    views = only(crop_scale=(1 / 16, 1 / 16), crop_ratio=(1.0, 1.0))(coordinates(1600, 4, 4))
    row, column = (views[:, :2, 0, 0] * 255).round().long().T
    counts = (4 * row + column).bincount(minlength=16)
    assert counts.shape == (16,)
    assert (counts - 100).abs().max() < 40  # 4 standard deviations


def test_windows_that_never_fit_become_the_largest_of_their_shape():
    views = only(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    images = coordinates(4, 20, 40)
    expected = TF.resized_crop(images, 0, 10, 20, 20, [20, 40], antialias=True)
    torch.testing.assert_close(views(images), expected)


def test_all_of_it_is_distributed_as_torchvisions():
    """Mean, spread and colourfulness of whole views, of SimCLR's recipe with all it has."""
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(5))
    image = TF.resize(image[None], [24, 24])[0]
    theirs = T.Compose(
        [
            T.RandomResizedCrop(24, (0.08, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([T.GaussianBlur(3, (0.1, 2.0))], 0.5),
        ]
    )
    torch.manual_seed(0)
    expected = torch.stack([theirs(image) for _ in range(500)])
    views = Views("simclr")
    # The order of the jitter is drawn once for a batch: many small batches.
    drawn = torch.cat([views(image.expand(10, -1, -1, -1)) for _ in range(100)])
    for what in (
        lambda images: images.mean((1, 2, 3)),
        lambda images: images.std((2, 3)).mean(1),
        lambda images: (images.amax(1) - images.amin(1)).mean((1, 2)),
        lambda images: images.diff(dim=-1).abs().mean((1, 2, 3)),
    ):
        ours, other = what(drawn), what(expected)
        error = math.sqrt(ours.var() / 1000 + other.var() / 500)
        assert abs(ours.mean() - other.mean()) < 5 * error  # as batches share an order, somewhat more than 4
        assert 0.8 < ours.std() / other.std() < 1.25


# The papers' settings and the magnitude


def test_the_named_recipes():
    assert list(VIEW_RECIPES) == [
        "simclr",
        "simclr_cifar",
        "simsiam",
        "byol",
        "mocov2",
        "mocov3",
        "dino",
        "dino_no_local",
    ]
    assert VIEW_RECIPES["simclr"][0] == ViewRecipe()
    assert VIEW_RECIPES["simclr_cifar"][0] == dataclasses.replace(ViewRecipe().jittered(0.5), blur_p=0)
    for one, other in zip(VIEW_RECIPES["dino"], VIEW_RECIPES["dino_no_local"], strict=True):
        assert (one.crop_scale, other.crop_scale) == ((0.4, 1), (0.14, 1))
        assert dataclasses.replace(one, crop_scale=(0.14, 1)) == other
    assert VIEW_RECIPES["simsiam"] == VIEW_RECIPES["mocov2"]
    for name in ("byol", "mocov3", "dino"):
        first, second = VIEW_RECIPES[name]
        assert (first.blur_p, first.solarise_p, second.blur_p, second.solarise_p) == (1.0, 0.0, 0.1, 0.2)
    assert [one.blur_p for one in Views("byol", blur=False).recipes] == [0.0, 0.0]


@pytest.mark.parametrize("name", VIEW_RECIPES)
@pytest.mark.parametrize("shape", [(3, 9, 14), (3, 16, 16), (1, 8, 8)])
def test_magnitude_0_is_the_image_or_its_mirror_image(name, shape):
    images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
    views = Views(name, mean=0.4, std=0.25, magnitude=0.0)
    normalised = (images - 0.4) / 0.25
    torch.manual_seed(0)
    for which in (0, 1):
        view = views(normalised, which)
        distances = [(view - other).abs().flatten(1).amax(1) for other in (normalised, normalised.flip(-1))]
        assert torch.minimum(*distances).max() < 1e-5
        assert 2 <= (distances[0] < 1e-5).sum() <= 14


def test_magnitude_scales_everything():
    recipe = ViewRecipe(crop_scale=(0.2, 0.8), solarise_p=0.4).scaled(0.5)
    assert recipe.crop_scale == pytest.approx((0.6, 0.9))
    assert recipe.jitter == pytest.approx((0.4, 0.4, 0.4, 0.1))
    assert (recipe.grayscale_p, recipe.blur_p, recipe.solarise_p) == (0.1, 0.25, 0.2)
    assert (recipe.flip_p, recipe.jitter_p) == (0.5, 0.8)
    assert recipe.scaled(1.0) == recipe


@pytest.mark.parametrize("shape", [(16, 16), (12, 24)])
def test_views_are_farther_away_the_larger_the_magnitude(shape):
    images = TF.resize(colours(100, 4), list(shape))
    views = Views(VIEW_RECIPES["byol"][1], blur=False)
    views.recipes = tuple(ViewRecipe(**{**one.__dict__, "flip_p": 0.0}) for one in views.recipes)
    distances = []
    for magnitude in (0.0, 0.01, 0.25, 0.5, 1.0):
        torch.manual_seed(0)
        distances.append(float((views(images, magnitude=magnitude) - images).abs().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 1e-6
    assert distances[1] < 0.05 < distances[-1]


def test_a_ramp_is_asked_where_it_is():
    views = Views(magnitude=Ramp(0.0, 1.0))
    assert [views.magnitude_at(Position("mix", 0, t)) for t in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    assert Views(magnitude=0.3).magnitude_at(Position("ssl", 0, 0.7)) == 0.3
    with pytest.raises(ValueError, match=r"magnitude=views\.magnitude_at"):
        views(colours())
    assert views(colours(), magnitude=views.magnitude_at(Position("ssl", 0, 0.5))).shape == (32, 3, 12, 12)


# Randomness


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_each_image_gets_its_own_view(name):
    torch.manual_seed(0)
    views = Views(name)
    image = colours(1).expand(16, -1, -1, -1)
    for batch in (views(image), views(image, 1), views.local(image, 6)):
        assert len({one.numpy().tobytes() for one in batch}) == 16
    assert not torch.equal(views(image), views(image))


def test_the_same_generator_state_gives_the_same_views():
    views, images = Views("dino"), colours()
    torch.manual_seed(3)
    views(images)
    state = torch.get_rng_state()
    first = [views(images), views(images, 1), views.local(images, 6), views(images, magnitude=0.3)]
    torch.set_rng_state(state)
    again = copy.deepcopy(views)
    second = [again(images), again(images, 1), again.local(images, 6), again(images, magnitude=0.3)]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_a_run_resumes_bit_for_bit_whatever_was_drawn_before():
    """In a new process nothing of the first views is left: only the generator's state is."""
    images = colours()
    torch.manual_seed(3)
    whole = Views("byol")
    for step in range(3):
        whole(images, magnitude=0.1 * step)
    state = torch.get_rng_state()
    expected = whole(images)
    resumed = pickle.loads(pickle.dumps(Views("byol")))
    torch.set_rng_state(state)
    assert torch.equal(resumed(images), expected)


def test_numpy_and_python_generators_are_left_alone():
    import random

    import numpy as np

    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    Views("byol")(colours(), 1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


# Types, shapes, devices


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 17, 32), (1, 8, 8), (5, 9, 7), (2, 33, 12)])
@pytest.mark.parametrize("name", ["simclr", "byol", "dino"])
def test_any_resolution_and_number_of_channels(shape, name):
    torch.manual_seed(0)
    images = torch.rand(6, *shape)
    views = Views(name)
    for view in (views(images, 0), views(images, 1)):
        assert view.shape == images.shape
        assert 0 <= view.min() <= view.max() <= 1 + 1e-5
    assert views.local(images, 5).shape == (6, shape[0], 5, 5)


def test_images_that_are_not_rgb_are_jittered_in_brightness_and_contrast_only():
    images = torch.rand(64, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert torch.equal(only(jitter_p=1.0, jitter=(0, 0, 0.5, 0.5), grayscale_p=1.0)(images), images)
    assert changed(only(jitter_p=1.0, jitter=(0.5, 0, 0, 0)), images).all()
    torch.manual_seed(0)
    grey = 0.25 + 0.5 * images[:, :1]
    view = only(jitter_p=1.0, jitter=(0, 0.5, 0, 0))(grey)
    torch.testing.assert_close(view.mean((1, 2, 3)), grey.mean((1, 2, 3)))  # about each image's own mean
    assert changed(only(jitter_p=1.0, jitter=(0, 0.5, 0, 0)), grey).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_any_float_type(dtype):
    views, images = Views("byol", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)), colours()
    normalised = ((images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.25).to(dtype)
    normalised = normalised.clamp(-0.3 / 0.25, 0.5 / 0.3)
    torch.manual_seed(0)
    view = views(normalised)
    assert view.dtype == dtype
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views(normalised), view)
    torch.manual_seed(0)
    torch.testing.assert_close(view, views(normalised.float()).to(dtype))


def test_other_defaults_of_torch_change_nothing():
    images = colours()
    torch.manual_seed(0)
    expected = Views("byol")(images, 1), Views("dino").local(images, 6)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.manual_seed(0)
        found = Views("byol")(images, 1), Views("dino").local(images, 6)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_channels_last_images_are_taken():
    images = colours()
    torch.manual_seed(0)
    expected = Views("byol")(images)
    torch.manual_seed(0)
    found = Views("byol")(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_images_are_left_as_they_are_and_views_are_new():
    images = colours()
    before = images.clone()
    for recipe in ("byol", ViewRecipe(**NOTHING, **WHOLE)):
        view = Views(recipe)(images)
        assert view.data_ptr() != images.data_ptr()
    views = Views(ViewRecipe(**NOTHING), magnitude=0.0)
    assert views(images).data_ptr() != images.data_ptr()
    assert torch.equal(images, before)


def test_no_gradients_flow():
    images = colours().requires_grad_()
    assert not Views("byol")(images).requires_grad


def test_normalisation_is_taken_back_and_done_again():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    images = colours()
    torch.manual_seed(0)
    expected = Views("byol")(images, 1)
    torch.manual_seed(0)
    view = Views("byol", mean=mean, std=std)(T.Normalize(mean, std)(images), 1)
    # Solarisation jumps at its threshold, which rounding may cross.
    differences = (view - T.Normalize(mean, std)(expected)).abs()
    assert (differences < 1e-4).float().mean() > 0.999


def test_normalisation_may_be_told_later_but_not_twice():
    views = Views().normalised_by([0.5], [0.25])
    assert (views.mean, views.std) == ((0.5,), (0.25,))
    assert views.normalised_by((0.1,), (0.2,)).mean == (0.5,)


def test_it_holds_nothing_that_a_checkpoint_would():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.views = Views("dino", mean=0.5, std=0.5)

        def forward(self, x):
            return self.layer(x)

    model = Model()
    model.views(colours())
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    model.double()
    assert model.views(colours()).dtype == torch.float32
    assert torch.jit.script(model)(torch.zeros(1, 2, dtype=torch.float64)).shape == (1, 2)


def test_its_text_shows_all_settings():
    made = [
        Views(),
        Views("byol"),
        Views(mean=0.5, std=0.5),
        Views(magnitude=Ramp(0, 1)),
        Views(blur=False),
        Views(local_scale=(0.1, 0.3)),
        *(
            Views(ViewRecipe(**{name: value}))
            for name, value in {
                "crop_scale": (0.3, 1.0),
                "crop_ratio": (1.0, 1.0),
                "flip_p": 0.0,
                "jitter_p": 0.1,
                "jitter": (0.1, 0.1, 0.1, 0.1),
                "grayscale_p": 0.1,
                "blur_p": 0.1,
                "blur_sigma": (0.2, 1.0),
                "solarise_p": 0.1,
                "solarise_threshold": 0.1,
            }.items()
        ),
    ]
    assert len({repr(views) for views in made}) == len(made)
    assert repr(Views("simsiam")) == repr(Views("mocov2"))
    used = Views()
    used(colours())
    assert repr(used) == repr(Views())


# Local crops


def test_local_crops_are_small_parts():
    images = coordinates(300, 64, 64)
    views = Views(ViewRecipe(**NOTHING), local_scale=(0.05, 0.4))
    torch.manual_seed(0)
    crops = views.local(images, 24)
    assert crops.shape == (300, 3, 24, 24)
    tall, wide, *_ = windows_of(crops)
    area = tall * wide / 64**2
    assert 0.04 < area.min() < 0.1
    assert 0.3 < area.max() < 0.43
    assert abs(area.mean() - 0.225) < 0.03


def test_local_crops_are_dinos():
    local = VIEW_RECIPES["dino"][0].local((0.05, 0.4))
    assert (local.crop_scale, local.blur_p, local.solarise_p) == ((0.05, 0.4), 0.5, 0.0)


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, ValueError, r"crop_scale must be a number in \(0, 1\], got 0.0"),
        ({"crop_scale": (0.9, 0.1)}, ValueError, "crop_scale must be .* low <= high.*swap them"),
        ({"crop_scale": 0.2}, ValueError, "crop_scale must be two numbers"),
        ({"crop_ratio": (0, 1)}, ValueError, "crop_ratio"),
        ({"crop_ratio": (1, math.inf)}, ValueError, "crop_ratio"),
        ({"blur_sigma": ("1", 2)}, TypeError, "blur_sigma"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, ValueError, r"jitter's hue must be a number in \[0, 0.5\], got 0.6"),
        ({"jitter": (-0.1, 0.1, 0.1, 0.1)}, ValueError, "jitter's brightness"),
        ({"jitter": (0.1, 0.1)}, ValueError, "jitter must be four numbers"),
        ({"flip_p": 1.5}, ValueError, r"flip_p must be a number in \[0, 1\], got 1.5"),
        ({"grayscale_p": "x"}, TypeError, "grayscale_p"),
        ({"solarise_threshold": math.nan}, ValueError, "solarise_threshold"),
    ],
)
def test_bad_settings_of_a_view(settings, error, message):
    with pytest.raises(error, match=message):
        ViewRecipe(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"recipe": "simclrr"}, ValueError, "did you mean 'simclr'"),
        ({"recipe": 3}, TypeError, "a ViewRecipe or a pair"),
        ({"recipe": (ViewRecipe(),)}, TypeError, "a pair of them"),
        ({"magnitude": 1.1}, ValueError, r"magnitude must be a number in \[0, 1\], got 1.1"),
        ({"magnitude": Ramp(0, 2)}, ValueError, "magnitude=Ramp"),
        ({"mean": 0.5}, ValueError, "mean and std must be given together"),
        ({"mean": (0.5, 0.5), "std": (0.5,)}, ValueError, "equally many, got 2 and 1"),
        ({"mean": 0.5, "std": 0}, ValueError, "std must be"),
        ({"mean": "x", "std": 1}, TypeError, "mean must be a number in"),
        ({"blur": 1}, TypeError, "blur must be true or false"),
        ({"local_scale": (0.1, 1.4)}, ValueError, "local_scale"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        Views(**settings)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, TypeError, "floats .*uint8"),
        ([1], {}, TypeError, "floats .*list"),
        (torch.zeros(3, 8, 8), {}, ValueError, r"\(B, C, H, W\).*\(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 1), {}, ValueError, "2 pixels high and wide"),
        (torch.zeros(0, 3, 8, 8), {}, ValueError, "at least one image"),
        (torch.zeros(2, 3, 8, 8), {"which": 2}, ValueError, "which must be 0 or 1.*got 2"),
        (torch.zeros(2, 3, 8, 8), {"magnitude": -0.1}, ValueError, "magnitude"),
        (torch.full((2, 3, 8, 8), 1.5), {}, ValueError, r"got images from 1.5 to 1.5; give Views mean= and std="),
        (torch.full((2, 3, 8, 8), math.nan), {}, ValueError, "got images from nan to nan"),
    ],
)
def test_bad_images(images, options, error, message):
    with pytest.raises(error, match=message):
        Views()(images, **options)


def test_wrong_normalisation_is_noticed():
    with pytest.raises(ValueError, match=r"after taking back mean=\(0.5,\), std=\(0.5,\); give"):
        Views(mean=0.5, std=0.5)(torch.full((2, 3, 8, 8), 3.0))
    with pytest.raises(ValueError, match="must have 1 number or 3"):
        Views(mean=(0.5, 0.5), std=(0.5, 0.5))(colours())


def test_only_the_first_batch_is_looked_at():
    views = Views()
    views(colours())
    views(colours() * 2)


@pytest.mark.parametrize("size", [1, 0, -3])
def test_local_crops_that_are_too_small(size):
    with pytest.raises(ValueError, match="size must be a whole number of at least 2"):
        Views().local(colours(), size)
