"""The end of a Trainer."""

from __future__ import annotations

import atexit

from composer import Trainer
from composer.core import Engine


def close_trainer(trainer: Trainer) -> None:
    """Close it, and let go of its model, optimizer and data.

    Composer has every Trainer closed at the exit of the process, and the hook holds its state until then: a comparison
    would grow by each of its runs.
    """
    trainer.close()
    # Of all Trainers, which is what Composer does when one is deleted: others are closed when they are deleted.
    atexit.unregister(Engine._close)
