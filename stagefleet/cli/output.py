"""The result of a command, on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from stagefleet.errors import OutputError

__all__ = ["as_line", "flush_output", "print_json", "print_line"]

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def print_line(text: str) -> None:
    """Print a line of the result.

    Raises:
        OutputError: Stdout cannot be written; a pipe whose reader has gone is no such error.
    """
    if sys.stdout is None:
        raise OutputError("the result cannot be written, stdout is closed: send it to a file or to /dev/null")
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refusal(error) from error


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object of the result, in one line, at once: who reads it may be waiting.

    Raises:
        OutputError: As in `print_line`.
    """
    print_line(as_line(value))
    flush_output()


def flush_output() -> None:
    """Hand on what is printed.

    Raises:
        OutputError: As in `print_line`.
    """
    if sys.stdout is None:
        return  # nothing was printed, or `print_line` would have said so
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refusal(error) from error


def as_line(value: Mapping[str, Any]) -> str:
    """An object of the result in one line, without its end."""
    return _ENCODER.encode(value)


def _refusal(error: OSError) -> OutputError:
    return OutputError(
        f"the result cannot be written to stdout ({error.strerror or error}): make room, or send it elsewhere"
    )
