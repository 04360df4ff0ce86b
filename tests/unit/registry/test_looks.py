"""A request leaves only while what allows it is fresh, whatever lies between the look and the sending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from stagefleet.errors import DeadlineMissedError, RegistryUnavailableError, SharedDigestError
from stagefleet.leases import elapsed_seconds
from stagefleet.registry.http.client import ApiRequest
from stagefleet.registry.http.sockets import open_socket
from tests.unit.registry.scripted import RegistryResponse

FRESH_SECONDS = 10.0
ACCEPTED = RegistryResponse(202)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1000.0
        self.looks = []

    def pass_time(self, seconds=FRESH_SECONDS + 1):
        self.now += seconds

    def precheck(self):
        self.looks.append(self.now)
        return self.now + FRESH_SECONDS


@pytest.fixture
def clock(monkeypatch, client):
    clock = Clock()
    monkeypatch.setattr("stagefleet.registry.http.waits.elapsed_seconds", lambda: clock.now)

    def pause(seconds, lease, *_):
        lease.check()
        clock.pass_time(seconds)

    monkeypatch.setattr(client._http_client, "pause", pause)
    return clock


@pytest.fixture
def arrivals(clock):
    """The age of the look at each arrival of a DELETE, noted by `serving`."""
    return []


@pytest.fixture
def start(serve, clock, arrivals, repository_at):
    """Starts a registry; gives what is to be deleted there."""

    def start(script):
        def note(asked):
            if asked.method == "DELETE":
                arrivals.append(clock.now - clock.looks[-1])
            return script(asked)

        return repository_at(serve(note)).tagged("one")

    return start


def sequence(*answers):
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def once(function):
    """Call something the first time, and never again."""
    left = [function]
    return lambda: left.pop()() if left else None


@pytest.mark.parametrize(
    "refusal",
    [RegistryResponse(429, headers={"Retry-After": "120"}), RegistryResponse(503), RegistryResponse(500)],
)
def test_it_is_looked_again_before_a_delete_is_sent_again(client, clock, arrivals, start, refusal):
    """R6: after a pause that a registry asked for, however long, it is looked again before a DELETE."""
    client.delete_manifest(start(sequence(refusal, refusal, ACCEPTED)), precheck=clock.precheck)
    assert [0, 0, 0] == arrivals
    assert 3 == len(set(clock.looks))


def test_what_another_thread_was_asked_to_wait_is_waited_out_before_the_look(client, clock, arrivals, start):
    """R6: another thread's pause lies before the look, not between the look and the DELETE."""
    tag = start(sequence(ACCEPTED))
    client._http_client._host_pauses.begin(tag.repository.host, 300, "429 Too Many Requests")
    began = clock.now
    client.delete_manifest(tag, precheck=clock.precheck)
    assert [0] == arrivals
    assert began + 299 < clock.looks[0]


def test_a_lost_answer_leads_to_another_look(client, clock, arrivals, start):
    """R6: a DELETE whose answer got lost is repeated on the word of a new look alone."""
    tag = start(sequence(RegistryResponse(202, b"cut", cut_at=0, headers={"Content-Length": "9"}), ACCEPTED))
    client.delete_manifest(tag, precheck=clock.precheck)
    assert ([0, 0], 2) == (arrivals, len(clock.looks))


def test_a_token_that_takes_long_lets_no_stale_delete_out(client, clock, arrivals, start, serve):
    """R6: where a token has to be fetched first, and that takes its time, it is looked again."""
    slow = once(clock.pass_time)

    def give_token(_):
        slow()
        return RegistryResponse(body=b'{"token": "t", "expires_in": 1000}')

    tokens = serve(give_token)
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token",service="s"'}

    def answer(asked):
        return ACCEPTED if asked.headers.get("Authorization") else RegistryResponse(401, headers=challenge)

    client.delete_manifest(start(answer), precheck=clock.precheck)
    assert ([0, 0], 2) == (arrivals, len(clock.looks))


def test_a_connection_that_takes_long_lets_no_stale_delete_out(client, clock, arrivals, start, monkeypatch):
    """R6: where connecting takes its time, it is looked again."""
    slow = once(clock.pass_time)

    def connect(*arguments):
        slow()
        return open_socket(*arguments)

    monkeypatch.setattr("stagefleet.registry.http.adapter.open_socket", connect)
    client.delete_manifest(start(sequence(ACCEPTED)), precheck=clock.precheck)
    assert ([0], 2) == (arrivals, len(clock.looks))


def test_a_lease_that_is_renewed_slowly_lets_no_stale_delete_out(client, clock, arrivals, start):
    """R6: the renewal of the item's lease lies between the look and the DELETE, and may take its time."""
    slow = once(clock.pass_time)

    class Lease:
        def check(self):
            return

        def require(self, seconds):
            slow()

    client.delete_manifest(start(sequence(ACCEPTED)), lease=Lease(), precheck=clock.precheck)
    assert ([0], 2) == (arrivals, len(clock.looks))


def test_a_redirect_that_takes_long_lets_no_stale_request_out(client, clock, serve, repository_at):
    """R6: each hop of a redirect leaves only while the look is fresh."""
    slow, hops = once(clock.pass_time), []

    def answer(asked):
        if asked.path == "/there":
            hops.append(clock.now - clock.looks[-1])
            return RegistryResponse()
        slow()
        return RegistryResponse(307, headers={"Location": "/there"})

    repository = repository_at(serve(answer))
    url = f"http://{repository.host}/here"
    call = ApiRequest(
        "GET", repository.host, url, str(repository), "it", frozenset({200}), precheck=clock.precheck
    )
    client._http_client.read(call, 10)
    assert ([0], 2) == (hops, len(clock.looks))


def test_a_request_that_never_gets_out_in_time_is_given_up(client, clock, arrivals, start):
    """R6: looking again and again has an end, and nothing is sent then."""

    def precheck():
        clock.looks.append(clock.now)
        return clock.now - 1

    with pytest.raises(DeadlineMissedError, match="too old by 1 s"):
        client.delete_manifest(start(sequence(ACCEPTED)), precheck=precheck)
    assert ([], 4) == (arrivals, len(clock.looks))


@pytest.mark.parametrize("error", [SharedDigestError("shared by now"), RegistryUnavailableError("no look")])
def test_what_the_look_raises_is_raised_and_nothing_is_sent(client, clock, arrivals, start, error):
    """R6: a look that forbids it, or that cannot be had, ends the call before anything leaves."""

    def precheck():
        raise error

    with pytest.raises(type(error)):
        client.delete_manifest(start(sequence(ACCEPTED)), precheck=precheck)
    assert [] == arrivals


STOPPED = """
import os, signal, sys
from pathlib import Path
from stagefleet.leases import elapsed_seconds
from stagefleet.names import Repository
from stagefleet.credentials import DockerConfig
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings

looks = 0

def look():
    global looks
    looks += 1
    until = elapsed_seconds() + 0.5
    if looks == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return until

with RegistryClient(Settings(), config=DockerConfig(Path("/nowhere"))) as client:
    client.delete_manifest(Repository.parse(sys.argv[1]).tagged("one"), precheck=look)
print(looks)
"""


def test_a_process_that_was_stopped_after_the_look_looks_again(serve, repository_at):
    """R6: a worker that stood still (SIGSTOP) between the look and the DELETE looks again when it goes on."""
    server = serve(sequence(ACCEPTED))
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(repository_at(server))], stdout=subprocess.PIPE, text=True
    )
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        until = elapsed_seconds() + 0.6
        while elapsed_seconds() < until:
            time.sleep(0.05)  # the look has to become old: no event tells of that
        assert [] == server.asked
        os.kill(child.pid, signal.SIGCONT)
        assert ("2\n", ["DELETE"]) == (
            child.communicate(timeout=60)[0],
            [asked.method for asked in server.asked],
        )
    finally:
        child.kill()
        child.wait()
