"""MixTraining and its relatives as MosaicML Composer algorithms, and as plain PyTorch.

Names are resolved on first use: importing mixplug imports neither torch nor Composer (about 8 s on two cores).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixplug.algorithms import (
        ExactResumption,
        FusedBackbonePass,
        JointLoss,
        MixTraining,
        MixupSSLData,
        PhaseSwitch,
    )
    from mixplug.backbones import BackbonePass, PassRequest, ViTBackbone, backbone_of
    from mixplug.callbacks import LinearProbe, OnlineKNN
    from mixplug.exporting import export
    from mixplug.losses import LossWeights, joint_loss, phase_weights
    from mixplug.mixing import MixingFunction, mixup_ssl
    from mixplug.models import MultiTaskClassifier
    from mixplug.objectives import BYOL, DINO, MAE, MoCoV2Plus, MoCoV3, Objective, SimCLR, SimSiam
    from mixplug.phases import Phase, PhasePlan, PhaseSpan, Position
    from mixplug.ramps import Ramp
    from mixplug.schedulers import PhaseScheduler
    from mixplug.stems import small_image_stem
    from mixplug.tasks import multi_task_cross_entropy, split_logits
    from mixplug.view_recipes import ViewRecipe
    from mixplug.views import Views

__version__ = "0.1.0"

_HOME = {
    "Phase": "phases",
    "PhasePlan": "phases",
    "PhaseSpan": "phases",
    "Position": "phases",
    "Ramp": "ramps",
    "MixingFunction": "mixing",
    "mixup_ssl": "mixing",
    "LossWeights": "losses",
    "joint_loss": "losses",
    "phase_weights": "losses",
    "Backbone": "backbones",
    "BackbonePass": "backbones",
    "PassRequest": "backbones",
    "ViTBackbone": "backbones",
    "backbone_of": "backbones",
    "Objective": "objectives",
    "MAE": "objectives",
    "SimSiam": "objectives",
    "BYOL": "objectives",
    "SimCLR": "objectives",
    "MoCoV2Plus": "objectives",
    "MoCoV3": "objectives",
    "DINO": "objectives",
    "MixTraining": "algorithms",
    "PhaseSwitch": "algorithms",
    "MixupSSLData": "algorithms",
    "JointLoss": "algorithms",
    "FusedBackbonePass": "algorithms",
    "ExactResumption": "algorithms",
    "PhaseScheduler": "schedulers",
    "MultiTaskClassifier": "models",
    "multi_task_cross_entropy": "tasks",
    "split_logits": "tasks",
    "OnlineKNN": "callbacks",
    "LinearProbe": "callbacks",
    "export": "exporting",
    "small_image_stem": "stems",
    "ViewRecipe": "view_recipes",
    "Views": "views",
}

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "Backbone",
    "BackbonePass",
    "ExactResumption",
    "FusedBackbonePass",
    "JointLoss",
    "LinearProbe",
    "LossWeights",
    "MixTraining",
    "MixingFunction",
    "MixupSSLData",
    "MoCoV2Plus",
    "MoCoV3",
    "MultiTaskClassifier",
    "Objective",
    "OnlineKNN",
    "PassRequest",
    "Phase",
    "PhasePlan",
    "PhaseScheduler",
    "PhaseSpan",
    "PhaseSwitch",
    "Position",
    "Ramp",
    "SimCLR",
    "SimSiam",
    "ViTBackbone",
    "ViewRecipe",
    "Views",
    "__version__",
    "backbone_of",
    "export",
    "joint_loss",
    "mixup_ssl",
    "multi_task_cross_entropy",
    "phase_weights",
    "small_image_stem",
    "split_logits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mixplug' has no attribute {name!r}")
    value = getattr(import_module(f"mixplug.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
