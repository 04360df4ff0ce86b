"""`stagefleet report`, and `--report` of the commands that start a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from junitparser import JUnitXml

from stagefleet.runs.models import RunSpec

SOURCE, DESTINATION = "src.test/app", "dst.test/app"

pytestmark = pytest.mark.usefixtures("in_fleet")


@pytest.fixture
def failed_run(command, fake_worker, make_stage):
    """A run of five stages, one of which failed."""
    fake_worker.failing = {make_stage(2)}
    return command("copy", SOURCE, DESTINATION, "--json").objects[-1]["run"]


def cases_in(file):
    (suite,) = JUnitXml.fromstring(Path(file).read_bytes())
    return suite.tests, suite.failures


def test_all_forms_come_at_once(command, failed_run, make_stage):
    done = command("report", failed_run, "--html", "a.html", "--junit", "a.xml", "--json")
    assert (0, "") == (done.code, done.err)
    (document,) = done.objects
    expected = {"run": failed_run, "state": "failed", "total": 5, "failed": 1}
    assert expected == {name: document[name] for name in expected}
    assert make_stage(2) == document["failures"][0]["examples"][0]["item"]
    assert make_stage(2) in Path("a.html").read_text()
    assert (5, 1) == cases_in("a.xml")


@pytest.mark.parametrize(("option", "begins"), [("--html", "<!DOCTYPE html>"), ("--junit", "<?xml")])
def test_a_dash_is_stdout(command, failed_run, option, begins):
    done = command("report", failed_run, option, "-")
    assert (0, True) == (done.code, done.out.startswith(begins))
    assert not Path("-").exists()


def test_a_run_is_found_by_its_key_and_by_how_its_id_begins(command, fake_worker):
    run = command("copy", SOURCE, DESTINATION, "--idempotency-key", "k", "--json").objects[-1]["run"]
    for names in ([run[:6]], ["--idempotency-key", "k"]):
        (document,) = command("report", *names, "--json").objects
        assert run == document["run"]


def test_a_run_that_is_not_finished_is_reported_as_it_stands(command, ledger):
    """Exit code 0: the report is written, and says so itself."""
    submission = ledger.open(RunSpec(operation="copy_stage"))
    ledger.append(submission, ["a", "b"])
    ledger.start(submission)
    done = command("report", submission.run_id, "--json")
    (document,) = done.objects
    assert (0, False, 2) == (done.code, document["is_finished"], document["left"])
    assert "0 of 2 items" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense", "--json"), "there is no run"),
        (("--idempotency-key", "nonsense", "--json"), "nonsense"),
        (("--json",), "name the run"),
        (("x", "--idempotency-key", "y", "--json"), "name the run"),
        (("x",), "--html FILE, --junit FILE or --json"),
        (("x", "--html", "-", "--json"), "stdout takes one"),
        (("x", "--html", "-", "--junit", "-"), "stdout takes one"),
        (("x", "--html", "a", "--junit", "./a"), "a is named twice"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(command, arguments, said):
    refused = command("report", *arguments)
    assert (2, "", 1) == (refused.code, refused.out, len(refused.err.splitlines()))
    assert said in refused.err
    assert [] == list(Path().iterdir())


@pytest.mark.parametrize("file", ["missing/a.html", "."])
def test_a_file_that_cannot_be_written_is_named(command, failed_run, file):
    refused = command("report", failed_run, "--html", file)
    assert (2, 1) == (refused.code, len(refused.err.splitlines()))
    assert f"{file} cannot be written" in refused.err


def test_a_full_disk_is_told(command, failed_run):
    refused = command("report", failed_run, "--html", "/dev/full")
    assert 2 == refused.code
    assert "No space left on device" in refused.err


def test_a_run_command_reports_at_its_end(command, fake_worker, make_stage):
    fake_worker.failing = {make_stage(2)}
    files = ["--report", "a.html", "--report", "a.xml", "--report", "a.json"]
    done = command("copy", SOURCE, DESTINATION, *files)
    assert 1 == done.code
    assert make_stage(2) in Path("a.html").read_text()
    assert (5, 1) == cases_in("a.xml")
    assert 1 == json.loads(Path("a.json").read_text())["failed"]


def test_a_run_without_workers_is_reported_too(command):
    done = command("copy", SOURCE, DESTINATION, "--report", "a.json")
    assert (4, "cancelled") == (done.code, json.loads(Path("a.json").read_text())["state"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report", "a.pdf"], ".html or .xml or .json"),
        (["--report", "missing/a.html"], "there is no folder missing"),
        (["--report", "a.html", "--report", "./a.html"], "a.html is named twice"),
        (["--report", "a.html", "--detach"], "stagefleet report"),
        (["--report", "a.html", "--dry-run"], "stagefleet report"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_the_run(command, options, said, ledger):
    refused = command("copy", SOURCE, DESTINATION, *options)
    assert 2 == refused.code
    assert said in refused.err
    assert [] == list(ledger.runs())
