"""What a run of a recipe keeps, and looks after, while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State, Time, TimeUnit
from composer.loggers import Logger

from mixplug.algorithms.trainer.divergence import check_losses
from mixplug.backbones.model_spec import ModelSpec
from mixplug.schedules.phases import PhasePlan


def make_savers(folder: Path, plan: PhasePlan, length: Time, checkpoints: int) -> list[Callback]:
    """Keep what the run ends with, and each phase before: representations are judged best before labels change them."""
    ends = {"checkpoint.pt": length}
    for part in range(1, checkpoints):
        ends[f"checkpoint-{100 * part / checkpoints:.0f}.pt"] = Time(plan.total * part // checkpoints, length.unit)
    for span in plan.phases[:-1]:
        ends[f"checkpoint-{span.phase}.pt"] = Time(span.stop, length.unit)
    return [
        CheckpointSaver(
            folder=str(folder),
            filename=filename,
            remote_file_name=None,
            latest_filename=None,
            latest_remote_file_name=None,
            save_interval=_at(end),
            overwrite=True,
        )
        for filename, end in ends.items()
    ]


def _at(end: Time) -> Callable[[State, Event], bool]:
    checkpoint = Event.EPOCH_CHECKPOINT if end.unit == TimeUnit.EPOCH else Event.BATCH_CHECKPOINT
    return lambda state, event: event is checkpoint and state.timestamp.get(end.unit).value == end.value


class ModelDescription(Callback):
    """Has checkpoints say what the model is made of, which images it takes and what its logits mean."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def state_dict(self) -> dict[str, Any]:
        """It, as primitives."""
        return self.spec.to_plain()


class StopOnNaN(Callback):
    """Does for runs without MixTraining what that does by itself."""

    def batch_end(self, state: State, logger: Logger) -> None:
        """Raise for a loss that is NaN or infinite."""
        time = state.previous_timestamp
        assert time is not None
        batch, fix = time.batch.value, "Try a lower learning rate, gradient clipping or another precision"
        check_losses(state, batch, f"batch {batch} (epoch {time.epoch.value})", fix)
