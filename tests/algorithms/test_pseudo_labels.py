"""PseudoLabels in a Trainer; that it trains and resumes is in the tests of every row."""

from __future__ import annotations

import pytest
import torch
from composer.algorithms import LabelSmoothing, MixUp, ProgressiveResizing
from composer.core import Callback
from shared.settings import (
    FirstVisible,
    classifier,
    logged,
    multi_task_classifier,
    multi_task_loader,
    ssl_loader,
    trainer,
    weights,
)
from shared.tiny import images, loader
from shared.two_view import OBJECTIVES, views

from mixplug import MAE, MixTraining, PseudoLabels, Ramp, TokenDropout
from mixplug.lab.recipes.objects import build


def side(**options):
    data = {"ssl_dataloader": ssl_loader(24, 8, options.pop("dtype", torch.float32)), "labelled_per_step": 4}
    return MixTraining(**{**data, "mixing": "side_by_side", "objective": MAE(mask="input"), **options})


class Seen(Callback):
    """What the model's loss gets."""

    def __init__(self):
        self.outputs = []

    def before_loss(self, state, logger):
        self.outputs.append((len(state.outputs), len(state.batch[1])))


def run(*algorithms, **options):
    seen = Seen()
    made = trainer(algorithms=[*algorithms], callbacks=[seen], **options)
    made.fit()
    return made, seen


def test_it_adds_a_term_to_mix_and_the_loss_sees_labelled_images_alone():
    made, seen = run(PseudoLabels(0.05, weight=Ramp(0.0, 3.0)), side(alpha=0.4))
    assert all(of_outputs == of_labels for of_outputs, of_labels in seen.outputs)
    assert [count for count, _ in seen.outputs[6:12]] == [4] * 6
    terms, shares = logged(made, "loss/train/pseudo"), logged(made, "mixtraining/pseudo_share")
    assert len(terms) == len(shares) == 5, "of 6 batches of MIX the first has no weight"
    assert shares == [1.0] * 5, "of ten classes one has a tenth at least"
    total, ssl, sl = (logged(made, f"loss/train/{name}")[7:12] for name in ("total", "ssl", "sl"))
    for index in range(5):
        expected = 0.4 * ssl[index] + 0.6 * sl[index] + 3 * (index + 1) / 6 * terms[index]
        assert total[index] == pytest.approx(expected, rel=1e-5)


def test_without_weight_the_run_is_the_run_without_it():
    ends = [run(side(), *more)[0] for more in ((), (PseudoLabels(0.0, weight=0.0),), (PseudoLabels(0.0, weight=1.0),))]
    plain, off, on = (weights(made.state.model) for made in ends)
    assert all(torch.equal(off[name], value) for name, value in plain.items())
    assert not all(torch.equal(on[name], value) for name, value in plain.items()), "the control"


@pytest.mark.parametrize("size", [2, 4])
def test_microbatches_split_both_halves(size):
    ends = []
    for microbatch in (size, 8):
        algorithm = PseudoLabels(0.1, weight=1.0, per_class=True)
        made, _ = run(
            algorithm,
            side(dtype=torch.float64, labelled_per_step=8, objective=FirstVisible("input")),
            model=classifier().double(),
            train_dataloader=loader(16, dtype=torch.float64),
            optimizer=torch.optim.SGD,
            device_train_microbatch_size=microbatch,
        )
        ends.append([*(p.flatten() for p in made.state.model.parameters()), algorithm.amendment.shares.double()])
    torch.testing.assert_close(torch.cat(ends[0]), torch.cat(ends[1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "neighbours",
    [
        lambda: [ProgressiveResizing(initial_scale=0.5, size_increment=2, delay_fraction=0.0)],
        lambda: [MixUp(alpha=0.4), LabelSmoothing(0.1)],
        lambda: [MixUp(alpha=0.4, interpolate_loss=True)],
    ],
    ids=["ProgressiveResizing", "MixUp and LabelSmoothing", "MixUp of the loss"],
)
def test_beside_composers_algorithms(neighbours):
    made, seen = run(*neighbours(), side(), PseudoLabels(0.0), model=classifier(dynamic_img_size=True))
    assert all(value == value for value in logged(made, "loss/train/total"))
    assert len(logged(made, "loss/train/pseudo")) == 5
    assert all(of_outputs == of_labels for of_outputs, of_labels in seen.outputs)


def test_with_an_objective_of_two_views():
    made, _ = run(side(objective=OBJECTIVES["MoCoV3"]()), PseudoLabels(0.0, views=views("simsiam")))
    assert len(logged(made, "loss/train/pseudo")) == 5


@pytest.mark.filterwarnings("error:PseudoLabels compares")
def test_the_same_view_twice_is_warned_of():
    with pytest.raises(UserWarning, match=r"predictions of the same whole images.*Give it strong views"):
        run(side(objective=OBJECTIVES["SimSiam"]()), PseudoLabels())
    with pytest.raises(UserWarning, match="or use MAE"):
        run(side(objective=MAE()), PseudoLabels())
    run(side(objective=OBJECTIVES["SimSiam"]()), PseudoLabels(), TokenDropout(0.5), max_duration="3ep")


def test_where_there_is_nothing_to_label():
    refused = r"needs unlabelled images in the model's own pass: use it beside .*mixing='side_by_side'"
    for others in ([MixTraining()], [MixTraining(ssl_dataloader=ssl_loader())], []):
        with pytest.raises(ValueError, match=refused):
            run(PseudoLabels(), *others)
    with pytest.raises(ValueError, match="by the classes of one task"):
        run(side(), PseudoLabels(), model=multi_task_classifier(), train_dataloader=multi_task_loader())


def test_a_resumed_run_has_the_same_settings(tmp_path):
    options = {"save_folder": str(tmp_path), "save_filename": "end.pt", "max_duration": "3ep"}
    run(side(), PseudoLabels(0.5), **options)
    with pytest.raises(ValueError, match=r"threshold was 0\.5 and is 0\.6"):
        run(side(), PseudoLabels(0.6), load_path=str(tmp_path / "end.pt"), max_duration="3ep")


def test_a_recipe_tells_its_views_the_normalisation():
    spec = {"PseudoLabels": {"views": {"Views": {"recipe": "simsiam"}}}}
    made = build(spec, object, "algorithms", normalisation=((0.5,), (0.1,)))
    assert made.amendment.views.mean == (0.5,)
    made.amendment.views(0.1 * images(2))
