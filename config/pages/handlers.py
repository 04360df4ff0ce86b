"""Handlers of the pages of runs and of `/api/runs`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from flower.views import BaseHandler
from flower.views.tasks import TaskView
from flower.views.workers import WorkerView
from tornado.web import HTTPError, StaticFileHandler, authenticated, stream_request_body, url

from config.pages.access import Access, LoginKind, is_same_origin
from config.pages.observer import MOST_OUTCOMES, BusyError, RunObserver, SharedReads, filter_of
from stagefleet import errors
from stagefleet.logs import EventLogger
from stagefleet.operations.catalog import OPERATIONS
from stagefleet.redaction import quoted
from stagefleet.runs.models import ItemState, Run, RunState
from stagefleet.runs.run_reader import PAGE_RUNS

_log = EventLogger(__name__)

_HERE = Path(__file__).parent
_RUN = "([0-9A-Za-z]{1,64})"
_MOST_BODY_BYTES = 16 * 1024 * 1024
_LONGEST_WAIT_SECONDS = 300.0
_WAIT_STEP_SECONDS = 1.0
_PAGE_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy of our pages: no script but files of this server. Tornado writes styles inline."""


class Services(NamedTuple):
    """Services that the handlers of one server share."""

    access: Access
    observer: RunObserver
    reads: SharedReads


class _RunsHandler(BaseHandler):  # type: ignore[misc]  # Flower ships no types
    """A handler of ours: it knows what the login may do."""

    services: Services

    def initialize(self, services: Services) -> None:
        """Take what the handlers share, for each request."""
        self.services = services

    @property
    def login_kind(self) -> LoginKind:
        """The kind of the request's login."""
        return self.services.access.kind_of(self.request)


class _PageHandler(_RunsHandler):
    """A page; all that it shows of runs, its script reads from the API."""

    def _render(self, template: str, **names: Any) -> None:
        self.set_header("Content-Security-Policy", _PAGE_POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "same-origin")
        self.render(
            str(_HERE / "templates" / template),
            login_kind=str(self.login_kind),
            api_url=f"{self.reverse_url('runs').rstrip('/?').removesuffix('/runs')}/api/runs",
            **names,
        )


class RunsPageHandler(_PageHandler):
    """The list of runs."""

    @authenticated
    def get(self) -> None:
        states = [state for state in RunState if state is not RunState.UNREADABLE]
        self._render("runs.html", operations=sorted(OPERATIONS), states=states)


class RunPageHandler(_PageHandler):
    """One run."""

    @authenticated
    def get(self, run_id: str) -> None:
        self._render("run.html", run_id=run_id)


class _FlowerPageHandler(_RunsHandler):
    """A page of Flower's own, without its buttons for who may only look."""

    def render(self, *names: Any, **values: Any) -> None:
        """Render as Flower does, read-only for a viewer."""
        if "read_only" in values:
            values["read_only"] = bool(values["read_only"]) or self.login_kind is LoginKind.VIEWER
        super().render(*names, **values)


class WorkerPageHandler(_FlowerPageHandler, WorkerView):  # type: ignore[misc]  # Flower ships no types
    """One worker."""


class TaskPageHandler(_FlowerPageHandler, TaskView):  # type: ignore[misc]  # Flower ships no types
    """One task."""


class _ApiHandler(_RunsHandler):
    """A route of the API: JSON in and out, errors as `{"error": {"type", "message"}}`."""

    def prepare(self) -> None:
        if not self.current_user:
            raise HTTPError(HTTPStatus.UNAUTHORIZED)
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Do nothing: `_ChangingHandler` checks where a request that changes anything comes from."""

    def answer(self, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(body)

    def take_only(self, *names: str) -> None:
        """Refuse a parameter of the query that nobody reads: with a typing error it would filter nothing."""
        for name in self.request.query_arguments:
            if name not in names:
                raise errors.UsageError(
                    f"{quoted(name)}: there is no such parameter here, only {', '.join(names)}"
                )

    def number(self, name: str, default: float, most: float) -> float:
        """Return a number of the query, at most so large."""
        text = self.get_query_argument(name, "")
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = -1
        if not 0 <= value <= most:
            raise errors.UsageError(f"{name}: write a number from 0 to {most:g}")
        return value

    def write_error(self, status_code: int, **about: Any) -> None:
        error = about.get("exc_info", (None, None))[1]
        status, kind, message = _answer_of(error, status_code)
        self.set_status(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", "2")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": {"type": kind, "message": message}}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:  # noqa: ARG002 - Tornado's signature
        """Log bugs alone: what a client did wrong, or an outage, it is told."""
        if not isinstance(value, errors.StagefleetError | HTTPError):
            _log.error("unexpected_error", action="api", exc_info=value)


class RunsHandler(_ApiHandler):
    """`GET /api/runs`: a page of the list."""

    async def get(self) -> None:
        self.take_only("operation", "repository", "state", "after", "limit")
        wanted = filter_of(
            self.get_query_argument("operation", ""),
            self.get_query_argument("repository", ""),
            [state for text in self.get_query_arguments("state") for state in text.split(",") if state],
        )
        position = self.get_query_argument("after", "")
        limit = int(self.number("limit", PAGE_RUNS, 200)) or 1
        observer = self.services.observer
        self.answer(
            await self.services.reads.shared(
                ("page", wanted, position, limit), lambda: observer.page(wanted, position, limit)
            )
        )


class RunHandler(_ApiHandler):
    """`GET /api/runs/RUN`: one run."""

    async def get(self, run_id: str) -> None:
        self.answer((await self.read(run_id))[1])

    async def read(self, run_id: str) -> tuple[Run, bytes]:
        return await self.services.reads.shared(("run", run_id), lambda: self.services.observer.run(run_id))


class FiguresHandler(_ApiHandler):
    """`GET /api/runs/RUN/figures`: one run, with all that its page shows."""

    async def get(self, run_id: str) -> None:
        _, body = await self.services.reads.shared(
            ("figures", run_id), lambda: self.services.observer.figures(run_id), is_whole=itemgetter(0)
        )
        self.answer(body)


class OutcomesHandler(_ApiHandler):
    """`GET /api/runs/RUN/outcomes`: outcomes in the order of completion, after a position."""

    async def get(self, run_id: str) -> None:
        after, text = self.get_query_argument("after", ""), self.get_query_argument("state", "")
        if text and text not in set(ItemState):
            raise errors.UsageError(f"state {quoted(text)}: write one of {', '.join(ItemState)}")
        if after and not all(part.isdecimal() for part in after.split("-")):
            raise errors.UsageError(f"after: {quoted(after)} is no position: take the `next` of an answer")
        limit = int(self.number("limit", MOST_OUTCOMES, MOST_OUTCOMES)) or 1
        state = ItemState(text) if text else None
        observer = self.services.observer
        self.answer(await self.services.reads.run(lambda: observer.outcomes(run_id, after, limit, state)))


class WaitHandler(RunHandler):
    """`GET /api/runs/RUN/wait`: the run once it has ended, or as it stands after the time-out."""

    async def get(self, run_id: str) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.number("timeout", 30, _LONGEST_WAIT_SECONDS)
        while True:
            run, body = await self.read(run_id)
            if run.state.is_final or loop.time() >= give_up_at:
                self.answer(body)
                return
            await asyncio.sleep(min(_WAIT_STEP_SECONDS, max(0.0, give_up_at - loop.time())))
            if self.request.connection.stream.closed():
                return


@stream_request_body
class _ChangingHandler(_ApiHandler):
    """A route that changes something: for operators, from no other site, with JSON of a bounded size."""

    def prepare(self) -> None:
        super().prepare()
        self._body = bytearray()
        if self.request.method in {"GET", "HEAD"}:
            return
        self.request.connection.set_max_body_size(_MOST_BODY_BYTES)
        if self.login_kind is not LoginKind.OPERATOR:
            raise HTTPError(
                HTTPStatus.UNAUTHORIZED, reason="set flower.user and flower.password to change anything"
            )
        if not is_same_origin(self.request):
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="the request comes from another site")
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason="send Content-Type: application/json")
        if int(self.request.headers.get("Content-Length", 0)) > _MOST_BODY_BYTES:
            raise HTTPError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason=f"a body has at most {_MOST_BODY_BYTES:,} bytes"
            )

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def document(self) -> dict[str, Any]:
        """Return the body, an object; an empty one has no fields."""
        try:
            document = json.loads(self._body or b"{}")
        except (ValueError, RecursionError):
            raise errors.UsageError("the body is no JSON") from None
        if not isinstance(document, dict):
            raise errors.UsageError("the body is no JSON object")
        return document


class StartHandler(_ChangingHandler, RunsHandler):
    """`/api/runs`: also start a run."""

    async def post(self) -> None:
        document = self.document()
        is_new, body = await self.services.reads.run(lambda: self.services.observer.start(document))
        self.answer(body, HTTPStatus.CREATED if is_new else HTTPStatus.OK)


class ChangeHandler(_ChangingHandler):
    """`POST /api/runs/RUN/cancel`, and the like."""

    async def post(self, run_id: str, name: str) -> None:
        change: Callable[[str, dict[str, Any]], bytes] = self.services.observer.changes()[name]
        document = self.document()
        self.answer(await self.services.reads.run(lambda: change(run_id, document)))


class PathRefusalHandler(_ApiHandler):
    """The answer below `/api` where neither Flower nor we have a route; takes every method."""

    def initialize(self, services: Services | None = None) -> None:
        """Take nothing: no service is asked."""

    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(
            HTTPStatus.NOT_FOUND, reason="there is no such path: docs/http-api.md lists those of runs"
        )


class RefusalHandler(BaseHandler):  # type: ignore[misc]  # Flower ships no types
    """The answer to a viewer that wants to change something, on any route of the server."""

    def check_xsrf_cookie(self) -> None:
        """Do nothing: the request is refused anyway."""

    def prepare(self) -> None:
        if not self.current_user:
            raise HTTPError(HTTPStatus.UNAUTHORIZED)
        self.set_status(HTTPStatus.FORBIDDEN)
        self.finish(
            {"error": {"type": "ViewerError", "message": "this login may only look: use an operator's"}}
        )


def _answer_of(error: BaseException | None, status: int) -> tuple[int, str, str]:
    """Return status, type and message of an answer to a failed request."""
    if isinstance(error, HTTPError):
        return error.status_code, "HttpError", error.reason or HTTPStatus(error.status_code).phrase
    if isinstance(error, errors.StagefleetError):
        return _status_of(error), type(error).__name__, str(error)
    return status, "InternalError", "an internal error: the log of Flower says where"


def _status_of(error: errors.StagefleetError) -> int:
    if isinstance(error, errors.RunNotFoundError):
        return HTTPStatus.NOT_FOUND
    if isinstance(
        error, errors.KeyConflictError | errors.IncompatibleVersionError | errors.LedgerRewoundError
    ):
        return HTTPStatus.CONFLICT
    if isinstance(error, errors.UnreachableError | errors.RedisConfigurationError | BusyError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, errors.UsageError):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.INTERNAL_SERVER_ERROR


def base_of(prefix: str) -> str:
    """Return how all paths begin, below the path of a proxy; "" without one."""
    return f"/{prefix.strip('/')}" if prefix.strip("/") else ""


def routes(services: Services, prefix: str) -> list[Any]:
    """Return the routes of all pages, below the path of a proxy."""
    base = base_of(prefix)
    ours, static = {"services": services}, {"path": str(_HERE / "static")}
    changes = "|".join(services.observer.changes())
    return [
        url(rf"{base}/runs", RunsPageHandler, ours, name="runs"),
        url(rf"{base}/runs/{_RUN}", RunPageHandler, ours, name="run"),
        url(rf"{base}/api/runs", StartHandler, ours),
        url(rf"{base}/api/runs/{_RUN}", RunHandler, ours),
        url(rf"{base}/api/runs/{_RUN}/figures", FiguresHandler, ours),
        url(rf"{base}/api/runs/{_RUN}/outcomes", OutcomesHandler, ours),
        url(rf"{base}/api/runs/{_RUN}/wait", WaitHandler, ours),
        url(rf"{base}/api/runs/{_RUN}/({changes})", ChangeHandler, ours),
        url(rf"{base}/static-runs/(.*)", StaticFileHandler, static, name="static-runs"),
        url(rf"{base}/worker/(.+)", WorkerPageHandler, ours),
        url(rf"{base}/task/(.+)", TaskPageHandler, ours),
    ]
