"""SuperProgressiveLearning in a Trainer; that it trains, resumes and stacks is in the tests of every row."""

from __future__ import annotations

import math

import pytest
import torch
from shared.settings import classifier, convolutional_classifier, logged, resizable_classifier, trainer
from shared.two_view import OBJECTIVES
from torch import nn

from mixplug import MAE, MixTraining, PatchScaling, PhaseSwitch, Ramp, SuperProgressiveLearning, Views


def sizes_of(model, algorithms, duration="6ep"):
    """The sides of the images of each training pass."""
    made = trainer(model, algorithms, duration)
    seen = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[-1]) if module.training and not args[0].is_meta else None
    )
    made.fit()
    return seen, made


def test_a_plain_run_follows_the_schedule():
    seen, made = sizes_of(resizable_classifier(), [SuperProgressiveLearning(0.5, phases=("sl",))])
    # Of 18 batches a sixth at full size, then 5 stages of 3: 4, 5, 6, 7 and 8 pixels in whole patches of 2.
    assert seen == [8] * 3 + [4] * 3 + [6] * 6 + [8] * 6
    assert logged(made, "mixtraining/resolution_scale") == pytest.approx(
        [1.0] * 3 + [0.5] * 3 + [0.625] * 3 + [0.75] * 3 + [0.875] * 3 + [1.0] * 3
    )


def test_a_convolutional_network_in_steps_of_its_stride_or_as_it_is_told():
    stride, _ = sizes_of(convolutional_classifier(), [SuperProgressiveLearning(0.5, phases=("sl",))])
    assert set(stride) == {8}  # 32 pixels of the image are one of the last map
    told, _ = sizes_of(convolutional_classifier(), [SuperProgressiveLearning(0.5, phases=("sl",), step=1)])
    assert told == [side for side in (8, 4, 5, 6, 7, 8) for _ in range(3)]


def test_views_follow_in_ssl_and_images_where_asked():
    def sizes(**options):
        mixing = MixTraining(objective=OBJECTIVES["SimSiam"](), rho=0.5)
        seen, made = sizes_of(resizable_classifier(), [SuperProgressiveLearning(0.5, 0, 3, **options), mixing])
        assert logged(made, "mixtraining/view_jitter") == sorted(logged(made, "mixtraining/view_jitter"))
        return seen

    # 2 epochs of 3 batches in each phase, 2 passes a batch in SSL and MIX; half of the schedule is small.
    assert sizes() == [4] * 12 + [8] * 18
    assert sizes(phases=("ssl", "mix", "sl")) == [4] * 12 + [4] * 6 + [8] * 6 + [8] * 6


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match=r"smaller images than \(8, 8\).*VisionTransformer.*dynamic_img_size=True"):
        trainer(classifier(), [SuperProgressiveLearning()])
    trainer(classifier(), [SuperProgressiveLearning(min_scale=1)])
    for magnitude in (0.5, Ramp(0, 1)):
        objective = OBJECTIVES["SimSiam"]()
        objective.views = Views("simsiam", mean=0.5, std=0.1, blur=False, magnitude=magnitude)
        mixing = MixTraining(objective=objective)
        with pytest.raises(ValueError, match=r"magnitude=Ramp.* and the objective's Views\(magnitude="):
            trainer(resizable_classifier(), [SuperProgressiveLearning(), mixing]).fit()
    trainer(resizable_classifier(), [SuperProgressiveLearning(magnitude=None), mixing], "3ep").fit()


def test_a_run_without_its_phases_is_warned_of():
    with pytest.warns(UserWarning, match=r"SuperProgressiveLearning acts in \('ssl',\), and this run has \('sl',\)"):
        trainer(resizable_classifier(), [SuperProgressiveLearning(), PhaseSwitch(0, "0ep", "1ep")], "1ep").fit()


def test_a_masked_objective_sees_small_images():
    mixing = MixTraining(objective=MAE(mask="input"))
    seen, _ = sizes_of(resizable_classifier(), [SuperProgressiveLearning(0.5), mixing])
    assert 4 in seen


def together(patches, **options):
    """The sides of images and of patches that the encoder sees in a plain run."""
    model = resizable_classifier()
    algorithms = [SuperProgressiveLearning(0.5, phases=("sl",), **options), patches]
    made = trainer(model, algorithms)
    seen, convolve = [], torch.nn.functional.conv2d

    def noting(images, weight, *args, **kwargs):
        if model.training and not images.is_meta:
            seen.append((images.shape[-1], weight.shape[-1]))
        return convolve(images, weight, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.functional, "conv2d", noting)
        made.fit()
    assert all(math.isfinite(value) for value in logged(made, "loss/train/total"))
    return set(seen)


def test_with_patches_of_another_size():
    assert together(PatchScaling(4), step=4) == {(4, 4), (8, 4)}
    assert together(PatchScaling([1])) == {(4, 1), (6, 1), (8, 1)}
    # A schedule takes the nearest that divides the size: of 6 pixels 3, in place of 4.
    assert together(PatchScaling(Ramp(4, 4))) == {(4, 4), (6, 3), (8, 4)}


def test_patches_that_do_not_fit_a_later_stage_are_refused_before_anything_is_trained():
    for sizes in (4, [2, 4]):
        made = trainer(resizable_classifier(), [SuperProgressiveLearning(0.5, phases=("sl",)), PatchScaling(sizes)])
        with pytest.raises(ValueError, match=r"4x4 and 6x6 and 8x8 pixels, and patches of 4 .* 6x6; give it step=4"):
            made.fit()
        assert made.state.timestamp.batch == 0
    # Where they do not meet, nothing is refused: images are smaller in SSL, patches larger in SL.
    mixing = MixTraining(objective=OBJECTIVES["SimSiam"]())
    apart = [SuperProgressiveLearning(0.5), PatchScaling(4, phases=("sl",)), mixing]
    trainer(resizable_classifier(), apart, "6ep").fit()
