"""Real streams that are closed, or lead to a full disk (`/dev/full`, full(4))."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.cli.conftest import WAIT_SECONDS
from tests.services import stagefleet_command


@pytest.fixture
def run(environment, tmp_path):
    """Runs a command by a shell, with streams as it is told; several at once."""

    def run(*redirections):
        processes = [
            subprocess.Popen(
                ["sh", "-c", f'exec "$@" {redirection}', "sh", *stagefleet_command("doctor")],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for redirection in redirections
        ]
        outputs = [process.communicate(timeout=WAIT_SECONDS) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]

    return run


def test_streams_that_cannot_be_written_are_no_bugs(run):
    """U3: stdout on a full disk or closed is one line and exit code 2; of stderr nothing depends."""
    full, closed, *quiet = run(">/dev/full", ">&-", "2>/dev/full <&-", "2>&-")
    assert (2, "") == full[:2]
    assert ["No space left on device" in line for line in full[2].splitlines()] == [True]
    assert (2, "") == closed[:2]
    assert ["stdout is closed" in line for line in closed[2].splitlines()] == [True]
    assert [(0, "")] * 2 == [(code, errors) for code, _, errors in quiet]
    assert all(out.startswith("ok ") for _, out, _ in quiet)
