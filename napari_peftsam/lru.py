"""A cache that drops the least recently used values."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The most recently used values by key; safe to use from any thread.

    Parameters
    ----------
    capacity
        Upper limit of the sum of the sizes of all values.
    size
        Returns the size of a value; by default each counts 1.
    """

    def __init__(self, capacity: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self.capacity = capacity
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()  # the latest used comes last
        self._lock = threading.Lock()  # held briefly

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._values

    @property
    def size(self) -> int:
        """Sum of the sizes of all values."""
        with self._lock:
            return sum(map(self._size, self._values.values()))

    def get(self, key: K) -> V | None:
        """Return a value and count it as used; None if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> dict[K, V]:
        """Keep a value; return the values dropped to make room, possibly itself."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            gone: dict[K, V] = {}
            total = sum(map(self._size, self._values.values()))
            while total > self.capacity:
                oldest, last = self._values.popitem(last=False)
                gone[oldest] = last
                total -= self._size(last)
            return gone

    def discard(self, unwanted: Callable[[V], bool] = lambda _: True) -> None:
        """Drop all values, or only the ones for which `unwanted` holds."""
        with self._lock:
            for key in [key for key, value in self._values.items() if unwanted(value)]:
                del self._values[key]
