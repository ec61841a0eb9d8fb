"""What an SSL objective may ask of an encoder, and adapters for timm's models and any other."""

from mixplug.backbones.base import Backbone, BackbonePass, PassRequest, TokenSelector
from mixplug.backbones.finding import adapters_in, backbone_of, detach_backbones
from mixplug.backbones.submodules import SubmoduleBackbone
from mixplug.backbones.timm import TimmBackbone
from mixplug.backbones.vit import ViTBackbone, take_tokens

__all__ = [
    "Backbone",
    "BackbonePass",
    "PassRequest",
    "SubmoduleBackbone",
    "TimmBackbone",
    "TokenSelector",
    "ViTBackbone",
    "adapters_in",
    "backbone_of",
    "detach_backbones",
    "take_tokens",
]
