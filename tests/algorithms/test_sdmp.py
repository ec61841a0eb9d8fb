"""SDMP in Composer's Trainer; that it trains, resumes and stacks is in the tests of every row."""

from __future__ import annotations

import warnings

import composer.algorithms as ca
import pytest
import torch
import torch.nn.functional as F
from composer.core import Algorithm, Event
from shared.settings import classifier, logged, trainer, weights
from shared.tiny import images, labels, loader
from shared.two_view import OBJECTIVES, tiny_cnn

from mixplug import MAE, SDMP, FusedBackbonePass, JointLoss, MixTraining, MoCoV3, PhasePlan, Training
from mixplug.training.sdmp import MixViews


class Spy(Algorithm):
    """Keeps what the model was given and gave, and the labels that its loss was given; to be listed last."""

    def __init__(self):
        self.steps = []

    def match(self, event, state):
        return event in (Event.BEFORE_FORWARD, Event.BEFORE_BACKWARD)

    def apply(self, event, state, logger):
        if event is Event.BEFORE_FORWARD:
            self.steps.append({"images": state.batch[0].clone()})
        else:
            self.steps[-1] |= {"labels": state.batch[1].clone(), "outputs": state.outputs.detach().clone()}
            self.steps[-1] |= {"sl": state.loss.detach().clone()} if isinstance(state.loss, torch.Tensor) else {}


def seen_by(model):
    """A list of the images that the model's encoder is shown, in training."""
    seen = []
    model.module.patch_embed.proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach().clone()) if module.training else None
    )
    return seen


def test_pure_self_supervised_learning_reaches_the_weights_of_a_plain_loop():
    made = trainer(
        classifier(),
        [MixTraining(objective=OBJECTIVES["MoCoV3"](), ssl_duration="2ep", sl_duration="0ep"), SDMP()],
        "2ep",
        optimizer=torch.optim.SGD,
    )
    torch.manual_seed(11)
    made.fit()

    model = classifier().module
    torch.manual_seed(5)  # the Trainer's, under which it builds the head
    with torch.random.fork_rng():
        built = trainer(
            classifier(), [MixTraining(objective=OBJECTIVES["MoCoV3"](), ssl_duration="2ep", sl_duration="0ep")], "2ep"
        )
    training = Training(model, PhasePlan(2, 0, 0), OBJECTIVES["MoCoV3"](), plugins=[MixViews()])
    training.objective.load_state_dict(built.state.model.ssl_objective.state_dict())
    optimizer = torch.optim.SGD(training.parameters(), lr=1e-2)
    torch.manual_seed(11)
    for epoch in range(2):
        for index, (x, y) in enumerate(loader()):
            with training.step(epoch + index / 3, optimizer) as step:
                logits = model(x)
                optimizer.zero_grad()
                step.loss(F.cross_entropy(logits, y)).backward()
                optimizer.step()
    trained = weights(made.state.model.module)
    assert all(torch.equal(value, trained[name]) for name, value in weights(model).items() if "head" not in name)


@pytest.mark.parametrize("name", ["MoCoV3", "SimSiam"])
def test_the_classifiers_image_stays_as_it_is_in_mix(name):
    spy = Spy()
    made = trainer(classifier(), [MixTraining(1, objective=OBJECTIVES[name]()), SDMP(), spy], "1ep")
    seen = seen_by(made.state.model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SDMP mixes nothing")
        made.fit()
    assert len(spy.steps) == 3
    for step in spy.steps:
        assert any(torch.equal(step["images"], shown) for shown in seen)
        assert step["labels"].dtype == torch.long


@pytest.mark.parametrize("microbatch", [8, 4])
def test_labels_are_mixed_like_the_classifiers_images(microbatch):
    """By hand: of Mixup, whose shares the pixels tell."""
    spy = Spy()
    made = trainer(
        classifier(),
        [MixTraining(1, objective=OBJECTIVES["MoCoV2Plus"]()), SDMP(["mixup"], labels=True), spy],
        "1ep",
        train_dataloader=loader(16),
        device_train_microbatch_size=microbatch,
    )
    seen = seen_by(made.state.model)
    if microbatch < 8:
        with pytest.warns(UserWarning, match="MoCoV2Plus takes the partners of mixed images from each microbatch of 4"):
            made.fit()
    else:
        made.fit()
    assert len(spy.steps) == len(seen) == 16 // microbatch
    for index, (step, mixed) in enumerate(zip(spy.steps, seen, strict=True)):
        x, y = (whole[index * microbatch : (index + 1) * microbatch] for whole in (images(16), labels(16)))
        assert torch.equal(step["images"], x)
        difference = (x - x.flip(0)).flatten(1)
        share = ((mixed - x.flip(0)).flatten(1) * difference).sum(1) / difference.square().sum(1)
        assert len(set(share.tolist())) == microbatch
        hot = F.one_hot(y, 10).float()
        torch.testing.assert_close(
            step["labels"], share[:, None] * hot + (1 - share[:, None]) * hot.flip(0), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(step["sl"], F.cross_entropy(step["outputs"], step["labels"]))


def test_after_composers_mixup_labels_are_mixed_once_more():
    spy, mixup = Spy(), ca.MixUp(alpha=1.0)
    made = trainer(
        classifier(),
        [mixup, MixTraining(1, objective=OBJECTIVES["MoCoV3"]()), SDMP(["cutmix"], labels=True, lam="batch"), spy],
        "1ba",
    )
    made.fit()
    (step,) = spy.steps
    hot = F.one_hot(labels(20)[:8], 10).float()
    once = (1 - mixup.mixing) * hot + mixup.mixing * hot[mixup.indices]
    share = step["labels"], once, once.flip(0)
    lam = ((share[0] - share[2]) * (share[1] - share[2])).sum() / (share[1] - share[2]).square().sum()
    assert 0 <= lam <= 1
    torch.testing.assert_close(step["labels"], lam * once + (1 - lam) * once.flip(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [ca.MixUp, ca.CutMix])
def test_interpolated_losses_need_labels_as_they_were(kind):
    other = kind(interpolate_loss=True)
    mixing = MixTraining(objective=OBJECTIVES["MoCoV3"]())
    made = trainer(classifier(), [mixing, SDMP(labels=True), other])
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(interpolate_loss=True\) takes them as they were"):
        made.fit()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exact_microbatches": True}, "exact_microbatches=True, where images are mixed before"),
        ({"ssl_dataloader": loader(30), "mixing": "side_by_side"}, "mixing='side_by_side', where unlabelled images"),
    ],
)
def test_images_without_a_label_of_their_own_are_refused_before_training(options, says):
    mixing = MixTraining(objective=OBJECTIVES["MoCoV3"](), **options)
    made = trainer(classifier(), [mixing, SDMP(labels=True)])
    with pytest.raises(ValueError, match=f"SDMP.labels=True. mixes each label with another, not with {says}"):
        made.fit()
    assert made.state.timestamp.batch == 0


def warned(algorithms, model=None, duration="2ba"):
    made = trainer(model or classifier(dynamic_img_size=True), algorithms, duration)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.fit()
    return [str(one.message) for one in caught if "SDMP" in str(one.message)]


class OwnForward(MoCoV3):
    """Says its loss in forward."""

    def forward(self, seen):
        return super().forward(seen)


def test_where_nothing_is_mixed_or_gained_it_says_so():
    moco, dino = OBJECTIVES["MoCoV3"], OBJECTIVES["DINO"]
    (one,) = warned([MixTraining(objective=MAE(mask="input")), SDMP()])
    assert "MAE compares no pairs of views" in one
    (one,) = warned([SDMP(), FusedBackbonePass(moco()), JointLoss(1.0)])
    assert "in its mix phase only the classifier's image predicts; use labels=True" in one
    (one,) = warned([SDMP()])
    assert "SDMP acts in ('ssl', 'mix'), and this run has ('sl',), so it does nothing; leave it out" in one
    (one,) = warned([MixTraining(objective=OwnForward(hidden_dim=8, out_dim=4, views=moco().views)), SDMP()])
    assert "OwnForward compares no pairs of views" in one
    (one,) = warned([MixTraining(objective=dino()), SDMP()])
    assert "DINO(local_crops=0) loses by a mixed global view" in one
    (one,) = warned([MixTraining(objective=dino(local_crops=2)), SDMP()])
    assert "DINO(local_crops=2) loses by mixed local crops" in one
    assert not warned([MixTraining(objective=dino(local_crops=6)), SDMP()])
    assert not warned([MixTraining(objective=moco()), SDMP()])
    assert not warned([SDMP(labels=True), FusedBackbonePass(moco()), JointLoss(1.0)])


def test_patches_must_not_divide_the_models():
    mixing = MixTraining(objective=OBJECTIVES["MoCoV3"]())
    with pytest.raises(ValueError, match=r"patch=1 is no multiple of the model's patches of \(2, 2\).* SDMP patch=2"):
        trainer(classifier(), [mixing, SDMP(["patchmix"], patch=1)])
    made = trainer(classifier(), [MixTraining(objective=OBJECTIVES["MoCoV3"]()), SDMP(["patchmix"], patch=4)], "2ep")
    made.fit()
    assert len(logged(made, "loss/train/total")) == 6


def test_a_second_trainer_on_the_same_model_mixes_by_its_own_settings():
    model, objective = classifier(), OBJECTIVES["MoCoV3"]
    for algorithms, passes in (([SDMP(["mixup"])], 3), ([], 2), ([SDMP(["mixup"])], 3)):
        made = trainer(
            model, [MixTraining(objective=objective(), ssl_duration="1ep", sl_duration="0ep"), *algorithms], "1ep"
        )
        keys = []
        head = made.state.model.ssl_objective.momentum_encoder
        hook = head.register_forward_hook(lambda *_, keys=keys: keys.append(1))
        made.fit()
        hook.remove()
        assert len(keys) == 3 * passes


def test_a_convolutional_network_mixes_patches_of_any_size():
    model = type(classifier())(tiny_cnn())
    made = trainer(model, [MixTraining(objective=OBJECTIVES["SimCLR"]()), SDMP(["patchmix"], patch=1)], "2ep")
    made.fit()
    assert len(logged(made, "loss/train/total")) == 6
