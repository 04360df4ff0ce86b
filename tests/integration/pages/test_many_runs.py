"""What a person sees of 10,000 runs, and of one of 100,000 items, that are written through the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.bench.pages import fill
from scripts.pages.browser import Browser
from tests.integration.pages.conftest import OPERATOR, Pages
from tests.integration.pages.test_run_pages import ROWS
from tests.integration.workers.test_flower import start_flower
from tests.services import RedisServer

COUNT = "return document.getElementById('count').innerText"


@pytest.fixture(scope="module")
def long_run(service_folder: Callable[[str], Path]) -> Iterator[tuple[RedisServer, str]]:
    redis = RedisServer(service_folder("many")).start()
    try:
        yield redis, fill(redis.url, runs=10_000, items=100_000)
    finally:
        redis.stop()


@pytest.mark.slow
def test_ten_thousand_runs_and_one_of_a_hundred_thousand_items(
    browser: Browser, long_run: tuple[RedisServer, str], tmp_path: Path
):
    redis, run_id = long_run
    with start_flower(redis.url, tmp_path) as address:
        pages = Pages(browser, address)
        pages.log_in(OPERATOR)
        pages.open("runs")
        first = pages.wait_for(ROWS, "a page is shown", lambda rows: len(rows) == 50)
        assert (run_id, "100,000 of 100,001") == (first[0][0], first[0][3])
        assert "50 shown, 10,000 runs in all" == pages.browser.run(COUNT)
        pages.browser.run("document.getElementById('older').click()")
        second = pages.wait_for(ROWS, "older ones are shown", lambda rows: rows[0][0] != run_id)
        assert set() == {row[0] for row in first} & {row[0] for row in second}
        pages.browser.run(
            "const field = document.querySelector('[name=repository]'); field.value = 'rare.test';"
            "field.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        pages.wait_for(ROWS, "the oldest run is found", lambda rows: "rare.test/app" in rows[0][1])

        text = pages.show_run(run_id, "running")
        for part in ("100,000 of 100,001", "BrokenStageError (1,000)", "and 800 more", "99,000 succeeded"):
            assert part in text
        assert 201 == pages.browser.run("return document.querySelectorAll('#failures tr').length")
        bars = "return document.querySelectorAll('#time-line rect').length"
        assert 1 <= pages.browser.run(bars) <= 400
