from __future__ import annotations

import math
import warnings

import pytest
import torch
from composer.core import Callback
from composer.models import ComposerClassifier
from composer.optim import ConstantScheduler, CosineAnnealingScheduler
from composer.utils import dist
from shared.settings import classifier, logged, ssl_loader, trainer
from shared.tiny import images, labels, loader, tiny_vit
from timm.data import Mixup
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset
from torchmetrics import MetricCollection

from mixplug import MixTraining, MixupSSLData, PhaseScheduler
from mixplug.data.unlabelled import PartnerStream, UnlabelledBatches


class Batches(Callback):
    """Keeps each training batch as the model gets it."""

    def __init__(self):
        self.seen = []

    def batch_start(self, state, logger):
        self.seen.append([part.clone() for part in state.batch])


def run(algorithms, **options):
    batches = Batches()
    made = trainer(algorithms=algorithms, callbacks=[batches], **options)
    made.fit()
    return made, batches.seen


def is_one_of(image, pool):
    return any(torch.equal(image, other) for other in pool)


def test_ssl_epochs_pass_over_the_ssl_data_and_mix_epochs_over_the_labelled_data():
    made, seen = run([MixTraining(0.5, ssl_dataloader=ssl_loader(22, 5))])
    phases = [int(p) for p in logged(made, "mixtraining/phase")]
    assert phases == [0] * 10 + [1] * 6 + [2] * 6
    pool, x_sl, y_sl = images(22, seed=30), images(20), labels(20)
    for epoch in (seen[:5], seen[5:10]):
        unlabelled = torch.cat([x for x, _ in epoch])
        assert sorted(i.sum().item() for i in unlabelled) == pytest.approx(sorted(i.sum().item() for i in pool))
    assert not torch.equal(seen[0][0], seen[5][0]), "shuffled anew in each epoch"
    for start in (10, 13):
        mixed, targets = (torch.cat(parts) for parts in zip(*seen[start : start + 3], strict=True))
        assert torch.equal(targets, y_sl)
        partners = (mixed - 0.5 * x_sl) / 0.5
        assert all(min((p - other).abs().max() for other in pool) < 1e-5 for p in partners)
    assert torch.equal(torch.cat([x for x, _ in seen[16:19]]), x_sl)


def test_each_mix_epoch_has_other_partners_and_each_run_the_same():
    _, first = run([MixTraining(1, ssl_dataloader=ssl_loader())], max_duration="2ep")
    _, second = run([MixTraining(1, ssl_dataloader=ssl_loader())], max_duration="2ep")
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(first[0][0], first[3][0])


def test_partners_do_not_disturb_other_random_numbers():
    """The labelled batches come in the same order with and without SSL data (masks on the device aside)."""
    options = {"max_duration": "2ep", "train_dataloader": loader(shuffle=True)}
    _, plain = run([], **options)
    _, mixed = run([MixupSSLData(ssl_loader())], **options)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.parametrize("count", [3, 22, 100])
@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_ssl_data_of_any_length_and_batch_size(count, batch_size):
    made, seen = run([MixTraining(0.5, ssl_dataloader=ssl_loader(count, batch_size))], max_duration="3ep")
    ssl_batches = -(-count // batch_size)
    assert len(seen) == ssl_batches + 3 + 3
    assert made.state.timestamp.epoch == 3


def test_phases_in_batches_end_the_ssl_pass_at_the_switch():
    algorithm = MixTraining(0.5, ssl_duration="9ba", sl_duration="4ba", ssl_dataloader=ssl_loader(22, 5))
    made, seen = run([algorithm], max_duration="11ba")
    assert [int(p) for p in logged(made, "mixtraining/phase")] == [0] * 7 + [1] * 2 + [2] * 2
    assert torch.equal(seen[7][1], labels(20)[:8]), "the labelled data begins with the MIX phase"


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return images(10, seed=30)[index], {"name": f"image {index}"}


@pytest.mark.parametrize(
    "dataset",
    [
        images(10, seed=30),
        TensorDataset(images(10, seed=30)),
        TensorDataset(images(10, seed=30), labels(10, 1000)),
        Pairs(),
    ],
    ids=["tensor", "1-tuple", "(image, label)", "(image, dict)"],
)
def test_batches_of_images_alone_or_with_anything(dataset):
    made, _ = run([MixTraining(0.5, ssl_dataloader=DataLoader(dataset, batch_size=4, shuffle=True))])
    assert made.state.timestamp.epoch == 6


def test_a_generator_function_of_batches():
    class Endless:
        def __iter__(self):
            return iter([images(4, seed=30), images(4, seed=31)])

    made, _ = run([MixupSSLData(Endless())], max_duration="2ep")
    assert made.state.timestamp.epoch == 2


def test_without_ssl_data_nothing_changes():
    _, plain = run([])
    _, with_it = run([MixupSSLData()])
    assert all(torch.equal(a, b) for x, y in zip(plain, with_it, strict=True) for a, b in zip(x, y, strict=True))


def test_any_mixing_function_may_be_plugged_in():
    calls = []

    def paste(x_sl, x_ssl, lam):
        calls.append((x_sl.shape, x_ssl.shape, lam))
        return torch.where(torch.arange(8) < 8 * lam, x_sl, x_ssl)

    _, seen = run([MixTraining(1, ssl_dataloader=ssl_loader(), mixing=paste, lam=0.25)], max_duration="1ep")
    assert [c[0] for c in calls] == [c[1] for c in calls] == [(8, 1, 8, 8), (8, 1, 8, 8), (4, 1, 8, 8)]
    assert {c[2] for c in calls} == {0.25}
    assert torch.equal(seen[0][0][..., :2], images(20)[:8][..., :2])
    assert all(is_one_of(image[..., 2:], images(22, seed=30)[..., 2:]) for image in seen[0][0])


def test_a_subset_of_the_epoch_holds_for_both_data_sets():
    made, seen = run(
        [MixTraining(0.5, ssl_dataloader=ssl_loader(22, 5))], max_duration="3ep", train_subset_num_batches=2
    )
    assert len(seen) == 6
    assert made.state.timestamp.epoch == 3


def test_the_supervised_loss_of_unlabelled_batches_is_not_a_number():
    made, _ = run([MixTraining(0.5, ssl_dataloader=ssl_loader(22, 5))])
    values = torch.tensor(logged(made, "loss/train/sl"))
    assert values[:10].isnan().all()
    assert values[10:].isfinite().all()
    assert torch.tensor(logged(made, "loss/train/total")).isfinite().all()


def test_shapes_that_do_not_match_are_both_named():
    other = DataLoader(TensorDataset(images(8, 1, 16, 16)), batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).*\(1, 16, 16\)"):
        run([MixTraining(1, ssl_dataloader=other)])


def test_shapes_are_compared_before_the_ssl_phase_and_only_if_they_will_be_mixed():
    other = DataLoader(TensorDataset(images(8, 1, 16, 16)), batch_size=4, shuffle=True)
    options = {"model": classifier(dynamic_img_size=True)}
    made = trainer(algorithms=[MixTraining(0.5, ssl_dataloader=other)], **options)
    with pytest.raises(ValueError, match="must have one shape"):
        made.fit()
    assert made.state.timestamp.batch == 0
    made, _ = run([MixTraining(0, ssl_dataloader=other)], model=classifier(dynamic_img_size=True))
    assert made.state.timestamp.epoch == 6


def test_shapes_that_only_a_batch_can_tell():
    class Larger:
        def __iter__(self):
            return iter([images(4, 1, 16, 16)])

    with pytest.raises(ValueError, match=r"\(8, 1, 8, 8\).*\(8, 1, 16, 16\)"):
        run([MixTraining(1, ssl_dataloader=Larger())])


def test_the_labelled_data_itself_is_not_mixed():
    """For equal data sets g(D_ssl, D_sl) = D_sl (Li et al., section 2.2.2)."""
    data = loader()
    with pytest.warns(UserWarning, match="shuffle"):
        same = MixTraining(0.5, ssl_dataloader=data)
    made, seen = run([same], train_dataloader=data)
    plain, expected = run([MixTraining(0.5)])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(seen, expected, strict=True))
    assert logged(made, "loss/train/total") == logged(plain, "loss/train/total")


def test_unshuffled_ssl_data_is_warned_about():
    with pytest.warns(UserWarning, match="shuffle=True"):
        MixupSSLData(DataLoader(images(8), batch_size=4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ssl_dataloader": 3}, TypeError, "ssl_dataloader must give batches"),
        ({"ssl_dataloader": "foo"}, TypeError, "ssl_dataloader must give batches"),
        ({"ssl_dataloader": []}, ValueError, "ssl_dataloader is empty"),
        ({"ssl_dataloader": iter([images(4)])}, TypeError, "passed over only once"),
        ({"mixing": "mixup"}, TypeError, "mixing must be a function"),
        ({"lam": 1.5}, ValueError, "lam must be a number"),
        ({"lam": "0.5"}, TypeError, "lam must be a number"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        MixTraining(**options)


def test_an_empty_ssl_loader():
    with pytest.raises(ValueError, match="ssl_dataloader is empty"):
        MixTraining(ssl_dataloader=DataLoader(images(3), batch_size=4, drop_last=True))


def test_an_ssl_loader_that_gives_no_batch():
    class Nothing:
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="gave no batch"):
        run([MixTraining(1, ssl_dataloader=Nothing())])


def test_ssl_batches_that_are_no_images():
    with pytest.raises(TypeError, match="an SSL batch must be a tensor"):
        run([MixTraining(0, ssl_dataloader=[{"pixels": images(4)}])])


def test_samplers_of_one_seed_do_not_give_each_image_one_partner_for_ever():
    """Two data sets of one length, each sharded by get_sampler, would come in the same order in every epoch."""
    numbers = torch.arange(20.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    sl, ssl = TensorDataset(numbers, labels(20)), TensorDataset(numbers)
    made = [DataLoader(data, batch_size=5, sampler=dist.get_sampler(data, shuffle=True)) for data in (sl, ssl)]

    def first_image(x_sl, x_ssl, lam):
        pairs.update(zip(x_sl[:, 0, 0, 0].tolist(), x_ssl[:, 0, 0, 0].tolist(), strict=True))
        return x_sl

    pairs = set()
    run([MixTraining(1, ssl_dataloader=made[1], mixing=first_image)], train_dataloader=made[0], max_duration="3ep")
    assert len(pairs) > 40


class Stream(IterableDataset):
    def __iter__(self):
        return iter(images(8, seed=30))


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)


def at_init(ssl_dataloader):
    """What the algorithm does when a Trainer begins: all of it that several processes change, without them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of data that is not shuffled
        MixupSSLData(ssl_dataloader).init(None, None)


def test_ssl_data_that_every_process_would_pass_over_is_refused(two_processes):
    with pytest.raises(ValueError, match=r"composer\.utils\.dist\.get_sampler\(dataset, shuffle=True\)"):
        at_init(ssl_loader())
    with pytest.raises(ValueError, match="all 2 processes"):
        at_init(DataLoader(images(8), batch_sampler=BatchSampler(range(8), 4, drop_last=False)))


def test_sharded_ssl_data_and_what_cannot_be_checked_is_not_refused(two_processes):
    data = images(8)
    sampler = dist.get_sampler(data, shuffle=True, num_replicas=2, rank=0)
    at_init(DataLoader(data, batch_size=4, sampler=sampler))
    at_init(DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False)))
    at_init(DataLoader(Stream(), batch_size=4))
    at_init([images(4), images(4)])
    MixupSSLData().init(None, None)


def test_one_process_needs_no_sharding():
    at_init(ssl_loader())


def test_a_list_of_batches_is_left_as_it_is():
    batches = [list(batch) for batch in loader()]
    kept = [batch[0].clone() for batch in batches]
    run([MixTraining(ssl_dataloader=ssl_loader())], train_dataloader=batches, device_train_microbatch_size=8)
    assert all(torch.equal(batch[0], image) for batch, image in zip(batches, kept, strict=True))


def scheduled(schedule, count, **options):
    algorithm = MixTraining(ssl_dataloader=ssl_loader(count, 5))
    made = trainer(algorithms=[algorithm], schedulers=schedule, **options)
    made.fit()
    return made


def test_one_schedule_over_epochs_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match=r"CosineAnnealingScheduler .* 5 batches in the SSL phase and 3 after it"):
        scheduled(CosineAnnealingScheduler(), 22)
    with pytest.raises(ValueError, match="use a PhaseScheduler"):
        scheduled(lambda state: float(state.get_elapsed_duration()), 22)


@pytest.mark.parametrize(
    ("schedule", "count", "options"),
    [
        (CosineAnnealingScheduler(), 15, {}),
        (CosineAnnealingScheduler(), 22, {"max_duration": "12ba"}),
        (CosineAnnealingScheduler(), 22, {"train_subset_num_batches": 2}),
        (PhaseScheduler(), 22, {}),
        (ConstantScheduler(), 22, {}),
    ],
)
def test_schedules_that_end_with_the_run(schedule, count, options):
    assert len(logged(scheduled(schedule, count, **options), "loss/train/total")) > 0


def test_a_subset_given_to_a_later_fit():
    batches = Batches()
    made = trainer(algorithms=[MixTraining(ssl_dataloader=ssl_loader())], callbacks=[batches])
    counts = []
    for subset in (-1, 2, 2, 1, 1, 1):
        before = len(batches.seen)
        made.fit(duration="1ep", train_subset_num_batches=subset)
        counts.append(len(batches.seen) - before)
    assert counts == [5, 2, 2, 1, 1, 1]


def test_other_labelled_data_in_a_later_fit_is_not_the_ssl_data():
    data = loader(shuffle=True)
    made = trainer(algorithms=[MixTraining(ssl_dataloader=data)], train_dataloader=data)
    made.fit(duration="1ep")
    made.fit(duration="1ep", train_dataloader=loader(4, shuffle=True))
    assert made.state.timestamp.batch == 6, "the SSL phase goes on with the SSL data"


def test_ssl_data_without_a_length_is_warned_about():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(images(8, seed=30))

    data = DataLoader(Stream(), batch_size=4)
    with pytest.warns(UserWarning, match=r"\(Stream\) has no length: .* train_subset_num_batches"):
        run([MixTraining(ssl_dataloader=data)])


def test_a_resumed_epoch_passes_over_partners_a_batch_at_a_time():
    """Two streams, one of which began later, give the same partners, and no more than a batch waits."""
    data = UnlabelledBatches(ssl_loader(100, 7))
    whole, resumed = PartnerStream(data, 1, 2), PartnerStream(data, 1, 2)
    drawn = whole.draw(95)
    resumed.skip(60)
    assert sum(len(parts[0]) for parts in resumed._pieces._waiting) <= 7
    assert torch.equal(resumed.draw(35), drawn[60:])


class Batched(list):
    batch_size = 8


def batched_by_its_sampler():
    data = TensorDataset(images(20), torch.rand(20, 10))
    return DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(range(20), 8, False))


@pytest.mark.parametrize("made", [batched_by_its_sampler, lambda: Batched(map(list, batched_by_its_sampler()))])
def test_labels_of_their_own_shape_from_other_loaders(made):
    def loss(outputs, targets):
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    model = ComposerClassifier(tiny_vit(), train_metrics=MetricCollection([]), loss_fn=loss)
    options = {"model": model, "train_dataloader": made(), "device_train_microbatch_size": 8}
    trained, _ = run([MixTraining(ssl_dataloader=ssl_loader())], **options)
    assert trained.state.timestamp.epoch == 6


def test_labelled_batches_without_images_are_named():
    data = Batched([{"image": images(8), "label": labels(8)}])
    with pytest.raises(TypeError, match=r"a batch of the train_dataloader must be a tensor of images .* got dict"):
        run([MixTraining(ssl_dataloader=ssl_loader())], train_dataloader=data)


class Strict(ComposerClassifier):
    """Its loss knows a label when it sees one, and so does its metric."""

    def loss(self, outputs, batch, *args, **options):
        targets = batch[1]
        assert targets.dtype == torch.float32
        assert targets.sum(dim=-1) == pytest.approx(1)
        return torch.nn.functional.cross_entropy(outputs, targets)

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs, batch[1].argmax(dim=-1))
        assert (batch[1].sum(dim=-1) > 0.5).all()


def timm_mixup(samples):
    """timm's Mixup in the collate function, which takes batches of even size."""
    x, y = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return Mixup(num_classes=10, prob=1.0, label_smoothing=0.1)(x, y)


@pytest.mark.parametrize("options", [{}, {"mixing": "side_by_side", "labelled_per_step": 2}])
def test_no_supervised_loss_runs_over_other_data(options):
    model = Strict(tiny_vit(), num_classes=10)
    labelled = DataLoader(TensorDataset(images(20), labels(20)), batch_size=4, collate_fn=timm_mixup)
    made = trainer(
        model, [MixTraining(ssl_dataloader=ssl_loader(), **options)], train_dataloader=labelled, max_duration="3ep"
    )
    made.fit()
    ssl, sl = (logged(made, f"loss/train/{name}") for name in ("ssl", "sl"))
    in_ssl = [phase == 0 for phase in logged(made, "mixtraining/phase")]
    assert [math.isnan(loss) for loss in sl] == in_ssl
    assert all(math.isfinite(loss) for loss, now in zip(ssl, in_ssl, strict=True) if now)
    assert "loss" not in vars(model)
    accuracies = made.logger.destinations[0].data["metrics/train/MulticlassAccuracy"]
    first = sum(in_ssl)
    assert first > 0
    assert {time.batch.value for time, _ in accuracies} == set(range(first, len(in_ssl) + 1))
    assert set(made.state.train_metrics) == {"MulticlassAccuracy"}


def test_the_loss_is_back_after_a_run_that_was_stopped_in_it():
    model = classifier()
    made = trainer(model, [MixTraining(ssl_dataloader=ssl_loader())], callbacks=[StopAtLoss()])
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    made.state.callbacks.clear()
    made.fit()
    assert "loss" not in vars(model)


class StopAtLoss(Callback):
    def after_loss(self, state, logger):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("count", "batches"), [(22, 3), (10, 2)])
def test_an_epoch_of_ssl_may_be_as_long_as_a_labelled_one(count, batches):
    made, seen = run([MixTraining(0.5, ssl_dataloader=ssl_loader(count, 5), ssl_epoch="labelled")])
    phases = [int(p) for p in logged(made, "mixtraining/phase")]
    assert phases == [0] * 2 * batches + [1] * 6 + [2] * 6
    first, second = (torch.cat([x for x, _ in seen[k * batches : (k + 1) * batches]]) for k in (0, 1))
    assert not torch.equal(first, second)
    assert repr(MixupSSLData(ssl_loader()).settings()).find("ssl_epoch") < 0
    with pytest.raises(ValueError, match="ssl_epoch must be one of"):
        MixupSSLData(ssl_loader(), ssl_epoch="short")
