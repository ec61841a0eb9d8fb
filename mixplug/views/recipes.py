"""How strongly the views of two-view objectives are augmented: settings and the papers' named pairs. Pure Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixplug.checks import check_range, check_real


@dataclass(frozen=True)
class ViewRecipe:
    """Settings of one random view of an image; the default is SimCLR's. Operations are applied in this order.

    Args:
        crop_scale: The window's share of the image's area is uniform in this range, in (0, 1].
        crop_ratio: Its width over its height is log-uniform in this range, above 0.
        flip_p: Probability of mirroring left to right, in [0, 1] as all probabilities.
        jitter_p: Probability of colour jitter.
        jitter: Its strengths for brightness, contrast, saturation (each at least 0: the factor is uniform in
            [max(0, 1 - strength), 1 + strength]) and hue (in [0, 0.5], the part of the colour circle it turns by at
            most).
        grayscale_p: Probability of taking the colour away.
        blur_p: Probability of Gaussian blur, with a kernel of a tenth of the shorter side.
        blur_sigma: Its standard deviation in pixels is uniform in this range, above 0.
        solarise_p: Probability of inverting the bright pixels.
        solarise_threshold: From which value on, in [0, 1].

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is out of range, or a range is upside down.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    jitter_p: float = 0.8
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    grayscale_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_p: float = 0.0
    solarise_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, high in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            object.__setattr__(self, name, check_range(name, getattr(self, name), high))
        object.__setattr__(self, "jitter", _check_jitter(self.jitter))
        for field in dataclasses.fields(self):
            if field.name.endswith("_p") or field.name == "solarise_threshold":
                check_real(field.name, getattr(self, field.name), 0, 1)

    def scaled(self, magnitude: float) -> ViewRecipe:
        """These settings for ``magnitude`` in [0, 1]: at 1 the same, at 0 the image as it is but for the flip.

        The smallest and largest crop's distances from the whole image, the jitter's strengths and the probabilities of
        grayscale, blur and solarisation are multiplied by it. ``crop_ratio`` stays as it is: at magnitude 0 it has to
        be the image's own, which is not known here.

        Raises:
            TypeError: ``magnitude`` is not a number.
            ValueError: it is out of range.
        """
        check_real("magnitude", magnitude, 0, 1)
        low, high = (1 - magnitude * (1 - scale) for scale in self.crop_scale)
        brightness, contrast, saturation, hue = (magnitude * strength for strength in self.jitter)
        return dataclasses.replace(
            self,
            crop_scale=(low, high),
            jitter=(brightness, contrast, saturation, hue),
            grayscale_p=magnitude * self.grayscale_p,
            blur_p=magnitude * self.blur_p,
            solarise_p=magnitude * self.solarise_p,
        )

    def jittered(self, strength: float) -> ViewRecipe:
        """These settings with colour jitter of ``strength`` times its strengths, at least 0; hue stays within 0.5.

        Raises:
            TypeError: ``strength`` is not a number.
            ValueError: it is below 0 or infinite.
        """
        check_real("jitter", strength, 0, math.inf, high_open=True)
        brightness, contrast, saturation, hue = (strength * own for own in self.jitter)
        return dataclasses.replace(self, jitter=(brightness, contrast, saturation, min(0.5, hue)))

    def at_scale(self, scale: float) -> ViewRecipe:
        """The same for views of ``scale`` times the images' size, above 0: a blur of as many pixels of the image."""
        low, high = (scale * sigma for sigma in self.blur_sigma)
        return dataclasses.replace(self, blur_sigma=(low, high))

    def local(self, scale: tuple[float, float]) -> ViewRecipe:
        """The same for small local crops of ``scale``, as DINO's: blurred at most every second time, not solarised."""
        return dataclasses.replace(self, crop_scale=scale, blur_p=min(self.blur_p, 0.5), solarise_p=0.0)


def _check_jitter(values: Any) -> tuple[float, ...]:
    parts = ("brightness", "contrast", "saturation", "hue")
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(parts):
        raise ValueError(f"jitter must be four numbers, {parts}, got {values!r}")
    for part, value in zip(parts, values, strict=True):
        check_real(f"jitter's {part}", value, 0, 0.5 if part == "hue" else math.inf, high_open=part != "hue")
    return tuple(float(value) for value in values)


_MOCO_V2 = ViewRecipe(crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))
_SIMCLR_CIFAR = ViewRecipe(jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.0)
_BYOL = ViewRecipe(jitter=(0.4, 0.4, 0.2, 0.1), blur_p=1.0)
_BYOL_OTHER = dataclasses.replace(_BYOL, blur_p=0.1, solarise_p=0.2)

VIEW_RECIPES: dict[str, tuple[ViewRecipe, ViewRecipe]] = {
    # Chen et al. 2020 (A Simple Framework for Contrastive Learning), appendix A, colour distortion of strength 1.
    "simclr": (ViewRecipe(), ViewRecipe()),
    # The same, appendix B.9 on CIFAR-10: strength 0.5 and no blur.
    "simclr_cifar": (_SIMCLR_CIFAR, _SIMCLR_CIFAR),
    # Chen & He 2021 (Exploring Simple Siamese Representation Learning), section 4: MoCo v2's.
    "simsiam": (_MOCO_V2, _MOCO_V2),
    # Grill et al. 2020 (Bootstrap Your Own Latent), Table 6: T and T' differ in blur and solarisation.
    "byol": (_BYOL, _BYOL_OTHER),
    # Chen et al. 2020 (Improved Baselines with Momentum Contrastive Learning) and its code's --aug-plus.
    "mocov2": (_MOCO_V2, _MOCO_V2),
    # Chen et al. 2021 (An Empirical Study of Training Self-Supervised Vision Transformers): BYOL's. Its code's
    # --crop-min is 0.08 by default, and the published ResNet-50 is trained with 0.2.
    "mocov3": (_BYOL, _BYOL_OTHER),
    # Caron et al. 2021 (Emerging Properties in Self-Supervised Vision Transformers): BYOL's, with global crops of at
    # least 0.4, the default of its code (its ViTs that train for long use 0.25).
    "dino": (
        dataclasses.replace(_BYOL, crop_scale=(0.4, 1.0)),
        dataclasses.replace(_BYOL_OTHER, crop_scale=(0.4, 1.0)),
    ),
    # The same without local crops: its code's help recommends global crops of at least 0.14 then.
    "dino_no_local": (
        dataclasses.replace(_BYOL, crop_scale=(0.14, 1.0)),
        dataclasses.replace(_BYOL_OTHER, crop_scale=(0.14, 1.0)),
    ),
}
"""Of two views each, by paper. The papers that crop bicubically (SimCLR, BYOL, DINO) are cropped bilinearly here."""
