"""A run that is killed in each of its phases, in the middle of a batch, and started again each time.

Run by name: pytest -m slow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shared import killed

HERE = Path(__file__).parents[1] / "shared"

KILLED_IN = {"SSL": 6, "MIX": 12, "SL": 20}
"""Of 22 batches: 5 in each of 2 epochs over the SSL data, then 3 in each of 4 over the labelled data."""


def start(folder, *arguments):
    command = [sys.executable, str(HERE / "killed.py"), str(folder), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_autoresume_after_kill_9_in_each_phase_ends_as_if_never_killed(tmp_path):
    for phase, batch in KILLED_IN.items():
        died = start(tmp_path / "killed", batch)
        assert died.returncode == -signal.SIGKILL, (phase, died.stderr)
        assert not (tmp_path / "killed" / "end.pt").exists()
    done = start(tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    end, expected = torch.load(tmp_path / "killed" / "end.pt"), killed.run(tmp_path / "whole")
    assert set(end) == set(expected)
    for name, value in expected.items():
        assert torch.equal(end[name], value), name
