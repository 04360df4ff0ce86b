"""A real Flower and Debian's chromium, on runs that are written through the ledger: no worker is needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.pages.browser import Browser
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec, WaitReason
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import RunSettings
from tests.integration.workers.test_flower import start_flower
from tests.services import RedisServer

OPERATOR = ("me", "hunter2")
VIEWER = ("see", "only-look")
_SECONDS = 120
MARKUP = "<img src=x onerror=\"document.title='rendered'\">&lt;b&gt;"


class Runs:
    """Runs of the page's Redis, and what becomes of their items."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.ledger = RedisLedger(redis.client(), prefix="stagefleet:", settings=RunSettings())

    def start(self, *items: str, **fields: Any) -> str:
        options = {"source": "registry.test:5000/app/stages", "destination": "mirror.test/app"}
        spec = RunSpec(**{"operation": "copy_stage", "parallel": 1000, "options": options, **fields})
        submission = self.ledger.open(spec)
        self.ledger.append(submission, items)
        self.ledger.start(submission)
        return submission.run_id

    def finish(self, run_id: str, index: int, state: ItemState = ItemState.SUCCEEDED, **fields: Any) -> None:
        claim = self.ledger.claim(run_id, index, "worker-7@builder-1")
        assert claim
        self.ledger.finish(claim, Outcome(item=claim.item, state=state, **fields))

    def fail(self, run_id: str, index: int, message: str) -> None:
        error = ErrorInfo(type="BrokenStageError", message=message)
        self.finish(run_id, index, ItemState.FAILED, error=error)

    def let_wait(self, run_id: str, index: int, host: str, text: str) -> None:
        claim = self.ledger.claim(run_id, index, "worker-7@builder-1")
        assert claim
        outcome = Outcome(item=claim.item, state=ItemState.FAILED)
        reason = WaitReason(host=host, text=text)
        self.ledger.finish(claim, outcome, retry_after_seconds=300, reason=reason)


@pytest.fixture(scope="module")
def runs(service_folder: Callable[[str], Path]) -> Iterator[Runs]:
    redis = RedisServer(service_folder("redis"), append_only=True).start()
    try:
        yield Runs(redis)
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def flower(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    viewer = {"FLOWER__VIEWER_USER": VIEWER[0], "FLOWER__VIEWER_PASSWORD": VIEWER[1]}
    with start_flower(runs.redis.url, tmp_path_factory.mktemp("flower"), **viewer) as address:
        yield address


class Pages:
    """Flower's pages in one browser."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address

    def log_in(self, login: tuple[str, str] = OPERATOR) -> None:
        self.browser.log_in(*login)

    def open(self, path: str) -> None:
        self.browser.open(f"{self.address}/{path}")

    def wait_for(self, script: str, what: str, accept: Callable[[Any], bool] = bool) -> Any:
        return self.browser.wait_for(script, what, accept, seconds=_SECONDS)

    def text_of(self, element: str) -> str:
        return str(self.browser.run(f"return document.querySelector({element!r}).innerText"))

    def show_run(self, run_id: str, state: str) -> str:
        """Open a run's page; returns its text once it shows a state and all outcomes."""
        self.open(f"runs/{run_id}")
        self.wait_for(
            "return ['state', 'live-text'].map(id => document.getElementById(id).innerText)",
            f"the run is {state}",
            lambda shown: shown[0] == state and shown[1].startswith("Live"),
        )
        return self.text_of("main")

    def buttons(self) -> list[str]:
        """The buttons of the page that can be pressed."""
        script = (
            "return [...document.querySelectorAll('main button:enabled')].map(button => button.innerText)"
        )
        return list(self.browser.run(script))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
        pytest.skip("there is no browser: run scripts/setup.sh browser")
    with ExitStack() as stack:
        yield Browser(tmp_path_factory.mktemp("browser") / "chromium", stack)


@pytest.fixture
def pages(browser: Browser, flower: str) -> Pages:
    """The pages, with an operator's login."""
    made = Pages(browser, flower)
    made.log_in()
    return made
