"""What test_killed.py kills: ``python tests/killed.py FOLDER [BATCH]`` trains or goes on, until BATCH is half done."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from composer.core import Callback
from shared.settings import ssl_loader, trainer, weights
from shared.tiny import loader

from mixplug import MAE, MixTraining


class KillItself(Callback):
    """As the kernel or a scheduler would: no handler runs and nothing is saved."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def before_backward(self, state, logger):
        if state.timestamp.batch.value == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, kill_in_batch: int | None = None) -> dict[str, torch.Tensor]:
    """Train with ``autoresume``, and leave the weights and the random numbers at the end in ``folder/end.pt``."""
    made = trainer(
        algorithms=[MixTraining(objective=MAE("input"), ssl_dataloader=ssl_loader())],
        train_dataloader=loader(shuffle=True),
        eval_dataloader=loader(),
        eval_interval="2ba",
        callbacks=[] if kill_in_batch is None else [KillItself(kill_in_batch)],
        run_name="killed",
        autoresume=True,
        save_folder=str(folder),
        save_interval="1ba",
    )
    made.fit()
    end = {**weights(made.state.model), "random numbers": torch.get_rng_state()}
    torch.save(end, folder / "end.pt")
    return end


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
