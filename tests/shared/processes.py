"""What tests/test_processes.py lets several processes do: ``composer -n N tests/processes.py FOLDER``.

Each process runs all the checks one after the other, because to start costs more than to train, and leaves what it
saw in ``FOLDER/RANK.pt``. Total batch sizes and data divide evenly by 1, 2, 3 and 4 unless a check is about just that.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from composer import Trainer
from composer.core import Algorithm, Callback, Evaluator, Event
from composer.models import ComposerClassifier
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config
from shared.settings import (
    TASKS,
    classifier,
    convolutional_classifier,
    multi_task_classifier,
    multi_task_loader,
    trainer,
)
from shared.tiny import images, labels
from shared.two_view import OBJECTIVES
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mixplug import (
    MAE,
    SDMP,
    AutoCompression,
    FusedBackbonePass,
    JointLoss,
    LinearProbe,
    MixTraining,
    OnlineKNN,
    PatchScaling,
    PseudoLabels,
    Ramp,
    TokenDropout,
    backbone_of,
)
from mixplug.backbones.probing import extract_features, gather_features, knn_accuracy, linear_probe_accuracy
from mixplug.data.loaders import ImageLoader
from mixplug.data.multi_task import MultiTaskEvalLoader, MultiTaskLoader

SHORT = "3ep"
"""An epoch of each phase at rho = 0.5."""


class PerBatch(Callback):
    """Keeps the weights as one vector after each batch."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def batch_end(self, state, logger):
        whole = (p.full_tensor() if isinstance(p, DTensor) else p for p in state.model.parameters())
        self.weights.append(torch.cat([p.detach().flatten() for p in whole]))


def sharded(dataset: Dataset, total_batch_size: int, **options: Any) -> DataLoader:
    """A loader of this process's share: images r, r + N, ... of an order that does not depend on their number N."""
    sampler = dist.get_sampler(dataset, shuffle=True)
    return DataLoader(dataset, batch_size=total_batch_size // dist.get_world_size(), sampler=sampler, **options)


def labelled(count: int = 36, dtype: torch.dtype = torch.float32) -> DataLoader:
    return sharded(TensorDataset(images(count, dtype=dtype), labels(count)), 12)


def unlabelled(count: int = 48, dtype: torch.dtype = torch.float32) -> DataLoader:
    return sharded(images(count, seed=30, dtype=dtype), 24)  # type: ignore[arg-type]


def two_tasks(dtype: torch.dtype) -> MultiTaskLoader:
    return multi_task_loader(partial(sharded, total_batch_size=12), (24, 36), dtype)


def two_uneven_tasks() -> MultiTaskLoader:
    """Whose images no number of processes divides."""
    pixels = images(36).mul(50).add(128).clamp(0, 255).byte()
    loaders = {
        name: ImageLoader(pixels[:count], labels(count, TASKS[name]), 4, (0.5,), (0.3,), shuffle=True, flip=True)
        for name, count in {"a": 31, "b": 13}.items()
    }
    return MultiTaskLoader(loaders, TASKS)


def for_evaluation(loader: MultiTaskLoader) -> MultiTaskEvalLoader:
    return MultiTaskEvalLoader(loader.loaders, loader.tasks)


def small_images(count: int, batch_size: int, labels: torch.Tensor | None = None, **options: Any) -> ImageLoader:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageLoader(
        pixels, torch.arange(count) % 10 if labels is None else labels, batch_size, (0.5,), (0.5,), **options
    )


def fit(made: Trainer, kept: PerBatch) -> dict[str, Any]:
    made.fit()
    names = ("mixtraining/phase", "loss/train/total", "loss/train/ssl", "loss/train/sl", "compression/overhead")
    logged = {name: [float(value) for _, value in made.memory.data[name]] for name in names if name in made.memory.data}
    return {
        "weights": torch.stack(kept.weights),
        "ddp": isinstance(made.state.model, DistributedDataParallel),
        "sync": made._ddp_sync_strategy.value,
        "find_unused_parameters": made._find_unused_parameters,
        "logged": logged,
        "metrics": {name: float(value) for name, value in made.state.eval_metric_values.items()},
        "auto": next((a.progress() for a in made.state.algorithms if isinstance(a, AutoCompression)), None),
    }


def same_weights(
    make: Callable[[], list[Algorithm]],
    model: Callable[[], ComposerClassifier] = classifier,
    data: Callable[[], Any] = labelled,
    **options: Any,
) -> dict[str, Any]:
    kept = PerBatch()
    made = trainer(model(), make(), SHORT, callbacks=[kept], train_dataloader=data(), **options)
    return fit(made, kept)


def from_image_loaders() -> dict[str, Any]:
    options: dict[str, Any] = {"shuffle": True, "crop_padding": 1, "flip": True}
    ssl = small_images(19, 3, **options)
    return same_weights(lambda: [MixTraining(ssl_dataloader=ssl)], data=lambda: small_images(31, 4, **options))


def other_data() -> list[Algorithm]:
    return [MixTraining(ssl_dataloader=unlabelled(), objective=MAE(mask="input"))]


def ramps() -> list[Algorithm]:
    return [MixTraining(alpha=Ramp(1.0, 0.0), objective=MAE("input", Ramp(0.75, 0.0)))]


def from_input() -> list[Algorithm]:
    return [MixTraining(objective=MAE(mask="input"), reset_optimizer=True)]


SAME_WEIGHTS: dict[str, Callable[[], dict[str, Any]]] = {
    "features": lambda: same_weights(lambda: [MixTraining()]),
    "input": lambda: same_weights(from_input),
    "ramps": lambda: same_weights(ramps, ddp_sync_strategy="single_auto_sync"),
    "other data": lambda: same_weights(other_data),
    "microbatches": lambda: same_weights(lambda: [MixTraining()], device_train_microbatch_size=2),
    "exact microbatches": lambda: same_weights(
        lambda: [MixTraining(objective=OBJECTIVES["SimCLR"](), exact_microbatches=True)],
        device_train_microbatch_size=2,
        ddp_sync_strategy="single_auto_sync",
    ),
    "average pooling": lambda: same_weights(lambda: [MixTraining()], lambda: classifier(global_pool="avg")),
    "registers, pooling by attention": lambda: same_weights(
        from_input, lambda: classifier(reg_tokens=2, class_token=False, global_pool="map")
    ),
    "ImageLoader": from_image_loaders,
    "no phases": lambda: same_weights(lambda: [FusedBackbonePass(), JointLoss(Ramp(1.0, 0.0))]),
    **{
        name: lambda name=name: same_weights(lambda: [MixTraining(objective=OBJECTIVES[name]())]) for name in OBJECTIVES
    },
    "MoCoV2Plus, CNN": lambda: same_weights(
        lambda: [MixTraining(objective=OBJECTIVES["MoCoV2Plus"]())], convolutional_classifier
    ),
    "fewer tokens, larger patches": lambda: same_weights(
        lambda: [MixTraining(objective=OBJECTIVES["MoCoV3"]()), TokenDropout(0.5), PatchScaling((2, 4))]
    ),
    "side by side": lambda: same_weights(
        lambda: [
            MixTraining(
                ssl_dataloader=unlabelled(), mixing="side_by_side", labelled_per_step=2, objective=MAE(mask="input")
            )
        ]
    ),
    "pseudo-labels": lambda: same_weights(
        lambda: [
            PseudoLabels(0.15, per_class=True),
            MixTraining(
                ssl_dataloader=unlabelled(), mixing="side_by_side", labelled_per_step=2, objective=MAE(mask="input")
            ),
        ]
    ),
    "mixed images": lambda: same_weights(
        lambda: [MixTraining(objective=OBJECTIVES["MoCoV3"]()), SDMP(labels=True)], ddp_sync_strategy="single_auto_sync"
    ),
    "measured compression": lambda: same_weights(
        lambda: [AutoCompression((0.5, 0.0), share=1.0, sub_batch=1, over="run")], data=lambda: labelled(60)
    ),
    "two tasks": lambda: same_weights(
        from_input, multi_task_classifier, two_uneven_tasks, eval_dataloader=for_evaluation(two_uneven_tasks())
    ),
}


def first_patches(batch: int, patches: int, device: torch.device, *, share: torch.Tensor, hidden: int) -> torch.Tensor:
    """In place of a random choice, the same for each image, in whichever process and place of the batch it is."""
    return torch.arange(patches // 4, device=device).expand(batch, -1)


def like_one_process(
    mask: str,
    other: bool,
    optimizer: Any = torch.optim.AdamW,
    lr: float = 1e-3,
    model: Callable[[], ComposerClassifier] = classifier,
    others: Sequence[Algorithm] = (),
    **options: Any,
) -> dict[str, Any]:
    kept = PerBatch()
    ssl_dataloader = unlabelled(dtype=torch.float64) if other else None
    # With other data, MIX draws 60 partners of 48 images: the stream begins anew within an epoch.
    made = trainer(
        model().double(),
        [MixTraining(alpha=0.3, objective=MAE(mask), ssl_dataloader=ssl_dataloader, lam=0.7), *others],
        SHORT,
        optimizer=optimizer,
        lr=lr,
        callbacks=[kept],
        **{"train_dataloader": labelled(60, torch.float64), **options},
    )
    with mock.patch("mixplug.backbones.selection._random_share", first_patches):
        return fit(made, kept)


LIKE_ONE_PROCESS: dict[str, Callable[[], dict[str, Any]]] = {
    "features, other data, AdamW": lambda: like_one_process("features", True),
    "input, equal data, AdamW": lambda: like_one_process("input", False),
    "features, equal data, AdamW": lambda: like_one_process("features", False),
    "input, other data, AdamW": lambda: like_one_process("input", True),
    "input, other data, SGD": lambda: like_one_process("input", True, partial(torch.optim.SGD, momentum=0.9), 0.1),
    "fewer tokens, larger patches": lambda: like_one_process(
        "input",
        False,
        partial(torch.optim.SGD, momentum=0.9),
        0.1,
        others=[TokenDropout(0.5, ("sl",)), PatchScaling((2, 4), ("sl",))],
    ),
    **{
        f"{mask}, two tasks": lambda mask=mask: like_one_process(
            mask,
            False,
            model=multi_task_classifier,
            train_dataloader=two_tasks(torch.float64),
            eval_dataloader=for_evaluation(two_tasks(torch.float64)),
        )
        for mask in ("features", "input")
    },
}


class Numbered(Dataset):
    """Image i is all i, and so is its label."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 8, 8), float(index)), index


class WhatWasSeen(Callback):
    """Keeps the numbers of labelled and of unlabelled images that the model got in each phase (an epoch each)."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, list[int]]] = {p: {"sl": [], "ssl": []} for p in ("SSL", "MIX", "SL")}

    def batch_start(self, state, logger):
        phase = list(self.phases)[state.timestamp.epoch.value]
        pixels, numbers = state.batch[0][:, 0, 0, 0], state.batch[1]
        unlabelled = {"SSL": pixels, "MIX": 2 * pixels - numbers, "SL": pixels[:0]}[phase]
        self.phases[phase]["ssl"] += unlabelled.int().tolist()
        self.phases[phase]["sl"] += numbers.tolist() if phase != "SSL" else []


UNEVEN_BATCH = 3
"""Images of a batch in each process."""


def uneven(sl: int, ssl: int, drop_last: bool) -> dict[str, Any]:
    total = UNEVEN_BATCH * dist.get_world_size()
    seen = WhatWasSeen()
    made = trainer(
        classifier(num_classes=sl),
        [MixTraining(ssl_dataloader=sharded(Numbered(ssl), total, drop_last=drop_last))],
        SHORT,
        train_dataloader=sharded(Numbered(sl), total, drop_last=drop_last),
        callbacks=[seen],
    )
    made.fit()
    return {"sl": sl, "ssl": ssl, "drop_last": drop_last, "phases": seen.phases}


UNEVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "29 labelled, 47 others": lambda: uneven(29, 47, False),
    "31 labelled, 13 others, drop_last": lambda: uneven(31, 13, True),
    "29 labelled, 47 others, drop_last": lambda: uneven(29, 47, True),
    "31 labelled, 13 others": lambda: uneven(31, 13, False),
    "29 labelled, 1 other": lambda: uneven(29, 1, False),
}


def evaluated(count: int, batch_size: int, microbatch: int | None = None, shuffle: bool = False) -> dict[str, Any]:
    """Accuracies before and after training, of the evaluation and counted here on all images."""
    model = classifier()
    whole = small_images(count, batch_size)
    every, _ = whole.collate_fn(list(whole.dataset))
    with torch.no_grad():
        right = model.module.eval()(every).argmax(1)
    # Wrong for those that an order is filled up with.
    targets = (right + (torch.arange(count) < dist.get_world_size())) % 10
    data = small_images(count, batch_size, targets, shuffle=shuffle)
    evaluator = Evaluator(
        label="eval",
        dataloader=data,
        metric_names=["MulticlassAccuracy"],
        device_eval_microbatch_size=microbatch or batch_size,
    )
    made = trainer(model, [MixTraining()], SHORT, train_dataloader=small_images(31, 4), eval_dataloader=[evaluator])

    def accuracies() -> dict[str, float]:
        with torch.no_grad():
            counted = float((model.module.eval()(every).argmax(1) == targets).double().mean())
        return {"evaluated": float(made.state.eval_metric_values["MulticlassAccuracy"]), "counted": counted}

    made.eval()
    results = {"before": accuracies(), "samples": made.state.eval_timestamp.sample.value, "count": count}
    made.fit()
    return {**results, "after": accuracies()}


EVALUATED: dict[str, Callable[[], dict[str, Any]]] = {
    "7 images": lambda: evaluated(7, 2),
    "13 images, microbatches": lambda: evaluated(13, 4, microbatch=3),
    "1 image": lambda: evaluated(1, 2),
    "13 images, shuffled": lambda: evaluated(13, 4, shuffle=True),
    "12 images": lambda: evaluated(12, 5),
}


def probed(make: Callable[[int, int], DataLoader], algorithms: Callable[[], list[Algorithm]]) -> dict[str, Any]:
    """What the callbacks log of shares that are filled up, what one process would, and the weights without them."""
    train, test = make(31, 3), make(13, 2)
    named = {"knn": OnlineKNN(train, test, "1ep", k=7), "linear_probe": LinearProbe(train, test, "1ep")}
    weights, logged = [], {}
    for callbacks in ([], list(named.values())):
        kept = PerBatch()
        made = trainer(classifier(), algorithms(), SHORT, train_dataloader=labelled(), callbacks=[kept, *callbacks])
        made.fit()
        weights.append(torch.stack(kept.weights))
        if callbacks:
            logged = {name: [float(value) for _, value in made.memory.data[f"{name}/accuracy"]] for name in named}
    whole = [
        extract_features(backbone_of(made.state.model), DataLoader(part.dataset, 5, collate_fn=part.collate_fn))
        for part in (train, test)
    ]
    alone = {
        "knn": knn_accuracy(*whole[0], *whole[1], k=7),
        "linear_probe": linear_probe_accuracy(*whole[0], *whole[1]),
    }
    shares = [gather_features(*extract_features(backbone_of(made.state.model), part), part) for part in (train, test)]
    return {"weights": weights, "logged": logged, "alone": alone, "shares": shares, "whole": whole}


def noise(count: int, total_batch_size: int) -> DataLoader:
    return sharded(TensorDataset(images(count, seed=70 + count), labels(count, 3)), 6 * total_batch_size)


PROBED: dict[str, Callable[[], dict[str, Any]]] = {
    "ImageLoader, in order": lambda: probed(lambda n, batch: small_images(n, batch, labels(n, 3)), list),
    "DataLoader, shuffled, MixTraining": lambda: probed(noise, lambda: [MixTraining()]),
}


def refused_probe() -> str:
    """What is said of a mistake that only the first process meets."""
    one_class = small_images(12, 4, torch.zeros(12, dtype=torch.long))
    made = trainer(None, [], "1ep", train_dataloader=labelled(), callbacks=[LinearProbe(one_class, one_class)])
    try:
        made.fit()
    except ValueError as error:
        return str(error)
    return ""


RESUMED_AFTER = {"SSL": 5, "MIX": 10, "SL": 16}
"""Batches before a checkpoint, each in the middle of an epoch."""


def resumed(folder: Path) -> dict[str, dict[str, Any]]:
    """A run with random masks and partners that do not divide evenly, and the same from checkpoints of it."""

    def run(**options: Any) -> dict[str, Any]:
        world = dist.get_world_size()
        sl = TensorDataset(images(8 * world + 1), labels(8 * world + 1))
        ssl = TensorDataset(images(11 * world + 1, seed=30))
        kept = PerBatch()
        made = trainer(
            algorithms=[
                MixTraining(ssl_dataloader=sharded(ssl, 4 * world), objective=MAE("input"), reset_optimizer=True)
            ],
            train_dataloader=sharded(sl, 3 * world),
            callbacks=[kept],
            **options,
        )
        return fit(made, kept)

    def at_the_middles(state, event):
        return event is Event.BATCH_CHECKPOINT and state.timestamp.batch.value in RESUMED_AFTER.values()

    results = {"whole": run(save_folder=str(folder), save_filename="{batch}.pt", save_interval=at_the_middles)}
    for phase, batch in RESUMED_AFTER.items():
        results[phase] = run(load_path=str(folder / f"{batch}.pt"))
    return results


class OwnShare(torch.utils.data.IterableDataset):
    """Images of which process r holds 6 + 3r: nothing that could be checked before."""

    def __iter__(self):
        return iter(images(6 + 3 * dist.get_global_rank()))


def shards() -> dict[str, Any]:
    """What becomes of SSL data that is not, or not evenly, sharded."""
    same_for_all = DataLoader(TensorDataset(images(24)), batch_size=4, shuffle=True)
    refusal = ""
    try:
        trainer(algorithms=[MixTraining(ssl_dataloader=same_for_all)], train_dataloader=labelled())
    except ValueError as error:
        refusal = str(error)
    unchecked = DataLoader(OwnShare(), batch_size=3)
    made = trainer(None, [MixTraining(ssl_dataloader=unchecked)], SHORT, train_dataloader=labelled())
    made.fit()
    unequal = [images(3)] * (2 + dist.get_global_rank())
    told = trainer(None, [MixTraining(ssl_dataloader=unequal)], SHORT, train_dataloader=labelled())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told.fit()
    return {
        "refusal": refusal,
        "batches": [made.state.timestamp.batch.value, told.state.timestamp.batch.value],
        "warnings": [str(w.message) for w in caught if "ssl_dataloader" in str(w.message)],
    }


def sharded_model(folder: Path) -> dict[str, Any]:
    """The same runs with the model held whole (DDP) and sharded (FSDP2), from the start and from a checkpoint."""

    def run(algorithms: list[Algorithm], fsdp: bool, lr: float, duration: str = SHORT, **options: Any) -> torch.Tensor:
        kept = PerBatch()
        sharding = {"parallelism_config": {"fsdp": FSDP2Config()}} if fsdp else {}
        made = trainer(
            classifier().double(),
            algorithms,
            duration,
            lr,
            partial(torch.optim.SGD, momentum=0.9),
            train_dataloader=labelled(dtype=torch.float64),
            callbacks=[kept],
            **sharding,
            **options,
        )
        made.fit()
        return torch.stack(kept.weights)

    # gloo sums what nccl averages: find Composer's own factor in a plain run, and take it out of the rate.
    before = torch.cat([p.detach().flatten() for p in classifier().double().parameters()])
    whole, sharded_ = (run([], fsdp, 0.1, "1ba")[0] - before for fsdp in (False, True))
    factor = float((sharded_ @ whole) / (whole @ whole))
    results: dict[str, Any] = {"factor": factor}
    for mask in ("features", "input"):
        with mock.patch("mixplug.backbones.selection._random_share", first_patches):
            saving = {"save_folder": str(folder / mask), "save_interval": "1ba"}
            results[mask] = {
                "whole": run([MixTraining(objective=MAE(mask))], False, 0.1),
                "sharded": run([MixTraining(objective=MAE(mask))], True, 0.1 / factor, **saving),
            }
            results[mask]["resumed"] = {
                batch: run(
                    [MixTraining(objective=MAE(mask))],
                    True,
                    0.1 / factor,
                    load_path=str(next((folder / mask).glob(f"*-ba{batch}"))),
                )
                for batch in (2, 4, 7)
            }
    return results


@dataclass(frozen=True)
class Check:
    """Rows that two processes do; those of the first ``everywhere`` rows are for three and four too."""

    rows: dict[str, Callable[[], dict[str, Any]]]
    everywhere: int

    def names(self, world: int) -> list[str]:
        return list(self.rows)[: len(self.rows) if world == 2 else self.everywhere]


CHECKS = {
    "same weights": Check(SAME_WEIGHTS, 4),
    "like one process": Check(LIKE_ONE_PROCESS, 2),
    "uneven": Check(UNEVEN, 2),
    "evaluation": Check(EVALUATED, 3),
    "probes": Check(PROBED, 1),
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # A hang ends with an error of the collective that waits, not with the patience of the test.
    dist.initialize_dist("cpu", timeout=120.0)
    world = dist.get_world_size()
    results: dict[str, Any] = {
        kind: {name: check.rows[name]() for name in check.names(world)} for kind, check in CHECKS.items()
    }
    if world == 2:
        results["resumed"] = resumed(folder / "checkpoints")
        results["shards"] = shards()
        results["refused probe"] = refused_probe()
        results["sharded model"] = sharded_model(folder / "fsdp2")
    torch.save(results, folder / f"{dist.get_global_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
