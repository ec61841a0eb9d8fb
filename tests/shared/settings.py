"""The one table of settings that drives the train, resume and stacking tests: a row for each algorithm.

A row is a name and a function that makes the algorithms afresh. Lengths are those of a run of RUN epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.core import Algorithm
from composer.loggers import InMemoryLogger
from composer.models import ComposerClassifier
from shared.tiny import images, labels, loader, tiny_vit
from shared.two_view import OBJECTIVES, tiny_cnn
from torch.utils.data import DataLoader, TensorDataset

from mixplug import (
    MAE,
    SDMP,
    AutoCompression,
    Compression,
    CompressionSchedule,
    ExactResumption,
    FusedBackbonePass,
    HardAugment,
    JointLoss,
    KeepBest,
    MixTraining,
    MixupSSLData,
    MultiTaskClassifier,
    OptimizerSettings,
    PatchScaling,
    PhaseSwitch,
    PseudoLabels,
    Ramp,
    SuperProgressiveLearning,
    TokenDropout,
)
from mixplug.data.multi_task import MultiTaskLoader
from mixplug.data.order import random_state

RUN = 6
"""Epochs of a run: 2 of each phase at rho = 0.5."""


def ssl_loader(count: int = 22, batch_size: int = 5, dtype: torch.dtype = torch.float32, **options: Any) -> DataLoader:
    """Unlabelled batches of another number and size than the labelled ones, a tensor each."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        images(count, seed=30, dtype=dtype),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        generator=generator,
        **options,
    )


def classifier(**changes: Any) -> ComposerClassifier:
    """A tiny transformer as Composer trains it."""
    return ComposerClassifier(tiny_vit(**changes))


class FirstVisible(MAE):
    """An autoencoder whose visible patches no chance chooses: the first quarter."""

    def request(self, position):  # type: ignore[no-untyped-def]
        request = super().request(position)
        request.select = lambda batch, patches, device: torch.arange(patches // 4).expand(batch, -1)
        return request


def resizable_classifier() -> ComposerClassifier:
    """A tiny transformer that takes images of several sizes."""
    return classifier(dynamic_img_size=True)


def convolutional_classifier() -> ComposerClassifier:
    """A tiny residual network as Composer trains it."""
    return ComposerClassifier(tiny_cnn())


@dataclass(frozen=True)
class Row:
    """One algorithm's settings, and the model it trains.

    Where another row has the same kinds of state, resumption, which costs 17 trainings, may be tested by name only.
    """

    name: str
    make: Callable[[], list[Algorithm]]
    model: Callable[[], ComposerClassifier] = classifier
    slow_to_resume: bool = False


def _two_view_row(name: str, model: Callable[[], ComposerClassifier] = classifier, **options: Any) -> Row:
    title = f"MixTraining {name}{'' if model is classifier else ' on a CNN'}"
    like_another = model is classifier and name not in ("MoCoV2Plus", "DINO")
    return Row(title, lambda: [MixTraining(objective=OBJECTIVES[name](**options))], model, like_another)


ROWS = [
    Row("PhaseSwitch", lambda: [PhaseSwitch(0.5)]),
    Row("OptimizerSettings", lambda: [OptimizerSettings({"ssl": {"weight_decay": 0.2}}, reset=True), PhaseSwitch(0.5)]),
    Row("MixupSSLData", lambda: [MixupSSLData(ssl_loader())]),
    Row("FusedBackbonePass", lambda: [FusedBackbonePass()], slow_to_resume=True),
    Row("JointLoss", lambda: [JointLoss(0.3), FusedBackbonePass(MAE(mask="input"))], slow_to_resume=True),
    Row("ExactResumption", lambda: [ExactResumption()]),
    Row("KeepBest", lambda: [KeepBest("ssl_loss", interval="2ba"), FusedBackbonePass()]),
    Row("MixTraining features", lambda: [MixTraining()]),
    Row("MixTraining input", lambda: [MixTraining(objective=MAE(mask="input"), reset_optimizer=True)]),
    Row(
        "MixTraining ramps",
        lambda: [
            MixTraining(alpha=Ramp(1.0, 0.0), objective=MAE(mask="input", mask_ratio=Ramp(0.75, 0.0), norm_pix=True))
        ],
    ),
    Row(
        "MixTraining two passes",
        lambda: [MixTraining(alpha=0.9, objective=MAE(mask="input", mask_ratio=Ramp(0.75, 0.25), fused=False))],
        slow_to_resume=True,
    ),
    Row("MixTraining other data", lambda: [MixTraining(ssl_dataloader=ssl_loader(), objective=MAE(mask="input"))]),
    Row(
        "MixTraining side by side",
        lambda: [
            MixTraining(
                ssl_dataloader=ssl_loader(), mixing="side_by_side", objective=MAE(mask="input"), labelled_per_step=3
            )
        ],
    ),
    Row(
        "PseudoLabels",
        lambda: [
            PseudoLabels(0.1, per_class=True),
            MixTraining(
                ssl_dataloader=ssl_loader(), mixing="side_by_side", objective=MAE(mask="input"), labelled_per_step=3
            ),
        ],
    ),
    Row(
        "the parts alone",
        lambda: [JointLoss(0.5), FusedBackbonePass(), MixupSSLData(ssl_loader()), PhaseSwitch(0.5)],
        slow_to_resume=True,
    ),
    *(_two_view_row(name) for name in OBJECTIVES),
    Row("PatchScaling", lambda: [PatchScaling([2, 4])]),
    Row("SDMP", lambda: [MixTraining(objective=OBJECTIVES["MoCoV3"]()), SDMP(labels=True)]),
    Row(
        "SDMP of local crops on a CNN",
        lambda: [SDMP(version="extra"), MixTraining(objective=OBJECTIVES["DINO"](local_crops=6))],
        convolutional_classifier,
        slow_to_resume=True,
    ),
    Row("TokenDropout", lambda: [TokenDropout(Ramp(0.75, 0.0))]),
    Row(
        "shorter sequences in every phase",
        lambda: [
            TokenDropout(0.5, keys=True),
            PatchScaling(Ramp(4, 2, over="ssl")),
            MixTraining(objective=OBJECTIVES["MoCoV3"]()),
        ],
        slow_to_resume=True,
    ),
    Row(
        "AutoCompression",
        lambda: [
            MixTraining(objective=OBJECTIVES["MoCoV3"]()),
            AutoCompression((0.5, 0.0), (4, 2), share=1.0, stages=2, sub_batch=2),
        ],
        slow_to_resume=True,
    ),
    Row(
        "AutoCompression alone",
        lambda: [AutoCompression((0.5, 0.0), share=1.0, sub_batch=2, over="run")],
        slow_to_resume=True,
    ),
    Row(
        "Compression",
        lambda: [
            MixTraining(objective=OBJECTIVES["SimSiam"]()),
            Compression(CompressionSchedule({0: (0.5, 4), 0.5: (0.25, 2)})),
        ],
        slow_to_resume=True,
    ),
    Row(
        "SuperProgressiveLearning",
        lambda: [SuperProgressiveLearning(0.5, phases=("sl",))],
        resizable_classifier,
        slow_to_resume=True,
    ),
    Row(
        "SuperProgressiveLearning and HardAugment",
        lambda: [
            SuperProgressiveLearning(0.5, phases=("ssl", "mix", "sl")),
            HardAugment(3, 4, dropout=0.25),
            MixTraining(objective=OBJECTIVES["MoCoV2Plus"]()),
        ],
        resizable_classifier,
    ),
    Row(
        "HardAugment on a CNN",
        lambda: [MixTraining(objective=OBJECTIVES["SimSiam"]()), HardAugment(3, 4, by="cosine")],
        convolutional_classifier,
        slow_to_resume=True,
    ),
    _two_view_row("MoCoV3", convolutional_classifier),
    _two_view_row("DINO", convolutional_classifier, local_crops=2),
]


TASKS = {"a": 3, "b": 5}
"""Two tasks for one model."""


def multi_task_classifier(**changes: Any) -> MultiTaskClassifier:
    """A tiny transformer with a head for each of the TASKS."""
    return MultiTaskClassifier(tiny_vit(num_classes=8, **changes), TASKS)


def in_order(dataset: TensorDataset) -> DataLoader:
    return DataLoader(dataset, batch_size=4)


def multi_task_loader(
    make: Callable[[TensorDataset], Any] = in_order,
    counts: tuple[int, int] = (14, 22),
    dtype: torch.dtype = torch.float32,
) -> MultiTaskLoader:
    """Batches of twice 4 images, of which one task has fewer; ``make`` is given each task's data."""
    data = {
        name: TensorDataset(images(count, seed=seed, dtype=dtype), labels(count, TASKS[name], seed))
        for seed, (name, count) in enumerate(zip(TASKS, counts, strict=True), start=50)
    }
    return MultiTaskLoader({name: make(of_task) for name, of_task in data.items()}, TASKS)


def trainer(
    model: ComposerClassifier | None = None,
    algorithms: Any = (),
    max_duration: str = f"{RUN}ep",
    lr: float = 1e-2,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    **options: Any,
) -> Trainer:
    """A quiet Trainer with 3 batches an epoch, logging to ``trainer.memory``."""
    model = classifier() if model is None else model
    memory = InMemoryLogger()
    options.setdefault("train_dataloader", loader())
    made = Trainer(
        model=model,
        algorithms=algorithms,
        max_duration=max_duration,
        optimizers=optimizer(model.parameters(), lr=lr),
        loggers=[memory],
        progress_bar=False,
        auto_log_hparams=False,
        **{"seed": 5, "device": "cpu", **options},
    )
    made.memory = memory
    return made


def logged(made: Trainer, name: str) -> list[float]:
    """The values of a metric, batch by batch."""
    return [float(value) for _, value in made.memory.data[name]]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def resumes_from_every_batch(folder: Path, make: Callable[[], list[Algorithm]], **options: Any) -> int:
    """Check that weights, optimizer state and random numbers are those of the run never interrupted, bit for bit.

    ``make``, and what makes the "model", the "train_dataloader" and the "callbacks" among the options, are called for
    each run: a new process has new objects.
    The number of interruptions is returned.
    """

    def made(**more: Any) -> Trainer:
        afresh = ("model", "train_dataloader", "callbacks")
        data = {name: value() if name in afresh else value for name, value in options.items()}
        return trainer(algorithms=make(), **data, **more)

    whole = made(save_folder=str(folder), save_interval="1ba", save_filename="{batch}.pt")
    whole.fit()
    random_numbers = random_state()
    expected, moments = weights(whole.state.model), whole.state.optimizers[0].state_dict()["state"]
    batches = whole.state.timestamp.batch.value
    for batch in range(1, batches):
        resumed = made(load_path=str(folder / f"{batch}.pt"))
        assert resumed.state.timestamp.batch == batch
        resumed.fit()
        assert resumed.state.timestamp.batch == batches
        torch.testing.assert_close(random_state()["torch"], random_numbers["torch"], rtol=0, atol=0)
        assert random_state()["python"] == random_numbers["python"]
        assert torch.equal(random_state()["numpy"][1], random_numbers["numpy"][1])
        for name, value in weights(resumed.state.model).items():
            assert torch.equal(value, expected[name]), (batch, name)
        for index, state in resumed.state.optimizers[0].state_dict()["state"].items():
            assert all(torch.equal(state[name], moments[index][name]) for name in moments[index]), (batch, index)
    return batches - 1
