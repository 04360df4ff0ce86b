"""JUnit XML of runs, with the elements and attributes that GitLab and Jenkins both document.

A run is a test suite, an item is a test case. GitLab names what it parses under "JUnit XML format
specification" (https://docs.gitlab.com/ci/testing/unit_test_reports/); Jenkins has a schema, `junit-10.xsd`
of its xUnit plugin, and its JUnit plugin reads `error` beside that (`SuiteResult.java`, `CaseResult.java`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import IO
from xml.etree import ElementTree as ET

from stagefleet.bounds import cut
from stagefleet.redaction import plain_text
from stagefleet.reports.advice import advice_for
from stagefleet.runs.messages import subject_of
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run

PASSED_BYTES = 16 * 1024 * 1024
"""Room for items that did not fail; GitLab refuses files of 30 MB."""
ALL_BYTES = 28 * 1024 * 1024
_MESSAGE_BYTES = 500
_PART_BYTES = 256 * 1024
_CLASS = "stagefleet"
_DECLARATION = b"<?xml version='1.0' encoding='utf-8'?>\n"
_NOT_OF_ITEMS = frozenset({"CoordinatorLostError", "HostLostError", "ItemLostError", "WorkerLostError"})
"""Errors of the fleet, which say nothing of the item: JUnit's `error`, where others are a `failure`."""


def printable(text: str) -> str:
    r"""Replace characters that XML 1.0 does not have (section 2.2, `Char`), and what steers text.

    >>> printable("a\x00b\x1b[0m")
    'a\ufffdb\ufffd[0m'
    """
    return plain_text(text, instead="\ufffd", keep="\t\n\r")


def junit_of(runs: Iterable[tuple[Run, Iterable[Outcome]]]) -> Iterator[bytes]:
    """Yield the outcomes of runs as JUnit XML, in parts, at most `ALL_BYTES`.

    Every item has a test case while there is room: those that did not fail up to `PASSED_BYTES`, failed ones
    up to the limit. The properties of a suite tell how many were left out. Memory is bounded: the counts
    stand before the test cases, which wait in a temporary file. All outcomes are read before the first part.
    """
    with tempfile.TemporaryFile() as cases:
        suites = []
        for run, outcomes in runs:
            suite = _Suite(run, cases)
            for outcome in outcomes:
                suite.add(outcome)
            suite.add_error_of_run()
            suites.append((*suite.frame(), cases.tell()))
        yield _DECLARATION + b"<testsuites>"
        cases.seek(0)
        for head, tail, end in suites:
            yield head
            while part := cases.read(min(_PART_BYTES, end - cases.tell())):
                yield part
            yield tail
        yield b"</testsuites>\n"


class _Suite:
    """The suite of one run; its cases are written behind those of the runs before it."""

    def __init__(self, run: Run, cases: IO[bytes]) -> None:
        self._run = run
        self._class = f"{_CLASS}.{run.spec.operation}"
        self._counts: Counter[str] = Counter()
        self._read = self._left_out = 0
        self._cases = cases

    def add(self, outcome: Outcome) -> None:
        """Write the case of an item, if there is room for it."""
        self._read += 1
        name = f"{outcome.item} on {outcome.host}" if outcome.host else outcome.item
        case = self._case(name, outcome.seconds)
        kind = ""
        if outcome.state is ItemState.FAILED:
            error = outcome.error or ErrorInfo(type="Error", message="it failed without a message")
            kind = "error" if error.type in _NOT_OF_ITEMS else "failure"
            _add_problem(case, kind, error)
        elif outcome.state in {ItemState.SKIPPED, ItemState.CANCELLED}:
            kind = "skipped"
            reason = (outcome.result or {}).get("reason") or str(outcome.state)
            _add_text(case, kind, str(reason))
        self._write(case, kind, ALL_BYTES if kind in {"error", "failure"} else PASSED_BYTES)

    def add_error_of_run(self) -> None:
        """Write the error of the run itself, if it has one that is no item's."""
        error = self._run.error
        if error is not None:
            case = self._case("the run itself", 0.0)
            _add_problem(case, "error", error)
            self._write(case, "error", ALL_BYTES)

    def frame(self) -> tuple[bytes, bytes]:
        """Return what stands before the cases, and behind them."""
        suite = ET.Element("testsuite", self._attributes())
        properties = ET.SubElement(suite, "properties")
        for name, value in self._properties().items():
            ET.SubElement(properties, "property", name=name, value=printable(value))
        properties.tail = "\n"
        head, end, _ = ET.tostring(suite, encoding="utf-8").partition(b"</testsuite>")
        return head, end + b"\n"

    def _attributes(self) -> dict[str, str]:
        started = datetime.fromtimestamp(self._run.created_at, UTC)
        subject = subject_of(self._run.spec)
        return {
            "name": printable(f"{subject.operation} {subject}".strip()),
            "tests": str(self._counts["test"]),
            "failures": str(self._counts["failure"]),
            "errors": str(self._counts["error"]),
            "skipped": str(self._counts["skipped"]),
            "time": f"{self._run.seconds:.3f}",
            "timestamp": started.strftime("%Y-%m-%dT%H:%M:%S"),  # the schema knows no zone
        }

    def _properties(self) -> dict[str, str]:
        run = self._run
        return {
            "run": run.id,
            "state": str(run.state),
            "is_finished": "true" if run.state.is_final else "false",
            **subject_of(run.spec).facts,
            **{name: str(getattr(run, name)) for name in ("total", *_COUNTED)},
            "bytes": str(run.bytes),
            "without_outcome": str(max(0, run.total - self._read)),
            "left_out": str(self._left_out),
        }

    def _case(self, name: str, seconds: float) -> ET.Element:
        return ET.Element("testcase", classname=self._class, name=printable(name), time=f"{seconds:.3f}")

    def _write(self, case: ET.Element, kind: str, limit: int) -> None:
        written = ET.tostring(case, encoding="utf-8") + b"\n"
        if self._cases.tell() + len(written) > limit:
            self._left_out += 1
            return
        self._counts.update(("test", kind))
        self._cases.write(written)


_COUNTED = ("succeeded", "failed", "skipped", "cancelled")


def _add_problem(case: ET.Element, kind: str, error: ErrorInfo) -> None:
    """Add a failure: GitLab shows its text alone, Jenkins its message, too."""
    message = cut(error.message, _MESSAGE_BYTES)
    problem = _add_text(case, kind, f"{error.type}: {message}\n{advice_for(error.type)}")
    problem.set("message", printable(message))
    problem.set("type", printable(error.type))


def _add_text(case: ET.Element, kind: str, text: str) -> ET.Element:
    added = ET.SubElement(case, kind)
    added.text = printable(cut(text, 2 * _MESSAGE_BYTES))
    if kind == "skipped":
        added.set("message", added.text)
    return added
