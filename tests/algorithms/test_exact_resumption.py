"""Resumption from every batch, whatever decides the order of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from composer.core import Algorithm, Callback, Event
from composer.utils import dist
from shared.settings import resumes_from_every_batch, ssl_loader, trainer, weights
from shared.tiny import images, labels
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mixplug import MAE, ExactResumption, FusedBackbonePass, JointLoss, MixTraining, MixupSSLData, PhaseSwitch


class Augmented(Dataset):
    """Labelled images with a random transform that draws from numpy and torch."""

    def __init__(self, count=20):
        self.images, self.labels = images(count), labels(count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        flip = np.random.rand() < 0.5  # noqa: NPY002
        flipped = self.images[index].flip(-1) if flip else self.images[index]
        return flipped + 0.1 * torch.randn(1), self.labels[index]


def shuffled(workers=0, **options):
    return DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=workers, **options)


def with_generator(workers=0):
    return shuffled(workers, generator=torch.Generator().manual_seed(11))


def with_samplers_generator(workers=0):
    sampler = RandomSampler(range(20), generator=torch.Generator().manual_seed(11))
    return DataLoader(Augmented(), batch_size=8, sampler=sampler, num_workers=workers)


def distributed(workers=0):
    data = Augmented()
    return DataLoader(data, batch_size=8, sampler=dist.get_sampler(data, shuffle=True), num_workers=workers)


ORDERS = [shuffled, with_generator, with_samplers_generator, distributed]
orders = pytest.mark.parametrize(
    "order",
    # A sampler's generator is kept as a loader's is.
    [pytest.param(o, marks=[pytest.mark.slow] * (o is with_samplers_generator), id=o.__name__) for o in ORDERS],
)
masks = pytest.mark.parametrize("mask", [pytest.param("features", marks=pytest.mark.slow), "input"])
datas = pytest.mark.parametrize("data", ["equal", "other"])


def mixtraining(mask, data, workers=0):
    other = ssl_loader(num_workers=workers) if data == "other" else None
    return [MixTraining(objective=MAE(mask=mask), ssl_dataloader=other)]


@datas
@masks
@orders
def test_from_every_batch(order, mask, data, tmp_path):
    resumes_from_every_batch(tmp_path, lambda: mixtraining(mask, data), train_dataloader=order)


@pytest.mark.slow
@datas
@masks
@pytest.mark.parametrize("order", [shuffled, distributed], ids=lambda order: order.__name__)
def test_from_every_batch_with_workers(order, mask, data, tmp_path):
    resumes_from_every_batch(tmp_path, lambda: mixtraining(mask, data, 2), train_dataloader=lambda: order(2))


@pytest.mark.slow
def test_from_a_batch_of_each_phase_with_workers(tmp_path):
    """What the slow test does from every batch."""
    options = {"train_dataloader": lambda: shuffled(2), "max_duration": "3ep"}
    resumes_from_every_batch(tmp_path, lambda: mixtraining("input", "other", 2), **options)


class ShufflesItself:
    """What is no DataLoader: batches in an order from torch's global generator."""

    batch_size = 8

    def __iter__(self):
        order = torch.randperm(20)
        return iter([(images(20)[part], labels(20)[part]) for part in order.split(8)])

    def __len__(self):
        return 3


def test_from_every_batch_of_a_loader_that_shuffles_itself(tmp_path):
    resumes_from_every_batch(tmp_path, lambda: mixtraining("input", "other"), train_dataloader=ShufflesItself)


class EvaluatesWith(Callback):
    """Draws from a generator that the training data uses too, in the middle of epochs."""

    def __init__(self, generator):
        self.generator = generator

    def batch_end(self, state, logger):
        torch.rand(1, generator=self.generator)


def test_a_generator_that_others_draw_from(tmp_path):
    def options(**more):
        generator = torch.Generator().manual_seed(11)
        data = DataLoader(Augmented(), batch_size=8, shuffle=True, generator=generator)
        return {"train_dataloader": data, "callbacks": [EvaluatesWith(generator)], "max_duration": "3ep", **more}

    saving = {"save_folder": str(tmp_path), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    whole = trainer(algorithms=mixtraining("input", "equal"), **options(**saving))
    whole.fit()
    for batch in range(1, 9):
        path = str(tmp_path / f"{batch}.pt")
        resumed = trainer(algorithms=mixtraining("input", "equal"), **options(load_path=path))
        resumed.fit()
        for name, value in weights(whole.state.model).items():
            assert torch.equal(value, weights(resumed.state.model)[name]), (batch, name)


def test_a_checkpoint_of_a_run_without_it_goes_on_as_composer_would(tmp_path):
    """Nothing is put back that was not kept."""
    saving = {"save_folder": str(tmp_path), "save_interval": "1ep", "save_filename": "{epoch}.pt"}
    four = [JointLoss(), FusedBackbonePass(), MixupSSLData(), PhaseSwitch()]
    whole = trainer(algorithms=four, train_dataloader=distributed(), **saving)
    whole.fit()
    for epoch in range(1, 6):
        resumed = trainer(
            algorithms=[MixTraining()], train_dataloader=distributed(), load_path=str(tmp_path / f"{epoch}.pt")
        )
        resumed.fit()
        for name, value in weights(whole.state.model).items():
            assert torch.equal(value, weights(resumed.state.model)[name]), (epoch, name)


@pytest.mark.parametrize("piece", ["1ba", "2ba", "5ba"])
def test_pieces_in_batches_are_the_run(piece):
    """In mid-epoch of the SSL data too, with an evaluator whose loader Composer spins at each fit."""

    def made():
        data = DataLoader(Augmented(4), batch_size=4, shuffle=True)
        algorithms = mixtraining("input", "other")
        options = {"train_dataloader": shuffled(), "eval_dataloader": data, "eval_interval": 0}
        return trainer(algorithms=algorithms, max_duration="14ba", **options)

    whole = made()
    whole.fit()
    pieces = made()
    while pieces.state.timestamp.batch < 14:
        pieces.fit(duration=f"{min(int(piece[0]), 14 - pieces.state.timestamp.batch.value)}ba")
    for name, value in weights(whole.state.model).items():
        assert torch.equal(value, weights(pieces.state.model)[name]), name


class Draws(Algorithm):
    """Draws from the global generator in each batch, as dropout on a CPU does."""

    def match(self, event, state):
        return event is Event.BATCH_END

    def apply(self, event, state, logger):
        torch.rand(1)


def test_any_composer_run_may_use_it(tmp_path):
    resumes_from_every_batch(tmp_path, lambda: [Draws(), ExactResumption()], train_dataloader=shuffled)


def test_without_it_composer_shuffles_anew(tmp_path):
    """If this test fails, Composer resumes by itself and ExactResumption can go."""
    with pytest.raises(AssertionError):
        resumes_from_every_batch(tmp_path, lambda: [Draws()], train_dataloader=shuffled)


def test_fits_that_end_in_mid_epoch_pass_over_every_image_once():
    seen = []

    class Keep(Callback):
        def batch_start(self, state, logger):
            seen.append(state.batch[0].clone())

    data = DataLoader(torch.utils.data.TensorDataset(images(24), labels(24)), batch_size=8, shuffle=True)
    made = trainer(algorithms=[MixTraining()], max_duration="9ba", train_dataloader=data, callbacks=[Keep()])
    for _ in range(4):
        with pytest.warns(UserWarning, match="phases are planned for '9ba'"):
            made.fit(duration="2ba")
    made.fit(duration="1ba")
    assert made.state.timestamp.batch == 9
    for epoch in range(3):
        sums = torch.cat(seen[3 * epoch : 3 * epoch + 3]).sum((1, 2, 3))
        assert torch.allclose(sums.sort().values, images(24).sum((1, 2, 3)).sort().values)
