"""Interrupts that come while Python drops what is raised."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import weakref

import pytest

from stagefleet import Fleet
from stagefleet.cli import handle_signals
from stagefleet.cli.session import cancelling_on_interrupt
from stagefleet.runs.models import RunSpec

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _signals(monkeypatch):
    """Handle signals as a command does, and as before after the test."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle_signals()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


class Finalized:
    """Interrupts the process in its finalizer."""

    def __init__(self, number=signal.SIGINT):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


class FinalizedSlowly(Finalized):
    """Takes longer than the repetition, which it drops as well."""

    def __del__(self):
        try:
            signal.raise_signal(self.number)
        finally:
            Finalized()
            threading.Event().wait(0.05)


def weakly_referenced(number):
    """Interrupt the process in the callback of a weak reference."""
    referent = threading.Event()
    reference = weakref.ref(referent, lambda _: signal.raise_signal(number))
    del referent
    assert reference() is None


def drop_and_wait(interrupt, number):
    interrupt(number)
    threading.Event().wait(30)


@pytest.mark.parametrize("interrupt", [Finalized, FinalizedSlowly, weakly_referenced])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_drops_is_delivered_later(interrupt, number, capsys):
    with pytest.raises(KeyboardInterrupt):
        drop_and_wait(interrupt, number)
    assert "" == capsys.readouterr().err


def test_sigterm_is_delivered_where_sigint_is_ignored():
    """So it is behind `nohup` and `&` of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        drop_and_wait(Finalized, signal.SIGTERM)


def test_a_run_that_has_started_meanwhile_is_cancelled(services, ledger, monkeypatch):
    cancelled = threading.Event()
    monkeypatch.setattr(ledger, "cancel", lambda *_, **__: cancelled.set())
    submission = ledger.open(RunSpec(operation="copy_stage", parallel=1))
    with cancelling_on_interrupt(Fleet(services)) as interrupts:
        Finalized()
        interrupts.cancel(submission.run_id)
        assert cancelled.wait(30)


@pytest.mark.usefixtures("in_fleet")
def test_an_interrupt_of_which_a_library_makes_another_error_is_one(command, registries, monkeypatch):
    """As pydantic does, with a SchemaError, while the settings load."""

    def interrupt(_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("invalid schema") from None

    monkeypatch.setattr(registries, "stage_ids", interrupt)
    result = command("copy", "src.test/app", "dst.test/app")
    assert (3, "stagefleet: error: interrupted\n") == (result.code, result.err)
    monkeypatch.setattr(registries, "stage_ids", lambda _: 1 / 0)
    assert 1 == command("copy", "src.test/app", "dst.test/app").code


def test_other_errors_of_finalizers_are_told_as_ever(capsys):
    class Failing:
        def __del__(self):
            raise ZeroDivisionError

    Failing()
    assert "ZeroDivisionError" in capsys.readouterr().err


ENDING = {
    "threads": """
def interrupt():
    threading.main_thread().join()
    while True:  # one that comes just before the main thread waits is handled at its end
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.1)

threading.Thread(target=interrupt).start()
""",
    "teardown": """
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)

last = Last()
""",
    "report": """
def interrupted(_):
    raise KeyboardInterrupt

cli.run_command = interrupted
""",
}


@pytest.mark.parametrize("moment", ENDING)
def test_an_interrupt_while_the_process_ends_keeps_its_exit_code(moment):
    program = f"""
import os, signal, threading
from stagefleet import cli

cli.run_command = lambda _: 3
{ENDING[moment]}
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=25, check=False)
    assert (3, b"") == (result.returncode, result.stderr)
