"""Stdout that is closed, or leads to a full disk; and what is written there of strangers' text."""

from __future__ import annotations

import errno
import io
import json
import sys

import pytest
from hypothesis import given, strategies as st

from stagefleet.cli.output import as_line, print_json, print_line, say
from stagefleet.errors import RegistryError
from stagefleet.runs.models import RunState
from stagefleet.streams import UnfailingStream

SOURCE, DESTINATION = "src.test/app", "dst.test/app"


class Full(io.StringIO):
    """A stream on a disk that takes a number of lines, and then no more."""

    def __init__(self, lines: int = 0) -> None:
        super().__init__()
        self.lines = lines

    def flush(self) -> None:
        if self.getvalue().count("\n") > self.lines:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(params=["full", "closed"])
def bad_stdout(request, monkeypatch):
    """Lets a command find stdout as it should not be."""
    stream = Full() if request.param == "full" else None
    return lambda: monkeypatch.setattr(sys, "stdout", stream)


@pytest.fixture
def errors_of(monkeypatch, capsys):
    """Runs a command, and gives its exit code and the lines that it told."""
    from stagefleet.cli import run_command  # noqa: PLC0415 - as the fixture of all commands

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        return code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("options", [(), ("--json",), ("--detach",)])
@pytest.mark.usefixtures("in_fleet", "fake_worker")
def test_a_run_is_named_where_its_result_cannot_be_written(errors_of, bad_stdout, ledger, options):
    """U3: a full disk or a closed stdout is one line with the run, exit code 2, and no bug."""
    bad_stdout()
    code, lines = errors_of("copy", SOURCE, DESTINATION, *options)
    (run,) = ledger.runs()
    assert 2 == code
    assert f"stagefleet runs show {run.id}" in lines[-1]
    assert [] == [line for line in lines if "bug" in line]
    assert run.state in {RunState.RUNNING, RunState.SUCCEEDED}


@pytest.mark.usefixtures("in_fleet", "fake_worker")
def test_a_disk_that_gets_full_in_the_middle_cancels_no_run(errors_of, monkeypatch, ledger):
    """U3: who follows a run and can write no more leaves it alone."""
    monkeypatch.setattr(sys, "stdout", Full(2))
    code, lines = errors_of("copy", SOURCE, DESTINATION, "--json")
    (run,) = ledger.runs()
    assert (2, True) == (code, run.id in lines[-1] and "No space left on device" in lines[-1])
    assert run.error is None


@pytest.mark.usefixtures("without_fleet", "fake_worker")
def test_a_run_of_this_command_alone_ends_with_it(errors_of, bad_stdout, services, ledger):
    """U3: of a run that lives in the command nobody is told that it goes on."""
    services.starts_worker = True
    bad_stdout()
    code, lines = errors_of("copy", SOURCE, DESTINATION)
    (run,) = ledger.runs()
    assert (2, True) == (code, f"run {run.id} ends with this command" in lines[-1])


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.usefixtures("in_fleet")
def test_a_result_that_cannot_be_written_is_one_line(errors_of, bad_stdout, options):
    """U3: also what is listed is told in one line as not written, with exit code 2."""
    bad_stdout()
    code, lines = errors_of("list", SOURCE, *options)
    assert (2, 1) == (code, len(lines))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["copy", "--help"], ["runs", "--help"], ["runs", "list", "-h"]]
)
@pytest.mark.parametrize("failing", ["write", "flush"])
def test_a_help_that_cannot_be_written_is_one_line(errors_of, monkeypatch, failing, arguments):
    """U3: a full disk is no bug of this program, whether it fails at once or when it is flushed."""
    stdout = io.StringIO()
    monkeypatch.setattr(stdout, failing, lambda *_: Full(-1).flush())
    monkeypatch.setattr(sys, "stdout", stdout)
    code, lines = errors_of(*arguments)
    assert (2, 1) == (code, len(lines))
    assert "No space left on device" in lines[0]


@pytest.mark.usefixtures("in_fleet")
def test_a_closed_stdout_is_no_error_where_nothing_is_printed(errors_of, bad_stdout):
    """U3: who prints nothing needs no stdout."""
    bad_stdout()
    assert (0, []) == errors_of("runs", "list")


def test_what_cannot_be_told_ends_nothing():
    """U3: a stderr that is closed, or on a full disk, ends no command."""
    for stream in (UnfailingStream(Full()), UnfailingStream(None)):
        assert 4 == stream.write("text")
        stream.flush()
        assert not stream.isatty()


STRANGE = "\u202egpj.exe \u2066\x9b\x1b[2J\ufeff"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_line_steers_a_terminal_and_json_keeps_its_meaning(text):
    line = as_line({"label": text, text: [text]})
    assert line.isprintable()
    assert {"label": text, text: [text]} == json.loads(line)


def test_results_and_messages_steer_no_terminal(capsys):
    print_line(f"a {STRANGE}")
    print_json({"label": STRANGE})
    say(f"tags of nobody: {STRANGE}")
    shown = capsys.readouterr()
    for line in (*shown.out.splitlines(), *shown.err.splitlines()):
        assert line.isprintable(), line
    assert STRANGE == json.loads(shown.out.splitlines()[1])["label"]


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_error_steers_no_terminal(errors_of, in_fleet, registries, monkeypatch, debug):
    def fail(_address):
        raise RegistryError(f"denied: {STRANGE}", method="GET", status=403)

    monkeypatch.setattr(registries, "stage_ids", fail)
    _, told = errors_of(*debug, "list", SOURCE)
    assert any("gpj.exe" in line for line in told)
    assert [] == [line for line in told if not line.replace("\t", "").isprintable()]
