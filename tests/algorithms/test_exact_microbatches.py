"""Microbatches with the whole batch's gradient, in Composer's Trainer."""

from __future__ import annotations

import warnings

import composer.algorithms as ca
import pytest
import torch
from composer.models import ComposerClassifier
from shared.settings import logged, resumes_from_every_batch, ssl_loader, trainer, weights
from shared.tiny import loader, tiny_vit
from shared.two_view import OBJECTIVES

from mixplug import MAE, FusedBackbonePass, MixTraining


def run(name, size=None, exact=True, data=None, **options):
    model = ComposerClassifier(tiny_vit().double())
    algorithm = MixTraining(objective=OBJECTIVES[name](), ssl_dataloader=data, exact_microbatches=exact)
    batches = loader(dtype=torch.float64)
    made = trainer(
        model,
        [algorithm],
        max_duration="3ep",
        train_dataloader=batches,
        device_train_microbatch_size=size,
        optimizer=torch.optim.SGD,  # AdamW makes much of gradients that are 0 but for rounding
        lr=0.1,
        **options,
    )
    made.fit()
    return made


@pytest.mark.parametrize("other_data", [False, True])
@pytest.mark.parametrize("name", ["SimCLR", "MoCoV3", "BYOL", "SimSiam"])
def test_a_run_in_microbatches_is_the_run_without(name, other_data):
    """An epoch of each phase, of batches of 8 and 4 images; SSL data comes in batches of 5."""

    def data():
        return ssl_loader(dtype=torch.float64) if other_data else None

    whole = run(name, exact=False, data=data())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*from each microbatch")
        parts = run(name, 3, data=data())
    for loss in ("ssl", "sl", "total"):
        # Composer adds up what it logs in float32.
        values = [torch.tensor(logged(one, f"loss/train/{loss}")) for one in (parts, whole)]
        torch.testing.assert_close(*values, atol=1e-5, rtol=0, equal_nan=True)
    ours, expected = weights(parts.state.model), weights(whole.state.model)
    for key, value in ours.items():  # after a dozen steps, which let differences of 1e-10 grow
        torch.testing.assert_close(value, expected[key], atol=1e-7, rtol=0)
    if other_data:
        return
    plain = weights(run(name, 4, exact=False).state.model)
    assert max(float((plain[key] - expected[key]).abs().max()) for key in plain) > 1e-4


def test_it_resumes_from_every_batch(tmp_path):
    def make():
        return [MixTraining(objective=OBJECTIVES["MoCoV3"](), exact_microbatches=True)]

    options = {"max_duration": "3ep", "device_train_microbatch_size": 3}
    assert resumes_from_every_batch(tmp_path, make, **options) == 8


def test_what_changes_images_of_a_microbatch_is_refused():
    algorithms = [ca.MixUp(), MixTraining(objective=OBJECTIVES["SimCLR"](), exact_microbatches=True)]
    made = trainer(algorithms=algorithms, device_train_microbatch_size=4)
    with pytest.raises(ValueError, match=r"given the batch's images as they are.*MixUp"):
        made.fit()


def test_where_it_is_of_no_use():
    """Losses of single images are what they were."""
    runs = []
    for exact in (False, True):
        made = trainer(
            algorithms=[MixTraining(objective=MAE(mask="input"), exact_microbatches=exact)],
            max_duration="3ep",
            device_train_microbatch_size=4,
        )
        made.fit()
        runs.append(weights(made.state.model))
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


def test_bad_input():
    with pytest.raises(TypeError, match="exact_microbatches must be true or false"):
        FusedBackbonePass(exact_microbatches=1)
    assert repr(FusedBackbonePass()) == repr(FusedBackbonePass(exact_microbatches=False))
    assert "exact_microbatches=True" in repr(FusedBackbonePass(exact_microbatches=True))
