"""Self-supervised objectives."""

from mixplug.objectives.base import Objective
from mixplug.objectives.byol import BYOL
from mixplug.objectives.dino import DINO
from mixplug.objectives.mae import MAE, Reconstruction
from mixplug.objectives.moco import MoCoV2Plus, MoCoV3
from mixplug.objectives.simclr import SimCLR
from mixplug.objectives.simsiam import SimSiam
from mixplug.objectives.two_view import MomentumTwoView, TwoView

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "MoCoV2Plus",
    "MoCoV3",
    "MomentumTwoView",
    "Objective",
    "Reconstruction",
    "SimCLR",
    "SimSiam",
    "TwoView",
]
