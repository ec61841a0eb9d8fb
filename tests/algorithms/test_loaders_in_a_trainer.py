"""An ImageLoader wherever a Trainer takes a DataLoader."""

from __future__ import annotations

import warnings

import pytest
import torch
from composer.core import Callback, DataSpec, Evaluator
from composer.utils import dist
from shared import image_files
from shared.settings import classifier, resumes_from_every_batch, trainer, weights

from mixplug import MAE, ExactResumption, MixTraining, MixupSSLData
from mixplug.data.datasets import load_dataset
from mixplug.data.loaders import ImageLoader

COUNT = 20


def image_loader(count=COUNT, seed=0, shape=(1, 8, 8), batch_size=8, **options):
    """Augmented images, each with a label that tells which it is."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    options = {"shuffle": True, "crop_padding": 1, "flip": True, **options}
    return ImageLoader(images, torch.arange(count), batch_size, (0.5,), (0.3,), **options)


def made_of(algorithms, **options):
    options.setdefault("train_dataloader", image_loader())
    return trainer(classifier(num_classes=COUNT), algorithms, **options)


def fitted(algorithms, **options):
    made = made_of(algorithms, **options)
    made.fit()
    return made


def other_data(**options):
    return [MixTraining(objective=MAE("input"), ssl_dataloader=image_loader(22, 5, batch_size=5, **options))]


class Batches(Callback):
    """Keeps what the model was trained on."""

    def __init__(self):
        self.seen = []

    def batch_start(self, state, logger):
        self.seen.append(state.batch)


def epoch_of(number, made=None):
    made = made or image_loader()
    made.set_epoch(number)
    return list(made)


def assert_same(batches, expected):
    for (x, y), (images, targets) in zip(batches, expected, strict=True):
        assert torch.equal(x, images)
        assert torch.equal(y, targets)


def assert_same_weights(one, other):
    for name, value in weights(one.state.model).items():
        assert torch.equal(value, weights(other.state.model)[name]), name


ALGORITHMS = {
    "none": lambda: [],
    "MixTraining": lambda: [MixTraining()],
    "MixTraining, other data": other_data,
}
with_or_without = pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS)


def test_composer_knows_length_batch_size_and_share():
    data = image_loader()
    made = made_of([], train_dataloader=data, eval_dataloader=image_loader(batch_size=5))
    assert made.state.dataloader_len == len(data) == 3
    assert made.state.device_train_microbatch_size == 8
    assert made.state.evaluators[0].device_eval_microbatch_size == 5
    assert DataSpec(data).num_samples == COUNT


def test_epochs_of_a_run_are_those_of_the_loader():
    """With the same loader for training, for evaluation in the middle of epochs and for prediction before."""
    data, kept = image_loader(), Batches()
    made = made_of([], train_dataloader=data, eval_dataloader=data, eval_interval="2ba", callbacks=[kept])
    made.predict(data)
    made.fit(duration="3ep")
    assert_same(kept.seen, [batch for epoch in range(3) for batch in epoch_of(epoch)])


@with_or_without
def test_from_every_batch(make, tmp_path):
    """With an augmented evaluation in the middle of epochs, which resumption must not move either."""
    evaluation = {"eval_dataloader": image_loader(7, seed=9), "eval_interval": "2ba"}
    options = {"model": lambda: classifier(num_classes=22), "train_dataloader": image_loader, "max_duration": "3ep"}
    assert resumes_from_every_batch(tmp_path, make, **options, **evaluation) >= 8


@pytest.mark.parametrize("make", [ALGORITHMS["none"], ALGORITHMS["MixTraining"]], ids=["none", "MixTraining"])
def test_from_every_batch_of_a_subset_of_each_epoch(make, tmp_path):
    kept = Batches()
    options = {"model": lambda: classifier(num_classes=COUNT), "train_dataloader": image_loader, "max_duration": "3ep"}
    subset = {"train_subset_num_batches": 2}
    assert resumes_from_every_batch(tmp_path, make, **options, **subset) == 5
    made_of(make(), callbacks=[kept], max_duration="3ep", **subset).fit()
    if not make():
        assert_same(kept.seen, [batch for epoch in range(3) for batch in epoch_of(epoch)[:2]])


@with_or_without
@pytest.mark.filterwarnings("ignore:phases are planned")
@pytest.mark.parametrize("piece", [1, 4])
def test_pieces_are_the_run(make, piece):
    whole = fitted(make(), max_duration="9ba")
    pieces = made_of(make(), max_duration="9ba")
    while pieces.state.timestamp.batch < 9:
        pieces.fit(duration=f"{min(piece, 9 - pieces.state.timestamp.batch.value)}ba")
    assert_same_weights(whole, pieces)


def test_prediction_is_in_the_order_of_the_images():
    plain = image_loader(shuffle=False, crop_padding=0, flip=False)
    made = made_of([])
    with torch.no_grad():
        expected = [made.state.model.eval()(batch) for batch in plain]
    for ours, theirs in zip(made.predict(plain), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_in_the_middle_of_training_does_not_touch_it():
    plain = image_loader(7, shuffle=False, crop_padding=0, flip=False)
    evaluator = Evaluator(label="eval", dataloader=plain, metric_names=["MulticlassAccuracy"])
    made = fitted([MixTraining()], eval_dataloader=evaluator, eval_interval="1ba")
    assert_same_weights(fitted([MixTraining()]), made)
    accuracies = made.memory.data["metrics/eval/MulticlassAccuracy"]
    assert len(accuracies) == 18
    with torch.no_grad():
        right = sum(int((made.state.model.eval()(batch).argmax(1) == batch[1]).sum()) for batch in plain)
    assert accuracies[-1][1] == pytest.approx(right / 7)


def test_as_ssl_data_each_epoch_has_partners_of_its_own():
    """Of the same images in the same order, were it not for the epochs of the two kinds being kept apart."""
    pairs = []

    def keep(x_sl, x_ssl, lam):
        pairs[-1].append((x_sl, x_ssl))
        return x_sl

    class Epochs(Callback):
        def epoch_start(self, state, logger):
            pairs.append([])

    data, other = image_loader(), image_loader()
    algorithm = MixTraining(1, ssl_dataloader=other, mixing=keep)
    made_of([algorithm], train_dataloader=data, callbacks=[Epochs()], max_duration="4ep").fit()
    partners = []
    for epoch, batches in enumerate(pairs):
        images, theirs = (torch.cat(part) for part in zip(*batches, strict=True))
        assert torch.equal(images, torch.cat([x for x, _ in epoch_of(epoch)]))
        assert torch.equal(theirs, torch.cat([x for x, _ in epoch_of(epoch + 1_000_003)]))
        partners.append(theirs)
    assert not any(torch.equal(a, b) for i, a in enumerate(partners) for b in partners[:i])


@pytest.mark.parametrize("other", [{"shape": (1, 16, 16)}, {"size": 16}], ids=["images", "resized"])
def test_other_shapes_are_refused_before_the_ssl_phase(other):
    made = made_of(other_data(**other))
    with pytest.raises(ValueError, match=r"SL images are \(1, 8, 8\), the SSL images \(1, 16, 16\)"):
        made.fit()
    assert made.state.timestamp.batch == 0


def test_images_resized_to_one_shape_are_mixed():
    made = fitted(other_data(shape=(1, 16, 12), size=8), max_duration="3ep")
    assert made.state.timestamp.epoch == 3


def test_labels_that_are_no_classes_have_their_kind_of_stand_in():
    images = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)
    labelled = ImageLoader(images, torch.rand(COUNT, 5), 8, (0.5,), (0.3,))
    algorithm = MixTraining(ssl_dataloader=image_loader())
    made = trainer(algorithms=[algorithm], train_dataloader=labelled)
    algorithm.mixup_ssl_data.fit_start(made.state, made.logger)
    (_, stand_ins), *_ = algorithm.mixup_ssl_data.ssl_dataloader
    assert torch.equal(stand_ins, torch.zeros(8, 5))


def test_processes_share_it_as_ssl_data(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    MixupSSLData(image_loader()).init(None, None)


def test_unshuffled_it_is_warned_about_as_ssl_data():
    with pytest.warns(UserWarning, match="not shuffled"):
        MixupSSLData(image_loader(shuffle=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MixupSSLData(image_loader())


def test_the_labelled_data_itself_is_not_mixed():
    data = image_loader()
    same = fitted([MixTraining(ssl_dataloader=data)], train_dataloader=data)
    assert_same_weights(same, fitted([MixTraining()]))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_augmented_by_workers_runs_resume_bit_for_bit(tmp_path, workers):
    image_files.train_and_test(tmp_path / "data", count=3)
    split = load_dataset("image_folder", root=tmp_path / "data", in_memory=False)

    def loader():
        return split.train_loader(3, crop_padding=2, flip=True, workers=workers, seed=1)

    interruptions = resumes_from_every_batch(
        tmp_path / "checkpoints",
        lambda: [ExactResumption()],
        model=lambda: classifier(in_chans=3),
        train_dataloader=loader,
        max_duration="3ep",
    )
    assert interruptions == 5
