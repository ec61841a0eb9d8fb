"""How a network that is not timm's takes its images and gives its features: by any argument, in any structure."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn


def call_with_images(model: nn.Module, images: Tensor) -> Any:
    """``model`` of ``images`` ``(B, C, H, W)``, by keyword where its forward takes none by position."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return model(images)
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return model(**{named[0]: images}) if named else model(images)


def images_among(args: tuple[Any, ...], options: Mapping[str, Any], name: str) -> tuple[int | str, Tensor]:
    """Where among the arguments of a call the images are, and they themselves: the first tensor ``(B, C, H, W)``.

    Raises:
        ValueError: there are none.
    """
    given: dict[int | str, Any] = dict(enumerate(args))
    given.update(options)
    for place, value in given.items():
        if isinstance(value, Tensor) and value.ndim == 4:
            return place, value
    shown = {key: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in given.items()}
    raise ValueError(
        f"{name} was called without images (B, C, H, W): its arguments were {shown}; name another submodule"
    )


def features_among(output: Any, width: int, name: str) -> Tensor:
    """The features in what a network gave: the tensor itself, or of several the one that can be pooled to ``width``.

    A map ``(B, D, H, W)`` or tokens ``(B, N, D)`` go before pooled ones ``(B, D)``, which may have gone through a head
    of their own, and earlier ones before later ones, such as hidden states.

    Args:
        output: A tensor, or a mapping, tuple, list or dataclass that holds some.
        width: D.
        name: What the user calls the network, for messages.

    Raises:
        ValueError: none can.
    """
    if isinstance(output, Tensor):
        return output
    found = _tensors(output)
    fitting = [key for key, t in found.items() if t.ndim in (2, 3, 4) and t.shape[2 if t.ndim == 3 else 1] == width]
    if not fitting:
        shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
        raise ValueError(
            f"{name} gives a {type(output).__name__} of {shapes or 'no tensors'}, and none is features {width} "
            f"wide, as its last layer says: (B, {width}), (B, N, {width}) or (B, {width}, H, W); name another submodule"
        )
    return found[min(fitting, key=lambda key: found[key].ndim == 2)]


def first_images(output: Any, own: int, total: int) -> Any:
    """``output`` of ``total`` images in the same structure, of the first ``own`` alone."""
    if isinstance(output, Tensor):
        return output[:own] if output.ndim and len(output) == total else output
    parts = {key: first_images(value, own, total) for key, value in _items(output).items()}
    if isinstance(output, MutableMapping):
        copied = copy.copy(output)
        for key, value in parts.items():
            copied[key] = value
        return copied
    if isinstance(output, (tuple, list)):
        return output._replace(**parts) if hasattr(output, "_replace") else type(output)(parts.values())
    return dataclasses.replace(output, **parts) if parts else output


def _tensors(output: Any, name: str = "output") -> dict[str, Tensor]:
    """The tensors in ``output``, by name."""
    if isinstance(output, Tensor):
        return {name: output}
    found: dict[str, Tensor] = {}
    for key, value in _items(output).items():
        found |= _tensors(value, f"{name}.{key}")
    return found


def _items(output: Any) -> Mapping[Any, Any]:
    """What a structure holds, by key; nothing of what is none."""
    if isinstance(output, Mapping):
        return output
    if isinstance(output, (tuple, list)):
        return output._asdict() if hasattr(output, "_asdict") else dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}
