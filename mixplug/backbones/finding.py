"""Finding the encoder inside of a model."""

from __future__ import annotations

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mixplug.backbones import submodules, timm, vit
from mixplug.backbones.base import Backbone

HEAD = "ssl_objective"
"""The name under which a model holds its self-supervised head, which may have encoders of its own."""


def backbone_of(model: nn.Module, path: str | None = None) -> Backbone:
    """The adapter for the one encoder inside of ``model``, made on the first call.

    A timm ``VisionTransformer`` gets a :class:`ViTBackbone`, any other of timm's models a :class:`TimmBackbone`, and
    any other submodule that ``path`` names a :class:`SubmoduleBackbone`.

    Args:
        model: Any module that is or holds the encoder.
        path: Dotted name of the encoder inside of ``model`` (as in ``named_modules``), if it holds several or none of
            timm's: then the name of a submodule that takes images and gives features.

    Raises:
        TypeError: there is no model of timm's and ``path`` is None.
        ValueError: there are several and ``path`` is None, or there is nothing at ``path``.
    """
    modules = {name: m for name, m in model.named_modules() if HEAD not in name.split(".")}
    found = {name: module for name, module in modules.items() if timm.is_timm_model(module)}
    if path is not None:
        if path not in modules:
            raise ValueError(
                f"backbone={path!r} is no submodule of {_describe(model)}; of timm's it holds {list(found)}"
            )
        module = modules[path]
        if path not in found:
            return submodules.adapter_of(module) or submodules.SubmoduleBackbone(module, path)
    else:
        if not found:
            raise TypeError(
                f"{_describe(model)} holds no model of timm's: build one with timm.create_model(...), or name the "
                f"submodule that makes features of images by backbone="
            )
        if len(found) > 1:
            raise ValueError(f"the model holds {len(found)} models of timm's, {sorted(found)}: name one by backbone=")
        module = next(iter(found.values()))
    if _keeps_a_token_for_each_patch(module):
        return vit.adapter_of(module) or vit.ViTBackbone(module)
    return timm.adapter_of(module) or timm.TimmBackbone(module)


def adapters_in(model: nn.Module) -> list[Backbone]:
    """Every adapter that is attached in ``model``, copies of it (averaged models) included."""
    kinds = (vit, timm, submodules)
    return [adapter for module in model.modules() for kind in kinds if (adapter := kind.adapter_of(module)) is not None]


def detach_backbones(model: nn.Module) -> None:
    """Detach every adapter in ``model``."""
    for adapter in adapters_in(model):
        adapter.detach()


def _keeps_a_token_for_each_patch(module: nn.Module) -> bool:
    return isinstance(module, VisionTransformer) and isinstance(module.patch_embed, PatchEmbed)


def _describe(model: nn.Module) -> str:
    inner = getattr(model, "module", None)
    name = type(model).__name__
    return f"{name} (of {type(inner).__name__})" if isinstance(inner, nn.Module) else name
