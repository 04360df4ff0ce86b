"""From nothing to the main job: `python -m scripts.demo`.

With KEEP=1 everything stays up, until it is told to end.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.demo.shell import forget_interrupts, tell
from scripts.demo.story import Story
from scripts.lifecycle import run_with_services


def main() -> int:
    """Tell the story; returns the exit code, 0 only if all that it says was checked."""
    return run_with_services(_tell_story)


def _tell_story(folder: Path, stack: ExitStack) -> None:
    story = Story(folder, stack)
    story.tell()
    if os.environ.get("KEEP", "0") not in {"", "0"}:  # make hands its variables over like this
        story.explain_use()
        _wait_for_leave()


def _wait_for_leave() -> None:
    """Wait for Enter, Ctrl-C or SIGTERM; where there is no terminal and no input, for a signal."""
    tell(f"Enter or Ctrl-C ends it (or: kill {os.getpid()}).")
    with suppress(KeyboardInterrupt):
        if not sys.stdin.readline() and not sys.stdin.isatty():
            signal.pause()
    forget_interrupts()


if __name__ == "__main__":
    sys.exit(main())
