"""AutoCompression in Composer's Trainer; that it trains, resumes and repeats is in the tests of every row."""

from __future__ import annotations

import pytest
import torch
from composer.algorithms import SAM, ProgressiveResizing
from shared.settings import classifier, convolutional_classifier, logged, trainer, weights
from shared.two_view import OBJECTIVES

from mixplug import MAE, AutoCompression, Compression, CompressionSchedule, MixTraining, TokenDropout


def made_with(*algorithms, epochs=6, **changes):
    made = trainer(classifier(**changes), algorithms, f"{epochs}ep")
    made.fit()
    return made


@pytest.mark.parametrize("name", ["SimSiam", "MoCoV2Plus", "DINO"])
def test_measuring_changes_nothing_of_the_training(name):
    """Where the native size is all there is to choose."""
    plain = made_with(MixTraining(objective=OBJECTIVES[name]()))
    auto = AutoCompression((0.0,), (2,), share=1.0, sub_batch=4)
    measured = made_with(MixTraining(objective=OBJECTIVES[name]()), auto)
    assert auto.amendment.spent > 0
    before, after = weights(plain.state.model), weights(measured.state.model)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_the_strategy_and_what_it_costs_are_logged():
    auto = AutoCompression((0.5, 0.0), share=0.5, sub_batch=2, over="run")
    made = made_with(auto, epochs=12)
    rates = logged(made, "compression/rate")
    assert len(rates) == 36
    assert rates[0] == 0.5
    assert set(rates) <= {0.5, 0.0}
    assert logged(made, "compression/patch") == [2] * 36
    overheads = logged(made, "compression/overhead")
    assert 0.4 < overheads[-1] == auto.amendment.overhead <= max(overheads) <= 0.5
    assert auto.amendment.has_chosen
    assert auto.amendment.images == 12 * 20


def test_a_run_too_short_for_a_choice_says_so():
    with pytest.warns(
        UserWarning, match=r"too few sub-batches for a choice, \d+ of 16.*Strategy\(rate=0.5.*smaller sub_batch"
    ):
        made_with(AutoCompression((0.5, 0.0), share=0.5, sub_batch=4, over="run"), epochs=2)


@pytest.mark.parametrize(
    "neighbour",
    [lambda: SAM(rho=0.05), lambda: ProgressiveResizing(initial_scale=0.5, size_increment=2, delay_fraction=0.0)],
    ids=["SAM", "ProgressiveResizing"],
)
def test_beside_composers_algorithms(neighbour):
    auto = AutoCompression((0.5, 0.0), share=1.0, sub_batch=2, over="run")
    made = made_with(auto, neighbour(), dynamic_img_size=True)
    assert auto.amendment.images == 6 * 20, "a step of several passes counts once"
    assert len(logged(made, "compression/rate")) >= 18


def test_microbatches():
    auto = AutoCompression((0.5, 0.0), share=1.0, sub_batch=2, over="run")
    made = trainer(classifier(), [auto], "2ep", device_train_microbatch_size=3)
    made.fit()
    assert auto.amendment.images == 40


@pytest.mark.slow
def test_a_compiled_model_is_measured_on_its_copy():
    auto = AutoCompression((0.0,), (2,), share=1.0, sub_batch=4, over="run")
    plain = trainer(classifier(), [], "2ep", compile_config={"backend": "eager"})
    measured = trainer(classifier(), [auto], "2ep", compile_config={"backend": "eager"})
    for made in (plain, measured):
        made.fit()
    assert auto.amendment.spent > 0
    before, after = weights(plain.state.model), weights(measured.state.model)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_what_it_does_not_go_with():
    with pytest.raises(TypeError, match=r"AutoCompression is for .* ResNet is none"):
        trainer(convolutional_classifier(), [AutoCompression()])
    made = trainer(classifier(), [AutoCompression((0.5,), over="run"), TokenDropout(0.5)])
    with pytest.raises(ValueError, match=r"and TokenDropout both act in the phases \['mix', 'sl', 'ssl'\]"):
        made.fit()
    made = trainer(classifier(), [AutoCompression((0.5,), over="run"), Compression(CompressionSchedule({0: (0.5, 4)}))])
    with pytest.raises(ValueError, match=r"AutoCompression and Compression both act in the phases"):
        made.fit()
    made_with(MixTraining(objective=OBJECTIVES["SimSiam"]()), AutoCompression(), TokenDropout(0.5, phases=("sl",)))
    with pytest.warns(UserWarning, match="MAE chooses patches itself in the ssl and mix phase, so AutoCompression"):
        made_with(MixTraining(objective=MAE(mask="input")), AutoCompression(share=1.0, sub_batch=2))
