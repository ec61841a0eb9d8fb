"""The hand-written loop of the room's README, run as it stands there, against the Trainer."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from shared import readmes

import mixplug
from mixplug import MAE, Ramp, backbone_of

README = "mixplug/training/README.md"


@pytest.fixture(scope="module")
def loop():
    """The names that the loop leaves when it has run."""
    text = readmes.block(README, "for epoch in")
    assert len(text.splitlines()) <= 20
    return readmes.run(text)


def test_the_plain_loop_and_the_trainer_reach_the_same_weights_bit_for_bit(loop):
    composer = pytest.importorskip("composer", reason="no Composer for this Python")
    data = loop["loader"]
    data.set_epoch(0)
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=48, depth=3
    )
    objective = MAE(mask="input", mask_ratio=Ramp(0.75, 0.0)).build(backbone_of(model))
    # Where the loop stands when it begins to draw masks: a Trainer seeds just before it trains.
    model, state = composer.models.ComposerClassifier(model), torch.get_rng_state()
    trainer = composer.Trainer(
        model=model,
        train_dataloader=data,
        max_duration=loop["training"].plan.total,
        algorithms=[mixplug.MixTraining(0.5, Ramp(1.0, 0.0), "4ep", "4ep", objective=copy.deepcopy(objective))],
        optimizers=torch.optim.AdamW(model.parameters(), lr=2e-3),
        progress_bar=False,
        device="cpu",
    )
    torch.set_rng_state(state)
    trainer.fit()
    for name, expected in loop["model"].state_dict().items():
        assert torch.equal(model.module.state_dict()[name], expected), name
    for name, expected in loop["objective"].state_dict().items():
        assert torch.equal(model.ssl_objective.state_dict()[name], expected), name


def test_the_amendment_is_taken(loop):
    amended = readmes.run(readmes.block(README, "def drop_half"), loop)
    assert amended["training"].encoder_pass.amendments == [amended["drop_half"]]
