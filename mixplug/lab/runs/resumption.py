"""What an interrupted run goes on from: its last checkpoint, saved as often as costs little."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.callbacks import CheckpointSaver
from composer.core import Event, State, Time, Timestamp, TimeUnit
from composer.loggers import Logger
from composer.utils import create_interval_scheduler

from mixplug.algorithms.trainer.contract import is_last_batch, is_over
from mixplug.lab.recipes.schema import Recipe, RecipeError
from mixplug.lab.runs.files import data_differences, run_paths, settings_differences, settings_of, write

_SHARE = 100
"""Saving takes at most one part in so many of the time."""
_FIRST = 0.02
"""Seconds that the first save of a run is taken to last, which a small model's does on a disk."""
_LONG = 600.0
"""Seconds after which a run is saved within an epoch: until then it waits for the epoch's end, which resumes faster."""


@dataclass(frozen=True)
class Unfinished:
    """The folder in which a run keeps what it can go on from until it is finished.

    Attributes:
        folder: It; removed when the run is over.
        settings: What the run depends on beside its seed: see :func:`mixplug.lab.runs.files.settings_of`.
    """

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, method: str, seed: int, out: Path) -> Unfinished:
        """That of a run whose files lie in ``out``."""
        return cls(run_paths(method, seed, out)[0].with_suffix(".unfinished"), settings_of(recipe, method))

    @property
    def checkpoint(self) -> Path | None:
        """The last one; None where there is nothing to go on from."""
        latest = self.folder / "latest.pt"
        return latest if latest.exists() and self._recorded() is not None else None

    def check(self) -> None:
        """Refuse, before anything is loaded, to go on from a run of other settings.

        Raises:
            RecipeError: there is one; the message names what differs.
        """
        recorded = self._recorded()
        different = None if recorded is None else settings_differences(recorded["settings"], self.settings)
        if different:
            raise RecipeError(
                f"{self.folder.parent} holds an unfinished run with other settings: {different}; choose another --out, "
                f"or start anew with --overwrite"
            )

    def begin(self, data: dict[str, Any]) -> Path | None:
        """Note what the run is about.

        Args:
            data: What was loaded, :class:`mixplug.lab.runs.inputs.Inputs`'s summary.

        Returns:
            The checkpoint to go on from; None where there is none.

        Raises:
            RecipeError: there is one, of a run of other settings or other data.
        """
        self.check()
        checkpoint, recorded = self.checkpoint, self._recorded()
        if checkpoint is not None and recorded is not None:
            different = data_differences(recorded["data"], data)
            if different:
                raise RecipeError(
                    f"{self.folder} holds an unfinished run with other data: {different}; put the data back as it "
                    f"was, choose another --out, or start anew with --overwrite"
                )
            return checkpoint
        self.remove()
        self.folder.mkdir(parents=True)
        write(self.folder / "run.json", json.dumps({"settings": self.settings, "data": data}, indent=1))
        return None

    def remove(self) -> None:
        """The run is finished, or starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _recorded(self) -> dict[str, Any] | None:
        try:
            content = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            return content if {"settings", "data"} <= set(content) else None
        except (OSError, ValueError, TypeError):
            return None  # none, or half written: there is nothing to go on from


class ProgressSaver(CheckpointSaver):
    """Saves what a run goes on from, the last one alone, and says up to where.

    Args:
        folder: Where to.
        interval: How often, such as '2ep' or '100ba'; empty for at the end of each epoch, or in long ones every ten
            minutes, as long as saving takes at most a hundredth of the time.
    """

    def __init__(self, folder: Path, interval: str = "") -> None:
        is_due: Callable[[State, Event], bool] = create_interval_scheduler(interval) if interval else self._is_cheap
        super().__init__(
            folder=str(folder),
            filename="ep{epoch}-ba{batch}.pt",  # a name of its own each: the one before stays until this one is whole
            latest_filename="latest.pt",
            remote_file_name=None,
            latest_remote_file_name=None,
            save_interval=lambda state, event: not is_over(state) and is_due(state, event),
            overwrite=True,
            num_checkpoints_to_keep=1,
        )
        self.kept = ""
        self._saved_at, self._cost = time.monotonic(), _FIRST

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin to count the time, with a run that goes on from where it was kept."""
        super().fit_start(state, logger)
        self._saved_at = time.monotonic()
        self._note(state)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """See the base class."""
        self._save(super().batch_checkpoint, state, logger)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """See the base class."""
        self._save(super().epoch_checkpoint, state, logger)

    def _save(self, save: Callable[[State, Logger], None], state: State, logger: Logger) -> None:
        before, began = self.last_checkpoint_batch, time.monotonic()
        save(state, logger)
        if self.last_checkpoint_batch != before:
            self._saved_at = time.monotonic()
            self._cost = self._saved_at - began
            self._note(state)

    def _note(self, state: State) -> None:
        self.kept = describe_time(state.timestamp, state.max_duration) if state.timestamp.batch.value else ""

    def _is_cheap(self, state: State, event: Event) -> bool:
        elapsed = time.monotonic() - self._saved_at
        if event is Event.BATCH_CHECKPOINT and (elapsed < _LONG or is_last_batch(state)):
            return False
        return elapsed >= _SHARE * self._cost


def describe_time(timestamp: Timestamp, length: Time | None) -> str:
    """Where a run is, such as 'epoch 12 of 34' or, within an epoch, 'epoch 12 and 3 batches of 34 epochs'."""
    assert length is not None
    total = f"{length.value}"
    if length.unit is not TimeUnit.EPOCH:
        return f"{length.unit.name.lower()} {timestamp.get(length.unit).value} of {total}"
    within = timestamp.batch_in_epoch.value
    return f"epoch {timestamp.epoch.value}{f' and {within} batches' if within else ''} of {total}"
