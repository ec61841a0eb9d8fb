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
        OptimizerSettings,
        PatchScaling,
        PhaseSwitch,
        TokenDropout,
    )
    from mixplug.algorithms.multi_task_classifier import MultiTaskClassifier
    from mixplug.algorithms.phase_scheduler import PhaseScheduler
    from mixplug.algorithms.probes import LinearProbe, OnlineKNN
    from mixplug.algorithms.trainer.passes import encoder_pass_of
    from mixplug.backbones import BackbonePass, PassRequest, Role, ViTBackbone, backbone_of, random_tokens
    from mixplug.backbones.exporting import export
    from mixplug.backbones.stems import small_image_stem
    from mixplug.objectives import BYOL, DINO, MAE, MoCoV2Plus, MoCoV3, Objective, SimCLR, SimSiam
    from mixplug.objectives.joint import LossWeights, joint_loss, phase_weights
    from mixplug.objectives.multi_task import multi_task_cross_entropy, split_logits
    from mixplug.schedules.phases import Phase, PhasePlan, PhaseSpan, Position
    from mixplug.schedules.shapes import Cosine, Points, Polynomial, Ramp, Steps
    from mixplug.training.encoder_pass import EncoderPass
    from mixplug.training.step import Training
    from mixplug.views.mixing import MixingFunction, mixup_ssl
    from mixplug.views.recipes import ViewRecipe
    from mixplug.views.views import Views

__version__ = "0.1.0"

_HOME = {
    "Phase": "schedules.phases",
    "PhasePlan": "schedules.phases",
    "PhaseSpan": "schedules.phases",
    "Position": "schedules.phases",
    "Ramp": "schedules.shapes",
    "Cosine": "schedules.shapes",
    "Polynomial": "schedules.shapes",
    "Points": "schedules.shapes",
    "Steps": "schedules.shapes",
    "Role": "backbones",
    "random_tokens": "backbones",
    "EncoderPass": "training.encoder_pass",
    "Training": "training.step",
    "TokenDropout": "algorithms",
    "PatchScaling": "algorithms",
    "encoder_pass_of": "algorithms.trainer.passes",
    "MixingFunction": "views.mixing",
    "mixup_ssl": "views.mixing",
    "LossWeights": "objectives.joint",
    "joint_loss": "objectives.joint",
    "phase_weights": "objectives.joint",
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
    "OptimizerSettings": "algorithms",
    "FusedBackbonePass": "algorithms",
    "ExactResumption": "algorithms",
    "PhaseScheduler": "algorithms.phase_scheduler",
    "MultiTaskClassifier": "algorithms.multi_task_classifier",
    "multi_task_cross_entropy": "objectives.multi_task",
    "split_logits": "objectives.multi_task",
    "OnlineKNN": "algorithms.probes",
    "LinearProbe": "algorithms.probes",
    "export": "backbones.exporting",
    "small_image_stem": "backbones.stems",
    "ViewRecipe": "views.recipes",
    "Views": "views.views",
}

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "Backbone",
    "BackbonePass",
    "Cosine",
    "EncoderPass",
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
    "OptimizerSettings",
    "PassRequest",
    "PatchScaling",
    "Phase",
    "PhasePlan",
    "PhaseScheduler",
    "PhaseSpan",
    "PhaseSwitch",
    "Points",
    "Polynomial",
    "Position",
    "Ramp",
    "Role",
    "SimCLR",
    "SimSiam",
    "Steps",
    "TokenDropout",
    "Training",
    "ViTBackbone",
    "ViewRecipe",
    "Views",
    "__version__",
    "backbone_of",
    "encoder_pass_of",
    "export",
    "joint_loss",
    "mixup_ssl",
    "multi_task_cross_entropy",
    "phase_weights",
    "random_tokens",
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
