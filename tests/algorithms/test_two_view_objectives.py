"""Objectives of two views in a Trainer."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torchvision
from composer.models import ComposerClassifier
from safetensors.torch import load_file
from shared.settings import classifier, convolutional_classifier, logged, trainer
from shared.tiny import images, labels, tiny_vit
from shared.two_view import MOMENTUM, OBJECTIVES
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mixplug
from mixplug import MAE, FusedBackbonePass, MixTraining, Position, SimSiam, backbone_of
from mixplug.backbones import SubmoduleBackbone

every = pytest.mark.parametrize("name", OBJECTIVES)


def run(model, objective, **options):
    made = trainer(model, [MixTraining(objective=objective)], **options)
    made.fit()
    return made


@pytest.mark.parametrize("name", ["SimSiam", "SimCLR", "BYOL", "MoCoV3"])
def test_microbatches_change_what_it_sees_and_it_says_so(name):
    with pytest.warns(
        UserWarning, match=rf"{name} takes .* from each microbatch of 4 images, not from the whole batch"
    ):
        run(classifier(), OBJECTIVES[name](), device_train_microbatch_size=4, max_duration="3ep")


@pytest.mark.parametrize("name", ["MoCoV2Plus", "DINO"])
def test_microbatches_that_change_nothing_are_not_warned_of(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*from each microbatch")
        run(classifier(), OBJECTIVES[name](), device_train_microbatch_size=4, max_duration="3ep")


@every
def test_signs_of_collapse_and_schedules_are_logged(name):
    made = run(classifier(), OBJECTIVES[name](), max_duration="6ep")
    batches = 4 * 3  # SSL and MIX
    for monitor in ("embedding_std", *(("target_entropy", "single_target_entropy") if name == "DINO" else ())):
        values = logged(made, f"mixtraining/{monitor}")
        assert len(values) == batches
        assert all(0 <= value <= 1.5 for value in values)
    if name in MOMENTUM:
        momenta = logged(made, "mixtraining/momentum")
        # Half a cosine over SSL and MIX together, from 0.9 on.
        plan = mixplug.PhasePlan.from_total(6, 0.5)
        objective = OBJECTIVES[name]()
        expected = [objective.momentum_at(plan.position(batch / 3)) for batch in range(batches)]
        assert momenta == pytest.approx(expected)
        assert momenta == sorted(momenta)


def test_the_supervised_phase_runs_the_model_alone():
    model = classifier()
    counts = []
    model.module.blocks[0].register_forward_hook(lambda m, args, out: counts.append(torch.is_grad_enabled()))
    made = trainer(model, [MixTraining(objective=OBJECTIVES["MoCoV3"]())])
    counts.clear()
    made.fit()
    passes = len(counts)
    # The momentum encoder is a copy with the hook: SSL 4 passes a batch, MIX 2, SL 1; 2 epochs of 3 batches each.
    assert passes == 6 * (4 + 2 + 1)


def test_momentum_encoders_begin_with_the_weights_that_are_loaded(tmp_path):
    plain = trainer(classifier(), (), save_folder=str(tmp_path), save_filename="plain.pt", max_duration="1ep")
    plain.fit()
    resumed = trainer(
        classifier(),
        [MixTraining(objective=OBJECTIVES["BYOL"]())],
        load_path=str(tmp_path / "plain.pt"),
        load_weights_only=True,
        load_strict_model_weights=False,
        lr=0.0,
    )
    resumed.fit()
    objective, model = resumed.state.model.ssl_objective, resumed.state.model.module
    followed = dict(model.named_parameters())
    assert torch.equal(followed["cls_token"], plain.state.model.module.cls_token)
    for name, slow in objective.momentum_encoder.model.named_parameters():
        torch.testing.assert_close(slow, followed[name])


@every
def test_what_is_exported_is_the_users_model(name, tmp_path):
    made = run(convolutional_classifier(), OBJECTIVES[name](), max_duration="3ep")
    path = mixplug.export(made, tmp_path / "model.safetensors")
    assert set(load_file(path)) == set(convolutional_classifier().module.state_dict())


class Torchvision(nn.Sequential):
    """torchvision's ResNet as features and a classifier."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        whole = torchvision.models.resnet18(num_classes=10)
        features = nn.Sequential(*list(whole.children())[:-1])
        super().__init__(OrderedDict(features=features, flat=nn.Flatten(), head=nn.Linear(512, 10)))


def coloured(count=8):
    return DataLoader(TensorDataset(images(count, 3, 16, 16), labels(count)), batch_size=4)


def test_a_submodule_that_the_user_names():
    model = ComposerClassifier(Torchvision(), num_classes=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = trainer(
        model,
        [MixTraining(objective=OBJECTIVES["MoCoV3"](), backbone="module.features")],
        train_dataloader=coloured(),
        max_duration="3ep",
    )
    made.fit()
    assert made.state.model.ssl_objective.projector.layers[0].in_features == 512
    assert not torch.equal(before["module.features.0.weight"], model.state_dict()["module.features.0.weight"])
    assert not torch.equal(before["module.head.weight"], model.state_dict()["module.head.weight"])
    assert not model.module.features._forward_hooks


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: backbone_of(Torchvision()), TypeError, "or name the submodule that makes features of images"),
        (lambda: backbone_of(Torchvision(), "flat"), ValueError, "without a layer that tells how wide"),
        (lambda: backbone_of(Torchvision(), "feature"), ValueError, "backbone='feature' is no submodule"),
    ],
)
def test_a_submodule_that_will_not_do(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_submodules_features_are_averaged_and_checked():
    wide = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
    backbone = SubmoduleBackbone(wide, "features")
    x = images(2)
    assert torch.equal(backbone.features_of(x), wide(x).mean(dim=(2, 3)))
    assert torch.equal(backbone.pool(images(2, 5, 6)), images(2, 5, 6).mean(dim=1))
    with pytest.raises(ValueError, match=r"gives features of shape \(2, 4\), but its last layer says 6"):
        backbone.pool(images(2, 4))
    copy = backbone.frozen_copy()
    assert torch.equal(copy(x), backbone.features_of(x))
    assert backbone.attached
    backbone.detach()
    assert not wide._forward_hooks
    assert not wide._forward_pre_hooks


def test_a_second_trainer_goes_on_with_the_head():
    model, objective = classifier(), OBJECTIVES["BYOL"]()
    run(model, objective, max_duration="3ep")
    head = model.ssl_objective
    made = run(model, OBJECTIVES["BYOL"](), max_duration="3ep")
    assert made.state.model.ssl_objective is head
    head.after_step(Position("mix", 0, 0))


def test_a_sharded_model_is_refused():
    state = SimpleNamespace(fsdp_config={"sharding_strategy": "FULL_SHARD"}, algorithms=[])
    with pytest.raises(ValueError, match=r"SimSiam runs the encoder once more, .* \(FSDP\) are not whole"):
        FusedBackbonePass(OBJECTIVES["SimSiam"]()).init(state, None)
    with pytest.raises(ValueError, match=r"MAE \(input, two passes\) runs .* objective of one pass, such as MAE\(mask"):
        FusedBackbonePass(MAE(mask="input", fused=False)).init(state, None)


def test_pixels_that_nobody_said_how_they_were_normalised():
    with pytest.raises(ValueError, match=r"views need pixels in \[0, 1\].* give Views mean= and std="):
        run(classifier(), SimSiam(hidden_dim=8, out_dim=8, bottleneck_dim=4))


class Stemmed(nn.Sequential):
    """A timm model behind layers of its user's own, whose output looks like images."""

    def __init__(self) -> None:
        super().__init__(OrderedDict(stem=nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sigmoid()), vit=tiny_vit(in_chans=3)))


@pytest.mark.parametrize("rho", [0.5, 1])
def test_views_of_what_other_layers_make_are_refused(rho):
    objective = SimSiam(hidden_dim=8, out_dim=8, bottleneck_dim=4)
    made = trainer(ComposerClassifier(Stemmed(), num_classes=10), [MixTraining(rho, objective=objective)])
    with pytest.raises(ValueError, match=r"SimSiam needs views of images, .* \(8, 3, 8, 8\): name by backbone="):
        made.fit()


def test_an_objective_that_was_built_before_follows_the_model_that_is_trained():
    model = classifier()
    objective = OBJECTIVES["BYOL"]().build(backbone_of(model))
    made = trainer(model, [MixTraining(objective=objective)], max_duration="3ep")
    head = made.state.model.ssl_objective
    before = head.momentum_encoder.model.cls_token.clone()
    made.fit(duration="1ep")
    assert not torch.equal(head.momentum_encoder.model.cls_token, before)


def test_a_class_in_the_place_of_an_objective():
    with pytest.raises(TypeError, match="got the class SimSiam"):
        MixTraining(objective=SimSiam)
