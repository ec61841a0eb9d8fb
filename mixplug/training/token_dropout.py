"""Token dropout as an amendment of the encoder's pass; see :class:`mixplug.TokenDropout` for what it is good for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from mixplug.backbones import PassRequest, Role, random_tokens
from mixplug.checks import check_bool, check_choice
from mixplug.schedules.phases import Phase
from mixplug.schedules.shapes import Schedule, check_schedule, value_at

PHASES = tuple(phase.value for phase in Phase)


class DropTokens:
    """Hides a random share of the patch tokens from the encoder, another draw for every image and pass.

    Of N patches ``floor((1 - rate) * N)`` are kept, at least one; class and register tokens always are. At rate 0 the
    pass is left as it is.

    Args:
        rate: Share of dropped patches in [0, 1): a number, a schedule, or one of these for each phase by name. One
            schedule for all phases runs over the whole training by default, one of a phase over that phase.
        phases: The phases in which tokens are dropped; with rates by phase, those that have one.
        keys: Whether passes without gradient (momentum encoders) drop tokens too.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a rate is out of range, or there is no such phase.
    """

    def __init__(
        self,
        rate: Schedule | Mapping[str, Schedule],
        phases: Iterable[str] = PHASES,
        keys: bool = False,
    ) -> None:
        if isinstance(phases, str) or not isinstance(phases, Iterable):
            raise TypeError(f"phases must be several of {list(PHASES)}, such as ('sl',); got {phases!r}")
        self.phases = tuple(check_choice("a phase of TokenDropout", str(phase), PHASES) for phase in phases)
        self.rate = rate
        self.keys = check_bool("keys", keys)
        if isinstance(rate, Mapping):
            for phase in rate:
                check_choice("a phase of TokenDropout's rate", str(phase), self.phases)
            self._rates = {Phase(phase): _check("rate of the " + str(phase) + " phase", r) for phase, r in rate.items()}
            self._clock = "phase"
        else:
            self._rates = {Phase(phase): _check("rate", rate) for phase in self.phases}
            self._clock = "run"

    def rate_of(self, request: PassRequest) -> float:
        """The share of patches that the pass loses, 0 where it is left alone."""
        if request.role in (Role.LOCAL, Role.SCORE) or (request.role is Role.KEY and not self.keys):
            return 0.0
        if self.yields_to(request):
            return 0.0
        rate = self._rates.get(request.position.phase)
        return 0.0 if rate is None else value_at(rate, request.position, self._clock)

    def yields_to(self, request: PassRequest) -> bool:
        """Whether the objective chooses tokens itself, as MAE does."""
        return request.select is not None or request.all_tokens

    def __call__(self, request: PassRequest) -> PassRequest:
        """``request`` with a choice of tokens."""
        rate = self.rate_of(request)
        if request.role is Role.SHARED:
            request = dataclasses.replace(request, metrics={**request.metrics, "token_dropout": rate})
        return dataclasses.replace(request, select=random_tokens(1 - rate)) if rate else request

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rate={self.rate!r}, phases={self.phases!r}, keys={self.keys!r})"


def _check(name: str, rate: Schedule) -> Schedule:
    return check_schedule(f"TokenDropout's {name}", rate, 0, 1, high_open=True)
