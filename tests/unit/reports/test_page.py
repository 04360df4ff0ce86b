from __future__ import annotations

from html.parser import HTMLParser

import pytest

from stagefleet.runs.models import ErrorInfo, ItemState, RunState
from tests.unit.reports.conftest import SECONDS

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>&lt;b&gt;"


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def large_report(report_of, make_outcome):
    """A report of 3,000 items, many of which failed, for as many reasons as are kept apart and more."""

    def outcomes():
        for number in range(3000):
            error = (f"Kind{number % 40}Error", "m" * 2000) if number % 2 else None
            yield make_outcome(error=error, host=f"host-{number % 50}", at=number % SECONDS)

    return report_of(outcomes())


def test_the_page_tells_what_was_done_how_fast_and_what_failed(report_of, make_outcome):
    outcomes = [make_outcome(bytes=2_000_000) for _ in range(7)]
    outcomes.append(make_outcome(error=("RateLimitedError", "429 Too Many Requests"), item="the-stage"))
    page = Page(report_of(outcomes).html())
    for part in (
        "copy_stage src.test/app -> dst.test:5000/app",
        "6200c6a4b1f3",
        "14.0 MB",
        "4 min 0 s",
        "RateLimitedError: 1 item",
        "Lower --parallel",
        "the-stage",
        "429 Too Many Requests",
        "nightly",
        "dst.test:5000",
        "Slowest items",
    ):
        assert part in page.text


def test_names_with_markup_are_text(report_of, make_run, make_outcome):
    run = make_run(error=ErrorInfo(type=MARKUP, message=MARKUP))
    outcomes = [make_outcome(error=(MARKUP, MARKUP), item=MARKUP, host=MARKUP, result={"reason": MARKUP})]
    page = Page(report_of(outcomes, run).html())
    assert {"script", "img", "b"}.isdisjoint(page.tags)
    assert page.text.count(MARKUP) >= 6


def test_the_page_needs_nothing_else(large_report):
    page = Page(large_report.html())
    assert {"script", "link", "iframe", "object", "embed", "form", "a", "img"}.isdisjoint(page.tags)
    named = {name for _, name, _ in page.attributes}
    assert {"src", "href", "style", "srcset", "action"}.isdisjoint(named)
    assert not any(name.startswith("on") for name in named)
    (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in "".join(page.texts)


def test_the_page_stays_small(large_report):
    assert len(large_report.html().encode()) < 2_000_000


def test_a_run_that_is_not_finished_says_so(report_of, make_run, make_outcome):
    run = make_run(RunState.RUNNING, total=1000)
    page = Page(report_of([make_outcome()], run).html())
    assert "was not finished when the report was written" in page.text
    assert "999 of 1,000 items" in page.text


@pytest.mark.parametrize("state", list(ItemState))
def test_a_run_of_one_outcome_has_a_page(report_of, make_outcome, state):
    assert "6200c6a4b1f3" in Page(report_of([make_outcome(state)]).html()).text


def test_a_run_without_items_has_a_page(report_of, make_run):
    run = make_run(RunState.SUCCEEDED, total=0, succeeded=0, failed=0, skipped=0)
    assert "0: none has ended" in Page(report_of([], run).html()).text


def test_characters_that_no_document_has_are_replaced(report_of, make_outcome):
    html = report_of([make_outcome(error=("Error", "a\x00b\x1b[31m\x0c"), item="x\x08")]).html()
    assert {"\x00", "\x1b", "\x08", "\x0c"}.isdisjoint(html)
    assert "a\ufffdb\ufffd[31m" in html


def test_each_run_of_a_chain_has_its_part(report_of, make_outcome):
    deletions = [make_outcome(item="old", error=("NotFoundError", "gone"))]
    page = Page(report_of([make_outcome()], following=[(RunState.RUNNING, deletions)]).html())
    assert 3 == page.tags.count("h1")
    for part in ("A chain of 2 runs", "6200c6a4b1f3", "run-2", "NotFoundError: 1 item", "was not finished"):
        assert part in page.text
    assert "A chain" not in Page(report_of([make_outcome()]).html()).text
