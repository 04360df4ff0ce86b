"""Promises of every shared state, checked on each."""

from __future__ import annotations

import threading

import pytest

from stagefleet.errors import ItemCancelledError, RedisUnreachableError
from stagefleet.leases import elapsed_seconds, under_lease
from stagefleet.names import Digest, Repository
from stagefleet.redis_client import connect_redis
from stagefleet.shared_state.base import (
    FLEET_NAMESPACE,
    MOST_SESSIONS,
    SESSION_SECONDS,
    UploadDecision,
)
from stagefleet.shared_state.implementations import MemorySharedState, RedisSharedState

DESTINATION = Repository("127.0.0.1:5000", "app")
ELSEWHERE = Repository("127.0.0.1:5000", "other")
BASE, OWN, TALL = Digest("sha256", "aa" * 32), Digest("sha256", "bb" * 32), Digest("sha512", "cc" * 64)
ANN, BOB = b"ann.ann.", b"\x00\xffb:ob\n\r"
KNOWN, SEND, WAIT = UploadDecision.KNOWN, UploadDecision.SEND, UploadDecision.WAIT


@pytest.fixture(params=["memory", "redis"])
def shared_states(request):
    """The shared states of two processes over the same Redis; one object where they share memory."""
    if request.param == "memory":
        shared_state = MemorySharedState(lease_seconds=30)
        yield shared_state, shared_state
        return
    server = request.getfixturevalue("redis_server")
    clients = [connect_redis(server.url) for _ in range(2)]
    clients[0].flushall()
    yield tuple(RedisSharedState(client, prefix="test:", lease_seconds=30) for client in clients)
    for client in clients:
        client.close()


@pytest.fixture
def shared_state(shared_states):
    return shared_states[0]


def later(shared_state, seconds):
    getattr(shared_state, "scripts", shared_state).clock_offset_ms += int(seconds * 1000)


def lose(shared_states):
    """Lose all of the run, as Redis may, and as it does at the run's end."""
    for shared_state in dict.fromkeys(shared_states):
        shared_state._forget_cached("r", "key")
        if isinstance(shared_state, MemorySharedState):
            shared_state._namespaces.pop("r", None)
        else:
            shared_state._redis.unlink(shared_state._key("r"))


def get_or_compute(
    shared_state, build, key="key", *, namespace="r", ttl_seconds=60.0, wait_seconds=5.0, **options
):
    return shared_state.get_or_compute(
        namespace, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, **options
    )


def unexpected():
    pytest.fail("it was built twice")


def test_the_first_who_asks_sends_and_the_second_waits(shared_states):
    assert [SEND, SEND] == shared_states[0].request_uploads("r", DESTINATION, [BASE, OWN], ANN)
    assert [WAIT, SEND] == shared_states[1].request_uploads("r", DESTINATION, [BASE, TALL], BOB)


def test_asking_again_as_the_sender_answers_the_same(shared_state):
    shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    assert [SEND] == shared_state.request_uploads("r", DESTINATION, [BASE], ANN)


def test_what_was_sent_is_known_to_all(shared_states):
    shared_states[0].request_uploads("r", DESTINATION, [BASE, TALL], ANN)
    shared_states[0].mark_uploaded("r", DESTINATION, [BASE, TALL])
    assert [KNOWN, KNOWN, SEND] == shared_states[1].request_uploads("r", DESTINATION, [BASE, TALL, OWN], BOB)


def test_an_image_may_have_as_many_layers_as_a_manifest_may_name(shared_states):
    """R30: ten thousand blobs are asked for, sent, renewed, given up and forgotten like one."""
    many = [Digest("sha256", f"{number:064x}") for number in range(10_000)]

    assert {SEND} == set(shared_states[0].request_uploads("r", DESTINATION, many, ANN))
    assert [WAIT] * len(many) == shared_states[1].request_uploads("r", DESTINATION, many, BOB)
    shared_states[0].renew_uploads("r", DESTINATION, many, ANN)
    shared_states[0].mark_uploaded("r", DESTINATION, many[:9_000])
    shared_states[0].release_uploads("r", DESTINATION, many[9_000:], ANN)
    assert [KNOWN] * 9_000 + [SEND] * 1_000 == shared_states[1].request_uploads("r", DESTINATION, many, BOB)
    shared_states[0].forget_blobs("r", DESTINATION, many)
    assert {SEND} == set(shared_states[1].request_uploads("r", DESTINATION, many, BOB))


def test_another_destination_or_run_knows_nothing_of_it(shared_state):
    shared_state.mark_uploaded("r", DESTINATION, [BASE])
    assert [SEND] == shared_state.request_uploads("r", ELSEWHERE, [BASE], BOB)
    assert [SEND] == shared_state.request_uploads("s", DESTINATION, [BASE], BOB)


def test_what_is_given_up_is_somebody_elses(shared_states):
    shared_states[0].request_uploads("r", DESTINATION, [BASE], ANN)
    shared_states[0].release_uploads("r", DESTINATION, [BASE], ANN)
    assert [SEND] == shared_states[1].request_uploads("r", DESTINATION, [BASE], BOB)


def test_giving_up_changes_nothing_for_what_is_not_ones_own(shared_state):
    shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    shared_state.mark_uploaded("r", DESTINATION, [OWN])
    shared_state.release_uploads("r", DESTINATION, [BASE, OWN, TALL], BOB)
    assert [WAIT, KNOWN, SEND] == shared_state.request_uploads("r", DESTINATION, [BASE, OWN, TALL], BOB)


def test_the_lease_of_a_sender_ends_by_itself(shared_state):
    shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    later(shared_state, 31)
    assert [SEND] == shared_state.request_uploads("r", DESTINATION, [BASE], BOB)
    assert [WAIT] == shared_state.request_uploads("r", DESTINATION, [BASE], ANN)


def test_a_renewed_lease_lasts_a_full_lease_from_then(shared_state):
    shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    later(shared_state, 20)
    shared_state.renew_uploads("r", DESTINATION, [BASE, OWN], ANN)
    later(shared_state, 20)
    assert [WAIT, SEND] == shared_state.request_uploads("r", DESTINATION, [BASE, OWN], BOB)


def test_a_lease_that_somebody_took_over_cannot_be_renewed(shared_state):
    shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    later(shared_state, 31)
    shared_state.request_uploads("r", DESTINATION, [BASE], BOB)
    shared_state.renew_uploads("r", DESTINATION, [BASE], ANN)
    assert [SEND] == shared_state.request_uploads("r", DESTINATION, [BASE], BOB)


def test_what_is_forgotten_is_sent_again(shared_state):
    shared_state.mark_uploaded("r", DESTINATION, [BASE, OWN])
    shared_state.forget_blobs("r", DESTINATION, [BASE])
    assert [SEND, KNOWN] == shared_state.request_uploads("r", DESTINATION, [BASE, OWN], BOB)


def test_no_blobs_are_no_question(shared_state):
    assert [] == shared_state.request_uploads("r", DESTINATION, [], ANN)
    shared_state.mark_uploaded("r", DESTINATION, [])
    shared_state.forget_blobs("r", DESTINATION, [])


def test_a_value_is_built_once_for_all(shared_states):
    assert {"a": [1]} == get_or_compute(shared_states[0], lambda: {"a": [1]})
    assert {"a": [1]} == get_or_compute(shared_states[1], unexpected)


def test_a_value_that_is_nothing_is_a_value(shared_states):
    assert get_or_compute(shared_states[0], lambda: None) is None
    assert get_or_compute(shared_states[1], unexpected) is None


def test_pages_keep_values_apart(shared_state):
    assert 1 == get_or_compute(shared_state, lambda: 1, namespace="r")
    assert 2 == get_or_compute(shared_state, lambda: 2, namespace=FLEET_NAMESPACE)


def test_a_value_holds_as_long_as_it_was_said(shared_states):
    get_or_compute(shared_states[0], lambda: 1, ttl_seconds=20)
    shared_states[0]._forget_cached("r", "key")
    for shared_state in dict.fromkeys(shared_states):
        later(shared_state, 21)
    assert 2 == get_or_compute(shared_states[1], lambda: 2)


def dated(shared_state, build, *, ttl_seconds=60.0, wait_seconds=5.0):
    return shared_state.get_or_compute_dated(
        "r", "key", build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds
    )


def test_a_value_tells_everybody_how_old_it_is(shared_states):
    """R6: what one worker saw is never taken for younger by another, however late its word arrives."""

    def build():  # takes four seconds, those included in which its worker stood still
        for shared_state in dict.fromkeys(shared_states):
            later(shared_state, 4)
        return 1

    dated(shared_states[0], build)
    for shared_state in dict.fromkeys(shared_states):
        later(shared_state, 3)
    shared_states[0]._forget_cached("r", "key")
    before = elapsed_seconds()
    found = dated(shared_states[1], unexpected)
    assert (1, True) == (found.value, found.since <= before - 6.9)


def test_a_value_of_ones_own_is_as_old_as_the_work_on_it(shared_state):
    """R6: the age counts from when the work began, not from when it was done."""
    began = elapsed_seconds()
    ends = []
    found = dated(shared_state, lambda: ends.append(elapsed_seconds()))
    assert began <= found.since <= ends[0]
    assert found == dated(shared_state, unexpected)


def test_who_builds_after_a_long_wait_tells_the_true_age_too(shared_states):
    """R6: also of a value that two worked out, since one had waited for long enough."""
    shared_states[0]._read_or_claim("r", "key", ANN, 1000)

    def build():
        for shared_state in dict.fromkeys(shared_states):
            later(shared_state, 4)
        return 2

    dated(shared_states[1], build, wait_seconds=0.05)
    shared_states[1]._forget_cached("r", "key")
    before = elapsed_seconds()
    assert dated(shared_states[0], unexpected).since <= before - 3.9


def test_work_that_took_longer_than_its_value_holds_is_there_for_who_waited(shared_states):
    def build():
        for shared_state in dict.fromkeys(shared_states):
            later(shared_state, 30)
        return 3

    dated(shared_states[0], build, ttl_seconds=8)
    shared_states[0]._forget_cached("r", "key")
    assert 3 == dated(shared_states[1], unexpected, ttl_seconds=8).value


def test_pieces_are_there_for_all_until_the_run_is_closed(shared_states):
    """R22: what is large is kept in pieces, and each is read alone."""
    pieces = {f"piece {number}": bytes([number]) * 300_000 for number in range(8)}
    shared_states[0].put_parts("r", pieces)
    wanted = ["piece 3", "nothing", "piece 7"]
    assert [pieces["piece 3"], None, pieces["piece 7"]] == shared_states[1].parts("r", wanted)
    assert [None] == shared_states[1].parts("s", ["piece 3"])
    assert [] == shared_states[1].parts("r", [])
    lose(shared_states)
    assert [None] == shared_states[1].parts("r", ["piece 3"])


def test_a_dropped_value_is_built_again(shared_state):
    get_or_compute(shared_state, lambda: 1)
    shared_state.forget_value("r", "key")
    assert 2 == get_or_compute(shared_state, lambda: 2)


def test_what_the_work_raises_is_raised_and_the_next_tries_again(shared_states):
    with pytest.raises(ZeroDivisionError):
        get_or_compute(shared_states[0], lambda: 1 // 0)
    assert 2 == get_or_compute(shared_states[1], lambda: 2)


def test_many_that_ask_at_once_have_it_built_once(shared_states):
    building, go_on, built, answers = threading.Event(), threading.Event(), [], []

    def build():
        built.append(1)
        building.set()
        assert go_on.wait(10)
        return "value"

    threads = [
        threading.Thread(
            target=lambda shared_state=shared_states[n % 2]: answers.append(
                get_or_compute(shared_state, build, wait_seconds=20)
            )
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    assert building.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert ["value"] * 6 == answers
    assert [1] == built


def test_who_has_waited_long_enough_builds_it_alone(shared_states):
    shared_states[0]._read_or_claim("r", "key", ANN, 1000)  # somebody who never ends
    assert 2 == get_or_compute(shared_states[1], lambda: 2, wait_seconds=0.05)


def test_a_builder_that_died_holds_nobody_up_beyond_its_lease(shared_states):
    shared_states[0]._read_or_claim("r", "key", ANN, 15)
    later(shared_states[1], 16)
    assert 2 == get_or_compute(shared_states[1], lambda: 2, wait_seconds=600)


def test_waiting_ends_with_the_lease(shared_states):
    class Cut:
        def check(self):
            raise ItemCancelledError("stop")

        def require(self, seconds):
            raise ItemCancelledError("stop")

    shared_states[0]._read_or_claim("r", "key", ANN, 1000)
    with pytest.raises(ItemCancelledError):
        get_or_compute(shared_states[1], unexpected, wait_seconds=600, lease=Cut())


def test_waiting_for_another_thread_of_the_process_ends_with_the_lease_too(shared_states):
    """R7: the wait for what a thread beside us works out hears of a cancelled item."""
    building, go_on = threading.Event(), threading.Event()

    class Cut:
        def check(self):
            raise ItemCancelledError("stop")

        def require(self, seconds):
            raise ItemCancelledError("stop")

    def build():
        building.set()
        assert go_on.wait(20)
        return 1

    builder = threading.Thread(target=get_or_compute, args=(shared_states[0], build))
    builder.start()
    try:
        assert building.wait(20)
        with under_lease(Cut()), pytest.raises(ItemCancelledError):
            get_or_compute(shared_states[0], unexpected, wait_seconds=600)
    finally:
        go_on.set()
        builder.join(20)


def test_the_work_given_up_by_another_stays_the_owners(shared_state):
    shared_state._read_or_claim("r", "key", ANN, 15)
    shared_state._release_claim("r", "key", BOB)
    assert not shared_state._read_or_claim("r", "key", BOB, 15).is_ours
    shared_state._release_claim("r", "key", ANN)
    assert shared_state._read_or_claim("r", "key", BOB, 15).is_ours


def test_a_closed_run_leaves_nothing(shared_states):
    shared_states[0].mark_uploaded("r", DESTINATION, [BASE])
    get_or_compute(shared_states[0], lambda: 1)
    lose(shared_states)
    assert [SEND] == shared_states[0].request_uploads("r", DESTINATION, [BASE], ANN)
    assert 2 == get_or_compute(shared_states[0], lambda: 2)


def test_a_page_in_redis_expires_and_a_blob_costs_little(redis_server):
    client = connect_redis(redis_server.url)
    client.flushall()
    shared_state = RedisSharedState(client, prefix="test:")
    digests = [Digest("sha256", f"{n:064x}") for n in range(2000)]
    for first in range(0, 2000, 100):
        shared_state.request_uploads("r", DESTINATION, digests[first : first + 100], ANN)
        shared_state.mark_uploaded("r", DESTINATION, digests[first : first + 100])
    assert 0 < client.ttl("test:book:r") <= 6 * 3600
    size = client.memory_usage("test:book:r", samples=0)
    assert size is not None
    assert size / 2000 < 160
    client.close()


def test_a_redis_that_is_gone_is_named_without_its_password():
    client = connect_redis("redis://:hunter2@127.0.0.1:1/0")
    shared_state = RedisSharedState(client, prefix="test:")
    with pytest.raises(RedisUnreachableError, match=r"127\.0\.0\.1:1") as caught:
        shared_state.request_uploads("r", DESTINATION, [BASE], ANN)
    assert "hunter2" not in str(caught.value)
    client.close()


def test_a_value_can_be_looked_at_without_working_it_out(shared_states):
    """W37: who only wants to know does not become the one at work."""
    assert shared_states[1].peek("r", "key") is None
    get_or_compute(shared_states[0], lambda: {"left": ["a"]})
    assert {"left": ["a"]} == shared_states[1].peek("r", "key")
    later(shared_states[1], 61)
    assert shared_states[1].peek("r", "key") is None


def test_a_value_that_is_being_worked_out_is_not_known_yet(shared_states):
    """W37: a look does not wait, and takes no lease."""
    assert 1 == get_or_compute(shared_states[0], lambda: (shared_states[1].peek("r", "key"), 1)[1])


def test_a_session_that_one_keeps_another_takes_once(shared_states):
    shared_states[0].keep_session(DESTINATION, BASE, "/v2/app/uploads/1?_state=a%20b")
    assert shared_states[1].take_session(ELSEWHERE, BASE) is None
    assert shared_states[1].take_session(DESTINATION, OWN) is None
    assert "/v2/app/uploads/1?_state=a%20b" == shared_states[1].take_session(DESTINATION, BASE)
    assert shared_states[0].take_session(DESTINATION, BASE) is None


def test_a_session_is_replaced_forgotten_and_over_after_some_hours(shared_state):
    for digest, addresses in ((BASE, ["/1", "/2"]), (OWN, ["/1", ""]), (TALL, ["/1", "/" + "x" * 5000])):
        for address in addresses:
            shared_state.keep_session(DESTINATION, digest, address)
    assert ["/2", None, None] == [shared_state.take_session(DESTINATION, each) for each in (BASE, OWN, TALL)]
    shared_state.keep_session(DESTINATION, BASE, "/3")
    later(shared_state, SESSION_SECONDS + 1)
    assert shared_state.take_session(DESTINATION, BASE) is None


def test_a_bounded_number_of_sessions_is_kept(shared_state):
    blobs = [Digest("sha256", f"{number:064x}") for number in range(MOST_SESSIONS + 10)]
    for blob in blobs:
        shared_state.keep_session(DESTINATION, blob, "/v2/app/uploads/1")
    kept = [blob for blob in blobs if shared_state.take_session(DESTINATION, blob) is not None]
    assert MOST_SESSIONS == len(kept)
    assert blobs[-1] in kept
