"""From nothing to the main job: `python -m scripts.demo`.

With KEEP=1 everything stays up, until it is told to end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from scripts.demo.shell import INTERRUPTS, ClaimError, ensure, tell
from scripts.demo.story import Story
from tests.services import ServiceMissingError, ServiceStartError, make_workspace
from tests.services.processes import wait_until
from tests.services.workspace import mounts_under

_GONE_SECONDS = 20
_INTERRUPTED = 130


def main() -> int:
    """Tell the story; returns the exit code, 0 only if all that it says was checked."""
    started_at = time.monotonic()
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    status = 0
    try:
        with make_workspace() as folder:
            _perform(folder)
    except KeyboardInterrupt:
        status = _INTERRUPTED
        tell("interrupted")
    except (ClaimError, ServiceMissingError, ServiceStartError, TimeoutError, OSError) as error:
        tell(f"FAILED: {error}")
        return 1
    if left := [path for path in (folder, *mounts_under(folder)) if path.exists()]:
        tell(f"FAILED: {left[-1]} is left")
        return 1
    tell(f"Everything that was started is gone, after {time.monotonic() - started_at:.0f} s.")
    return status


def _perform(folder: Path) -> None:
    try:
        with ExitStack() as stack:
            try:
                story = Story(folder, stack)
                story.tell()
                if os.environ.get("KEEP", "0") not in {"", "0"}:  # make hands its variables over like this
                    story.explain_use()
                    _wait_for_leave()
            finally:
                for number in INTERRUPTS:  # from here on the end is near, and bounded: it is not interrupted
                    signal.signal(number, signal.SIG_IGN)
    finally:
        _await_ends(folder)


def _wait_for_leave() -> None:
    """Wait for Enter, Ctrl-C or SIGTERM; where there is no terminal and no input, for a signal."""
    tell(f"Enter or Ctrl-C ends it (or: kill {os.getpid()}).")
    with suppress(KeyboardInterrupt):
        if not sys.stdin.readline() and not sys.stdin.isatty():
            signal.pause()


def _await_ends(folder: Path) -> None:
    """Wait for the ends of what was killed.

    Raises:
        ClaimError: A process is left.
    """
    with suppress(TimeoutError):
        wait_until(lambda: not _processes_of(folder), "the processes end", seconds=_GONE_SECONDS)
    ensure("all processes ended", *_processes_of(folder))


def _processes_of(folder: Path) -> list[str]:
    """Processes that know of a folder: by their arguments, their environment or their working directory.

    Returns:
        Number and command of each.
    """
    name = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            command = (entry / "cmdline").read_bytes()
            facts = command + (entry / "environ").read_bytes()
            if name in facts + os.fsencode((entry / "cwd").readlink()):
                words = command.decode(errors="replace").split("\0")
                found.append(" ".join((entry.name, *words)))
    return found


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
