"""The border to OpenTelemetry: spans of runs, attempts and requests; without it, or unless set up, nothing.

A program that has set up tracing itself sees Stagefleet's spans in it. Else the standard variables decide
(`OTEL_EXPORTER_OTLP_ENDPOINT` and others of the SDK): spans go to that collector by OTLP over HTTP, from a
bounded queue, and what cannot be sent is dropped. No other module knows OpenTelemetry, which is loaded at the
first span. Attributes hold no secret: texts are redacted, and a URL is shown without what may be a signature.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from stagefleet.errors import StagefleetError
from stagefleet.logs import EventLogger
from stagefleet.redaction import masked_url, redact

Fact = str | int | float | bool | None
Facts = Mapping[str, Fact]
"""Attributes of a span by name; those that are None are left out."""

_LAST_EXPORT_SECONDS = 5.0
"""How long the end of a process waits for the last spans."""
_API, _SDK = "opentelemetry.trace", "opentelemetry.sdk"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
# W3C Trace Context, sections 3.2 and 3.3; in the environment as OpenTelemetry's specification has it
# ("Environment Variables as Context Propagation Carriers").
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{0,512}")
_API_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<rest>.*)")
_ERROR_STATUS = 400

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_log = EventLogger(__name__)


class Span:
    """A span of a trace; without tracing it takes everything, and does nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, facts: Facts) -> None:
        """Add attributes."""
        if self._span is not None:
            self._span.set_attributes(_attributes(facts))

    def fail(self, kind: str, text: str = "") -> None:
        """Mark it as failed with an error of a kind, "" for one that is noted; the text is for people."""
        if self._span is not None:
            status = importlib.import_module("opentelemetry.trace.status")
            self.note({"error.type": kind or None})
            self._span.set_status(status.Status(status.StatusCode.ERROR, redact(text)))

    def note_status(self, status: int) -> None:
        """Note the status of an HTTP response; from 400 on the request has failed (semantic conventions)."""
        if self._span is not None:
            self.note({"http.response.status_code": status})
            if status >= _ERROR_STATUS:
                self.fail(str(status))


_NO_SPAN = nullcontext(Span())
_CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)


def span(
    name: str, kind: str, make_facts: Callable[[], Facts] = dict, *, parent: Mapping[str, str] | None = None
) -> AbstractContextManager[Span]:
    """Open a span for the block, in this thread and in those that copy its context.

    Args:
        name: Of few values: no id is in it.
        kind: `internal`, `client`, `producer` or `consumer`.
        make_facts: Returns its attributes; called only if there is tracing.
        parent: The context of another process; the current span or the environment's context if None.
    """
    tracer = _find_tracer()
    return _NO_SPAN if tracer is None else _open(tracer, name, kind, make_facts(), parent)


def in_span(name: str, kind: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorate a function so that each call has a span; see `span`."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with span(name, kind):
                return function(*args, **kwargs)

        return call

    return decorate


def note(facts: Facts) -> None:
    """Add attributes to the current span, if this thread is in one of ours."""
    current = _CURRENT.get()
    if current is not None:
        current.note(facts)


def request_span(method: str, url: str) -> AbstractContextManager[Span]:
    """Open the span of an HTTP request, until the header of its response is there."""
    tracer = _find_tracer()
    if tracer is None:
        return _NO_SPAN
    parts = urlsplit(url)
    shown, template = _shown_url(url)
    facts: Facts = {
        "http.request.method": method,
        "url.full": shown,
        "url.template": template or None,
        "server.address": parts.hostname,
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
    return _open(tracer, f"{method} {template}".strip(), "client", facts, None)


def record_span(
    name: str, facts: Facts, *, parent: Mapping[str, str], began_at: float, ended_at: float, error: str = ""
) -> None:
    """Record a span that has ended already; times are in seconds since 1970, `error` is the kind of one."""
    tracer = _find_tracer()
    if tracer is None:
        return
    made = tracer.start_span(
        name, context=_context_of(parent), attributes=_attributes(facts), start_time=round(began_at * 1e9)
    )
    if error:
        Span(made).fail(error)
    made.end(end_time=round(ended_at * 1e9))


def current_context() -> dict[str, str]:
    """Return the context for what continues the trace elsewhere, as W3C headers; {} without a trace.

    Without tracing here, that of the environment is passed on: others may trace what belongs to it.
    """
    carrier: dict[str, str] = {}
    if _find_tracer() is not None:
        _propagator().inject(carrier)
    return carrier or _context_of_environment()


def close() -> None:
    """Send what is left, for some seconds at most; for a process that is about to end."""
    if _own_tracer.cache_info().currsize and (tracer := _own_tracer()) is not None:
        tracer.close()


def _find_tracer() -> Any:
    """Return what opens spans: the program's own set-up, else that of the environment; None without any."""
    api = sys.modules.get(_API)
    if api is not None:
        provider = api.get_tracer_provider()
        if not isinstance(provider, api.ProxyTracerProvider):
            return provider.get_tracer("stagefleet")
    own = _own_tracer()
    return None if own is None else own.tracer


@functools.cache
def _own_tracer() -> _OwnTracer | None:
    """Set up tracing as the environment says, once a process; None if it says nothing, or not what we can."""
    environment = os.environ
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    if not any(environment.get(name) for name in _ENDPOINTS):
        return None
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), _HTTP)
    if protocol != _HTTP:
        reason = f"{protocol} is not supported: set {_PROTOCOLS[0]}={_HTTP}"
        _log.warning("traces_not_exported", reason=reason)
        return None
    try:
        return _OwnTracer()
    except ImportError:
        _log.info("traces_not_exported", reason="install them: pip install 'stagefleet[otel]'")
    except Exception as error:  # noqa: BLE001 - tracing never disturbs what is traced
        _log.warning("traces_not_exported", reason=f"{type(error).__name__}: {error}")
    return None


class _OwnTracer:
    """The tracer of this process, with its exporter; not the global one, which is the program's to set."""

    def __init__(self) -> None:
        trace = importlib.import_module(f"{_SDK}.trace")
        resources = importlib.import_module(f"{_SDK}.resources")
        export = importlib.import_module(f"{_SDK}.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resource = resources.Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(resources.Resource({"service.name": "stagefleet"}))
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `_quiet_exporter` says it once
        self._provider = trace.TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = _quiet_exporter(export, otlp.OTLPSpanExporter())
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("stagefleet")
        self._is_ending, self._has_ended = threading.Event(), threading.Event()
        # Made now, as an interpreter that ends starts no thread any more.
        threading.Thread(target=self._end, name="traces", daemon=True).start()
        atexit.register(self.close)

    def close(self) -> None:
        """Send what is left, and wait a few seconds for it."""
        self._is_ending.set()
        self._has_ended.wait(_LAST_EXPORT_SECONDS)

    def _end(self) -> None:
        self._is_ending.wait()
        self._provider.shutdown()
        self._has_ended.set()


def _quiet_exporter(export: Any, exporter: Any) -> Any:
    """Wrap an exporter, so that a collector that is away is logged once, and once more when it is back."""

    class Exporter(export.SpanExporter):  # type: ignore[misc]  # loaded at run time
        is_failing = False

        def export(self, spans: Any) -> Any:
            result = exporter.export(spans)
            has_failed = result is not export.SpanExportResult.SUCCESS
            if has_failed is not self.is_failing:
                self.is_failing = has_failed
                log = _log.warning if has_failed else _log.info
                log("spans_dropped" if has_failed else "spans_exported_again", action="export")
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Exporter()


@contextmanager
def _open(
    tracer: Any, name: str, kind: str, facts: Facts, parent: Mapping[str, str] | None
) -> Iterator[Span]:
    api = importlib.import_module(_API)
    if parent is None and not api.get_current_span().get_span_context().is_valid:
        parent = _context_of_environment()
    with tracer.start_as_current_span(
        name,
        context=_context_of(parent) if parent is not None else None,
        kind=api.SpanKind[kind.upper()],
        attributes=_attributes(facts),
        record_exception=False,  # a traceback may show what a message must not
        set_status_on_exception=False,
    ) as opened:
        made = Span(opened)
        outer = _CURRENT.set(made)
        try:
            yield made
        except BaseException as error:
            made.fail(type(error).__name__, str(error) if isinstance(error, StagefleetError) else "")
            raise
        finally:
            _CURRENT.reset(outer)


def _context_of(carrier: Mapping[str, str]) -> Any:
    context = importlib.import_module("opentelemetry.context")
    return _propagator().extract(carrier, context=context.Context())


def _context_of_environment() -> dict[str, str]:
    traceparent, tracestate = os.environ.get("TRACEPARENT", ""), os.environ.get("TRACESTATE", "")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return {}
    state = {"tracestate": tracestate} if tracestate and _TRACESTATE.fullmatch(tracestate) else {}
    return {"traceparent": traceparent} | state


def _propagator() -> Any:
    return importlib.import_module(f"{_API}.propagation.tracecontext").TraceContextTextMapPropagator()


def _attributes(facts: Facts) -> dict[str, Any]:
    return {
        name: redact(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value is not None
    }


def _shown_url(url: str) -> tuple[str, str]:
    """Return a URL without what a signature or a token may be in, and its template; "" if it is no API's.

    >>> _shown_url("https://r.test/v2/app/blobs/uploads/77?_state=x")
    ('https://r.test/v2/app/blobs/uploads/', '/v2/{name}/blobs/uploads/')
    >>> _shown_url("https://hooks.test/services/T0/secret")
    ('https://hooks.test', '')
    """
    path = _API_PATH.fullmatch(urlsplit(url).path)
    shown = masked_url(url)
    if path is None:
        return shown, ""
    name, kind, rest = path.groups()
    if kind == "blobs" and rest.startswith("upload"):
        rest = template = f"{rest.partition('/')[0]}/"
    else:
        template = rest if kind == "tags" else "{digest}" if kind in {"blobs", "referrers"} else "{reference}"
    return f"{shown}/v2/{name}/{kind}/{rest}", f"/v2/{{name}}/{kind}/{template}"
