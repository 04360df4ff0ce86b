"""One trace a run: a command and workers, each a process of its own, export to a collector of the test's."""

from __future__ import annotations

import base64
import json
import subprocess
from collections import Counter

import pytest

from tests.services import clean_environment, stagefleet_command
from tests.services.collector import TraceCollector
from tests.services.images import push_stages

TRACE, PARENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PASSWORD = "planted/registry#pass?word@1"
TOKEN = b"eyJhbGciOi"
LIMIT_SECONDS = 120
STAGES = 6


@pytest.fixture
def collector():
    with TraceCollector() as collector:
        yield collector


@pytest.fixture
def registry(make_registry, make_token_server):
    return make_registry(token=make_token_server(users={"ann": PASSWORD}))


@pytest.fixture
def environment(make_redis, registry, collector, tmp_path):
    entry = {"auth": base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: entry}}))
    return clean_environment(
        DOCKER_CONFIG=str(tmp_path),
        STAGEFLEET_REDIS_URL=make_redis().url,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
    )


@pytest.fixture
def copied(registry, environment, make_workers, tmp_path):
    """The run that a command with a parent of its own has started and followed."""
    make_workers(environment["STAGEFLEET_REDIS_URL"], processes=2, environment=environment)
    push_stages(registry, "src", STAGES)
    done = subprocess.run(
        stagefleet_command("copy", f"{registry.host}/src", f"{registry.host}/dst", "--json"),
        env=environment | {"TRACEPARENT": f"00-{TRACE}-{PARENT_SPAN}-01", "OTEL_SERVICE_NAME": "ci job"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr.partition("error")[1])
    return json.loads(done.stdout.splitlines()[-1])["run"]


def has_all(spans):
    names = Counter(span.name for span in spans if span.trace_id == TRACE)
    return STAGES == names["process copy"] and names["run copy_stage"] and names["submit run"]


def test_a_run_is_one_trace_across_all_processes(copied, collector, registry):
    spans = collector.wait_for(has_all, seconds=LIMIT_SECONDS)
    assert {TRACE} == {span.trace_id for span in spans}
    named = {span.name: span for span in spans}
    submission, run = named["submit run"], named["run copy_stage"]
    assert (PARENT_SPAN, "producer", "ci job") == (
        submission.parent_id,
        submission.kind,
        submission.resource["service.name"],
    )
    attempts = [span for span in spans if span.name == "process copy"]
    assert {submission.span_id} == {span.parent_id for span in (*attempts, run)}
    assert {("consumer", "stagefleet", copied, 1, "done", "copy")} == {
        (
            span.kind,
            span.resource["service.name"],
            span.facts["stagefleet.run"],
            span.facts["stagefleet.attempt"],
            span.facts["stagefleet.end"],
            span.facts["messaging.destination.name"],
        )
        for span in attempts
    }
    assert ("succeeded", STAGES) == (run.facts["stagefleet.state"], run.facts["stagefleet.succeeded"])

    requests = [span for span in spans if span.kind == "client"]
    of_attempts = [span for span in requests if span.parent_id in {span.span_id for span in attempts}]
    assert "PUT /v2/{name}/manifests/{reference}" in {span.name for span in of_attempts}
    assert "GET /v2/{name}/tags/list" in {span.name for span in requests}
    assert {registry.host} >= {
        f"{span.facts['server.address']}:{span.facts['server.port']}"
        for span in of_attempts
        if "/v2/" in span.name
    }
    assert not any("?" in span.facts["url.full"] for span in requests)
    raw = b"".join(collector.raw)
    assert [] == [secret for secret in (PASSWORD.encode(), TOKEN) if secret in raw]
