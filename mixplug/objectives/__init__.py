"""Self-supervised objectives."""

from mixplug.objectives.base import Objective
from mixplug.objectives.byol import BYOL
from mixplug.objectives.dino import DINO
from mixplug.objectives.mae import MAE, Reconstruction
from mixplug.objectives.moco import MoCoV2Plus, MoCoV3
from mixplug.objectives.momentum import MomentumTwoView
from mixplug.objectives.simclr import SimCLR
from mixplug.objectives.simsiam import SimSiam
from mixplug.objectives.two_view import TwoView
from mixplug.objectives.view_pairs import Pair, View, ViewPairs

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "MoCoV2Plus",
    "MoCoV3",
    "MomentumTwoView",
    "Objective",
    "Pair",
    "Reconstruction",
    "SimCLR",
    "SimSiam",
    "TwoView",
    "View",
    "ViewPairs",
]
