"""The rules by which ``mixplug fit`` chooses a model, its settings and the methods worth trying. Pure Python.

Each is what did best in the comparisons of recipes/README.md that are nearest, said once, and can be overridden by
``key=value``:

- Images: their median shorter side, in steps of 4 up to 32 pixels and of 16 beyond, at most 64 on a CPU, 224 on a GPU.
- Patches: an eighth of the side, so 64 tokens, but 2 pixels at least, and more where that does not divide the side;
  16 pixels on a GPU from 112 pixels on.
- Model: the largest of :data:`MODELS` that can pass each labelled image :func:`fewest` times in the time of the last
  training.
- Augmentation: windows out of a border of an eighth of the side, from 16 pixels on; mirror images unless the images
  are grey, which may be letters, digits or scans.
- Rates: AdamW at 2e-3, cosine after a warm-up of a twentieth of each phase, a fresh optimizer in each.
- Token dropout: half of the tokens; of fewer than 200 labelled images three quarters first, and none at the end.
- Self-supervised learning: MAE on visible patches. For each of its epochs 2 * share^0.6 of SL, with share images
  without and with labels for each labelled one: so it takes about 40% of the cost of labelled images alone, half where
  there are ten times as many, 70% where eighty times.
- Choice: the most accurate pilot, but where it is ahead of the method that :func:`expected` names by less than the
  standard error of their difference, that one.
- Cost: at most :func:`longest` passes for each labelled image, beyond which small models learn little; time that is
  left goes to more seeds of the pilots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODELS = ((48, 3, 3), (48, 4, 3), (96, 6, 3), (192, 12, 3))
"""Width, depth and heads of vision transformers, the cheapest first."""

PILOTS = (1 / 8, 1 / 2)
"""Costs of the first and the second pilots, of the last training's."""

WITHOUT_SSL, WITH_SSL = KINDS = ("sl_dropout", "sl"), ("mix_dropout", "ssl_sl_dropout")
"""The methods that are tried, of each kind the one first that is expected to be better; one is tried for longer."""


@dataclass(frozen=True)
class Material:
    """What there is to learn from.

    Attributes:
        labelled: Labelled training images.
        images: Training images with labels and without.
        side: Of the images, in pixels, shorter one, the median.
        grey: Whether they have no colours.
        gpu: Whether there is a GPU.
    """

    labelled: int
    images: int
    side: int
    grey: bool
    gpu: bool

    @property
    def share(self) -> float:
        """Images for each labelled one."""
        return self.images / self.labelled


def expected(material: Material) -> str:
    """The method that did best on images like these, which is chosen where pilots cannot tell.

    Self-supervised learning gains with time, so pilots, which are shorter, show less of it than there will be. In
    recipes/README.md it paid on colour images with thousands of labels, and cost nothing with many images without; on a
    few hundred grey ones it did not pay.
    """
    pays = material.images > material.labelled or (material.labelled >= 1000 and not material.grey)
    return (WITH_SSL if pays else WITHOUT_SSL)[0]


def image_size(material: Material) -> int:
    """Height and width to bring images to."""
    limit = 224 if material.gpu else 64
    side = min(material.side, limit)
    return max(8, -(-side // 4) * 4) if side <= 32 else side // 16 * 16


def patch_size(size: int) -> int:
    """Height and width of a patch of images of that size."""
    least = 16 if size >= 112 else max(2, size // 8)
    return next(patch for patch in range(least, size + 1) if size % patch == 0)


def fewest(labelled: int) -> float:
    """Passes for each labelled image below which a larger model learns less than a smaller one."""
    return max(100.0, 1e5 / labelled)


def longest(share: float) -> float:
    """What the last training may cost at most, in passes for each labelled image."""
    return 400.0 * (1 + (share - 1) / 2)


def shortest_pilot(share: float) -> float:
    """Cost below which first pilots show who learns fast, not who learns most: then there are none."""
    return 15.0 * (1 + (share - 1) / 2)


def make_settings(material: Material, model: tuple[int, int, int], table: str, description: str) -> dict[str, Any]:
    """A recipe with the methods that are tried.

    Args:
        material: What there is to learn from.
        model: One of :data:`MODELS`.
        table: File of the images, an image_table.
        description: Of the recipe.
    """
    size = image_size(material)
    width, depth, heads = model
    few, others = material.labelled < 200, material.images > material.labelled
    rate: Any = {"Ramp": {"start": 0.75, "stop": 0.0}} if few else 0.5
    epochs = 2 * material.share**0.6
    warmup = {"CosineAnnealingWithWarmupScheduler": {"t_warmup": "0.05dur"}}
    objective = {"MAE": {"mask": "input", "decoder_depth": 1}}
    shared = {"reset_optimizer": True, "objective": objective}
    dropout = {"TokenDropout": {"rate": {"sl": rate} if isinstance(rate, dict) else rate, "phases": ["sl"]}}
    # In MIX the classifier learns too, so less of SL alone is left to do where its epochs are over all images.
    mixed = {"rho": 0.5, "ssl_duration": "10ep", "sl_duration": _epochs(10 * epochs * (0.6 if others else 1.2))}
    mixed |= {"alpha": {"Ramp": {"start": 1.0, "stop": 0.0}}, "mixing": "side_by_side"} if others else {"alpha": 0.5}
    return {
        "description": description,
        "ssl_duration": "10ep",
        "sl_duration": _epochs(10 * epochs),
        "seeds": 1,
        "eval_interval": "1dur",
        "pictures": 0,
        "data": {
            "dataset": "image_table",
            "root": table,
            "image_size": size,
            "batch_size": 64 if material.labelled >= 640 else 32,
            "crop_padding": size // 8 if size >= 16 else 0,
            "flip": not material.grey,
        },
        **({"ssl_data": {"same": True}} if others else {}),
        "model": {
            "name": "vit_tiny_patch16_224",
            "args": {
                "img_size": size,
                "patch_size": patch_size(size),
                "embed_dim": width,
                "depth": depth,
                "num_heads": heads,
                "global_pool": "avg",
                "class_token": False,
            },
        },
        "decay": "weights",
        "optimizer": {"AdamW": {"lr": 2e-3, "betas": [0.9, 0.95], "weight_decay": 0.05}},
        "scheduler": {"PhaseScheduler": dict.fromkeys(("ssl", "mix", "sl"), warmup)},
        "methods": {
            "sl": {"label": "SL"},
            "sl_dropout": {"label": "SL, fewer tokens", "algorithms": [{"TokenDropout": {"rate": rate}}]},
            "ssl_sl_dropout": {
                "label": "SSL+SL, fewer tokens",
                "algorithms": [{"MixTraining": {"rho": 0, **shared}}, dropout],
            },
            "mix_dropout": {
                "label": f"MixTraining{', side by side' if others else ''}, fewer tokens",
                "algorithms": [{"MixTraining": {**mixed, **shared}}, dropout],
            },
        },
    }


def _epochs(count: float) -> str:
    return f"{max(1, round(count))}ep"
