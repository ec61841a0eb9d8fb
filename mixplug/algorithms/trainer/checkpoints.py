"""Hands a checkpoint's state to mixplug's algorithms, and refuses it where they are others than it was saved with.

Composer loads whole checkpoints without asking whether all keys are there, and checks the presence of its own
algorithms only: a MixTraining run resumed without MixTraining would go on as plain supervised learning, and nobody
would know. No algorithm of ours runs in such a Trainer, so the check wraps ``State.load_state_dict`` as soon as
mixplug's algorithms are imported. Loading weights alone does not come this way.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from composer.core import State

from mixplug.algorithms.trainer.contract import PhasedAlgorithm, parts_of
from mixplug.algorithms.trainer.old_checkpoints import Parts, modernised, read_repr
from mixplug.objectives.settings import defaults_of, describe, differences


def guard_loading() -> None:
    """Wrap ``State.load_state_dict``, once."""
    original = State.load_state_dict
    if getattr(original, "guarded_by_mixplug", False):
        return

    @functools.wraps(original)
    def load_state_dict(
        self: State,
        state: dict[str, Any],
        logger: Any,
        strict: bool = False,
        exclude_algorithms: list[str] | None = None,
        algorithm_passes: Any = None,
    ) -> None:
        if "algorithms" not in state:  # load_ignore_keys
            return original(self, state, logger, strict, exclude_algorithms, algorithm_passes)
        excluded = exclude_algorithms or []
        saved = {
            name: modernised(s["parts"]) for name, s in state["algorithms"] if "parts" in s and name not in excluded
        }
        present = [a for a in self.algorithms if isinstance(a, PhasedAlgorithm) and type(a).__name__ not in excluded]
        _refuse_other_algorithms(saved, present)
        parts: Parts = {name: part for algorithm in saved.values() for name, part in algorithm.items()}
        for part in parts_of(present):
            _refuse_other_settings(part, parts.get(type(part).__name__, {}).get("settings", {}))
        original(self, state, logger, strict, exclude_algorithms, algorithm_passes)
        for part in parts_of(present):
            part.resume(parts.get(type(part).__name__, {}).get("progress", {}))

    load_state_dict.guarded_by_mixplug = True  # type: ignore[attr-defined]
    State.load_state_dict = load_state_dict  # type: ignore[method-assign]


def _refuse_other_algorithms(saved: Mapping[str, Parts], present: Iterable[PhasedAlgorithm]) -> None:
    then = {name: part["settings"] for parts in saved.values() for name, part in parts.items()}
    now = {type(part).__name__: part.settings() for part in parts_of(present)}
    then_names, now_names = _say(saved), _say(type(a).__name__ for a in present)
    # Parts without settings change no training.
    if any(settings and name not in now for name, settings in then.items()):
        raise ValueError(
            f"the checkpoint was saved with {then_names}, but this Trainer's algorithms have {now_names}: add what is "
            f"missing to go on with that run, or load its weights alone: load_weights_only=True, "
            f"load_strict_model_weights=False"
        )
    if any(settings and name not in then for name, settings in now.items()):
        raise ValueError(
            f"this Trainer's algorithms have {now_names}, but the checkpoint was saved with {then_names}: there is no "
            f"such run to go on with. To begin one from its weights: load_weights_only=True, "
            f"load_strict_model_weights=False"
        )


def _refuse_other_settings(part: PhasedAlgorithm, saved: Mapping[str, Any]) -> None:
    """A run that went on with other settings would be neither the one nor the other."""
    different = "; ".join(_differences(part, saved))
    if different:
        raise ValueError(
            f"the checkpoint is of a run with other settings of {type(part).__name__}: {different}. Resume with the "
            f"checkpoint's settings, or load its weights alone: load_weights_only=True, and with another SSL head "
            f"load_strict_model_weights=False"
        )


def _differences(part: PhasedAlgorithm, saved: Mapping[str, Any]) -> Iterator[str]:
    defaults = defaults_of(type(part))
    now = {**{name: defaults[name] for name in saved if name in defaults}, **part.settings()}
    for name, value in now.items():
        then = saved[name] if name in saved else describe(defaults.get(name))
        if isinstance(then, str) and not isinstance(value, str):
            then = read_repr(then, value)
        yield from differences(name, then, value)


def _say(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no algorithm of mixplug"
