"""Decoded images that the runs of a comparison share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar


class Sized(Protocol):
    """What knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """In bytes."""


Value = TypeVar("Value", bound=Sized)


class ByteBoundedCache:
    """Keeps what was made until all of it takes more than ``limit`` bytes; then what was used least recently goes.

    What was made last always stays, however large: it is in use anyway.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` returned for ``key``, called if that is not kept."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(value.nbytes for value in self._kept.values()) > self.limit:
            self._kept.popitem(last=False)
        return self._kept[key]  # type: ignore[return-value]

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
