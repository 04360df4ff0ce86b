"""What every shared book promises, checked on each."""

from __future__ import annotations

import threading

import pytest

from stagefleet.clock import elapsed_seconds
from stagefleet.connection import connect_redis
from stagefleet.errors import ItemCancelledError, RedisUnreachableError
from stagefleet.names import Digest, Repository
from stagefleet.registry.leash import under
from stagefleet.runs.book import FLEET, MemoryBook, RedisBook, Verdict

DESTINATION = Repository("127.0.0.1:5000", "app")
ELSEWHERE = Repository("127.0.0.1:5000", "other")
BASE, OWN, TALL = Digest("sha256", "aa" * 32), Digest("sha256", "bb" * 32), Digest("sha512", "cc" * 64)
ANN, BOB = b"ann.ann.", b"\x00\xffb:ob\n\r"
KNOWN, SEND, WAIT = Verdict.KNOWN, Verdict.SEND, Verdict.WAIT


@pytest.fixture(params=["memory", "redis"])
def books(request):
    """Two books of two processes over the same page; the same object where they share memory."""
    if request.param == "memory":
        book = MemoryBook(lease_seconds=30)
        yield book, book
        return
    server = request.getfixturevalue("redis_server")
    clients = [connect_redis(server.url) for _ in range(2)]
    clients[0].flushall()
    yield tuple(RedisBook(client, prefix="test:", lease_seconds=30) for client in clients)
    for client in clients:
        client.close()


@pytest.fixture
def book(books):
    return books[0]


def later(book, seconds):
    book.clock_offset_ms += int(seconds * 1000)


def once(book, build, key="key", *, page="r", ttl_seconds=60.0, wait_seconds=5.0, **options):
    return book.once(page, key, build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, **options)


def unexpected():
    pytest.fail("it was built twice")


def test_the_first_who_asks_sends_and_the_second_waits(books):
    assert [SEND, SEND] == books[0].ask_blobs("r", DESTINATION, [BASE, OWN], ANN)
    assert [WAIT, SEND] == books[1].ask_blobs("r", DESTINATION, [BASE, TALL], BOB)


def test_asking_again_as_the_sender_answers_the_same(book):
    book.ask_blobs("r", DESTINATION, [BASE], ANN)
    assert [SEND] == book.ask_blobs("r", DESTINATION, [BASE], ANN)


def test_what_was_sent_is_known_to_all(books):
    books[0].ask_blobs("r", DESTINATION, [BASE, TALL], ANN)
    books[0].mark_sent("r", DESTINATION, [BASE, TALL])
    assert [KNOWN, KNOWN, SEND] == books[1].ask_blobs("r", DESTINATION, [BASE, TALL, OWN], BOB)


def test_an_image_may_have_as_many_layers_as_a_manifest_may_name(books):
    """R30: ten thousand blobs are asked for, sent, renewed, given up and forgotten like one."""
    many = [Digest("sha256", f"{number:064x}") for number in range(10_000)]

    assert {SEND} == set(books[0].ask_blobs("r", DESTINATION, many, ANN))
    assert [WAIT] * len(many) == books[1].ask_blobs("r", DESTINATION, many, BOB)
    books[0].renew("r", DESTINATION, many, ANN)
    books[0].mark_sent("r", DESTINATION, many[:9_000])
    books[0].give_up("r", DESTINATION, many[9_000:], ANN)
    assert [KNOWN] * 9_000 + [SEND] * 1_000 == books[1].ask_blobs("r", DESTINATION, many, BOB)
    books[0].forget("r", DESTINATION, many)
    assert {SEND} == set(books[1].ask_blobs("r", DESTINATION, many, BOB))


def test_another_destination_or_run_knows_nothing_of_it(book):
    book.mark_sent("r", DESTINATION, [BASE])
    assert [SEND] == book.ask_blobs("r", ELSEWHERE, [BASE], BOB)
    assert [SEND] == book.ask_blobs("s", DESTINATION, [BASE], BOB)


def test_what_is_given_up_is_somebody_elses(books):
    books[0].ask_blobs("r", DESTINATION, [BASE], ANN)
    books[0].give_up("r", DESTINATION, [BASE], ANN)
    assert [SEND] == books[1].ask_blobs("r", DESTINATION, [BASE], BOB)


def test_giving_up_changes_nothing_for_what_is_not_ones_own(book):
    book.ask_blobs("r", DESTINATION, [BASE], ANN)
    book.mark_sent("r", DESTINATION, [OWN])
    book.give_up("r", DESTINATION, [BASE, OWN, TALL], BOB)
    assert [WAIT, KNOWN, SEND] == book.ask_blobs("r", DESTINATION, [BASE, OWN, TALL], BOB)


def test_the_lease_of_a_sender_ends_by_itself(book):
    book.ask_blobs("r", DESTINATION, [BASE], ANN)
    later(book, 31)
    assert [SEND] == book.ask_blobs("r", DESTINATION, [BASE], BOB)
    assert [WAIT] == book.ask_blobs("r", DESTINATION, [BASE], ANN)


def test_a_renewed_lease_lasts_a_full_lease_from_then(book):
    book.ask_blobs("r", DESTINATION, [BASE], ANN)
    later(book, 20)
    book.renew("r", DESTINATION, [BASE, OWN], ANN)
    later(book, 20)
    assert [WAIT, SEND] == book.ask_blobs("r", DESTINATION, [BASE, OWN], BOB)


def test_a_lease_that_somebody_took_over_cannot_be_renewed(book):
    book.ask_blobs("r", DESTINATION, [BASE], ANN)
    later(book, 31)
    book.ask_blobs("r", DESTINATION, [BASE], BOB)
    book.renew("r", DESTINATION, [BASE], ANN)
    assert [SEND] == book.ask_blobs("r", DESTINATION, [BASE], BOB)


def test_what_is_forgotten_is_sent_again(book):
    book.mark_sent("r", DESTINATION, [BASE, OWN])
    book.forget("r", DESTINATION, [BASE])
    assert [SEND, KNOWN] == book.ask_blobs("r", DESTINATION, [BASE, OWN], BOB)


def test_no_blobs_are_no_question(book):
    assert [] == book.ask_blobs("r", DESTINATION, [], ANN)
    book.mark_sent("r", DESTINATION, [])
    book.forget("r", DESTINATION, [])


def test_a_value_is_built_once_for_all(books):
    assert {"a": [1]} == once(books[0], lambda: {"a": [1]})
    assert {"a": [1]} == once(books[1], unexpected)


def test_a_value_that_is_nothing_is_a_value(books):
    assert once(books[0], lambda: None) is None
    assert once(books[1], unexpected) is None


def test_pages_keep_values_apart(book):
    assert 1 == once(book, lambda: 1, page="r")
    assert 2 == once(book, lambda: 2, page=FLEET)


def test_a_value_holds_as_long_as_it_was_said(books):
    once(books[0], lambda: 1, ttl_seconds=20)
    books[0]._flights.forget("r")
    for book in dict.fromkeys(books):
        later(book, 21)
    assert 2 == once(books[1], lambda: 2)


def dated(book, build, *, ttl_seconds=60.0, wait_seconds=5.0):
    return book.once_dated("r", "key", build, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds)


def test_a_value_tells_everybody_how_old_it_is(books):
    """R6: what one worker saw is never taken for younger by another, however late its word arrives."""

    def build():  # takes four seconds, those included in which its worker stood still
        for book in dict.fromkeys(books):
            later(book, 4)
        return 1

    dated(books[0], build)
    for book in dict.fromkeys(books):
        later(book, 3)
    books[0]._flights.forget("r")
    before = elapsed_seconds()
    found = dated(books[1], unexpected)
    assert (1, True) == (found.value, found.since <= before - 6.9)


def test_a_value_of_ones_own_is_as_old_as_the_work_on_it(book):
    """R6: the age counts from when the work began, not from when it was done."""
    began = elapsed_seconds()
    ends = []
    found = dated(book, lambda: ends.append(elapsed_seconds()))
    assert began <= found.since <= ends[0]
    assert found == dated(book, unexpected)


def test_who_builds_after_a_long_wait_tells_the_true_age_too(books):
    """R6: also of a value that two worked out, since one had waited for long enough."""
    books[0].look("r", "key", ANN, 1000)

    def build():
        for book in dict.fromkeys(books):
            later(book, 4)
        return 2

    dated(books[1], build, wait_seconds=0.05)
    books[1]._flights.forget("r")
    before = elapsed_seconds()
    assert dated(books[0], unexpected).since <= before - 3.9


def test_work_that_took_longer_than_its_value_holds_is_there_for_who_waited(books):
    def build():
        for book in dict.fromkeys(books):
            later(book, 30)
        return 3

    dated(books[0], build, ttl_seconds=8)
    books[0]._flights.forget("r")
    assert 3 == dated(books[1], unexpected, ttl_seconds=8).value


def test_pieces_are_there_for_all_until_the_run_is_closed(books):
    """R22: what is large is kept in pieces, and each is read alone."""
    pieces = {f"piece {number}": bytes([number]) * 300_000 for number in range(8)}
    books[0].put_parts("r", pieces)
    wanted = ["piece 3", "nothing", "piece 7"]
    assert [pieces["piece 3"], None, pieces["piece 7"]] == books[1].parts("r", wanted)
    assert [None] == books[1].parts("s", ["piece 3"])
    assert [] == books[1].parts("r", [])
    books[0].close_run("r")
    assert [None] == books[1].parts("r", ["piece 3"])


def test_a_dropped_value_is_built_again(book):
    once(book, lambda: 1)
    book.drop("r", "key")
    assert 2 == once(book, lambda: 2)


def test_what_the_work_raises_is_raised_and_the_next_tries_again(books):
    with pytest.raises(ZeroDivisionError):
        once(books[0], lambda: 1 // 0)
    assert 2 == once(books[1], lambda: 2)


def test_many_that_ask_at_once_have_it_built_once(books):
    building, go_on, built, answers = threading.Event(), threading.Event(), [], []

    def build():
        built.append(1)
        building.set()
        assert go_on.wait(10)
        return "value"

    threads = [
        threading.Thread(target=lambda book=books[n % 2]: answers.append(once(book, build, wait_seconds=20)))
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


def test_who_has_waited_long_enough_builds_it_alone(books):
    books[0].look("r", "key", ANN, 1000)  # somebody who never ends
    assert 2 == once(books[1], lambda: 2, wait_seconds=0.05)


def test_a_builder_that_died_holds_nobody_up_beyond_its_lease(books):
    books[0].look("r", "key", ANN, 15)
    later(books[1], 16)
    assert 2 == once(books[1], lambda: 2, wait_seconds=600)


def test_waiting_ends_with_the_leash(books):
    class Cut:
        def check(self):
            raise ItemCancelledError("stop")

        def require(self, seconds):
            raise ItemCancelledError("stop")

    books[0].look("r", "key", ANN, 1000)
    with pytest.raises(ItemCancelledError):
        once(books[1], unexpected, wait_seconds=600, leash=Cut())


def test_waiting_for_another_thread_of_the_process_ends_with_the_leash_too(books):
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

    builder = threading.Thread(target=once, args=(books[0], build))
    builder.start()
    try:
        assert building.wait(20)
        with under(Cut()), pytest.raises(ItemCancelledError):
            once(books[0], unexpected, wait_seconds=600)
    finally:
        go_on.set()
        builder.join(20)


def test_the_work_given_up_by_another_stays_the_owners(book):
    book.look("r", "key", ANN, 15)
    book.release("r", "key", BOB)
    assert not book.look("r", "key", BOB, 15).is_ours
    book.release("r", "key", ANN)
    assert book.look("r", "key", BOB, 15).is_ours


def test_a_closed_run_leaves_nothing(books):
    books[0].mark_sent("r", DESTINATION, [BASE])
    once(books[0], lambda: 1)
    books[0].close_run("r")
    assert [SEND] == books[0].ask_blobs("r", DESTINATION, [BASE], ANN)
    assert 2 == once(books[0], lambda: 2)


def test_a_page_in_redis_expires_and_a_blob_costs_little(redis_server):
    client = connect_redis(redis_server.url)
    client.flushall()
    book = RedisBook(client, prefix="test:")
    digests = [Digest("sha256", f"{n:064x}") for n in range(2000)]
    for first in range(0, 2000, 100):
        book.ask_blobs("r", DESTINATION, digests[first : first + 100], ANN)
        book.mark_sent("r", DESTINATION, digests[first : first + 100])
    assert 0 < client.ttl("test:book:r") <= 6 * 3600
    size = client.memory_usage("test:book:r", samples=0)
    assert size is not None
    assert size / 2000 < 160
    client.close()


def test_a_redis_that_is_gone_is_named_without_its_password():
    book = RedisBook(connect_redis("redis://:hunter2@127.0.0.1:1/0"), prefix="test:")
    with pytest.raises(RedisUnreachableError, match=r"127\.0\.0\.1:1") as caught:
        book.ask_blobs("r", DESTINATION, [BASE], ANN)
    assert "hunter2" not in str(caught.value)
    book.close()


def test_a_value_can_be_looked_at_without_working_it_out(books):
    """W37: who only wants to know does not become the one at work."""
    assert books[1].peek("r", "key") is None
    once(books[0], lambda: {"left": ["a"]})
    assert {"left": ["a"]} == books[1].peek("r", "key")
    later(books[1], 61)
    assert books[1].peek("r", "key") is None


def test_a_value_that_is_being_worked_out_is_not_known_yet(books):
    """W37: a look does not wait, and takes no lease."""
    assert 1 == once(books[0], lambda: (books[1].peek("r", "key"), 1)[1])
