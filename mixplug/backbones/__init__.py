"""What an SSL objective may ask of an encoder, and adapters for timm's models and any other."""

from mixplug.backbones.base import Backbone, BackbonePass, PassRequest, Role
from mixplug.backbones.finding import adapters_in, backbone_of, detach_backbones
from mixplug.backbones.selection import TokenSelector, random_tokens, take_tokens
from mixplug.backbones.submodules import SubmoduleBackbone
from mixplug.backbones.timm import TimmBackbone
from mixplug.backbones.vit import ViTBackbone

__all__ = [
    "Backbone",
    "BackbonePass",
    "PassRequest",
    "Role",
    "SubmoduleBackbone",
    "TimmBackbone",
    "TokenSelector",
    "ViTBackbone",
    "adapters_in",
    "backbone_of",
    "detach_backbones",
    "random_tokens",
    "take_tokens",
]
