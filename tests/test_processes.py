"""Two processes train one model (gloo). Run by name: pytest -m slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
import torch
sys.path.insert(0, {tests!r})
from algorithms.settings import ROWS, trainer
from composer.utils import dist
from conftest import images, labels
from torch.utils.data import DataLoader, TensorDataset

dist.initialize_dist("cpu")
row = next(row for row in ROWS if row.name == {row!r})
data = TensorDataset(images(20), labels(20))
loader = DataLoader(data, batch_size=4, sampler=dist.get_sampler(data, shuffle=True))
made = trainer(algorithms=row.make(), train_dataloader=loader, max_duration="6ep", ddp_sync_strategy="single_auto_sync")
assert not made._find_unused_parameters
made.fit()
torch.save(made.state.model.module.state_dict(), {out!r} + f"/{{dist.get_global_rank()}}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("row", ["MixTraining features", "MixTraining input", "MixTraining ramps"])
def test_two_processes_hold_the_same_weights(row, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), row=row, out=str(tmp_path)))
    command = [sys.executable, "-m", "composer.cli.launcher", "-n", "2", "--master_port", "29517", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
