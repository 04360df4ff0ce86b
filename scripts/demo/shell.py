"""Commands as a user types them: shown, run as they are shown, and their output shown under them."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.services import Program, clean_environment

__all__ = [
    "INTERRUPTS",
    "ClaimError",
    "Shell",
    "claim",
    "ensure",
    "forget_interrupts",
    "interrupt",
    "tell",
    "uninterrupted",
]

_COMMAND_SECONDS = 90
"""The longest that one command may take; a run waits 60 s for a worker before it gives up."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a demo before its time."""
_PROGRESS = re.compile(r"stagefleet: [\d,]+ of [\d,]+ ")
"""A line each ten seconds: only slow machines would show it, and have a longer story than others."""


class ClaimError(Exception):
    """What the demo says is not so."""


_came: list[int] = []


def interrupt(number: int, _frame: FrameType | None = None) -> NoReturn:
    """End the demo: a handler of signals. `tell` ends it where Python has dropped that, as in a finalizer."""
    _came.append(number)
    raise KeyboardInterrupt


def forget_interrupts() -> None:
    """Let the end be told."""
    _came.clear()


def tell(text: str = "") -> None:
    """Say a line of the story; `KeyboardInterrupt` if a signal has come, and nobody has ended for it."""
    if _came:
        raise KeyboardInterrupt
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def claim(text: str, *problems: str) -> None:
    """Say what was checked.

    Args:
        text: What holds.
        *problems: What speaks against it.

    Raises:
        ClaimError: Something does.
    """
    ensure(text, *problems)
    tell(f"  checked: {text}")


def ensure(text: str, *problems: str) -> None:
    """Check what the story goes on from, without a word about it; as `claim` else."""
    if problems:
        raise ClaimError(f"not so: {text}: {'; '.join(problems[:3])}")


class Shell:
    """A shell in a folder of its own, with nothing of the user's: neither settings nor logins.

    Args:
        folder: Working directory and all that is written; made.
        stack: Ends what still runs.

    Attributes:
        folder: The same.
        environment: The variables of the commands.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        self.folder, self._stack = folder, stack
        self._numbers = itertools.count()
        self.write("stagefleet.toml", "")
        (folder / "tmp").mkdir()
        programs = Path(sys.executable).parent  # `stagefleet` and `python` are those of the checkout
        self.environment = clean_environment(
            TMPDIR=str(folder / "tmp"),
            DOCKER_CONFIG=str(folder),
            STAGEFLEET_CONFIG=str(folder / "stagefleet.toml"),
        )
        self.environment["PATH"] = f"{programs}:{self.environment.get('PATH', os.defpath)}"

    def export(self, **variables: str) -> None:
        """Set variables for the commands that follow."""
        pairs = " ".join(f"{name}={text}" for name, text in variables.items())
        tell(f"$ export {pairs}")
        self.environment |= variables

    def write(self, name: str, text: str) -> None:
        """Write a file in the working directory."""
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        """What a command wrote to a file in the working directory."""
        return (self.folder / name).read_text()

    def run(self, line: str) -> str:
        """Run a command to its end; returns what it printed.

        Raises:
            ClaimError: It failed, or took too long.
        """
        tell(f"$ {line}")
        return self.finish(self._start(line))

    def start(self, line: str) -> Program:
        """Start a command in the background; it is ended with the demo."""
        tell(f"$ {line} &")
        return self._start(line)

    def finish(self, program: Program) -> str:
        """Wait for the end of a command; returns what it printed.

        Raises:
            ClaimError: It failed, or took too long.
        """
        try:
            status = program.wait(_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise ClaimError(f"the command takes longer than {_COMMAND_SECONDS} s") from None
        for line in (program.logged() + program.printed()).splitlines():
            if not _PROGRESS.match(line):
                tell(f"  {line}")
        if status:
            raise ClaimError(f"the command ended with exit code {status}")
        return program.printed()

    def _start(self, line: str) -> Program:
        with uninterrupted():
            program = Program(
                ["env", "-C", str(self.folder), "sh", "-c", line],
                folder=self.folder,
                name=f"command-{next(self._numbers)}",
                environment=self.environment,
            )
            self._stack.callback(program.stop)
        return program


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back while something starts: one in between would leave a process that nobody ends."""
    came: list[int] = []
    held = {number: signal.signal(number, lambda number, _: came.append(number)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
