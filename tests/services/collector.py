"""A collector of traces, which keeps the spans: OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/)."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan, Status

from tests.services.listener import PostServer

__all__ = ["CollectedSpan", "TraceCollector"]


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """A span as it came; ids are in hexadecimal digits, "" for no parent."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    facts: dict[str, Any]
    resource: dict[str, Any]
    is_error: bool
    error: str
    seconds: float


class TraceCollector(PostServer):
    """A server that takes traces.

    Attributes:
        status: What requests are answered with.
        may_answer: Cleared by a test that lets requests hang.
        raw: The bodies that came.
    """

    def __init__(self) -> None:
        self.status = 200
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.raw: list[bytes] = []
        self._spans: list[CollectedSpan] = []
        self._came = threading.Condition()
        super().__init__()

    def wait_for(
        self, accept: Callable[[Sequence[CollectedSpan]], object], *, seconds: float = 60
    ) -> list[CollectedSpan]:
        """Wait until the spans that came are accepted, and return them."""
        until = time.monotonic() + seconds
        with self._came:
            while not accept(self._spans):
                left = until - time.monotonic()
                assert left > 0, f"only these spans came: {sorted({span.name for span in self._spans})}"
                self._came.wait(left)
            return list(self._spans)

    def _answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, bytes]:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert ("/v1/traces", "application/x-protobuf") == (path, headers["content-type"])
        self._take(body)
        self.may_answer.wait()
        return self.status, "application/x-protobuf", ExportTraceServiceResponse().SerializeToString()

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            _collected(span, _values(group.resource.attributes))
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._came:
            self.raw.append(body)
            if self.status == 200:
                self._spans += spans
            self._came.notify_all()


def _collected(span: WireSpan, resource: dict[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        facts=_values(span.attributes),
        resource=resource,
        is_error=span.status.code == Status.StatusCode.STATUS_CODE_ERROR,
        error=span.status.message,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in attributes}
