"""The Composer Algorithms."""

import platform
from importlib.util import find_spec

if find_spec("composer") is None:
    raise ImportError(
        f"mixplug's algorithms need Composer, which is not installed on this Python {platform.python_version()}: "
        "run `pip install mixplug` with Python 3.10 to 3.12; the rest of mixplug, for plain loops, works without it",
        name="composer",
    )

from mixplug.algorithms.compression import Compression
from mixplug.algorithms.exact_resumption import ExactResumption
from mixplug.algorithms.fused_backbone_pass import FusedBackbonePass
from mixplug.algorithms.joint_loss import JointLoss
from mixplug.algorithms.mixtraining import MixTraining
from mixplug.algorithms.mixup_ssl_data import MixupSSLData
from mixplug.algorithms.optimizer_settings import OptimizerSettings
from mixplug.algorithms.patch_scaling import PatchScaling
from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.token_dropout import TokenDropout
from mixplug.algorithms.trainer.checkpoints import guard_loading

__all__ = [
    "Compression",
    "ExactResumption",
    "FusedBackbonePass",
    "JointLoss",
    "MixTraining",
    "MixupSSLData",
    "OptimizerSettings",
    "PatchScaling",
    "PhaseSwitch",
    "TokenDropout",
]

guard_loading()
