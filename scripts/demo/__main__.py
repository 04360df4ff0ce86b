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

from scripts.demo.shell import ClaimError, tell
from scripts.demo.story import Story
from tests.services import ServiceMissingError, ServiceStartError, make_workspace
from tests.services.processes import wait_until

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GONE_SECONDS = 20
_INTERRUPTED = 130


def main() -> int:
    """Tell the story; returns the exit code, 0 only if all that it says was checked."""
    started_at = time.monotonic()
    for number in _SIGNALS:
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
    if folder.exists():
        tell(f"FAILED: {folder} is left")
        return 1
    tell(f"Everything that was started is gone, after {time.monotonic() - started_at:.0f} s.")
    return status


def _perform(folder: Path) -> None:
    try:
        with ExitStack() as stack:
            try:
                story = Story(folder, stack)
                story.tell()
                if os.environ.get("KEEP", "0") not in {"", "0"}:
                    story.explain_use()
                    _wait_for_leave()
            finally:
                for number in _SIGNALS:  # from here on the end is near, and bounded: it is not interrupted
                    signal.signal(number, signal.SIG_IGN)
    finally:
        wait_until(lambda: not _processes_of(folder), f"the processes of {folder} end", seconds=_GONE_SECONDS)


def _wait_for_leave() -> None:
    """Wait for Enter, Ctrl-C or SIGTERM; where there is no terminal and no input, for a signal."""
    tell(f"Enter or Ctrl-C ends it (or: kill {os.getpid()}).")
    with suppress(KeyboardInterrupt):
        if not sys.stdin.readline() and not sys.stdin.isatty():
            signal.pause()


def _processes_of(folder: Path) -> list[int]:
    """Processes that know of a folder: by their arguments, their environment or their working directory."""
    name = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            facts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if name in facts + os.fsencode((entry / "cwd").readlink()):
                found.append(int(entry.name))
    return found


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
