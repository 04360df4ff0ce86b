"""The XML is read back with `junitparser`, and held to what GitLab and Jenkins both document.

GitLab: https://docs.gitlab.com/ci/testing/unit_test_reports/ ("JUnit XML format specification", "File format
and size limits"). Jenkins: `junit-10.xsd` of its xUnit plugin, and `error`, which its JUnit plugin reads.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from junitparser import JUnitXml

from stagefleet.reports import junit
from stagefleet.runs.models import ErrorInfo, ItemState, RunState

DOCUMENTED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
}
REQUIRED = {"testsuite": {"name", "tests", "failures", "errors"}, "testcase": {"name", "classname"}}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "error", "skipped"},
}
MOST_BYTES = 30 * 1000 * 1000


def written(report):
    return b"".join(report.junit())


def parsed(report):
    return ET.fromstring(written(report))  # noqa: S314 - our own


@pytest.fixture
def mixed(report_of, make_run, make_outcome):
    """A report with an item of each kind, in names and messages that XML cannot hold or has to escape."""
    odd = '<&>"\x00\x1b\u202e\ud800\n]]>'
    outcomes = [
        make_outcome(item="good", seconds=1.25),
        make_outcome(error=("RateLimitedError", f"429 {odd}"), item="limited"),
        make_outcome(error=("WorkerLostError", "died"), item="lost"),
        make_outcome(ItemState.SKIPPED, item="there", result={"reason": "was not there"}),
        make_outcome(ItemState.SKIPPED, item="as before"),
        make_outcome(ItemState.CANCELLED, item="cancelled"),
        make_outcome(item="good", host="one"),
        make_outcome(item=f"odd {odd}"),
    ]
    return report_of(outcomes, make_run(total=10, error=ErrorInfo(type="CallbackLostError", message="no")))


def test_it_is_read_back_by_junitparser(mixed):
    (suite,) = JUnitXml.fromstring(written(mixed))
    cases = {case.name: case for case in suite}
    assert (9, 1, 2, 3) == (suite.tests, suite.failures, suite.errors, suite.skipped)
    assert ("copy_stage src.test/app -> dst.test:5000/app", 240.0) == (suite.name, suite.time)
    assert ("stagefleet.copy_stage", 1.25, []) == (
        cases["good"].classname,
        cases["good"].time,
        cases["good"].result,
    )
    (failure,) = cases["limited"].result
    assert ("RateLimitedError", True) == (failure.type, failure.message.startswith("429 <&>"))
    assert "Lower --parallel" in failure.text
    assert ["error", "error"] == [cases[name].result[0]._tag for name in ("lost", "the run itself")]
    reasons = {name: cases[name].result[0].message for name in ("there", "as before", "cancelled")}
    assert {"there": "was not there", "as before": "skipped", "cancelled": "cancelled"} == reasons


def test_it_has_the_elements_and_attributes_that_both_document(mixed):
    root = parsed(mixed)
    assert "testsuites" == root.tag
    for element in root.iter():
        assert set(element.attrib) <= DOCUMENTED[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
        assert REQUIRED.get(element.tag, set()) <= set(element.attrib)
    times = [element.get("time", "") for element in root.iter() if "time" in element.attrib]
    assert all(re.fullmatch(r"\d+\.\d{3}", time) for time in times)
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}", root[0].get("timestamp", ""))


def test_what_gitlab_shows_of_a_failure_says_all(mixed):
    """It takes the text of an element, never its attributes."""
    root = parsed(mixed)
    texts = [root.find(f".//testcase[@name='{name}']/*").text for name in ("limited", "lost", "there")]
    assert "RateLimitedError: 429" in texts[0]
    assert "WorkerLostError: died" in texts[1]
    assert "was not there" == texts[2]


def test_no_two_cases_have_a_name_in_common(mixed):
    """GitLab shows the first of those alone."""
    names = [case.get("name") for case in parsed(mixed).iter("testcase")]
    assert len(names) == len(set(names))


def test_characters_that_xml_does_not_have_or_that_steer_text_are_replaced(mixed):
    text = written(mixed).decode()
    assert {"\x00", "\x1b", "\u202e"}.isdisjoint(text)
    assert "\ufffd" in text


def test_the_properties_tell_the_run(mixed):
    (suite,) = JUnitXml.fromstring(written(mixed))
    found = {entry.name: entry.value for entry in suite.properties()}
    expected = {"run": "6200c6a4b1f3", "state": "failed", "is_finished": "true", "source": "src.test/app"}
    assert expected == {name: found[name] for name in expected}
    assert ("10", "2", "0") == (found["total"], found["without_outcome"], found["left_out"])


def test_a_run_that_is_not_finished_says_so(report_of, make_run, make_outcome):
    (suite,) = JUnitXml.fromstring(written(report_of([make_outcome()], make_run(RunState.RUNNING))))
    found = {entry.name: entry.value for entry in suite.properties()}
    assert ("false", "99") == (found["is_finished"], found["without_outcome"])


def test_a_run_without_outcomes_is_a_suite_without_cases(report_of, make_run):
    (suite,) = JUnitXml.fromstring(written(report_of([], make_run(RunState.SUCCEEDED, total=0))))
    assert 0 == suite.tests


def test_failed_items_have_room_when_others_are_left_out(report_of, make_outcome, monkeypatch):
    monkeypatch.setattr(junit, "PASSED_BYTES", 2000)
    monkeypatch.setattr(junit, "ALL_BYTES", 8000)
    outcomes = [make_outcome() for _ in range(100)]
    outcomes += [make_outcome(error=("NotFoundError", "gone")) for _ in range(100)]
    text = written(report_of(outcomes))
    (suite,) = JUnitXml.fromstring(text)
    found = {entry.name: entry.value for entry in suite.properties()}
    assert suite.failures > 20
    assert suite.tests - suite.failures > 5
    assert 200 == suite.tests + int(found["left_out"])
    assert len(text) < 8000 + 2000


def test_gitlab_takes_the_largest_file():
    assert junit.PASSED_BYTES < junit.ALL_BYTES < MOST_BYTES


def test_nothing_is_written_before_all_is_read(make_run, make_outcome):
    def failing():
        yield make_outcome()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        next(junit.junit_of([(make_run(), failing())]))


def test_runs_of_a_chain_are_suites_that_share_the_room(report_of, make_outcome, monkeypatch):
    monkeypatch.setattr(junit, "PASSED_BYTES", 1000)
    deletions = [make_outcome(item="old"), make_outcome(item="older", error=("NotFoundError", "gone"))]
    report = report_of([make_outcome() for _ in range(20)], following=[(RunState.FAILED, deletions)])
    first, second = JUnitXml.fromstring(written(report))
    assert 0 < first.tests < 20
    assert (1, 1, ["older"]) == (second.tests, second.failures, [case.name for case in second])
    left_out = [
        int({entry.name: entry.value for entry in suite.properties()}["left_out"])
        for suite in (first, second)
    ]
    assert [20 - first.tests, 1] == left_out
