from __future__ import annotations

import pytest
import torch
from shared.settings import trainer, weights

from mixplug import FusedBackbonePass, JointLoss, MixTraining, MixupSSLData, PhaseSwitch


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of a plain run and of a MixTraining run, at epoch 2 of 6."""
    paths = {}
    for name, algorithms in (("plain", []), ("mixed", [MixTraining()])):
        folder = tmp_path_factory.mktemp(name)
        saving = {"save_folder": str(folder), "save_filename": "{epoch}.pt", "save_interval": "2ep"}
        trainer(algorithms=algorithms, **saving).fit()
        paths[name] = str(folder / "2.pt")
    return paths


def test_a_missing_mixtraining_is_named(saved):
    with pytest.raises(ValueError, match="saved with MixTraining, but this Trainer's algorithms have no algorithm of"):
        trainer(load_path=saved["mixed"])
    with pytest.raises(ValueError, match="saved with MixTraining, but this Trainer's algorithms have PhaseSwitch"):
        trainer(algorithms=[PhaseSwitch()], load_path=saved["mixed"])


def test_a_checkpoint_without_mixtraining_is_named(saved):
    with pytest.raises(ValueError, match="have MixTraining, but the checkpoint was saved with no algorithm of mixplug"):
        trainer(algorithms=[MixTraining()], load_path=saved["plain"])


@pytest.mark.parametrize(("source", "algorithms"), [("plain", [MixTraining()]), ("mixed", [])])
def test_weights_alone_can_be_loaded_either_way(saved, source, algorithms):
    alone = {"load_weights_only": True, "load_strict_model_weights": False}
    made = trainer(algorithms=algorithms, load_path=saved[source], **alone)
    stored = torch.load(saved[source], weights_only=False)["state"]["model"]
    for name, value in weights(made.state.model).items():
        if not name.startswith("ssl_objective"):
            assert torch.equal(value, stored[name])


def test_composers_own_way_to_leave_an_algorithm_out(saved):
    made = trainer(load_path=saved["mixed"], load_exclude_algorithms=["MixTraining"])
    assert made.state.timestamp.epoch == 2


def test_a_plain_run_still_resumes(saved):
    assert trainer(load_path=saved["plain"]).state.timestamp.epoch == 2


def test_the_four_alone_go_on_with_a_bundles_run(saved):
    four = [PhaseSwitch(), MixupSSLData(), FusedBackbonePass(), JointLoss()]
    together, apart = (
        trainer(algorithms=[MixTraining()], load_path=saved["mixed"]),
        trainer(algorithms=four, load_path=saved["mixed"]),
    )
    results = []
    for made in (together, apart):
        made.fit()
        results.append(weights(made.state.model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_checkpoint_whose_algorithms_are_ignored(saved):
    made = trainer(algorithms=[MixTraining(0.25)], load_path=saved["mixed"], load_ignore_keys=["state/algorithms"])
    assert made.state.timestamp.epoch == 2
