"""Refuses to resume a checkpoint with other mixplug algorithms than it was saved with.

Composer loads whole checkpoints without asking whether all keys are there, and checks the presence of its own
algorithms only: a MixTraining run resumed without MixTraining would go on as plain supervised learning, and nobody
would know. No algorithm of ours runs in such a Trainer, so the check wraps ``State.load_state_dict`` as soon as
mixplug's algorithms are imported. Loading weights alone does not come this way.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from composer.core import State

_BUNDLE = "MixTraining"
_PARTS = {"PhaseSwitch", "MixupSSLData", "FusedBackbonePass", "JointLoss"}


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
        _compare(state, self, exclude_algorithms or [])
        original(self, state, logger, strict, exclude_algorithms, algorithm_passes)

    load_state_dict.guarded_by_mixplug = True  # type: ignore[attr-defined]
    State.load_state_dict = load_state_dict  # type: ignore[method-assign]


def _compare(saved: Mapping[str, Any], state: State, excluded: list[str]) -> None:
    names = [name for name, _ in saved.get("algorithms") or [] if name not in excluded]
    then, now = _parts_in(names), _parts_in(type(a).__name__ for a in state.algorithms)
    if then - now:
        raise ValueError(
            f"the checkpoint was saved with {_say(then)}, but this Trainer's algorithms have {_say(now)}: add what is "
            f"missing to go on with that run, or load its weights alone: load_weights_only=True, "
            f"load_strict_model_weights=False"
        )
    if now - then:
        raise ValueError(
            f"this Trainer's algorithms have {_say(now)}, but the checkpoint was saved with {_say(then)}: there is no "
            f"such run to go on with. To begin one from its weights: load_weights_only=True, "
            f"load_strict_model_weights=False"
        )


def _parts_in(names: Iterable[str]) -> set[str]:
    return {part for name in names for part in (_PARTS if name == _BUNDLE else {name} & _PARTS)}


def _say(parts: set[str]) -> str:
    return _BUNDLE if parts == _PARTS else ", ".join(sorted(parts)) if parts else "no algorithm of mixplug"
