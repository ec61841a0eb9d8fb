"""Recipes that differ from a recipe in one quantity: tokens, depth, batch size or mask ratio."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mixplug.lab.recipes.schema import Recipe
from mixplug.lab.runs.inputs import make_inputs
from mixplug.lab.runs.parts import make_module

MASK_RATIOS = (0.0, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Quantity:
    """Something that cost grows with.

    Attributes:
        name: What it is.
        recipes: By each of its values, rising, the recipe that has it and is the same in all else.
    """

    name: str
    recipes: dict[float, Recipe]


def default_method(recipe: Recipe) -> str:
    """The last method with ``MAE(mask='input')`` in one pass and no further algorithm, else the recipe's last.

    Args:
        recipe: The recipe.

    Returns:
        A key of ``recipe.methods``.
    """
    for name, method in reversed(recipe.methods.items()):
        mae = _input_mae(recipe, name)
        alone = len(method.algorithms) + len(recipe.algorithms) == 1
        if mae is not None and mae.get("fused", True) and alone and 0 not in _found(method.algorithms, "rho"):
            return name
    return list(recipe.methods)[-1]


def vary(recipe: Recipe, method: str) -> tuple[list[Quantity], list[str]]:
    """What can be varied in ``method`` of a recipe, and in words what cannot.

    Args:
        recipe: The recipe.
        method: Key of one of its methods.

    Returns:
        Quantities, each with the recipe's own value among its values (but for a mask ratio that is a ramp); and a
        sentence for each of tokens, depth, batch size and mask ratio that is not among them.

    Raises:
        ValueError: the recipe's data or model cannot be.
    """
    inputs = make_inputs(recipe, recipe.first_seed, torch.device("cpu"))
    module = make_module(recipe, inputs)
    found = (
        _tokens(recipe, module, inputs.shape[1:]),
        _depth(recipe, module),
        Quantity(
            "batch size",
            {
                size: dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, batch_size=size))
                for size in around(recipe.data.batch_size, (0.25, 0.5, 1, 2), 2)
            },
        ),
        _mask_ratio(recipe, method),
    )
    return [q for q in found if isinstance(q, Quantity)], [q for q in found if isinstance(q, str)]


def around(own: int, factors: Sequence[float], low: int) -> list[int]:
    """As many whole numbers as ``factors``: ``own`` and its multiples, rising; where some are equal, larger ones.

    Args:
        own: The number, at least 1.
        factors: Of the multiples; 1 among them.
        low: The least that a multiple may be; ``own`` may be less.

    Returns:
        Different numbers.

    Example:
        >>> around(12, (0.25, 0.5, 1, 1.5), 1), around(2, (0.25, 0.5, 1, 1.5), 1)
        ([3, 6, 12, 18], [1, 2, 3, 4])
    """
    values = {own, *(max(low, round(own * factor)) for factor in factors)}
    while len(values) < len(factors):
        values.add(max(values) + 1)
    return sorted(values)


def _tokens(recipe: Recipe, module: nn.Module, shape: tuple[int, int]) -> Quantity | str:
    """The grid of patches, through the size of the images; pixels where a model has no patches of a fixed size."""
    height, width = shape
    if height != width:
        return f"tokens: not varied, since images of {height}x{width} are not square, and data.image_size makes squares"
    embed = getattr(module, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is None:
        sizes = {s * s: s for s in around(height, (0.5, 0.75, 1, 1.5), 2)}
        return Quantity("pixels", {v: recipe if s == height else _sized(recipe, s, False) for v, s in sizes.items()})
    if patch[0] != patch[1]:
        return f"tokens: not varied, since patches of {patch[0]}x{patch[1]} are not square, as images are"
    # MAE hides one patch at least and shows another.
    grids = around(height // patch[0], (0.5, 0.75, 1, 1.5), 2)
    fixed = getattr(embed, "img_size", None) is not None
    return Quantity(
        "tokens", {g * g: recipe if g == height // patch[0] else _sized(recipe, g * patch[0], fixed) for g in grids}
    )


def _sized(recipe: Recipe, size: int, fixed: bool) -> Recipe:
    """With images of another size, whatever part of the recipe says so, and the model for it if its size is fixed."""
    other = recipe.ssl_data
    model = dataclasses.replace(recipe.model, args={**recipe.model.args, "img_size": size}) if fixed else recipe.model
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, image_size=size),
        ssl_data=None if other is None else dataclasses.replace(other, image_size=size),
        tasks={n: {k: v for k, v in own.items() if k != "image_size"} for n, own in recipe.tasks.items()},
        model=model,
    )


def _depth(recipe: Recipe, module: nn.Module) -> Quantity | str:
    blocks = getattr(module, "blocks", None)
    own = recipe.model.args.get("depth", len(blocks) if isinstance(blocks, nn.Sequential) else None)
    if not isinstance(own, int):
        return f"depth: not varied, since {recipe.model.name} has no depth that is one number of equal blocks"
    depths = around(own, (0.25, 0.5, 1, 1.5), 1)
    return Quantity(
        "depth",
        {
            depth: dataclasses.replace(
                recipe, model=dataclasses.replace(recipe.model, args={**recipe.model.args, "depth": depth})
            )
            for depth in depths
        },
    )


def _mask_ratio(recipe: Recipe, method: str) -> Quantity | str:
    mae = _input_mae(recipe, method)
    if mae is None:
        return f"mask ratio: not varied, since {method} has no MAE with mask: input, whose encoder sees fewer patches"
    own = mae.get("mask_ratio", 0.75)
    recipes = {}
    for ratio in sorted({*MASK_RATIOS, *([float(own)] if isinstance(own, (int, float)) else [])}):
        variant = copy.deepcopy(recipe)
        changed = _input_mae(variant, method)
        assert changed is not None
        changed["mask_ratio"] = ratio
        recipes[ratio] = variant
    return Quantity("mask ratio", recipes)


def _input_mae(recipe: Recipe, method: str) -> dict[str, Any] | None:
    """The arguments of the method's ``MAE(mask='input')`` as they stand in the recipe."""
    specs = [*recipe.methods[method].algorithms, *recipe.algorithms]
    return next((a for a in _found(specs, "MAE") if isinstance(a, dict) and a.get("mask") == "input"), None)


def _found(spec: Any, key: str) -> Iterator[Any]:
    """What stands under ``key`` anywhere inside of ``spec``."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            if name == key:
                yield value
            yield from _found(value, key)
    elif isinstance(spec, list):
        for item in spec:
            yield from _found(item, key)
