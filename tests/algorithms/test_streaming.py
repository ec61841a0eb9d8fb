"""StreamingDataset (mosaicml-streaming) as labelled data, as SSL data and as both; its shards are written here."""

from __future__ import annotations

import atexit
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from composer.core import Callback
from shared.settings import classifier, logged, ssl_loader, trainer, weights
from shared.tiny import images, labels, loader
from torch.utils.data import DataLoader

from mixplug import MAE, ExactResumption, MixTraining, MixupSSLData

streaming = pytest.importorskip("streaming", reason="the streaming extra is not installed")

SL, SSL = 20, 22
"""Samples of each data set: 3 batches of 8 and 5 of 5, the last ones smaller."""


class Images(streaming.StreamingDataset):
    """Unlabelled images."""

    def __getitem__(self, index):
        return torch.from_numpy(super().__getitem__(index)["image"].copy())


class LabelledImages(streaming.StreamingDataset):
    """Labelled images, disturbed by a random number each, as augmentation does."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return torch.from_numpy(sample["image"].copy()) + 1e-3 * torch.randn(()), sample["label"]


class AugmentedImages(Images):
    """Unlabelled images, disturbed likewise."""

    def __getitem__(self, index):
        return super().__getitem__(index) + 1e-3 * torch.randn(())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder of several shards for each data set."""
    folder = tmp_path_factory.mktemp("shards")
    columns = {"image": "ndarray:float32:1,8,8", "label": "int"}
    with streaming.MDSWriter(out=str(folder / "sl"), columns=columns, size_limit=2048) as out:
        for image, label in zip(images(SL), labels(SL), strict=True):
            out.write({"image": image.numpy(), "label": int(label)})
    with streaming.MDSWriter(out=str(folder / "ssl"), columns={"image": columns["image"]}, size_limit=2048) as out:
        for image in images(SSL, seed=30):
            out.write({"image": image.numpy()})
    assert len(list((folder / "sl").glob("*.mds"))) > 1
    return folder


@pytest.fixture(autouse=True)
def process(tmp_path, monkeypatch):
    """A context that ends as a process does: streaming holds its shared memory and lock files until then."""
    # Lock files go into the folder for temporary files.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held, shared_memory = [], streaming.base.shared.SharedMemory
    allocate = shared_memory.__init__
    monkeypatch.setattr(shared_memory, "__init__", lambda self, *a, **k: held.append(self) or allocate(self, *a, **k))

    @contextmanager
    def process():
        try:
            yield
        finally:
            while held:
                memory = held.pop()
                atexit.unregister(memory.cleanup)
                if hasattr(memory, "shm"):
                    memory.cleanup()

    with process():
        yield process


def made_of(kind, local, batch_size, **options):
    """A data set as a new process would make it, its samples shuffled."""
    arguments = {"local": str(local), "batch_size": batch_size, "shuffle": True}
    for attempt in range(20):
        try:
            return kind(**{**arguments, **options})
        except FileExistsError:  # another process's test took the same number between the look and the leap
            time.sleep(0.01 * attempt)
    raise AssertionError("found no free number for the shared memory")


def sl_stream(shards, dataset=LabelledImages, loader=streaming.StreamingDataLoader, **options):
    return loader(made_of(dataset, shards / "sl", 8), batch_size=8, **options)


def ssl_stream(shards, dataset=Images, loader=streaming.StreamingDataLoader, **options):
    return loader(made_of(dataset, shards / "ssl", 5), batch_size=5, **options)


class Batches(Callback):
    """Keeps each training batch as the model gets it."""

    def __init__(self):
        self.seen = []

    def batch_start(self, state, logger):
        self.seen.append([part.clone() for part in state.batch])

    def images(self, start, stop):
        return torch.cat([x for x, _ in self.seen[start:stop]])

    def labels(self, start, stop):
        return torch.cat([y for _, y in self.seen[start:stop]])


def same_images(found, expected, within=0.02):
    """Whether two sets of images hold the same ones, in whatever order."""
    distances = (found[:, None] - expected[None]).abs().amax((2, 3, 4))
    return sorted(distances.argmin(1).tolist()) == list(range(len(expected))) and distances.amin(1).max() < within


def run(algorithms, max_duration="6ep", **options):
    batches = Batches()
    made = trainer(algorithms=algorithms, max_duration=max_duration, callbacks=[batches], **options)
    made.fit()
    return made, batches


@pytest.mark.parametrize("mask", ["features", "input"])
@pytest.mark.parametrize("loader", [streaming.StreamingDataLoader, DataLoader])
def test_a_stream_of_labelled_data_in_all_three_phases(shards, mask, loader):
    made, batches = run([MixTraining(objective=MAE(mask=mask))], train_dataloader=sl_stream(shards, loader=loader))
    assert [int(p) for p in logged(made, "mixtraining/phase")] == [0] * 6 + [1] * 6 + [2] * 6
    epochs = [batches.images(start, start + 3) for start in range(0, 18, 3)]
    assert all(same_images(epoch, images(SL)) for epoch in epochs), "each sample of an epoch is seen once"
    orders = {tuple(batches.labels(start, start + 3).tolist()) for start in range(0, 18, 3)}
    assert len(orders) == 6, "shuffled anew in each epoch"
    nearest = (epochs[0][:, None] - images(SL)[None]).abs().amax((2, 3, 4)).argmin(1)
    assert torch.equal(labels(SL)[nearest], batches.labels(0, 3)), "with the label that is its own"


@pytest.mark.parametrize("kind", [streaming.StreamingDataLoader, DataLoader])
def test_a_stream_of_ssl_data(shards, kind):
    made, batches = run([MixTraining(ssl_dataloader=ssl_stream(shards, loader=kind))])
    assert [int(p) for p in logged(made, "mixtraining/phase")] == [0] * 10 + [1] * 6 + [2] * 6
    first, second = batches.images(0, 5), batches.images(5, 10)
    assert same_images(first, images(SSL, seed=30))
    assert same_images(second, images(SSL, seed=30))
    assert not torch.equal(first, second), "shuffled anew in each epoch"
    partners = [(batches.images(start, start + 3) - 0.5 * images(SL)) / 0.5 for start in (10, 13)]
    for drawn in partners:
        found = (drawn[:, None] - images(SSL, seed=30)[None]).abs().amax((2, 3, 4))
        assert found.amin(1).max() < 1e-5
        assert len(set(found.argmin(1).tolist())) == SL, "none twice before the pass is over"
    assert not torch.equal(*partners)
    assert torch.equal(batches.images(16, 19), images(SL)), "the labelled data undisturbed"


def test_more_partners_than_a_pass_of_the_stream_holds(shards):
    data = loader(3 * SSL, batch_size=8)
    _, batches = run([MixTraining(1, ssl_dataloader=ssl_stream(shards))], "1ep", train_dataloader=data)
    partners = (batches.images(0, 9) - 0.5 * images(3 * SSL)) / 0.5
    passes = partners.split(SSL)
    assert all(same_images(drawn, images(SSL, seed=30), 1e-5) for drawn in passes)
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[1], passes[2])


def test_both_data_sets_streaming(shards):
    ssl_data, sl_data = ssl_stream(shards), sl_stream(shards)
    _, batches = run([MixTraining(ssl_dataloader=ssl_data)], train_dataloader=sl_data)
    assert all(same_images(batches.images(*span), images(SSL, seed=30)) for span in ((0, 5), (5, 10)))
    assert all(same_images(batches.images(*span), images(SL)) for span in ((16, 19), (19, 22)))
    assert sorted(batches.labels(10, 13).tolist()) == sorted(labels(SL).tolist())


def test_worker_processes(shards):
    ssl_data, sl_data = ssl_stream(shards, num_workers=2), sl_stream(shards, num_workers=2)
    _, batches = run([MixTraining(ssl_dataloader=ssl_data)], "3ep", train_dataloader=sl_data)
    assert same_images(batches.images(0, 5), images(SSL, seed=30))
    assert same_images(batches.images(8, 11), images(SL))


@dataclass(frozen=True)
class Case:
    """Which data streams."""

    name: str
    sl: bool = False
    ssl: bool = False
    other: bool = False
    """Whether the SSL data is other than the labelled data."""

    def options(self, shards, **changes):
        unlabelled = ssl_stream(shards, AugmentedImages) if self.ssl else ssl_loader() if self.other else None
        labelled = {"train_dataloader": sl_stream(shards)} if self.sl else {}
        algorithm = MixTraining(ssl_dataloader=unlabelled, objective=MAE(mask="input"))
        return {"algorithms": [algorithm], **labelled, **changes}


CASES = [
    Case("labelled", sl=True),
    Case("labelled, other SSL data", sl=True, other=True),
    Case("SSL", ssl=True),
    Case("both", sl=True, ssl=True),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def result(made):
    """What two runs that are one run have in common: weights, optimizer state, random numbers."""
    moments = made.state.optimizers[0].state_dict()["state"]
    flat = {f"{i}.{name}": value for i, state in moments.items() for name, value in state.items()}
    return {**weights(made.state.model), **flat, "random numbers": torch.get_rng_state()}


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@cases
def test_two_runs_are_one(case, shards, process):
    results = []
    for _ in range(2):
        with process():
            made = trainer(**case.options(shards))
            made.fit()
            results.append(result(made))
    assert not differing(*results)


@cases
def test_it_resumes_from_every_batch_and_every_epoch(case, shards, tmp_path, process):
    length = {"max_duration": "4ep"}
    for interval in ("1ba", "1ep"):
        with process():
            saving = {"save_folder": str(tmp_path / interval), "save_interval": interval}
            whole = trainer(**case.options(shards, save_filename="{batch}.pt", **saving, **length))
            whole.fit()
            expected = result(whole)
    batches = whole.state.timestamp.batch.value
    checkpoints = [path for path in tmp_path.glob("1*/[0-9]*.pt") if path.stem != str(batches)]
    assert len(checkpoints) == batches - 1 + 3
    for path in checkpoints:
        with process():
            resumed = trainer(**case.options(shards, load_path=str(path), **length))
            resumed.fit()
            assert not differing(result(resumed), expected), path


def test_a_run_in_several_fits(shards):
    """The trainer goes on with the data sets it has, in the middle of an epoch."""

    seen = []
    for lengths in ((8,), (2, 2, 4)):
        batches = Batches()
        algorithms = [MixupSSLData(ssl_stream(shards)), ExactResumption()]
        made = trainer(algorithms=algorithms, train_dataloader=sl_stream(shards), callbacks=[batches])
        for length in lengths:
            made.fit(duration=f"{length}ba")
        seen.append(batches.labels(0, 8))
    assert torch.equal(*seen)


def test_a_subset_of_the_epoch_is_resumed(shards, tmp_path, process):
    options = {"train_subset_num_batches": 2, "max_duration": "3ep"}
    saving = {"save_folder": str(tmp_path / "saved"), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    whole = trainer(**CASES[0].options(shards, **options, **saving))
    whole.fit()
    expected = result(whole)
    for batch in range(1, 6):
        with process():
            options["load_path"] = str(tmp_path / "saved" / f"{batch}.pt")
            resumed = trainer(**CASES[0].options(shards, **options))
            resumed.fit()
            assert not differing(result(resumed), expected), batch


def test_past_epochs_are_not_begun_again(shards, tmp_path):
    """Composer spins a loader once for each past epoch, which for a stream may mean a download each."""
    saving = {"save_folder": str(tmp_path / "saved"), "save_interval": "1ba", "save_filename": "{batch}.pt"}
    case = CASES[-1]
    trainer(**case.options(shards, **saving)).fit()
    for batch, epoch, read in ((8, 1, "ssl"), (12, 2, "ssl"), (14, 3, "sl"), (18, 4, "sl")):
        options = case.options(shards, load_path=str(tmp_path / "saved" / f"{batch}.pt"))
        loaders = {"sl": options["train_dataloader"], "ssl": options["algorithms"][0].mixup_ssl_data.ssl_dataloader}
        begun = watched(loaders[read].dataset if read == "sl" else loaders[read].loader.dataset)
        trainer(**options).fit()
        # An epoch of MIX draws its partners from passes of their own.
        orders = {"ssl": {1: 1, 2: 1_000_005, 3: 1_000_006}, "sl": {3: 3, 4: 4, 5: 5}}[read]
        assert begun == [(order, 0) for e, order in orders.items() if e >= epoch], batch


def watched(stream):
    """A list that gets the epoch and the sample at which each pass over ``stream`` begins."""
    begun, begin = [], stream._resume_incr_epoch
    stream._resume_incr_epoch = lambda: begun.append(begin()) or begun[-1]
    return begun


def test_one_stream_in_two_loaders_is_refused(shards):
    labelled = sl_stream(shards)
    other = streaming.StreamingDataLoader(labelled.dataset, batch_size=5)
    with pytest.raises(ValueError, match=r"read the same LabelledImages.*build a data set for each"):
        run([MixTraining(ssl_dataloader=other)], train_dataloader=labelled)


def test_the_labelled_stream_itself_may_be_the_ssl_data(shards):
    data = sl_stream(shards)
    _, batches = run([MixTraining(ssl_dataloader=data)], train_dataloader=data)
    assert all(same_images(batches.images(start, start + 3), images(SL)) for start in range(0, 18, 3))


def test_an_unshuffled_stream_is_warned_about(shards):
    data = made_of(Images, shards / "ssl", 5, shuffle=False)
    with pytest.warns(UserWarning, match="shuffle=True"):
        MixTraining(ssl_dataloader=DataLoader(data, batch_size=5))


def test_shapes_that_do_not_match_are_both_named(shards):
    """A stream is not asked for an image before its turn: it may have to download it."""
    data = sl_stream(shards)
    other = DataLoader(images(8, 1, 16, 16), batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match=r"\(8, 1, 8, 8\).*\(8, 1, 16, 16\)"):
        run([MixTraining(1, ssl_dataloader=other)], model=classifier(), train_dataloader=data)
