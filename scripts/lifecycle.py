"""A fresh folder and real services for a script, and the proof that nothing of them is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.demo.shell import INTERRUPTS, ClaimError, ensure, forget_interrupts, interrupt, tell
from tests.services import ServiceMissingError, ServiceStartError, make_workspace
from tests.services.processes import wait_until
from tests.services.workspace import mounts_under

__all__ = ["run_with_services"]

_GONE_SECONDS = 20
_INTERRUPTED = 130


def run_with_services(work: Callable[[Path, ExitStack], None]) -> int:
    """Run work in a fresh folder, and end all that it started.

    Args:
        work: Is given the folder, and a stack that ends its services; raises `ClaimError` where something is
            not as it should be.

    Returns:
        The exit code: 0 only if all was checked, and nothing is left.
    """
    started_at = time.monotonic()
    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    status = 0
    try:
        with make_workspace() as folder:
            _run_in(folder, work)
    except KeyboardInterrupt:
        status = _INTERRUPTED
        forget_interrupts()
        tell("interrupted")
    except (ClaimError, ServiceMissingError, ServiceStartError, TimeoutError, OSError) as error:
        tell(f"FAILED: {error}")
        return 1
    if left := [path for path in (folder, *mounts_under(folder)) if path.exists()]:
        tell(f"FAILED: {left[-1]} is left")
        return 1
    tell(f"Everything that was started is gone, after {time.monotonic() - started_at:.0f} s.")
    return status


def _run_in(folder: Path, work: Callable[[Path, ExitStack], None]) -> None:
    try:
        with ExitStack() as stack:
            try:
                work(folder, stack)
            finally:
                for number in INTERRUPTS:  # from here on the end is near, and bounded: it is not interrupted
                    signal.signal(number, signal.SIG_IGN)
    finally:
        _await_ends(folder)


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
