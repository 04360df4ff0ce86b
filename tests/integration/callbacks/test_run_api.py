"""`/api/runs` of a real Flower: runs are listed, started, waited for and changed over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import requests
from flower.urls import handlers

from config.pages.observer import FRESH_SECONDS
from stagefleet import Fleet
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.integration.workers.conftest import eventually
from tests.integration.workers.test_flower import start_flower
from tests.services.images import push_stages

OPERATOR = ("me", "hunter2")
VIEWER = ("see", "only-look")
VIEWER_SETTINGS = {"FLOWER__VIEWER_USER": VIEWER[0], "FLOWER__VIEWER_PASSWORD": VIEWER[1]}
SECONDS = 30
BROWSERS = 50
LOOKING_SECONDS = 3
CHANGES = ("cancel", "pause", "resume", "retry")
STAGE = f"{1:056x}-1700000000001"
Call = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def flower(stand, tmp_path_factory):
    with start_flower(stand.redis.url, tmp_path_factory.mktemp("flower"), **VIEWER_SETTINGS) as address:
        yield address


@pytest.fixture
def call(flower) -> Call:
    """Calls the API as an operator."""

    def call(method: str, path: str, document: Any = None, **options: Any) -> requests.Response:
        options = {"auth": OPERATOR, "timeout": SECONDS, **options}
        return requests.request(method, f"{flower}/api/runs{path}", json=document, **options)  # noqa: S113 - it has one

    return call


@pytest.fixture
def ledger(stand):
    ledger = RedisLedger.connect(stand.redis.url, Settings())
    yield ledger
    ledger.close()


def start(ledger: RedisLedger, *items: str, **fields: Any) -> str:
    """A run that no worker takes: its operation has a queue of its own."""
    submission = ledger.open(RunSpec(**{"operation": "untaken", "parallel": 100, **fields}))
    ledger.append(submission, items)
    ledger.start(submission)
    return submission.run_id


def finish(ledger: RedisLedger, run_id: str, index: int, state: ItemState, message: str = "") -> None:
    claim = ledger.claim(run_id, index, "worker-1@one")
    assert claim
    error = ErrorInfo(type="BrokenStageError", message=message) if message else None
    ledger.finish(claim, Outcome(item=claim.item, state=state, error=error))


def told(answer: requests.Response) -> str:
    """The reason of a refusal."""
    return str(answer.json()["error"]["message"])


def test_a_copy_is_started_waited_for_and_read(call, registry):
    tags = sorted(str(pushed.tag) for pushed in push_stages(registry, "api/stages", 3))
    request = {
        "operation": "copy",
        "options": {"source": f"{registry.host}/api/stages", "destination": f"{registry.host}/api/copy"},
        "items": tags[:2],
        "key": "pipeline-1",
    }
    started = call("POST", "", request)
    assert 201 == started.status_code, started.text
    run_id = started.json()["run"]
    again = call("POST", "", request)
    assert (200, run_id) == (again.status_code, again.json()["run"])
    ended = call("GET", f"/{run_id}/wait?timeout=60").json()
    assert ("succeeded", 2) == (ended["state"], ended["succeeded"])
    outcomes = call("GET", f"/{run_id}/outcomes").json()
    assert tags[:2] == sorted(outcome["item"] for outcome in outcomes["outcomes"])
    rest = call("GET", f"/{run_id}/outcomes?after={outcomes['next']}").json()
    assert ([], True) == (rest["outcomes"], rest["has_ended"])
    other = call("POST", "", request | {"items": tags})
    assert (409, True) == (other.status_code, "pipeline-1" in told(other))
    figures = call("GET", f"/{run_id}/figures").json()
    assert (2, True) == (figures["figures"]["read"], figures["figures"]["has_all"])


def test_the_key_of_a_run_that_failed_goes_on_with_what_is_left(call, stand, registry):
    """What `Fleet` does with a key, `POST /api/runs` does, too: docs/guarantees.md."""
    good, bad = push_stages(registry, "api/half", 2)
    name = bad.layers[-1].removeprefix("sha256:")
    blob = registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    content = blob.read_bytes()
    blob.unlink()
    source, destination = f"{registry.host}/api/half", f"{registry.host}/api/whole"
    request = {"operation": "copy", "options": {"source": source, "destination": destination}, "key": "half"}
    first = call("POST", "", request).json()["run"]
    ended = call("GET", f"/{first}/wait?timeout=60").json()
    assert ("failed", 1, 1) == (ended["state"], ended["succeeded"], ended["failed"])
    (failed,) = call("GET", f"/{first}/outcomes?state=failed").json()["outcomes"]
    assert bad.tag == failed["item"]

    blob.write_bytes(content)
    again = call("POST", "", request)
    second = again.json()["run"]
    assert (201, first) == (again.status_code, again.json()["parent"])
    ended = call("GET", f"/{second}/wait?timeout=60").json()
    assert ("succeeded", 1, 1) == (ended["state"], ended["total"], ended["succeeded"])

    found = call("POST", "", request)
    assert (200, second) == (found.status_code, found.json()["run"])
    with Fleet.connect(stand.redis.url) as fleet:
        assert second == fleet.for_each_copy_stage(source, destination, idempotency_key="half").id
    other = call("POST", "", request | {"items": [str(good.tag)]})
    assert (409, True) == (other.status_code, "half" in told(other))


def test_the_key_of_a_run_whose_plan_was_refused_is_free(call, registry):
    push_stages(registry, "api/later", 1)
    options = {"source": f"{registry.host}/api/none", "destination": f"{registry.host}/api/then"}
    refused = call("POST", "", {"operation": "copy", "options": options, "key": "later"}).json()["run"]
    assert "failed" == call("GET", f"/{refused}/wait?timeout=60").json()["state"]
    right = options | {"source": f"{registry.host}/api/later"}
    answer = call("POST", "", {"operation": "copy", "options": right, "key": "later"})
    assert 201 == answer.status_code, answer.text
    ended = call("GET", f"/{answer.json()['run']}/wait?timeout=60").json()
    assert ("succeeded", 1) == (ended["state"], ended["total"])


def test_a_plan_that_is_refused_is_told_by_the_run(call, registry):
    options = {"source": f"{registry.host}/api/none", "destination": f"{registry.host}/api/copy"}
    run_id = call("POST", "", {"operation": "copy", "options": options}).json()["run"]
    ended = call("GET", f"/{run_id}/wait?timeout=60").json()
    assert ("failed", "RepositoryNotFoundError") == (ended["state"], ended["error"]["type"])


COPY = {"source": "a.test/app", "destination": "b.test/app"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "operation: write one of"),
        ({"operation": "cpy", "options": COPY}, "operation: write one of"),
        ({"operation": "copy"}, "source: copy needs it"),
        ({"operation": "copy", "options": COPY | {"surce": "x"}}, "surce: copy has no use for it"),
        ({"operation": "copy", "options": COPY | {"source": "a.test/A b"}}, "source"),
        ({"operation": "copy", "options": COPY, "items": ["x"]}, "is no stage id"),
        ({"operation": "copy", "options": COPY, "items": "x"}, 'items: write a list, as ["A", "B"]'),
        ({"operation": "copy", "options": COPY, "items": [STAGE, 1]}, "items[1]: write a text, in quotes"),
        ({"operation": "copy", "options": COPY | {"hosts": [1]}}, "hosts[0]: write a text, in quotes"),
        ({"operation": "copy", "options": "x"}, 'options: write an object, as {"NAME": VALUE}'),
        ({"operation": "copy", "options": COPY, "key": ""}, "1 to 200 printable characters"),
        ({"operation": "copy", "options": COPY, "keys": "x"}, "keys: there is no such field"),
        ({"operation": "copy", "options": COPY | {"idempotency_key": "x"}}, "stand beside them"),
        ({"operation": "copy", "options": COPY | {"parallel": 0}}, "parallel"),
        (
            {"operation": "copy", "options": COPY | {"on_finish_url": "ftp://x"}},
            "on_finish_url: the finish URL is",
        ),
        ({"operation": "delete", "options": {"repository": "a.test/app"}}, "items: delete needs it"),
        (
            {"operation": "fetch", "options": {"primary": "a.test/app", "hosts": ["h"]}, "items": [STAGE]},
            "no live worker of host 'h'",
        ),
        ({"operation": "describe", "options": {"project": "none"}}, "none"),
        ([], "no JSON object"),
        (None, "write one of"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(call, document, reason):
    answer = call("POST", "", document, headers={"Content-Type": "application/json"})
    assert 400 == answer.status_code, answer.text
    assert reason in told(answer)
    assert "\n" not in told(answer)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("?state=done", 400, "state 'done'"),
        ("?limit=x", 400, "limit: write a number"),
        ("?limit=201", 400, "limit: write a number"),
        ("?after=x", 400, "is no position"),
        ("?repo=x", 400, "'repo': there is no such parameter here, only operation, repository"),
        ("/0000000000ff", 404, "there is no run"),
        ("/0000000000ff/figures", 404, "there is no run"),
        ("/0000000000ff/outcomes", 404, "there is no run"),
        ("/0000000000ff/wait?timeout=1", 404, "there is no run"),
        ("/0000000000ff/wait?timeout=nan", 400, "timeout: write a number"),
        ("/0000000000ff/outcomes?after=x-1", 400, "is no position"),
        ("/0000000000ff/outcomes?state=x", 400, "state 'x'"),
    ],
)
def test_wrong_questions_are_refused_with_a_reason(call, path, status, reason):
    answer = call("GET", path)
    assert (status, True) == (answer.status_code, reason in told(answer)), answer.text


def test_an_operation_is_filtered_by_its_word_in_requests_too(call, ledger):
    run_id = start(ledger, operation="copy_stage")
    found = {
        operation: [run["run"] for run in call("GET", f"?operation={operation}").json()["runs"]]
        for operation in ("copy", "copy_stage", "delete")
    }
    assert run_id in found["copy"]
    assert found["copy"] == found["copy_stage"]
    assert run_id not in found["delete"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["", "/", "/nothing", "/runs/", "/runs/a.b", "/runs/0000000000ff/explode"])
def test_an_unknown_path_of_the_api_answers_json(flower, method, path):
    address = f"{flower}/api{path}"
    answer = requests.request(method, address, auth=OPERATOR, json={}, timeout=SECONDS)
    assert (404, "HttpError") == (answer.status_code, answer.json()["error"]["type"])
    assert "there is no such path" in told(answer)
    assert 401 == requests.request(method, address, timeout=SECONDS).status_code


def test_an_unknown_path_elsewhere_is_flowers(flower):
    answer = requests.get(f"{flower}/apis", auth=OPERATOR, timeout=SECONDS)
    assert (404, True) == (answer.status_code, "html" in answer.headers["Content-Type"])


def test_a_run_is_cancelled_and_its_leftovers_are_tried_again(call, ledger):
    run_id = start(ledger, "a", "b", "c")
    finish(ledger, run_id, 0, ItemState.FAILED, "it is broken")
    refused = call("POST", f"/{run_id}/retry", {})
    assert (400, True) == (refused.status_code, "still running" in told(refused))
    assert "later: there is no such field" in told(call("POST", f"/{run_id}/cancel", {"later": True}))
    cancelled = call("POST", f"/{run_id}/cancel", {"now": True})
    assert (200, "cancelled") == (cancelled.status_code, cancelled.json()["state"])
    again = call("POST", f"/{run_id}/retry", {"parallel": 2}).json()
    assert (run_id, 3, 2) == (again["parent"], again["total"], again["parallel"])
    call("POST", f"/{again['run']}/cancel", {})
    assert 404 == call("POST", "/0000000000ff/cancel", {}).status_code
    assert 404 == call("POST", f"/{run_id}/explode", {}).status_code


def test_a_run_is_paused_and_resumed(call, ledger):
    run_id = start(ledger, "a")
    for _ in range(2):  # a repeat changes nothing
        assert "paused" == call("POST", f"/{run_id}/pause", {}).json()["state"]
    assert [run_id] == [run["run"] for run in call("GET", "?operation=untaken&state=paused").json()["runs"]]
    assert "running" == call("POST", f"/{run_id}/resume", {}).json()["state"]
    assert "x: there is no such field" in told(call("POST", f"/{run_id}/pause", {"x": 1}))
    finish(ledger, run_id, 0, ItemState.SUCCEEDED)
    assert 400 == call("POST", f"/{run_id}/pause", {}).status_code
    assert 404 == call("POST", "/0000000000ff/resume", {}).status_code


def test_a_wait_ends_with_the_run_or_with_its_time(call, ledger):
    run_id = start(ledger, "a")
    assert "running" == call("GET", f"/{run_id}/wait?timeout=0").json()["state"]
    waiting = threading.Thread(target=lambda: states.append(call("GET", f"/{run_id}/wait").json()["state"]))
    states: list[str] = []
    waiting.start()
    finish(ledger, run_id, 0, ItemState.SUCCEEDED)
    waiting.join(SECONDS)
    assert ["succeeded"] == states


def test_outcomes_are_read_in_parts_and_by_state(call, ledger):
    run_id = start(ledger, "a", "b", "c")
    finish(ledger, run_id, 0, ItemState.FAILED, "it is broken")
    finish(ledger, run_id, 1, ItemState.SUCCEEDED)
    first = call("GET", f"/{run_id}/outcomes?limit=1").json()
    second = call("GET", f"/{run_id}/outcomes?limit=1&after={first['next']}").json()
    third = call("GET", f"/{run_id}/outcomes?limit=1&after={second['next']}").json()
    items = [outcome["item"] for part in (first, second) for outcome in part["outcomes"]]
    assert (["a", "b"], [], second["next"], False) == (
        items,
        third["outcomes"],
        third["next"],
        third["has_ended"],
    )
    failed = call("GET", f"/{run_id}/outcomes?state=failed").json()["outcomes"]
    assert [("a", "it is broken")] == [(outcome["item"], outcome["error"]["message"]) for outcome in failed]
    ledger.cancel(run_id)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_last_outcomes_of_a_run_say_that_they_are(call, ledger, limit):
    """Whether they fill an answer or not; and so does an answer to who asks behind them."""
    run_id = start(ledger, "a", "b")
    finish(ledger, run_id, 0, ItemState.SUCCEEDED)
    assert not call("GET", f"/{run_id}/outcomes?limit=1").json()["has_ended"]
    finish(ledger, run_id, 1, ItemState.FAILED, "it is broken")
    told, after = [], ""
    for _ in range(2 if limit == 1 else 1):
        answer = call("GET", f"/{run_id}/outcomes?limit={limit}&after={after}").json()
        told.append(answer["has_ended"])
        after = answer["next"]
    assert [False] * (len(told) - 1) + [True] == told
    assert call("GET", f"/{run_id}/outcomes?after={after}").json()["has_ended"]
    assert call("GET", f"/{run_id}/outcomes?state=succeeded").json()["has_ended"]


@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize(
    ("change", "body", "reason"),
    [
        ("retry", {"parallel": 0}, "parallel: write 1 or more"),
        ("retry", {"parallel": -1}, "parallel: write 1 or more"),
        ("retry", {"parallel": True}, "parallel: write a whole number"),
        ("retry", {"now": True}, "now: there is no such field"),
        ("cancel", {"now": 1}, "now: write true or false"),
        ("pause", {"now": True}, "now: there is no such field"),
        ("resume", {"now": True}, "now: there is no such field"),
    ],
)
def test_a_wrong_body_is_refused_however_the_run_stands(call, ledger, change, body, reason, is_ended):
    run_id = start(ledger, "a")
    if is_ended:
        finish(ledger, run_id, 0, ItemState.SUCCEEDED)
    answer = call("POST", f"/{run_id}/{change}", body)
    assert 400 == answer.status_code, answer.text
    assert reason in told(answer)
    ledger.cancel(run_id)


def test_a_list_is_filtered_and_paged(call, ledger):
    runs = [start(ledger, "a", options={"source": "filter.test/x"}, operation="odd") for _ in range(3)]
    runs.sort(key=lambda run_id: (ledger.run(run_id).created_at, run_id))  # two may begin in one millisecond
    ledger.cancel(runs[0])
    first = call("GET", "?operation=odd&limit=2").json()
    rest = call("GET", "", params={"operation": "odd", "after": first["next"]}).json()
    assert runs[::-1] == [run["run"] for part in (first, rest) for run in part["runs"]]
    assert None is rest["next"]
    assert [runs[0]] == [run["run"] for run in call("GET", "?operation=odd&state=cancelled").json()["runs"]]
    assert runs[:0:-1] == [
        run["run"] for run in call("GET", "?operation=odd&state=running,submitting").json()["runs"]
    ]
    for run in runs:
        ledger.cancel(run)


def test_a_viewer_reads_and_changes_nothing_on_any_route(call, flower, ledger):
    """All routes that Flower has are asked, so that a later release of it brings none that is open."""
    run_id = start(ledger, "a")
    assert 200 == call("GET", f"/{run_id}", auth=VIEWER).status_code
    patterns = [entry.regex.pattern if hasattr(entry, "regex") else entry[0] for entry in handlers]
    paths = [
        pattern.rstrip("$?").replace("(.+)", "x").replace("(.*)", "x").replace("/?", "")
        for pattern in patterns
        if pattern != ".*"
    ]
    assert len(paths) > 30
    paths += [f"{path}/tasks/datatable" for path in paths if path.endswith("/x")]
    paths += ["/api/runs", *(f"/api/runs/{run_id}/{name}" for name in CHANGES), "/no/such/path"]
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in paths:
            if (method, path) == ("POST", "/tasks/datatable"):
                continue
            answer = requests.request(method, flower + path, json={}, auth=VIEWER, timeout=SECONDS)
            assert (403, True) == (answer.status_code, "may only look" in answer.text), (method, path)
    asked = {"draw": 1, "start": 0, "length": 15, "columns[0][data]": "name", "order[0][column]": 0}
    assert 200 == requests.post(f"{flower}/tasks/datatable", asked, auth=VIEWER, timeout=SECONDS).status_code
    assert "running" == call("GET", f"/{run_id}").json()["state"]
    ledger.cancel(run_id)


def test_without_the_login_nothing_is_shown(call, flower):
    for login in (None, ("me", "guess"), ("see", "hunter2")):
        for path in ("", "/a", "/a/figures", "/a/outcomes", "/a/wait"):
            assert 401 == call("GET", path, auth=login).status_code
        for path in ("", "/a/cancel", "/a/pause", "/a/resume", "/a/retry"):
            assert 401 == call("POST", path, {}, auth=login).status_code
        for page in ("runs", "runs/a"):
            assert 401 == requests.get(f"{flower}/{page}", auth=login, timeout=SECONDS).status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Origin": "http://evil.test"}, 403),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_another_site_s_page_changes_nothing(call, ledger, headers, status):
    run_id = start(ledger, "a")
    answer = call("POST", f"/{run_id}/cancel", data=b"{}", headers=headers)
    assert status == answer.status_code
    assert (status == 200) == ledger.run(run_id).state.is_final
    ledger.cancel(run_id)


def test_a_body_is_json_of_a_bounded_size(call, flower):
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert 400 == call("POST", "", data=body, headers=headers).status_code
    large = {**headers, "Content-Length": str(17 * 1024 * 1024)}
    answer = call("POST", "", data=b"", headers=large)
    assert (413, True) == (answer.status_code, "16,777,216 bytes" in told(answer))

    def endless():
        for _ in range(40):
            yield b" " * 1024 * 1024

    try:
        status = call("POST", "", data=endless(), headers=headers).status_code
    except requests.ConnectionError:
        status = 400  # closed while it is sent
    assert 400 == status
    assert 200 == call("GET", "").status_code


def test_fifty_browsers_cost_redis_what_one_does(call, stand, ledger):
    """Each looks at the list, at a run and at its figures, again and again for some seconds."""
    run_id = start(ledger, *(f"item-{number}" for number in range(20)))
    for index in range(10):
        finish(ledger, run_id, index, ItemState.SUCCEEDED)
    paths = ("", f"/{run_id}", f"/{run_id}/figures")
    for path in paths:
        call("GET", path)
    client = stand.redis.client()
    client.config_resetstat()
    begins_at = time.monotonic()

    def look(_: int) -> list[int]:
        found: list[int] = []
        while time.monotonic() - begins_at < LOOKING_SECONDS or not found:
            found += [call("GET", path).status_code for path in paths]
        return found

    with ThreadPoolExecutor(BROWSERS) as browsers:
        answers = [status for found in browsers.map(look, range(BROWSERS)) for status in found]
    seconds = time.monotonic() - begins_at
    assert {200} == set(answers)
    assert len(answers) >= BROWSERS * len(paths)
    # Each second costs one read of each question, whoever asks; the worker and the test read no outcome.
    assert client.info("commandstats")["cmdstat_xread"]["calls"] <= seconds / FRESH_SECONDS + 2
    assert client.info("commandstats").get("cmdstat_zrevrange", {"calls": 0})["calls"] <= seconds + 2
    ledger.cancel(run_id)


def test_a_redis_that_is_away_is_told_and_comes_back(make_redis, tmp_path):
    redis = make_redis(append_only=True)
    ledger = RedisLedger.connect(redis.url, Settings())
    run_id = start(ledger, "a")
    with start_flower(redis.url, tmp_path) as flower:

        def ask(path: str) -> requests.Response:
            return requests.get(f"{flower}{path}", auth=OPERATOR, timeout=60)

        def unless_ok(path: str) -> list[requests.Response]:
            answer = ask(path)
            return [] if answer.ok else [answer]

        assert 200 == ask("/api/runs").status_code
        redis.kill()
        for path in ("/api/runs", f"/api/runs/{run_id}", f"/api/runs/{run_id}/figures"):
            (answer,) = eventually(partial(unless_ok, path), "it is told")
            assert (503, "2") == (answer.status_code, answer.headers["Retry-After"])
            assert "Redis" in told(answer)
        assert 200 == ask("/healthcheck").status_code, "the loop goes on"
        assert 200 == ask("/runs").status_code
        redis.start()
        eventually(lambda: ask(f"/api/runs/{run_id}").status_code == 200, "it is back")
    ledger.close()


def test_a_run_that_expires_while_it_is_looked_at_is_gone(call, stand, ledger):
    run_id = start(ledger, "a")
    assert 200 == call("GET", f"/{run_id}/figures").status_code
    client = stand.redis.client()
    client.delete(*client.scan_iter(f"*run:{run_id}*"))
    eventually(lambda: call("GET", f"/{run_id}/figures").status_code == 404, "it is gone")
    assert run_id not in json.dumps(call("GET", "?operation=untaken").json())
