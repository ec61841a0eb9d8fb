"""Two, three and four processes train one model (gloo). Run by name: pytest -m slow.

What the processes do is in processes.py; a number of them starts once, and the tests read what they left.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import processes
from torch.utils.data import DistributedSampler

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1] / "shared"
WORLDS = (2, 3, 4)
PATIENCE = 300
"""Seconds: no number of processes takes half of it on two cores."""


def cases(kind: str) -> Any:
    """Each number of processes with each of its rows."""
    check = processes.CHECKS[kind]
    return pytest.mark.parametrize(("world", "row"), [(w, name) for w in WORLDS for name in check.names(w)])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of N processes saw, by rank."""

    @cache
    def launch(world):
        folder = tmp_path_factory.mktemp(f"{world}processes")
        return folder, *composer_launch(world, folder)

    def results(world):
        folder, code, output = launch(world)
        assert code == 0, output
        return [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    return cache(results)


def composer_launch(world: int, folder: Path) -> tuple[int | None, str]:
    """The exit code of ``composer -n world``, None if it hung, and its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "composer.cli.launcher", "-n", str(world), "--master_port", str(port)]
    # The launcher forgets its children when it is killed: a session of its own lets all of them be.
    launched = subprocess.Popen(
        [*command, str(ROOT / "processes.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        output, _ = launched.communicate(timeout=PATIENCE)
        return launched.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(launched.pid, signal.SIGKILL)
        return None, f"no end after {PATIENCE} s\n{launched.communicate()[0]}"


@cases("same weights")
def test_all_processes_hold_the_same_weights_after_each_batch(ranks, world, row):
    first, *others = (result["same weights"][row] for result in ranks(world))
    assert set(first["logged"].get("mixtraining/phase", [0, 1, 2])) == {0, 1, 2}
    assert not torch.equal(first["weights"][0], first["weights"][-1])
    for other in others:
        assert torch.equal(first["weights"], other["weights"])
        assert first["metrics"] == other["metrics"]


def test_all_processes_measure_the_same(ranks):
    """At the same steps, or they would wait for each other, and what they average is the gradient of all."""
    first, other = (result["same weights"]["measured compression"] for result in ranks(2))
    assert first["auto"]["stage"] is not None, "a choice was made"
    assert first["logged"]["compression/overhead"] == other["logged"]["compression/overhead"]
    mine, its = first["auto"], other["auto"]
    assert mine["current"] == its["current"]
    assert all(torch.equal(a, b) for a, b in zip(mine["errors"]["means"], its["errors"]["means"], strict=True))


@cases("same weights")
def test_gradient_sync_overlaps_with_the_backward_pass(ranks, world, row):
    for result in ranks(world):
        made = result["same weights"][row]
        assert made["ddp"]
        assert made["sync"] == "single_auto_sync"
        assert made["find_unused_parameters"] is False


@cache
def alone(row: str) -> dict[str, Any]:
    return processes.LIKE_ONE_PROCESS[row]()


@cases("like one process")
def test_several_processes_train_as_one_does_with_the_same_total_batches(ranks, world, row):
    one = alone(row)
    phases = one["logged"]["mixtraining/phase"]
    assert set(phases) == {0, 1, 2}
    assert not one["ddp"]
    for result in ranks(world):
        several = result["like one process"][row]
        assert several["logged"]["mixtraining/phase"] == phases
        assert several["metrics"] == one["metrics"]
        for batch, (mine, its) in enumerate(zip(one["weights"], several["weights"], strict=True)):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-10, msg=lambda m, b=batch: f"batch {b}: {m}")
        for name, values in one["logged"].items():
            its = several["logged"][name]
            torch.testing.assert_close(torch.tensor(its), torch.tensor(values), rtol=1e-5, atol=1e-6, equal_nan=True)


def shard(images: int, world: int, rank: int, epoch: int, drop_last: bool) -> list[int]:
    """What ``get_sampler(dataset, shuffle=True)`` and a loader give a process in an epoch."""
    sampler = DistributedSampler(range(images), world, rank, shuffle=True)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    order = list(sampler)
    return order[: len(order) // processes.UNEVEN_BATCH * processes.UNEVEN_BATCH] if drop_last else order


@cases("uneven")
def test_uneven_data_loses_no_sample(ranks, world, row):
    results = [result["uneven"][row] for result in ranks(world)]
    sl, ssl, drop_last = (results[0][name] for name in ("sl", "ssl", "drop_last"))
    for rank, result in enumerate(results):
        seen = result["phases"]
        assert seen["SSL"]["ssl"] == shard(ssl, world, rank, 0, drop_last)
        assert seen["MIX"]["sl"] == shard(sl, world, rank, 1, drop_last)
        assert seen["SL"]["sl"] == shard(sl, world, rank, 2, drop_last)
        assert len(seen["MIX"]["ssl"]) == len(seen["MIX"]["sl"]), "a partner for each labelled image"
    if not drop_last:
        for phase, data, count in (("SSL", "ssl", ssl), ("MIX", "sl", sl), ("SL", "sl", sl)):
            assert set().union(*(result["phases"][phase][data] for result in results)) == set(range(count))


@cases("uneven")
def test_partners_come_from_a_shard_of_each_process(ranks, world, row):
    """Together the processes' first passes over the SSL data hold each image once, padding aside."""
    results = [result["uneven"][row] for result in ranks(world)]
    ssl, drop_last = results[0]["ssl"], results[0]["drop_last"]
    share = len(shard(ssl, world, 0, 0, drop_last))
    firsts = [number for result in results for number in result["phases"]["MIX"]["ssl"][:share]]
    assert len(firsts) - len(set(firsts)) <= -ssl % world
    if not drop_last and len(firsts) == share * world:
        assert set(firsts) == set(range(ssl))


@cases("evaluation")
def test_evaluation_counts_each_image_once(ranks, world, row):
    for result in ranks(world):
        seen = result["evaluation"][row]
        assert seen["samples"] == seen["count"]
        for when in ("before", "after"):
            assert seen[when]["evaluated"] == pytest.approx(seen[when]["counted"], abs=1e-6)


@pytest.mark.parametrize("phase", processes.RESUMED_AFTER)
def test_processes_resumed_in_the_middle_of_an_epoch_go_on_bit_for_bit(ranks, phase):
    for result in ranks(2):
        whole, resumed = result["resumed"]["whole"], result["resumed"][phase]
        start = processes.RESUMED_AFTER[phase]
        assert whole["logged"]["mixtraining/phase"][start] == list(processes.RESUMED_AFTER).index(phase)
        assert len(resumed["weights"]) == len(whole["weights"]) - start
        assert torch.equal(resumed["weights"], whole["weights"][start:])


def test_ssl_data_that_is_not_sharded_is_refused(ranks):
    for result in ranks(2):
        refusal = result["shards"]["refusal"]
        assert "all 2 processes would train on the same images" in refusal
        assert "sampler=composer.utils.dist.get_sampler(dataset, shuffle=True)" in refusal


@cases("probes")
def test_probes_count_each_image_once_and_change_nothing(ranks, world, row):
    results = [result["probes"][row] for result in ranks(world)]
    for result in results:
        plain, probed = result["weights"]
        assert torch.equal(plain, probed)
        assert result["logged"] == results[0]["logged"]
        for name, accuracy in result["alone"].items():
            assert result["logged"][name][-1] == accuracy, name
        for (features, targets), (own_features, own_targets) in zip(result["whole"], result["shares"], strict=True):
            assert len(targets) == len(own_targets)
            if "in order" in row:
                assert torch.equal(targets, own_targets)
                torch.testing.assert_close(own_features, features)
            else:
                assert torch.equal(targets.sort()[0], own_targets.sort()[0])


def test_what_the_first_process_refuses_all_do(ranks):
    for result in ranks(2):
        assert "all 12 training images are of class 0" in result["refused probe"]


def test_unequal_shards_end_with_the_shortest_and_are_told_where_that_can_be_known(ranks):
    for result in ranks(2):
        assert result["shards"]["batches"] == [2 + 3 + 3] * 2
        assert ["has [2, 3] batches" in text for text in result["shards"]["warnings"]] == [True]


@pytest.mark.parametrize("mask", ["features", "input"])
def test_a_sharded_model_trains_as_a_whole_one_does(ranks, mask):
    """FSDP2 on CPUs, after every batch of all three phases."""
    for result in ranks(2):
        runs = result["sharded model"][mask]
        assert len(runs["whole"]) == 9
        # Composer reduces the gradients of sharded models in float32.
        torch.testing.assert_close(runs["sharded"], runs["whole"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", ["features", "input"])
def test_a_sharded_model_resumes_bit_for_bit(ranks, mask):
    for result in ranks(2):
        runs = result["sharded model"][mask]
        for batch, resumed in runs["resumed"].items():
            assert torch.equal(resumed, runs["sharded"][batch:]), batch
