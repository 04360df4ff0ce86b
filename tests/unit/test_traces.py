"""Spans here, without a fleet; tests/integration/workers/test_traces.py has those of a run."""

from __future__ import annotations

import logging
import sys
import threading
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stagefleet import traces
from stagefleet.errors import NotFoundError
from stagefleet.redaction import remember_secret
from tests.services.collector import TraceCollector
from tests.unit.test_imports import modules_with

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT.split("-")[1]
VARIABLES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "TRACEPARENT", "TRACESTATE")
LOADED = "stagefleet.traces as traces; traces.span('name', 'internal').__enter__(); traces.current_context()"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in (*VARIABLES, *traces._ENDPOINTS, *traces._PROTOCOLS):
        monkeypatch.delenv(name, raising=False)
    traces._own_tracer.cache_clear()
    yield
    traces.close()
    traces._own_tracer.cache_clear()


@pytest.fixture
def collector(monkeypatch):
    with TraceCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


@pytest.fixture
def program(monkeypatch):
    """A program that has set up tracing itself; gives its tracer, and what it has exported."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return provider.get_tracer("a program"), exporter


def own_tracer() -> Any:
    return traces._own_tracer()


def opentelemetry_in(modules):
    return {name for name in modules if name.startswith(("opentelemetry", "google"))}


class TestWithoutTracing:
    def test_nothing_of_opentelemetry_is_loaded(self):
        assert set() == opentelemetry_in(modules_with(LOADED))

    def test_it_is_loaded_where_the_environment_asks_for_it(self, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        assert "opentelemetry.sdk.trace" in modules_with(LOADED.replace("__enter__()", "__class__"))

    @pytest.mark.parametrize(
        ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")]
    )
    def test_the_environment_can_switch_it_off(self, monkeypatch, collector, name, value):
        monkeypatch.setenv(name, value)
        with traces.span("name", "internal") as span:
            assert span._span is None

    def test_a_client_without_the_extra_works_and_says_so_to_those_who_look(self, monkeypatch, caplog):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        with caplog.at_level(logging.INFO), traces.request_span("GET", "https://r.test/v2/") as span:
            span.note_status(500)
            span.fail("Error", "text")
        assert "stagefleet[otel]" in caplog.text

    def test_another_protocol_is_refused_in_one_line(self, monkeypatch, collector, caplog):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        with traces.span("name", "internal"):
            pass
        assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf" in caplog.text

    def test_the_context_of_the_environment_is_passed_on_to_workers_that_trace(self, monkeypatch):
        monkeypatch.setenv("TRACEPARENT", PARENT)
        monkeypatch.setenv("TRACESTATE", "vendor=1")
        assert {"traceparent": PARENT, "tracestate": "vendor=1"} == traces.current_context()

    @pytest.mark.parametrize("text", ["", "nonsense", f"ff{PARENT[2:]}", PARENT.replace(TRACE, "0" * 32)])
    def test_a_malformed_context_is_none(self, monkeypatch, text):
        monkeypatch.setenv("TRACEPARENT", text)
        assert {} == traces.current_context()


class TestExport:
    def test_spans_have_the_parent_of_the_environment(self, monkeypatch, collector):
        monkeypatch.setenv("TRACEPARENT", PARENT)
        with traces.span("outer", "producer", lambda: {"a": 1, "b": None}):
            context = traces.current_context()
            with traces.span("inner", "internal"):
                traces.note({"c": "d"})
        traces.record_span("ended", {}, parent=context, began_at=5.0, ended_at=7.5, error="Kind")
        traces.close()
        spans = {span.name: span for span in collector.wait_for(lambda came: len(came) == 3)}
        outer = spans["outer"]
        assert {TRACE} == {span.trace_id for span in spans.values()}
        assert (PARENT.split("-")[2], "producer", {"a": 1}) == (outer.parent_id, outer.kind, outer.facts)
        assert [outer.span_id] * 2 == [spans[name].parent_id for name in ("inner", "ended")]
        assert {"c": "d"} == spans["inner"].facts
        assert (2.5, True, {"error.type": "Kind"}) == (
            spans["ended"].seconds,
            spans["ended"].is_error,
            spans["ended"].facts,
        )
        assert "stagefleet" == outer.resource["service.name"]

    def test_the_name_of_the_service_is_the_environment_s(self, monkeypatch, collector):
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mirror")
        with traces.span("name", "internal"):
            pass
        traces.close()
        (span,) = collector.wait_for(len)
        assert "mirror" == span.resource["service.name"]

    def test_a_collector_that_fails_is_told_of_once_and_disturbs_nothing(self, collector, caplog):
        collector.status = 400
        for _ in range(3):
            with traces.span("name", "internal"):
                pass
            own_tracer()._provider.force_flush()
        assert 3 == len(collector.raw)
        assert 1 == caplog.text.count("spans_dropped")
        assert "Traceback" not in caplog.text

    def test_the_end_of_a_process_waits_for_a_collector_that_hangs_for_a_bounded_time(
        self, monkeypatch, collector
    ):
        monkeypatch.setattr(traces, "_LAST_EXPORT_SECONDS", 0.01)
        collector.may_answer.clear()
        with traces.span("name", "internal"):
            pass
        traces.close()
        assert not own_tracer()._has_ended.is_set()
        collector.may_answer.set()
        assert own_tracer()._has_ended.wait(60)


class TestInAProgram:
    def test_its_current_span_is_the_parent(self, program):
        tracer, exporter = program
        with tracer.start_as_current_span("its own"), traces.span("ours", "client"):
            assert traces.current_context()["traceparent"].startswith("00-")
        ours, own = exporter.get_finished_spans()
        assert own.context.span_id == ours.parent.span_id
        assert "stagefleet" == ours.instrumentation_scope.name

    def test_threads_that_copy_the_context_go_on_with_it(self, program):
        _, exporter = program
        with traces.span("outer", "consumer"):
            thread = threading.Thread(target=copy_context().run, args=(_open_inner,))
            thread.start()
            thread.join()
        inner, outer = exporter.get_finished_spans()
        assert outer.context.span_id == inner.parent.span_id

    def test_an_error_fails_its_span_without_a_traceback(self, program):
        _, exporter = program
        with pytest.raises(NotFoundError), traces.span("name", "internal"):
            raise NotFoundError("it is gone")
        with pytest.raises(ValueError, match="unknown"), traces.span("name", "internal"):
            raise ValueError("unknown words of a library")
        ours, foreign = exporter.get_finished_spans()
        assert ("NotFoundError", "it is gone") == (ours.attributes["error.type"], ours.status.description)
        assert ("ValueError", "") == (foreign.attributes["error.type"], foreign.status.description)
        assert ((), ()) == (ours.events, foreign.events)

    @pytest.mark.parametrize(
        ("host", "path", "hidden", "name"),
        [
            ("https://r.test", "/v2/a/b/manifests/x", "", "/v2/{name}/manifests/{reference}"),
            ("http://r.test:5000", "/v2/a/tags/list", "?n=5&last=t", "/v2/{name}/tags/list"),
            ("https://r.test", "/v2/a/blobs/sha256:0", "?sig=s", "/v2/{name}/blobs/{digest}"),
            ("https://r.test", "/v2/a/blobs/uploads/", "7?_state=s", "/v2/{name}/blobs/uploads/"),
            ("https://store.test", "", "/b/signed?sig=s#f", ""),
            ("https://hooks.test", "", "/services/T0/B0/secret", ""),
        ],
    )
    def test_a_url_is_shown_without_what_may_be_secret(self, program, host, path, hidden, name):
        _, exporter = program
        with traces.request_span("GET", host + path + hidden) as span:
            span.note_status(200)
        (made,) = exporter.get_finished_spans()
        assert (host + path, f"GET {name}".strip()) == (made.attributes["url.full"], made.name)
        assert (200, False) == (made.attributes["http.response.status_code"], "error.type" in made.attributes)

    def test_registered_secrets_are_masked_in_texts(self, program):
        _, exporter = program
        remember_secret("a-long-password")
        with traces.span("name", "internal", lambda: {"a": "is a-long-password"}) as span:
            span.fail("Error", "no a-long-password")
        (made,) = exporter.get_finished_spans()
        assert ("is ***", "no ***") == (made.attributes["a"], made.status.description)


def _open_inner():
    with traces.span("inner", "client"):
        pass
