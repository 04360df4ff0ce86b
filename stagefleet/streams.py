"""Standard streams that were closed, or that lead to a full disk."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast

__all__ = ["UnfailingStream", "discard_stdout", "prepare_streams", "unfailing"]

_STANDARD = (0, 1, 2)


class UnfailingStream:
    """A stream for what a program says beside its work: that nobody can be told must not end the work.

    Args:
        stream: Where to; None for nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            return len(text) if self._stream is None else self._stream.write(text)
        except (OSError, ValueError):  # the disk is full, or the stream was closed meanwhile
            return len(text)

    def flush(self) -> None:
        """Hand on what is buffered, if that is possible."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unfailing(stream: TextIO | None) -> TextIO:
    """Make a stream one that never fails."""
    return cast("TextIO", UnfailingStream(stream))


def prepare_streams() -> None:
    """Make stderr unfailing and stdin readable, and keep the numbers of closed streams from other files."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)  # noqa: FBT003 - the signature is os's
    sys.stderr = unfailing(sys.stderr)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process


def discard_stdout() -> None:
    """Send what stdout still buffers nowhere: Python would fail over it once more at its end."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # closed from the beginning, or a test's own
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
