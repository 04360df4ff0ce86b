"""Commands in the tests' own process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from stagefleet.cli import run_command


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Sequence[object], Mapping[str, str], Path], subprocess.CompletedProcess[str]]:
    """Runs a command in this process: a new one would load all modules again, and say the same.

    It takes the command's arguments, its whole environment, and its directory.
    """

    def run(
        arguments: Sequence[object], environment: Mapping[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, text in environment.items():
                patch.setenv(name, text)
            code = run_command(words)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run
