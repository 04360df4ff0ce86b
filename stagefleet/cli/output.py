"""The output of a command: its result on stdout, everything else on stderr."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagefleet.errors import OutputError, UsageError
from stagefleet.redaction import plain_text

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def print_line(text: str) -> None:
    """Print one line, without what steers a terminal; errors as in `print_text`."""
    print_text(plain_text(text) + "\n")


def print_text(text: str) -> None:
    """Print text; `OutputError` if stdout cannot be written, unless a pipe's reader has gone."""
    if sys.stdout is None:
        raise OutputError("the result cannot be written, stdout is closed: send it to a file or to /dev/null")
    with _explaining_failures():
        sys.stdout.write(text)


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object on one line, and flush: the reader may be waiting."""
    print_line(as_line(value))
    flush_output()


def flush_output() -> None:
    """Flush stdout; errors as in `print_line`."""
    if sys.stdout is None:
        return  # nothing was printed, or `print_line` would have raised
    with _explaining_failures():
        sys.stdout.flush()


def write_file(path: str, parts: Iterable[bytes]) -> None:
    """Write a file, or stdout for `-`; the first part is made before the file is opened.

    Raises:
        OutputError: It cannot be written.
    """
    left = iter(parts)
    whole = itertools.chain([next(left, b"")], left)
    if path == "-":
        _write_to_stdout(whole)
        return
    try:
        with Path(path).open("wb") as file:
            file.writelines(whole)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): make room, or name another file"
        ) from error


def check_files(paths: Iterable[str]) -> None:
    """Raise `UsageError` for a file that has no folder, or is named twice; call it before the work."""
    seen = set()
    for path in (Path(name) for name in paths if name != "-"):
        if not path.parent.is_dir():
            raise UsageError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
        if path.resolve() in seen:
            raise UsageError(f"{path} is named twice: give each form of a report a file of its own")
        seen.add(path.resolve())


def _write_to_stdout(parts: Iterable[bytes]) -> None:
    print_text("")  # refuses a stdout that is closed
    flush_output()
    with _explaining_failures():
        sys.stdout.buffer.writelines(parts)
    flush_output()


def as_line(value: Mapping[str, Any]) -> str:
    """Format a JSON object on one line, without the line end; what steers a terminal is escaped."""
    line = _ENCODER.encode(value)
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in line
    )


def say(message: str) -> None:
    """Print a message on stderr that is neither a result nor an error."""
    from stagefleet.cli.options import chosen_options  # noqa: PLC0415 - loads typer, which --version does without

    if not chosen_options().quiet:
        sys.stderr.write(f"stagefleet: {plain_text(message)}\n")
        sys.stderr.flush()


@contextmanager
def _explaining_failures() -> Iterator[None]:
    """Explain an error of stdout, unless a pipe's reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"the result cannot be written to stdout ({error.strerror or error}): "
            "make room, or send it elsewhere"
        ) from error
