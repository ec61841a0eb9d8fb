"""What cannot be right about SSL data with the labelled data, algorithms and schedules of a run: said before it."""

from __future__ import annotations

import warnings
from typing import Any

from composer.algorithms import SelectiveBackprop
from composer.core import State, TimeUnit
from composer.optim import ConstantScheduler
from composer.utils import dist
from torch.utils.data import DataLoader

from mixplug.algorithms.phase_switch import PhaseSwitch
from mixplug.algorithms.trainer.contract import find
from mixplug.algorithms.trainer.schedulers import composer_schedulers, restarting_schedulers
from mixplug.data.batches import length_of, shape_of
from mixplug.data.order import is_sharded, stream_of
from mixplug.schedules.phases import Phase


def check_shards(ssl_loader: Any) -> None:
    """What Composer asks of the train_dataloader; an iterable data set or another iterable shards itself.

    Raises:
        ValueError: several processes would train on the same images.
    """
    if dist.get_world_size() > 1 and not is_sharded(ssl_loader):
        raise ValueError(
            f"the ssl_dataloader has no DistributedSampler, so all {dist.get_world_size()} processes would train on "
            f"the same images; build it with sampler=composer.utils.dist.get_sampler(dataset, shuffle=True) instead of "
            f"shuffle=True"
        )


def check_ssl_data(state: State, ssl_loader: Any, subset: int) -> None:
    """At FIT_START, while ``state.dataloader`` is the labelled data.

    Args:
        state: The run.
        ssl_loader: The user's loader of SSL data.
        subset: The Trainer's ``train_subset_num_batches``, -1 for none.

    Raises:
        TypeError: the images of a loader cannot be found.
        ValueError: the two cannot be used together.
    """
    _refuse_choosing_by_placeholders(state)
    _refuse_one_stream(state.dataloader, ssl_loader)
    _refuse_other_shapes(state, ssl_loader)
    _warn_of_unequal_shards(ssl_loader)
    _warn_of_endless_data(state, ssl_loader, subset)


def check_schedules(
    state: State, ssl_length: int | None, sl_length: int | None, of_ssl_data: tuple[Phase, ...] = (Phase.SSL,)
) -> None:
    """Composer's schedules take the present epoch's length for that of all, and would run out, or never end.

    Args:
        state: The run.
        ssl_length: Batches of an epoch over the SSL data.
        sl_length: Batches of an epoch over the labelled data.
        of_ssl_data: The phases whose epochs are over the SSL data.

    Raises:
        ValueError: a schedule spans phases whose epochs differ.
    """
    switch = find(state, PhaseSwitch)
    if switch is None or switch.length(state).unit != TimeUnit.EPOCH or restarting_schedulers(state):
        return
    phases = {span.phase for span in switch.plan(state).phases}
    schedules = [s for s in composer_schedulers(state) if not isinstance(s, ConstantScheduler)]
    others = [phase for phase in of_ssl_data if phase in phases]
    if schedules and others and ssl_length != sl_length:
        raise ValueError(
            f"{type(schedules[0]).__name__} would take each epoch to be as long as the present one, but epochs have "
            f"{ssl_length} batches in the {' and the '.join(phase.value.upper() for phase in others)} phase and "
            f"{sl_length} after it; use a PhaseScheduler, plan in batches "
            f"(max_duration in 'ba'), or make them equal by train_subset_num_batches"
        )


def _refuse_choosing_by_placeholders(state: State) -> None:
    """In the SSL phase over unlabelled data SelectiveBackprop would choose images by the loss of no label."""
    switch = find(state, PhaseSwitch)
    first = None if switch is None else switch.plan(state).phases[0]
    if first is None or first.phase is not Phase.SSL:
        return
    # Divided as Composer divides the elapsed time, so that what the message says is accepted.
    assert state.max_duration is not None
    end = min(1.0, first.stop / state.max_duration.value)
    for algorithm in state.algorithms:
        if (
            isinstance(algorithm, SelectiveBackprop)
            and algorithm.keep < 1
            and algorithm.start < min(algorithm.end, end)
        ):
            raise ValueError(
                f"SelectiveBackprop(start={algorithm.start}, end={algorithm.end}) chooses images by their supervised "
                f"loss, but the images of ssl_dataloader have no labels and the SSL phase lasts until {end} of the "
                f"run; use start={end}"
            )


def _refuse_one_stream(labelled: Any, unlabelled: Any) -> None:
    stream = stream_of(labelled)
    if stream is not None and stream is stream_of(unlabelled):
        raise ValueError(
            f"train_dataloader and ssl_dataloader read the same {type(stream).__name__}, which can give only one pass "
            f"at a time: build a data set for each, or pass the train_dataloader itself as ssl_dataloader"
        )


def _refuse_other_shapes(state: State, ssl_loader: Any) -> None:
    """Say so before the SSL phase, not after it, if the MIX phase could not mix the images."""
    switch = find(state, PhaseSwitch)
    if switch is not None and not switch.plan(state).e_mix:
        return
    shapes = shape_of(state.dataloader, "a batch of the train_dataloader"), shape_of(ssl_loader)
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"images to mix must have one shape: the SL images are {shapes[0]}, the SSL images {shapes[1]} "
            f"(channels, height, width); resize one of the data sets"
        )


def _warn_of_unequal_shards(ssl_loader: Any) -> None:
    """Composer ends an epoch with the first process that has no more batches, and says nothing of the others'."""
    lengths = dist.all_gather_object(length_of(ssl_loader))
    if len(set(lengths)) > 1:
        warnings.warn(
            f"the ssl_dataloader has {lengths} batches on the {len(lengths)} processes; epochs of the SSL phase end "
            f"with the shortest, and what the others have beyond it is not trained on",
            stacklevel=2,
        )


def _warn_of_endless_data(state: State, ssl_loader: Any, subset: int) -> None:
    """Composer refuses a train_dataloader without a length; SSL data may have an end that it does not know."""
    switch = find(state, PhaseSwitch)
    if switch is None or switch.length(state).unit != TimeUnit.EPOCH or subset >= 0:
        return
    if isinstance(ssl_loader, DataLoader) and length_of(ssl_loader) is None:
        warnings.warn(
            f"the ssl_dataloader ({type(ssl_loader.dataset).__name__}) has no length: if it has no end either, the SSL "
            f"phase never leaves its first epoch. Give the data a __len__, the Trainer a train_subset_num_batches, or "
            f"plan in batches ('ba')",
            stacklevel=2,
        )
