"""MixupSSLData(mixing='side_by_side') in a Trainer; that it trains and resumes is in the tests of every row."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from composer.algorithms import MixUp, ProgressiveResizing, SelectiveBackprop
from composer.core import Callback
from composer.optim import CosineAnnealingScheduler
from shared.settings import (
    FirstVisible,
    classifier,
    logged,
    multi_task_classifier,
    multi_task_loader,
    ssl_loader,
    trainer,
)
from shared.tiny import images, labels, loader

from mixplug import MAE, MixTraining, MixupSSLData, PhaseSwitch
from mixplug.data.pieces import Pieces


def side(**options):
    return MixTraining(
        **{"ssl_dataloader": ssl_loader(22, 5), "mixing": "side_by_side", "objective": MAE(mask="input"), **options}
    )


class Seen(Callback):
    """What the model gets of each batch, and what its encoder does."""

    def __init__(self):
        self.batches, self.encoded = [], []

    def fit_start(self, state, logger):
        state.model.module.patch_embed.register_forward_hook(self.note)

    def note(self, module, args, output):
        if module.training:
            self.encoded.append(args[0].clone())

    def batch_start(self, state, logger):
        self.batches.append([part.clone() for part in state.batch])


def run(algorithm, *others, **options):
    seen = Seen()
    made = trainer(algorithms=[algorithm, *others], callbacks=[seen], **options)
    made.fit()
    return made, seen


def test_epochs_of_mix_pass_over_the_ssl_data():
    made, seen = run(side(labelled_per_step=4), train_dataloader=loader(shuffle=True))
    phases = [int(phase) for phase in logged(made, "mixtraining/phase")]
    assert phases == [0] * 10 + [1] * 10 + [2] * 6
    pool, x_sl, y_sl = images(22, seed=30), images(20), labels(20)
    for first in (10, 15):
        drawn = seen.batches[first : first + 5]
        assert [len(x) for x, _ in drawn] == [4] * 5
        indices = [int(next(i for i in range(20) if torch.equal(x_sl[i], image))) for x, _ in drawn for image in x]
        assert sorted(indices) == list(range(20)), "each labelled image once in as many draws"
        assert torch.equal(torch.cat([y for _, y in drawn]), y_sl[indices])
        beside = torch.cat([x[4:] for x in seen.encoded[first : first + 5]])
        assert sorted(i.sum().item() for i in beside) == pytest.approx(sorted(i.sum().item() for i in pool))
    assert not torch.equal(seen.batches[10][0], seen.batches[15][0]), "drawn anew in each epoch"


def test_labelled_images_come_equally_often_whatever_the_numbers():
    data = {"ssl_dataloader": ssl_loader(40, 4), "labelled_per_step": 7}
    _, seen = run(side(**data), train_dataloader=loader(20, 8, shuffle=True))
    mixed = [x for x, _ in seen.batches if len(x) == 7]
    assert len(mixed) == 20
    for epoch in (mixed[:10], mixed[10:]):
        counts = Counter(image.sum().item() for image in torch.cat(epoch))
        assert len(counts) == 20
        assert set(counts.values()) == {3, 4}, "70 of 20 images"


def test_the_default_is_a_quarter_and_the_last_batch_gets_all_of_its_labelled_images():
    algorithm = side(ssl_dataloader=ssl_loader(22, 8))
    assert algorithm.mixup_ssl_data.labelled_per_step == 2
    _, seen = run(algorithm)
    assert [len(x) for x in seen.encoded[6:9]] == [10, 10, 8]


@pytest.mark.parametrize("size", [2, 4])
def test_microbatches_split_both_halves(size):
    weights = []
    for microbatch in (size, 8):
        made, seen = run(
            side(ssl_dataloader=ssl_loader(24, 8, torch.float64), labelled_per_step=8, objective=FirstVisible("input")),
            model=classifier().double(),
            train_dataloader=loader(16, dtype=torch.float64),
            optimizer=torch.optim.SGD,
            device_train_microbatch_size=microbatch,
        )
        weights.append(torch.cat([p.flatten() for p in made.state.model.parameters()]))
        assert {len(x) for x in seen.encoded} == {microbatch, 2 * microbatch}
    torch.testing.assert_close(*weights, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "neighbour",
    [
        lambda: ProgressiveResizing(initial_scale=0.5, size_increment=2, delay_fraction=0.0),
        lambda: MixUp(alpha=0.4),
        lambda: SelectiveBackprop(start=0.4, end=1.0, keep=0.5, scale_factor=1),
    ],
    ids=["ProgressiveResizing", "MixUp", "SelectiveBackprop"],
)
def test_beside_composers_algorithms(neighbour):
    made, seen = run(side(labelled_per_step=4), neighbour(), model=classifier(dynamic_img_size=True))
    assert all(value == value for value in logged(made, "loss/train/total"))
    assert {x.shape[-1] for x in seen.encoded} <= {4, 6, 8}
    assert made.state.timestamp.epoch == 6


def test_with_two_tasks():
    made = trainer(multi_task_classifier(), [side(labelled_per_step=4)], "3ep", train_dataloader=multi_task_loader())
    made.fit()
    assert len(logged(made, "loss/train/sl")) == 5 + 5 + len(multi_task_loader())


def test_schedules_that_take_all_epochs_for_equal_are_refused():
    with pytest.raises(ValueError, match="5 batches in the MIX phase and 3 after it"):
        run(side(rho=1), schedulers=CosineAnnealingScheduler())


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"must be a function .*, or 'side_by_side', got 'beside'"):
        MixupSSLData(ssl_loader(), mixing="beside")
    with pytest.raises(ValueError, match="there are none: give an ssl_dataloader"):
        MixTraining(mixing="side_by_side")
    with pytest.raises(ValueError, match="labelled_per_step=3 is for mixing='side_by_side'"):
        MixupSSLData(ssl_loader(), labelled_per_step=3)
    with pytest.raises(ValueError, match="labelled_per_step must be"):
        side(labelled_per_step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="list has no batch_size: give labelled_per_step"):
            side(ssl_dataloader=[images(3)])
    with pytest.raises(ValueError, match=r"this run has none: use MixTraining, or add FusedBackbonePass"):
        run(MixupSSLData(ssl_loader(), mixing="side_by_side"), PhaseSwitch())


def test_what_cannot_be_cut():
    with pytest.raises(TypeError, match=r"must consist of tensors with a sample in each row, got \['Tensor', 'str'\]"):
        Pieces(iter([(images(2), "two")])).draw(1)
    with pytest.raises(ValueError, match="as many rows in each tensor"):
        Pieces(iter([(images(2), labels(3))])).draw(1)
