"""How long one call may be made to wait, by itself and by what other calls were told."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext

import pytest

from stagefleet.errors import ItemCancelledError, RateLimitedError, RegistryUnavailableError
from stagefleet.manifests import OCI_MANIFEST, Manifest
from stagefleet.registry.http.waits import HostPauses, hurrying, pause
from tests.unit.registry.scripted import RegistryResponse

TAGS = RegistryResponse(body=b'{"name": "group/app", "tags": ["one"]}')
CONFIG = {"mediaType": "application/x", "digest": f"sha256:{'c' * 64}", "size": 2}
MANIFEST = Manifest.of({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": []})


def asking(seconds, status=429):
    return RegistryResponse(status, headers={"Retry-After": str(seconds)})


def sequence(*answers):
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class Lease:
    """Notes its waits; a test may end one of them."""

    def __init__(self):
        self.told = []
        self.checks = 0
        self.ends_after = 1e9

    def check(self):
        self.checks += 1
        if self.checks > self.ends_after:
            raise ItemCancelledError("cancelled")

    def require(self, seconds):
        del seconds

    def note_bytes(self, moved, expected=0):
        pass

    def note_progress(self, seconds, text):
        pass

    def check_run(self):
        self.check()

    def waiting(self, seconds, host, text):
        self.told.append((seconds, host, text))
        return nullcontext()


@pytest.mark.parametrize("status", [429, 503])
def test_a_point_in_time_is_waited_for(serve, client, naps, repository_at, status):
    """W1, R7: Docker Hub's `Retry-After` in Unix seconds is a wait of seconds, not of decades."""
    server = serve(sequence(asking(round(time.time()) + 30, status), TAGS))
    assert ["one"] == list(client.tags(repository_at(server)))
    assert 25 <= naps[0] <= 32


@pytest.mark.parametrize(("value", "kind"), [("9" * 300, RateLimitedError), (10**11, RateLimitedError)])
def test_what_nobody_can_wait_for_fails_the_call_at_once(serve, client, naps, repository_at, value, kind):
    """R7: a wait without an end is no wait."""
    server = serve(lambda _: asking(value))
    with pytest.raises(kind, match="asks to wait more than a year"):
        list(client.tags(repository_at(server)))
    assert [] == naps


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimitedError), (503, RegistryUnavailableError)])
def test_what_one_call_is_asked_to_wait_is_bounded_in_all_its_attempts_together(
    serve, client, naps, repository_at, status, kind
):
    """R7: four attempts do not wait four times the longest wait."""
    server = serve(lambda _: asking(250, status))
    with pytest.raises(kind, match="asks to wait 250 s") as caught:
        list(client.tags(repository_at(server)))
    assert 250 == caught.value.retry_after_seconds
    assert sum(naps) <= 602
    assert len(server.asked) <= 3


def test_a_host_that_holds_up_all_calls_again_and_again_is_given_up_too(client, repository_at, naps, serve):
    """R7: a call that waits for what others were told waits no longer than for what it is told itself."""
    server = serve(lambda _: RegistryResponse(503))
    host_pauses = client._http_client._host_pauses
    host_pauses.begin(server.host, 250, "429 Too Many Requests")
    with pytest.raises(RateLimitedError, match=r"again and again \(429 Too Many Requests\)") as caught:
        list(client.tags(repository_at(server)))
    assert sum(naps) <= 602
    assert 200 < (caught.value.retry_after_seconds or 0) <= 250


def test_an_upload_that_is_not_repeated_holds_up_the_others(serve, client, naps, repository_at):
    """R7: whoever is told to wait tells all threads, also where its own call is not sent again."""
    server = serve(lambda asked: TAGS if asked.method == "GET" else asking(120))
    repository = repository_at(server)
    client._http_client._http = client._http_client._http.model_copy(update={"retries": 0})
    with pytest.raises(RateLimitedError):
        client.put_manifest(repository.tagged("one"), MANIFEST)
    assert ["one"] == list(client.tags(repository))
    assert 100 <= naps[0] <= 122


def test_nobody_waits_long_for_a_host_that_can_be_done_without(serve, client, naps, repository_at):
    """R7: what caches ask for is not waited for: others have the stage too."""
    server = serve(lambda _: asking(11))
    with pytest.raises(RateLimitedError), hurrying(server.host, 10):
        list(client.tags(repository_at(server)))
    assert [] == naps
    server.script = sequence(asking(11), TAGS)
    with hurrying("other.test", 10):
        assert ["one"] == list(client.tags(repository_at(server)))


def test_each_pause_is_told_to_the_lease():
    """R7: whoever follows the run hears of what lasts."""
    lease = Lease()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        lease.ends_after = lease.checks

    for seconds in (2.5, 3.0):
        lease.ends_after = 1e9
        with pytest.raises(ItemCancelledError):
            pause(seconds, lease, "r.test", "429 Too Many Requests", sleep=sleep)
    assert [(seconds, "r.test", "429 Too Many Requests") for seconds in (2.5, 3.0)] == lease.told
    assert all(seconds <= 1 for seconds in slept), "a wait hears of a cancellation within a second"


def test_a_pause_of_a_host_is_logged_once_for_all_that_wait(caplog):
    """R7: a worker's log and a command that plans say for whom they wait."""
    held = HostPauses()
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            held.begin("r.test", 30, "429 Too Many Requests")
        held.begin("other.test", 1, "429 Too Many Requests")
    assert ["r.test asks to wait 30 s (429 Too Many Requests)"] == caplog.messages
    assert 29 < held.left("r.test")[0] <= 30
    assert 0 == held.left("third.test")[0]
