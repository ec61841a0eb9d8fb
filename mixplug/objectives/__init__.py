"""Self-supervised objectives."""

from mixplug.objectives.base import Objective
from mixplug.objectives.mae import MAE, Reconstruction

__all__ = ["MAE", "Objective", "Reconstruction"]
