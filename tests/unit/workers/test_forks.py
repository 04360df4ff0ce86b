"""Processes that a supervisor forks from itself."""

import os
import signal
import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys, time
from stagefleet.process_supervisor import Supervisor

def run():
    {body}

supervisor = Supervisor((signal.SIGTERM, signal.SIGINT))
process = supervisor.fork(run)
{then}
while process.poll() is None:
    supervisor.wait(None)
print(process.poll())
"""


def outcome(body: str, then: str = "") -> subprocess.CompletedProcess[str]:
    """What a process says that forks another one, which runs `body`."""
    program = _PROGRAM.format(body=body, then=then)
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [("return 5", 5), ("sys.exit(4)", 4), ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM)],
)
def test_the_end_of_a_process_tells_how_it_ended(body, status):
    assert f"{status}\n" == outcome(body).stdout


def test_an_error_is_shown_once_and_is_the_status_1():
    done = outcome("raise ValueError('bad')")
    assert ("1\n", 1) == (done.stdout, done.stderr.count("ValueError: bad"))


def test_a_signal_to_a_process_is_not_its_supervisor_s():
    """The handlers of the supervisor, and the descriptor that wakes it up, are its own."""
    then = """seen = b""; process.send_signal(signal.SIGTERM)
while process.poll() is None: seen += supervisor.wait(None)
print(list(seen) == [signal.SIGCHLD])"""
    done = outcome("time.sleep(60)", then)
    assert f"True\n{-signal.SIGTERM}\n" == done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_process_dies_with_its_supervisor():
    then = "print(process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    done = outcome("time.sleep(60); return 0", then)
    pid = int(done.stdout)
    assert -signal.SIGKILL == done.returncode
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError(f"{pid} runs on")
