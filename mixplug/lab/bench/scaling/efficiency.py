"""Several processes against one: how much of each core's speed is left when they train one model together."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mixplug
from mixplug.checks import check_int
from mixplug.lab.bench.measure import Report
from mixplug.lab.bench.scaling.growth import Processes
from mixplug.lab.recipes.schema import Recipe, to_plain

ROUNDS = 3
PATIENCE = 3600
"""Seconds that a launch may take."""


def measure_processes(
    recipe: Recipe,
    method: str,
    count: int,
    turns: int,
    steps: int,
    rounds: int = ROUNDS,
    report: Report | None = None,
) -> Processes:
    """Measure the main phase of a method in one process and in ``count``, by turns.

    Each process runs on the CPU, has one thread and a batch of the recipe's size of its own (weak scaling).

    Args:
        recipe: The recipe.
        method: Key of one of its methods.
        count: How many processes, at least 2.
        turns: How often each launch begins the steps anew.
        steps: Timed steps in a turn.
        rounds: How often one and several are launched in turn, at least 2.
        report: Called as ``report(done, total, text)``.

    Raises:
        TypeError: a number is no whole one.
        ValueError: a number is out of range, or an epoch has less than three batches for each process.
        RuntimeError: a launch failed or hung; the message ends with its output.
    """
    check_int("--processes", count, 2)
    check_int("rounds", rounds, 2)
    report = report or (lambda done, total, text: None)
    plain = to_plain(dataclasses.replace(recipe, device="cpu"))
    measured = Processes(count, _cores(), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(plain), encoding="utf-8")  # JSON is YAML
        for turn in range(rounds):
            for number in (1, count) if turn % 2 else (count, 1):
                report(turn, rounds, f"{number} process(es), round {turn + 1} of {rounds}")
                out = Path(folder) / "out.json"
                _launch(number, [str(path), method, str(turns), str(steps), str(out)])
                seen: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
                out.unlink()
                measured.images = seen["images"] / number
                (measured.alone if number == 1 else measured.together).append(seen["seconds"])
    return measured


def _launch(count: int, arguments: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "composer.cli.launcher", "-n", str(count), "--master_port", str(port)]
    package = str(Path(mixplug.__file__).parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    # The launcher forgets its children when it is killed: a session of its own lets all of them be.
    launched = subprocess.Popen(
        [*command, "-m", "mixplug.lab.bench.scaling.processes", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    try:
        output, _ = launched.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{count} process(es) came to no end in {PATIENCE} s") from error
    finally:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
            launched.wait()
    if launched.returncode:
        raise RuntimeError(
            f"{count} process(es) ended with exit code {launched.returncode}; their last words: {output[-4000:]}"
        )


def _cores() -> int:
    """Cores that this process may use, and so those that it launches."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
