"""Standard streams that are closed, or that write to a full disk."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast

_STANDARD = (0, 1, 2)


class UnfailingStream:
    """A stream for messages: a failure to write one must not stop the work. None discards everything."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, and ignore a failure."""
        try:
            return len(text) if self._stream is None else self._stream.write(text)
        except (OSError, ValueError):  # the disk is full, or the stream was closed
            return len(text)

    def flush(self) -> None:
        """Flush the buffer, and ignore a failure."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        """Return True for a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Make stderr unfailing and stdin readable, and reserve the numbers of closed streams."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            os.set_inheritable(number, True)  # noqa: FBT003 - the signature is os's
    sys.stderr = cast("TextIO", UnfailingStream(sys.stderr))
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process


def discard_stdout() -> None:
    """Discard the buffer of stdout: Python would fail to flush it again at exit."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # closed from the beginning, or replaced by a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
