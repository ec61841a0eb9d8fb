"""The Composer Algorithms; their public names stand in ``mixplug/__init__.pyi`` alone."""

from mixplug.algorithms.trainer.checkpoints import guard_loading

guard_loading()
