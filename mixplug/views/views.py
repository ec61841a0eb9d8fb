"""Two-view self-supervised objectives' views: whole batches augmented on the device they lie on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixplug.checks import check_bool, check_choice, check_int, check_mean, check_range, check_std, list_of
from mixplug.schedules.phases import Position
from mixplug.schedules.shapes import Schedule, Shape, check_schedule, value_at
from mixplug.views.augmentation import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    beside,
    blur,
    flip,
    resized_crop,
    shift_hue,
    solarise,
    to_grey,
)
from mixplug.views.recipes import VIEW_RECIPES, ViewRecipe

__all__ = ["VIEW_RECIPES", "ViewRecipe", "Views"]

_TRIES = 10
"""How often a window is drawn that may not fit into the image: torchvision's number."""


class Views(nn.Module):
    """Random views of a batch of images, made where the images lie, so that a batch stays ``(x, y)``.

    Each image of a batch gets random numbers of its own (but for the order of the jitter's four steps, drawn once
    for a batch). They come from torch's global CPU generator, whatever the device: the same generator state gives
    the same views, so a run that restores it resumes bit for bit. In distributed training each process must have
    seeded it differently (Composer does). How many numbers are drawn depends on the batch's size and the magnitude.

    Views are what torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``, ``ColorJitter``,
    ``RandomGrayscale``, ``GaussianBlur`` and ``RandomSolarize`` make of single images, in this order. Images need
    not have three channels: with another number, jitter changes brightness and contrast only, and there is no
    grayscale. No gradients flow through views.

    **Small images.** The published practice for CIFAR's 32x32 is ``Views("simsiam", blur=False)`` (SimSiam's appendix
    D: crops of at least a fifth of the image, weaker jitter, no blur) and ``Views("simclr_cifar")``.

    **Magnitude** in [0, 1] scales all strengths at once: 1 is the recipe, 0 the image as it is but for the flip; see
    :meth:`ViewRecipe.scaled`. It may be another number at each call at no cost.

    It has no parameters and leaves nothing in a ``state_dict``; its ``repr`` shows all settings.

    Args:
        recipe: Name of a pair in ``VIEW_RECIPES`` (simclr, simclr_cifar, simsiam, byol, mocov2, mocov3, dino,
            dino_no_local), settings for both views, or a pair of settings.
        mean: By what the images were normalised, one number in [0, 1] for each channel or one for all: taken back
            before augmentation, as colours are changed in [0, 1], and done again after it. None for images in [0, 1].
        std: What they were divided by then, in (0, 1].
        magnitude: A number in [0, 1], or a schedule for :meth:`magnitude_at`, by default over SSL and MIX.
        blur: False leaves out all blur, as is usual for small images.
        local_scale: Range of the share of the area of :meth:`local` crops, in (0, 1]; DINO's by default.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range, or there is no such recipe.

    Example:
        >>> views = Views("simsiam", blur=False)
        >>> images = torch.rand(8, 3, 32, 32)
        >>> one, other = views(images, 0), views(images, 1)
        >>> one.shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        recipe: str | ViewRecipe | tuple[ViewRecipe, ViewRecipe] = "simclr",
        *,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        magnitude: Schedule = 1.0,
        blur: bool = True,
        local_scale: tuple[float, float] = (0.05, 0.4),
    ) -> None:
        super().__init__()
        self.magnitude = check_schedule("magnitude", magnitude, 0, 1)
        self.local_scale = check_range("local_scale", local_scale, 1.0)
        first, second = _pair(recipe)
        if not check_bool("blur", blur):
            first, second = (dataclasses.replace(one, blur_p=0.0) for one in (first, second))
        self.recipes = (first, second)
        self.mean: tuple[float, ...] | None = None
        self.std: tuple[float, ...] | None = None
        self._range_known = False
        if mean is not None or std is not None:
            self.normalised_by(mean, std)

    def extra_repr(self) -> str:
        """All settings."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())

    def arguments(self) -> dict[str, Any]:
        """What makes these views, for the comparison of checkpoints; ``blur`` is in the recipes."""
        return {name: getattr(self, name) for name in ("recipes", "mean", "std", "magnitude", "local_scale")}

    def normalised_by(self, mean: Sequence[float] | float | None, std: Sequence[float] | float | None) -> Views:
        """Take images to be normalised by ``mean`` and ``std`` if the constructor was not told so; return self.

        Raises:
            TypeError: a number is none.
            ValueError: they are not equally many, or cannot be of images in [0, 1].
        """
        if self.mean is None:
            if mean is None or std is None:
                raise ValueError(f"mean and std must be given together, got mean={mean!r}, std={std!r}")
            means, stds = _numbers(check_mean, "mean", mean), _numbers(check_std, "std", std)
            if len(means) != len(stds):
                raise ValueError(f"mean and std must be equally many, got {len(means)} and {len(stds)} numbers")
            self.mean, self.std = means, stds
            self._range_known = False
        return self

    def magnitude_at(self, position: Position) -> float:
        """The magnitude at ``position``, to be passed on to the calls of a step."""
        return value_at(self.magnitude, position, "ssl")

    @torch.jit.ignore
    def forward(
        self,
        images: Tensor,
        which: int = 0,
        magnitude: float | None = None,
        size: tuple[int, int] | None = None,
        jitter: float = 1.0,
    ) -> Tensor:
        """One random view of each image.

        A view of another ``size`` is cropped to it directly, and is in distribution what a view of the images' own size
        becomes by resizing it: the crop is resized once, and the blur's standard deviation counts pixels of the images.

        Args:
            images: ``(B, C, H, W)``, of any float type, at least 2 pixels high and wide.
            which: View 0 or 1 of the recipe.
            magnitude: In [0, 1]; None for the one that these views were made with.
            size: Height and width of the view, at least 2; None for the images'.
            jitter: What the strengths of colour jitter are multiplied by on top, at least 0; see
                :meth:`ViewRecipe.jittered`.

        Returns:
            A new tensor of the images' type and device, ``(B, C, *size)``, normalised as they are.

        Raises:
            TypeError: ``images`` is not a tensor of floats, or a number has the wrong type.
            ValueError: ``images`` has another shape, ``which`` is neither 0 nor 1, ``magnitude`` is out of range or
                missing where it was to be a ramp; of the first batch also: pixels are not in [0, 1].
        """
        if which not in (0, 1):
            raise ValueError(f"which must be 0 or 1, the view of the recipe, got {which!r}")
        recipe = self.recipes[which].jittered(jitter)
        if size is not None:
            _check_images(images)
            height, width = (check_int("a side of size", side, 2) for side in size)
            size = height, width
            recipe = recipe.at_scale(math.sqrt(height * width / math.prod(images.shape[-2:])))
        return self._view(images, recipe, size, magnitude)

    @torch.jit.ignore
    def local(self, images: Tensor, size: int, magnitude: float | None = None, jitter: float = 1.0) -> Tensor:
        """One random crop of ``local_scale`` of each image, brought to ``size``: DINO's local views.

        The rest is as in view 0, but for a blur of at most every second image and no solarisation.

        Args:
            images: As for :meth:`forward`.
            size: Height and width of the result, at least 2.
            magnitude: As for :meth:`forward`; at 0 the whole image, resized.
            jitter: As for :meth:`forward`.

        Returns:
            ``(B, C, size, size)``, of the images' type and device.

        Raises:
            TypeError: as for :meth:`forward`.
            ValueError: as for :meth:`forward`, or ``size`` is below 2.
        """
        side = check_int("size", size, 2)
        return self._view(images, self.recipes[0].local(self.local_scale).jittered(jitter), (side, side), magnitude)

    @torch.no_grad()
    def _view(
        self, images: Tensor, recipe: ViewRecipe, size: tuple[int, int] | None, magnitude: float | None
    ) -> Tensor:
        _check_images(images)
        if magnitude is None:
            if isinstance(self.magnitude, Shape):
                raise ValueError(
                    f"magnitude is {self.magnitude}: say where on it a call is, with "
                    f"magnitude=views.magnitude_at(position)"
                )
            magnitude = self.magnitude
        device = images.device
        if device.type == "meta":  # where operations are counted there are no pixels
            return images.new_empty(*images.shape[:2], *(size or images.shape[-2:]))
        # Colours and small windows need float32, and half-precision products would blur the image's values.
        with torch.autocast(device.type, enabled=False):
            mean, std = self._statistics(images)
            self._check_range(images, mean, std)
            recipe, size = recipe.scaled(magnitude), size or (images.shape[-2], images.shape[-1])
            crop = _crop(images.shape, recipe, size, magnitude)
            views = images.new_empty(*images.shape[:2], *size)
            steps = list(_steps(views.shape, recipe))
            for part in _parts(views.shape, device):
                view = (crop(images[part].float(), part) * std).add_(mean).clamp_(0, 1)  # addcmul is slow here
                for step in steps:
                    view = step(view, part)
                views[part] = view.sub_(mean).div_(std)
            return views

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(1 or C, 1, 1)`` each: mean and standard deviation, 0 and 1 where there are none."""
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        if len(mean) not in (1, images.shape[1]):
            raise ValueError(
                f"mean and std must have 1 number or {images.shape[1]}, as many as images have channels; "
                f"these views have {len(mean)}"
            )
        numbers = beside(images, torch.tensor([mean, std], dtype=torch.float32, device="cpu"))
        return numbers[0].view(-1, 1, 1), numbers[1].view(-1, 1, 1)

    def _check_range(self, images: Tensor, mean: Tensor, std: Tensor) -> None:
        """Of the first batch only: later ones would make a GPU wait."""
        if self._range_known:
            return
        low, high = (float(end) for end in torch.addcmul(mean, images.float(), std).aminmax())
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            after = f" after taking back mean={self.mean}, std={self.std}" if self.mean else ""
            fix = (
                "those by which they were normalised" if self.mean else "if the images are normalised, else scale them"
            )
            raise ValueError(
                f"views need pixels in [0, 1], got images from {low:.4g} to {high:.4g}{after}; give Views mean= and "
                f"std=, {fix}"
            )
        self._range_known = True


_TOLERANCE = 0.05
"""Of the range of pixels: what half precision makes of normalised numbers."""


def _pair(recipe: Any) -> tuple[ViewRecipe, ViewRecipe]:
    if isinstance(recipe, str):
        return VIEW_RECIPES[check_choice("recipe", recipe, VIEW_RECIPES)]
    pair = (recipe, recipe) if isinstance(recipe, ViewRecipe) else recipe
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(one, ViewRecipe) for one in pair):
        raise TypeError(
            f"recipe must be one of {list(VIEW_RECIPES)}, a ViewRecipe or a pair of them, got {recipe!r} of type "
            f"{type(recipe).__name__}"
        )
    return pair[0], pair[1]


def _numbers(check: Callable[..., tuple[float, ...]], name: str, values: Any) -> tuple[float, ...]:
    values = list_of(values) or [values]
    return check(name, values, len(values))


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(
            f"images must be a tensor of floats (B, C, H, W), got {getattr(images, 'dtype', type(images).__name__)}"
        )
    if images.ndim != 4 or not images.numel() or min(images.shape[-2:]) < 2:
        raise ValueError(
            f"images must be (B, C, H, W) with at least one image and channel, 2 pixels high and wide, got "
            f"{tuple(images.shape)}"
        )


Step = Callable[[Tensor, slice], Tensor]
"""What is done to a part of a batch, given in [0, 1], and which part that is."""


def _steps(shape: Sequence[int], recipe: ViewRecipe) -> Iterator[Step]:
    """What is done to colours. Numbers are drawn for all images, applied or not, when a step is asked for."""
    count, channels, height, width = shape
    if recipe.jitter_p and any(recipe.jitter):
        yield _jitter(count, channels, recipe)
    if channels == 3:
        yield _on_some(count, recipe.grayscale_p, lambda some, _: to_grey(some).repeat(1, 3, 1, 1))
    kernel = max(3, 2 * (min(height, width) // 20) + 1)  # odd
    sigmas = _uniform(*recipe.blur_sigma, count)
    yield _on_some(count, recipe.blur_p, lambda some, index: blur(some, sigmas[index], kernel))
    yield _on_some(count, recipe.solarise_p, lambda some, _: solarise(some, recipe.solarise_threshold))


def _parts(shape: Sequence[int], device: torch.device) -> Iterator[slice]:
    """What is worked on at once: on a CPU as much as its caches hold, which takes half the time of a large batch."""
    count = shape[0]
    at_once = max(1, _CACHED // math.prod(shape[1:])) if device.type == "cpu" else count
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


_CACHED = 128 * 1024
"""Numbers that a CPU works on at once, of 4 bytes each: half of a usual second-level cache."""


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float32, device="cpu") * (high - low) + low


def _happens(count: int, probability: float) -> Tensor:
    return _uniform(0, 1, count) < probability


def _on_some(count: int, probability: float, change: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """``change(some, index)`` on each image with ``probability``; which ones is known on the host, so no GPU waits."""
    if not probability:
        return lambda images, _: images
    chosen = _happens(count, probability)

    def step(images: Tensor, part: slice) -> Tensor:
        index = chosen[part].nonzero()[:, 0]
        if not len(index):
            return images
        if len(index) == len(images):
            return change(images, index + part.start)
        there = beside(images, index)
        return images.index_copy_(0, there, change(images.index_select(0, there), index + part.start))

    return step


def _crop(shape: Sequence[int], recipe: ViewRecipe, size: tuple[int, int], magnitude: float) -> Step:
    """Crop, resize and mirror, whatever the range of the images; they may stay the same tensor."""
    count, _, height, width = shape
    windows = None
    if magnitude:
        own = math.log(width / height)
        # At magnitude 0 the image's own ratio of width to height, at 1 the recipe's.
        low, high = (math.exp((1 - magnitude) * own + magnitude * math.log(ratio)) for ratio in recipe.crop_ratio)
        windows = _windows(count, height, width, recipe.crop_scale, (low, high))
    elif size != (height, width):
        windows = torch.tensor([[0], [0], [height], [width]], device="cpu").expand(-1, count)
    mirrored = _happens(count, recipe.flip_p) if recipe.flip_p else None

    def step(images: Tensor, part: slice) -> Tensor:
        some = None if mirrored is None else mirrored[part]
        if windows is not None:
            return resized_crop(images, windows[:, part], size, some)
        return images if some is None else flip(images, some)

    return step


def _windows(count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """``(4, count)``: top, left, height, width of windows drawn as by torchvision's ``RandomResizedCrop``."""
    area = _uniform(*scale, count, _TRIES) * (height * width)
    ratios = _uniform(math.log(ratio[0]), math.log(ratio[1]), count, _TRIES).exp()
    sizes = torch.stack([(area / ratios).sqrt(), (area * ratios).sqrt()]).round().long()  # heights, widths
    limit = torch.tensor([height, width], device="cpu")
    fits = ((sizes > 0) & (sizes <= limit[:, None, None])).all(0)
    first = fits.int().argmax(1, keepdim=True)
    drawn = sizes.gather(2, first.expand(2, -1, -1)).squeeze(2)
    # The largest window of an allowed shape, in the middle, where none of the tries fits.
    nearest = min(max(width / height, ratio[0]), ratio[1])
    largest = torch.tensor([min(height, round(width / nearest)), min(width, round(height * nearest))], device="cpu")
    some_fit = fits.any(1)
    window = torch.where(some_fit, drawn, largest[:, None].clamp_min(1))
    room = limit[:, None] - window
    corner = (_uniform(0, 1, 2, count) * (room + 1)).long().minimum(room)  # 32 bits may round up
    return torch.cat([torch.where(some_fit, corner, room // 2), window])


def _jitter(count: int, channels: int, recipe: ViewRecipe) -> Step:
    """What torchvision's ``ColorJitter`` does, on some of the images."""
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, shift_hue)
    *strengths, hue = recipe.jitter
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    factors = torch.stack([_uniform(low, high, count) for low, high in (*ranges, (-hue, hue))])
    order = torch.randperm(len(adjustments), device="cpu").tolist()

    def jittered(some: Tensor, index: Tensor) -> Tensor:
        own = factors[:, index]
        for which in order:
            if recipe.jitter[which] and (which < 2 or channels == 3):
                some = adjustments[which](some, own[which])
        return some

    return _on_some(count, recipe.jitter_p, jittered)
