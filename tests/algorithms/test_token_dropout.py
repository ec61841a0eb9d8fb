"""TokenDropout in Composer's Trainer; that it trains, resumes and stacks is in the tests of every row."""

from __future__ import annotations

import warnings

import pytest
import torch
from composer.algorithms import EMA, SAM, ProgressiveResizing
from shared.settings import classifier, convolutional_classifier, logged, trainer
from shared.tiny import loader
from shared.two_view import OBJECTIVES

from mixplug import MAE, MixTraining, PatchScaling, PhaseSwitch, Ramp, TokenDropout


def tokens_of(algorithms, epochs=6, **changes):
    """How many patch tokens each pass of the training had, in order, and the Trainer."""
    made = trainer(classifier(**changes), algorithms, f"{epochs}ep", eval_dataloader=loader())
    seen = []

    def note(module, args):
        if module.training:
            seen.append(args[0].shape[1] - 1)

    made.state.model.module.blocks[0].register_forward_pre_hook(note)
    made.fit()
    return seen, made


def test_alone_the_whole_run_counts():
    seen, made = tokens_of([TokenDropout(Ramp(0.75, 0.0))])
    rates = logged(made, "mixtraining/token_dropout")
    assert rates == pytest.approx([0.75 * (1 - step / 18) for step in range(18)])
    assert seen == [max(1, int(16 * (1 - rate) + 1e-5)) for rate in rates]


def test_in_a_run_with_phases_but_no_self_supervised_learning():
    seen, _ = tokens_of([PhaseSwitch(0, "0ep", "6ep"), TokenDropout({"sl": 0.5})])
    assert seen == [8] * 18


def test_beside_an_objective_that_hides_patches_it_acts_in_the_sl_phase_and_says_so():
    with pytest.warns(UserWarning, match="MAE chooses patches itself in the ssl and mix phase"):
        seen, _ = tokens_of([MixTraining(objective=MAE(mask="input")), TokenDropout(0.5)])
    assert seen == [4] * 12 + [8] * 6
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*chooses patches itself")
        tokens_of([TokenDropout(0.5, phases=("sl",)), MixTraining(objective=MAE(mask="input"))])


@pytest.mark.parametrize("keys", [False, True])
def test_queries_of_two_views_drop_tokens_and_keys_if_asked(keys):
    made = trainer(classifier(), [MixTraining(objective=OBJECTIVES["MoCoV3"]()), TokenDropout(0.5, keys=keys)], "2ep")
    fast, slow = [], []
    momentum = made.state.model.ssl_objective.momentum_encoder.model
    for encoder, seen in ((made.state.model.module, fast), (momentum, slow)):
        encoder.blocks[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1] - 1))
    made.fit()
    assert set(fast) == {8}
    assert set(slow) == {8 if keys else 16}


@pytest.mark.parametrize(
    "neighbour",
    [
        lambda: ProgressiveResizing(initial_scale=0.5, size_increment=2, delay_fraction=0.0),
        lambda: EMA(half_life="1ba"),
        lambda: SAM(rho=0.05),
    ],
    ids=["ProgressiveResizing", "EMA", "SAM"],
)
def test_beside_composers_algorithms_in_a_plain_run(neighbour):
    seen, made = tokens_of([TokenDropout(0.5), neighbour()], dynamic_img_size=True)
    assert len(made.memory.data["loss/train/total"]) == 18
    kept = set(seen)
    assert 8 in kept
    assert max(kept) == 8
    assert 0 <= made.state.eval_metric_values["MulticlassAccuracy"] <= 1


@pytest.mark.parametrize("size", [2, 4])
def test_microbatches_change_nothing(size):
    """Tokens are drawn for each microbatch, one image after the other, so their random numbers are the batch's own."""
    weights = []
    for microbatch in (size, 8):
        made = trainer(
            classifier().double(),
            [TokenDropout(Ramp(0.75, 0.0)), PatchScaling((2, 4))],
            "4ep",
            train_dataloader=loader(16, dtype=torch.float64),
            optimizer=torch.optim.SGD,
            device_train_microbatch_size=microbatch,
        )
        made.fit()
        weights.append(torch.cat([p.flatten() for p in made.state.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-10)


def test_a_model_without_patch_tokens():
    with pytest.raises(TypeError, match=r"TokenDropout is for .* ResNet is none"):
        trainer(convolutional_classifier(), [TokenDropout(0.5)])


@pytest.mark.slow
def test_a_ramp_does_not_recompile_each_step():
    """A compilation for lengths that change, one for the end without dropout, and the first."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    made = trainer(classifier(), [TokenDropout(Ramp(0.75, 0.25))], "6ep", compile_config={"backend": counter})
    made.fit()
    assert len(set(logged(made, "mixtraining/token_dropout"))) == 18
    assert counter.frame_count <= 6
