"""HardAugment in a Trainer; that it trains, resumes and stacks is in the tests of every row."""

from __future__ import annotations

import warnings

import pytest
from shared.settings import classifier, convolutional_classifier, resizable_classifier, trainer
from shared.two_view import OBJECTIVES

from mixplug import MAE, HardAugment, MixTraining, SuperProgressiveLearning, TokenDropout

WHOLE, SMALL = 16, 4


def tokens_of(*algorithms, **options):
    """How many patch tokens each pass of a run of the three phases had, an epoch each, of either encoder."""
    made = trainer(resizable_classifier(), algorithms, "3ep", **options)
    seen = []
    hook = lambda module, args: seen.append(args[0].shape[1] - 1) if module.training else None  # noqa: E731
    made.state.model.module.blocks[0].register_forward_pre_hook(hook)
    made.fit()
    return seen


def test_each_step_scores_and_then_trains_on_two_views():
    seen = tokens_of(MixTraining(objective=OBJECTIVES["SimSiam"]()), HardAugment(3, 4))
    # 3 batches an epoch. In MIX the classifier's image has been seen when the others are scored with it.
    assert seen == [*[SMALL] * 3, WHOLE, WHOLE] * 3 + [WHOLE, *[SMALL] * 3, WHOLE] * 3 + [WHOLE] * 3


def test_only_in_its_phases():
    seen = tokens_of(HardAugment(3, 4, phases=("mix",)), MixTraining(objective=OBJECTIVES["SimSiam"]()))
    assert seen == [WHOLE, WHOLE] * 3 + [WHOLE, *[SMALL] * 3, WHOLE] * 3 + [WHOLE] * 3


def test_beside_token_dropout_and_smaller_images():
    mixing = MixTraining(objective=OBJECTIVES["SimSiam"]())
    progress = SuperProgressiveLearning(0.5, 0, 3)
    seen = tokens_of(mixing, HardAugment(3, 6, dropout=0.5), TokenDropout(0.5, phases=("ssl",)), progress)
    assert seen[:5] == [2, 2, 2, 2, 2]  # of 4: views are 4 pixels, so scoring's 6 are 4 as well
    assert seen[-3:] == [16, 16, 16]


def test_in_microbatches_each_chooses_for_itself():
    """MoCo v2+ has no loss within the batch: nothing is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*from each microbatch")
        mixing = MixTraining(objective=OBJECTIVES["MoCoV2Plus"]())
        seen = tokens_of(mixing, HardAugment(3, 4), device_train_microbatch_size=4)
    # 20 images an epoch are 5 microbatches. In MIX view 0 alone predicts: the others are the momentum encoder's.
    assert seen.count(SMALL) == 5 * 3 + 5


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match=r"smaller images than \(8, 8\).*dynamic_img_size=True.*select_size=8"):
        trainer(classifier(), [HardAugment()])
    trainer(classifier(), [HardAugment(3, 8, dropout=0.5), MixTraining(objective=OBJECTIVES["BYOL"]())], "3ep").fit()
    with pytest.raises(TypeError, match="HardAugment is for a timm VisionTransformer"):
        trainer(convolutional_classifier(), [HardAugment(dropout=0.5)])


def test_where_nothing_is_chosen_it_says_so():
    with pytest.warns(UserWarning, match="HardAugment chooses nothing in this run: MAE compares no views"):
        trainer(resizable_classifier(), [HardAugment(), MixTraining(objective=MAE())], "3ep").fit()
    with pytest.warns(UserWarning, match=r"HardAugment acts in .*, and this run has \('sl',\), so it does nothing"):
        trainer(resizable_classifier(), [HardAugment()], "1ep").fit()
