"""Flower's pages as a browser shows them: each is opened, checked and drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import requests

from scripts.demo.shell import ClaimError, claim, ensure
from scripts.pages.browser import Browser
from scripts.pages.fleet import USER, WatchedFleet
from scripts.pages.runs import ShownTask
from tests.services.processes import wait_until

__all__ = ["Views"]

_PICTURE_BYTES = 200_000
_LIMIT_SECONDS = 60
_PAGE_SECONDS = 10
_PAGES = ("workers", "tasks", "broker", "api/tasks", "api/workers")
_TASKS = """
const names = [...document.querySelectorAll('.dataTables_scrollHead th')].map(head => head.dataset.column);
const read = row => Object.fromEntries([...row.cells].map((cell, place) => [names[place], cell.innerText]));
return [...document.querySelectorAll('#tasks-table tbody tr[id]')].map(read);
"""
_RUNS = """
return [...document.querySelectorAll('#runs-table tbody tr')].map(
    row => [row.cells[0].innerText.trim(), row.cells[2].innerText.trim()]);
"""
_IS_LIVE = "return document.getElementById('live-text').innerText.startsWith('Live')"
_CUT_OFF = """
const edge = document.querySelector('.dataTables_scrollBody').getBoundingClientRect().right + 1;
return [...document.querySelectorAll('.dataTables_scrollHead th')].filter(
    head => head.getBoundingClientRect().right > edge).map(head => head.innerText);
"""
_WORKERS = """
return [...document.querySelectorAll('#workers-table tbody tr:has(.worker-name-link)')].map(
    row => [row.querySelector('.worker-name-link').title, row.cells[1].innerText.trim()]);
"""
_DETAILS = """
return Object.fromEntries([...document.querySelectorAll('.detail-list > .detail-row')].map(
    row => [...row.children].map(part => part.innerText.trim())));
"""
_SETTINGS = "return [...document.querySelectorAll('#tab-config td')].map(cell => cell.innerText);"
_QUEUES = """
return Object.fromEntries([...document.querySelectorAll('#queue-table tbody tr[id]')].map(
    row => [...row.cells].slice(0, 2).map(cell => cell.innerText.trim())));
"""


class Views:
    """The pages of one Flower.

    Args:
        fleet: What it shows.
        browser: Opens them.
        folder: For the pictures.

    Attributes:
        pictures: What was drawn.
    """

    def __init__(self, fleet: WatchedFleet, browser: Browser, folder: Path) -> None:
        self._fleet, self._browser, self._folder = fleet, browser, folder
        self.pictures: list[Path] = []

    def log_in(self) -> None:
        """Give the browser the login, as somebody types it; it keeps it, and no later address holds it."""
        address = self._fleet.flower_url
        answered = {
            page: requests.get(f"{address}/{page}", timeout=_PAGE_SECONDS).status_code for page in _PAGES
        }
        let_in = [page for page, status in answered.items() if status != requests.codes.unauthorized]
        claim("Flower shows nothing without the login", *let_in)
        self._browser.open(address.replace("//", f"//{USER}:{quote(self._fleet.secrets['Flower'])}@"))

    def check_workers(self, expected: Mapping[str, str]) -> None:
        """See that the page lists these workers and no others.

        Args:
            expected: The state of each, by its name as far as the `@`.
        """
        self._open("workers")
        self._browser.wait_for(
            _WORKERS,
            f"the workers are {dict(expected)}",
            lambda shown: dict(expected) == {name.partition("@")[0]: state for name, state in shown},
            seconds=_LIMIT_SECONDS,
        )
        self._check_secrets("the workers' page")

    def check_worker(self) -> None:
        """See that the page of a worker that is listed, with all its settings, shows no secret."""
        name, _ = self._browser.run(_WORKERS)[0]

        def has_settings() -> bool:
            self._open(f"worker/{quote(name)}")  # again and again: a worker may answer Flower too late
            return bool(self._browser.run(_SETTINGS))

        wait_until(has_settings, "a worker's page shows its settings", seconds=_LIMIT_SECONDS)
        self._check_secrets("a worker's page")

    def check_tasks(self, expected: Sequence[ShownTask]) -> dict[str, str]:
        """See that the page of tasks shows these, each with all that it should.

        Returns:
            Of each state the id of a task.
        """
        rows = self._await_tasks(expected)
        told = {task: task.told for task in expected}
        problems = []
        for row in rows:
            parts = [told[_task_of(row)], f"'{self._fleet.destination}'"]
            parts += [f"'source': '{self._fleet.source}'"] if "copy" in row["name"] else []
            shown = " ".join((row["kwargs"], row["result"], row["exception"]))
            problems += [f"{row['uuid']} does not show {part}" for part in parts if part not in shown]
        claim(
            f"{len(rows)} tasks with stage, operation, source, destination and run, "
            "and how each ended as the ledger has it",
            *problems,
        )
        claim("no column is cut off", *self._browser.run(_CUT_OFF))
        self._check_secrets("the tasks' page")
        return {row["state"]: row["uuid"] for row in rows}

    def check_search(self, run_id: str, expected: Sequence[ShownTask]) -> None:
        """See that a search on the page that is open leaves the tasks of one run."""
        wanted = Counter(task for task in expected if task.run_id == run_id)
        self._browser.run(f"$('#tasks-table').DataTable().search('kwargs:run={run_id}').draw()")
        self._browser.wait_for(
            _TASKS,
            f"a search leaves the {wanted.total()} tasks of run {run_id}",
            lambda rows: wanted == Counter(map(_task_of, rows)),
        )
        claim("a search for a run finds its tasks")

    def check_runs(self, expected: Mapping[str, str]) -> None:
        """See that the page of runs lists these, each in its state, and no others."""
        self._open("runs")
        shown = self._browser.wait_for(_RUNS, "there are runs")
        problems = [] if dict(expected) == dict(shown) else [f"it shows {shown} and not {dict(expected)}"]
        claim(f"{len(expected)} runs, each in its state", *problems)
        self._check_secrets("the runs' page")

    def check_run(self, run_id: str, parts: Sequence[str]) -> None:
        """See that a run's page shows these parts."""
        self._open(f"runs/{run_id}")
        self._browser.wait_for(_IS_LIVE, "the run is shown")
        text = self._browser.run("return document.querySelector('main').innerText")
        claim("a run's own page tells what failed and why", *(part for part in parts if part not in text))
        self._check_secrets("a run's page")

    def check_task(self, uuid: str, expected: Mapping[str, str]) -> None:
        """See that a task's own page shows these details."""
        self._open(f"task/{uuid}")
        shown = self._browser.wait_for(_DETAILS, "there are details")
        problems = [
            f"{name} is {shown.get(name)!r}, without {part!r}"
            for name, part in expected.items()
            if part not in shown.get(name, "")
        ]
        claim("a task's own page shows the same", *problems)
        self._check_secrets("a task's page")

    def check_broker(self, queues: Mapping[str, str]) -> None:
        """See that the broker's page shows how many messages lie in these queues."""
        self._open("broker")
        shown = self._browser.wait_for(_QUEUES, "there are queues")
        problems = [
            f"{name} has {shown.get(name)} and not {number}"
            for name, number in queues.items()
            if shown.get(name) != number
        ]
        claim("the broker's page shows what waits in the queues", *problems)
        self._check_secrets("the broker's page")

    def draw(self, name: str) -> None:
        """Draw the page that is open."""
        file = self._folder / f"flower-{name}.png"
        self._browser.draw(file)
        size = file.stat().st_size
        ensure(f"{file.name} is small", *([] if size < _PICTURE_BYTES else [f"it has {size:,} bytes"]))
        self.pictures.append(file)

    def _open(self, path: str) -> None:
        self._browser.open(f"{self._fleet.flower_url}/{path}")

    def _await_tasks(self, expected: Sequence[ShownTask]) -> list[dict[str, str]]:
        """Open the page again and again, as it does not renew itself, until it shows these tasks alone."""
        rows: list[dict[str, str]] = []
        missing: list[ShownTask] = []

        def is_shown() -> bool:
            self._open("tasks")
            rows[:] = self._browser.wait_for(_TASKS, "there are tasks")
            shown = Counter(map(_task_of, rows))
            missing[:] = (Counter(expected) - shown).elements()
            return not missing and len(rows) == len(expected)

        try:
            wait_until(is_shown, "the tasks are shown", seconds=_LIMIT_SECONDS)
        except TimeoutError:
            extra = [*(Counter(map(_task_of, rows)) - Counter(expected)).elements()]
            raise ClaimError(
                f"not so: Flower shows these tasks: it lacks {missing} and has {extra} besides"
            ) from None
        return rows

    def _check_secrets(self, page: str) -> None:
        html = self._browser.html
        found = [f"the password for {what}" for what, secret in self._fleet.secrets.items() if secret in html]
        ensure(f"{page} shows no secret", *found)


def _task_of(row: Mapping[str, str]) -> ShownTask:
    """Read the task of a row of the tasks' page; "?" stands for what its arguments do not show."""
    run_id, stage, operation = (
        found[1] if (found := re.search(f"'{name}': '([^']*)'", row["kwargs"])) else "?"
        for name in ("run", "stage", "operation")
    )
    return ShownTask(run_id, stage, operation, row["state"])
