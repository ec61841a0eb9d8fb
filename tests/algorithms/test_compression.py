"""Compression in Composer's Trainer; that it trains, resumes and stacks is in the tests of every row."""

from __future__ import annotations

import json

import pytest
from shared.settings import classifier, trainer
from shared.two_view import OBJECTIVES

from mixplug import Compression, CompressionSchedule, MixTraining, PhaseSwitch, Position

SCHEDULE = CompressionSchedule({0: (0.5, 4), 0.5: (0.25, 2)})


def tokens_of(*algorithms):
    """How many patch tokens the first pass of each training step had."""
    made = trainer(classifier(), algorithms, "4ep")
    seen = []
    made.state.model.module.blocks[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1] - 1) if module.training else None
    )
    made.fit()
    return seen


def test_it_drives_both():
    # Of 3 batches an epoch: 4 epochs are 2 of SSL, 1 of MIX, 1 of SL, where all is native; SimSiam makes 2 passes.
    seen = tokens_of(MixTraining(objective=OBJECTIVES["SimSiam"](), rho=0.5), Compression(SCHEDULE))
    assert set(seen[-3:]) == {16}
    assert [n for n in seen if n != 16] == [2] * (seen.count(2)) + [12] * seen.count(12)
    assert seen.count(2) > 0
    assert seen.count(12) > 0


def test_over_the_whole_of_a_plain_run():
    schedule = CompressionSchedule({0: (0.5, 4), 0.5: (0.25, 2)}, over="run")
    assert tokens_of(Compression(schedule)) == [2] * 6 + [12] * 6


def test_a_run_without_its_phases_is_warned_of():
    with pytest.warns(UserWarning, match=r"^Compression acts in \('ssl', 'mix'\), and this run has \('sl',\)"):
        assert tokens_of(Compression(SCHEDULE)) == [16] * 12
    with pytest.warns(UserWarning, match="does nothing"):
        tokens_of(PhaseSwitch(0, "0ep", "4ep"), Compression(SCHEDULE))


def test_it_reads_what_was_measured(tmp_path):
    rows = [{"rate": 0.5, "patch": 4, "ca_mse": {"value": 0.1}}]
    path = tmp_path / "gradient_error.json"
    path.write_text(json.dumps({"stages": [{"ssl_progress": 0.0, "phase": "ssl", "rows": rows}]}))
    compression = Compression(path, keys=True)
    assert compression.schedule == CompressionSchedule({0: (0.5, 4)})
    assert compression.token_dropout.keys
    assert compression.patch_scaling.size(Position("ssl")) == 4
    assert "Steps" in repr(compression)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"CompressionSchedule.*0.5"):
        Compression(0.5)
    with pytest.raises(ValueError, match="phase"):
        Compression(SCHEDULE, phases=("train",))
