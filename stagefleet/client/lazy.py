"""Lazily built parts of a fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Lazy"]


class _Closable(Protocol):
    def close(self) -> None: ...


_Part = TypeVar("_Part", bound=_Closable)


class Lazy(Generic[_Part]):
    """A part that is built once, at its first use; thread-safe."""

    def __init__(self, build: Callable[[], _Part]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._part: _Part | None = None

    @property
    def value(self) -> _Part:
        """The part, built if necessary."""
        with self._lock:
            if self._part is None:
                self._part = self._build()
            return self._part

    def close(self) -> None:
        """Close the part, if it was built."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            part.close()
