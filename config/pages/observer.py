"""Reads and changes of runs, for the pages and the API: many browsers look at the same ones."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from stagefleet.errors import RedisUnreachableError, RunNotFoundError, StagefleetError, UsageError
from stagefleet.fleet.fleet import Fleet
from stagefleet.fleet.requests import RunRequest
from stagefleet.fleet.submission import check_key
from stagefleet.operations.catalog import OPERATIONS, REQUESTS
from stagefleet.redaction import quoted
from stagefleet.reports.advice import advice_for
from stagefleet.runs.figures import RunFigures, run_row
from stagefleet.runs.messages import start_run_message
from stagefleet.runs.models import ItemState, Run, RunState
from stagefleet.runs.run_reader import RunFilter, RunReader
from stagefleet.settings import Settings

# Calls to Redis off Tornado's loop: in a bounded number of threads, and one for all who ask the same.

FRESH_SECONDS = 1.0
"""How long an answer serves others who ask the same."""
_THREADS = 8
_MOST_CALLS = 200
"""The most calls that wait or run; one more is refused at once."""
_LONGEST_SECONDS = 30.0
"""How long a request waits for its call; redis-py itself gives up after less."""
_KEPT_ANSWERS = 256

_T = TypeVar("_T")


class BusyError(StagefleetError):
    """The server has too much to do: the request may be repeated later."""


@dataclass(slots=True)
class _Call:
    task: asyncio.Task[Any]
    ended_at: float | None = None


class SharedReads:
    """Run blocking functions for handlers; used on the loop alone."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "runs")
        self._calls: OrderedDict[Hashable, _Call] = OrderedDict()
        self._under_way = 0

    async def shared(
        self, question: Hashable, read: Callable[[], _T], *, is_whole: Callable[[_T], bool] = lambda _: True
    ) -> _T:
        """Return the answer to a question; the read is called once for all who ask within a second.

        An answer that is not whole serves those who have asked by then, and nobody later.

        Raises:
            BusyError: Too many calls wait.
            RedisUnreachableError: The call takes too long.
        """
        now = asyncio.get_running_loop().time()
        call = self._calls.get(question)
        if call is None or (call.ended_at is not None and now - call.ended_at >= FRESH_SECONDS):
            call = self._calls[question] = _Call(asyncio.create_task(self.run(read)))
            call.task.add_done_callback(lambda _: self._end(call, is_whole))
            self._forget_old()
        self._calls.move_to_end(question)
        answer: _T = await asyncio.shield(call.task)
        return answer

    async def run(self, function: Callable[[], _T]) -> _T:
        """Run a function in a thread, and return its answer; raises as `shared`."""
        if self._under_way >= _MOST_CALLS:
            raise BusyError("too many requests are under way: try again in some seconds")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, function)
        self._under_way += 1
        future.add_done_callback(lambda _: self._count_down())
        try:
            return await asyncio.wait_for(asyncio.shield(future), _LONGEST_SECONDS)
        except TimeoutError:
            future.add_done_callback(_ignore)
            raise RedisUnreachableError(
                f"no answer within {_LONGEST_SECONDS:g} s: try again, and see stagefleet doctor"
            ) from None

    def close(self) -> None:
        """Start no call any more; those that run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count_down(self) -> None:
        self._under_way -= 1

    def _end(self, call: _Call, is_whole: Callable[[Any], bool]) -> None:
        call.ended_at = call.task.get_loop().time()
        _ignore(call.task)
        if not call.task.cancelled() and call.task.exception() is None and not is_whole(call.task.result()):
            call.ended_at -= FRESH_SECONDS

    def _forget_old(self) -> None:
        ended = [question for question, call in self._calls.items() if call.ended_at is not None]
        for question in ended[: max(0, len(self._calls) - _KEPT_ANSWERS)]:
            del self._calls[question]


def _ignore(future: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


# The reads and changes themselves.

_READING_SECONDS = 0.4
"""How long one look at a run reads its outcomes: a long run is read in many looks."""
_KEPT_FIGURES = 64
"""Runs whose figures are kept, up to some hundred KiB each."""
MOST_OUTCOMES = 1000


class RunObserver:
    """Read and change runs; each method blocks, and is called in a thread. Answers are JSON objects."""

    def __init__(self, redis_url: str, settings: Settings) -> None:
        self._reader = RunReader.connect(redis_url, settings)
        self._fleet = Fleet.connect(redis_url, settings=settings)
        self._figures: OrderedDict[str, RunFigures] = OrderedDict()
        self._figures_lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()
        self._fleet.close()

    def page(self, wanted: RunFilter, position: str, limit: int) -> bytes:
        """Return a page of the list of runs."""
        page = self._reader.page(wanted, position, limit=limit)
        rows = [run_row(run) for run in page.runs]
        return _encoded({"runs": rows, "total": page.total, "next": page.position or None})

    def run(self, run_id: str) -> tuple[Run, bytes]:
        """Return a run, and its JSON."""
        run = self._reader.run(run_id)
        return run, _encoded(run_row(run))

    def figures(self, run_id: str) -> tuple[bool, bytes]:
        """Return a run with its figures, and what its workers do now; True if all outcomes are counted."""
        run = self._reader.run(run_id)
        figures = self._figures_of(run)
        figures.read_on(
            lambda after, limit: self._reader.outcomes(run_id, after, limit=limit), seconds=_READING_SECONDS
        )
        claimed = self._reader.claimed(run_id) if run.claimed else []
        document = {
            "run": run_row(run),
            "figures": figures.as_json(),
            "advice": {group.type: advice_for(group.type) for group in figures.failures},
            "claimed": [asdict(item) for item in claimed],
        }
        return figures.has_all, _encoded(document)

    def outcomes(self, run_id: str, after: str, limit: int, state: ItemState | None) -> bytes:
        """Return outcomes after a position, and that to go on from; the last ones say that they are."""
        found = self._reader.outcomes(run_id, after, limit=limit)
        following = found[-1].position if found else after
        has_ended = found is None or (
            bool(found) and self._reader.outcomes(run_id, following, limit=1) is None
        )
        return _encoded(
            {
                "outcomes": [
                    outcome.as_json() | {"position": outcome.position, "at": outcome.recorded_at}
                    for outcome in found or ()
                    if state in {None, outcome.state}
                ],
                "next": following,
                "has_ended": has_ended,
            }
        )

    def start(self, document: dict[str, Any]) -> tuple[bool, bytes]:
        """Start a run that a worker plans, or find that of the key; return True for a new one, and the run.

        `UsageError`, with nothing started, if an argument is wrong or the key was used with other arguments.
        """
        _check_fields(document, {"operation": str, "options": dict, "items": list, "key": str})
        arguments = {"operation": document.get("operation", ""), **document.get("options", {})}
        if "operation" in document.get("options", {}) or "idempotency_key" in arguments:
            raise UsageError("options: operation and key stand beside them")
        if "items" in document:
            request = REQUESTS.get(arguments["operation"])
            arguments["stage_ids" if request is None else request.items] = document["items"]
        key = document.get("key", str(uuid.uuid4()))
        check_key(key)
        RunRequest.parse((), dict(arguments), items_as="items")  # before a host is looked for
        if arguments.pop("all_hosts", False):  # chosen once: the worker must come to the same run
            arguments["hosts"] = self._fleet.hosts.choose(arguments.get("hosts"), everywhere=True)
        known = self._run_under(key)
        message = start_run_message(key, arguments)
        run = RunRequest.parse((), dict(arguments)).start(self._fleet, key, message, enqueue=True)
        return run.id != known, _encoded(run_row(run))

    def _run_under(self, key: str) -> str | None:
        try:
            return self._fleet.run_under(key).id
        except RunNotFoundError:
            return None

    def cancel(self, run_id: str, body: dict[str, Any]) -> bytes:
        """Cancel a run; with `now`, stop what runs."""
        _check_fields(body, {"now": bool})
        self._fleet.cancel(run_id, now=body.get("now", False))
        return self.run(run_id)[1]

    def pause(self, run_id: str, body: dict[str, Any]) -> bytes:
        """Let no item of a run start any more."""
        _check_fields(body, {})
        self._fleet.pause(run_id)
        return self.run(run_id)[1]

    def resume(self, run_id: str, body: dict[str, Any]) -> bytes:
        """Let the items of a paused run start again."""
        _check_fields(body, {})
        self._fleet.resume(run_id)
        return self.run(run_id)[1]

    def retry(self, run_id: str, body: dict[str, Any]) -> bytes:
        """Start a new run of what failed or was cancelled in a finished one, and return it."""
        _check_fields(body, {"parallel": int})
        parallel = body.get("parallel")
        if parallel is not None and parallel < 1:
            raise UsageError("parallel: write 1 or more")
        return _encoded(run_row(self._fleet.retry(run_id, parallel=parallel, detach=True)))

    def changes(self) -> dict[str, Callable[[str, dict[str, Any]], bytes]]:
        """Return what can be done to a run, by the last part of its address."""
        return {"cancel": self.cancel, "pause": self.pause, "resume": self.resume, "retry": self.retry}

    def _figures_of(self, run: Run) -> RunFigures:
        with self._figures_lock:
            figures = self._figures.setdefault(run.id, RunFigures(run))
            self._figures.move_to_end(run.id)
            while len(self._figures) > _KEPT_FIGURES:
                self._figures.popitem(last=False)
            return figures


def filter_of(operation: str, text: str, states: list[str]) -> RunFilter:
    """Build the filter of a list; `UsageError` for a state that runs do not have.

    The operation may be named as requests name it: `copy` for `copy_stage`.
    """
    known = sorted(RunState)
    if unknown := [state for state in states if state not in known]:
        raise UsageError(f"state {quoted(unknown[0])}: write one of {', '.join(known)}")
    of_stages = f"{operation}_stage"
    wanted = of_stages if of_stages in OPERATIONS else operation
    return RunFilter(wanted, text, tuple(map(RunState, sorted(set(states)))))


_ADVICE = {
    bool: "write true or false",
    int: "write a whole number",
    str: "write a text, in quotes",
    list: 'write a list, as ["A", "B"]',
    dict: 'write an object, as {"NAME": VALUE}',
}
"""What to write where a value is of another type."""


def _check_fields(body: dict[str, Any], fields: dict[str, type]) -> None:
    """Refuse a field that is unknown, or of another type."""
    for name, value in body.items():
        if name not in fields:
            names = ", ".join(fields) or "none"
            raise UsageError(f"{quoted(name)[1:-1]}: there is no such field here, only {names}")
        if type(value) is not fields[name]:
            raise UsageError(f"{name}: {_ADVICE[fields[name]]}")


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
