"""A blob that is read ahead arrives whole and in order, and holds a bounded number of bytes."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import ItemCancelledError, LeaseLostError, TruncatedError
from stagefleet.leases import NO_LEASE, current_lease
from stagefleet.registry.blob_source import AHEAD_BYTES, BlobStream
from stagefleet.registry.http.adapter import CHUNK_BYTES
from stagefleet.registry.http.waits import pause
from stagefleet.threads import RequestThreads


class Source:
    """Pieces of a blob; an error among them is raised."""

    def __init__(self, pieces):
        self.pieces, self.error, self.closed, self.readers = list(pieces), None, 0, 0
        self.has_read = 0

    def __len__(self):
        return sum(len(piece) for piece in self.pieces)

    def read(self, size=-1):
        self.readers += 1
        assert self.readers == 1, "one at a time"
        try:
            if not self.pieces:
                return b""
            piece = self.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            if callable(piece):
                return piece()
            self.has_read += len(piece)
            return piece
        finally:
            self.readers -= 1

    def skip(self, count):
        self.pieces = [b"".join(self.pieces)[count:]]

    def close(self):
        self.closed += 1


@pytest.fixture
def threads():
    threads = RequestThreads(2)
    yield threads
    threads.close()


def read_all(blob, size=CHUNK_BYTES):
    return b"".join(iter(lambda: blob.read(size), b""))


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=50), max_size=30),
    size=st.integers(1, 60),
    count=st.integers(1, 3),
)
def test_content_arrives_as_it_was(pieces, size, count):
    threads, source = RequestThreads(count), Source(pieces)
    blob = BlobStream(lambda: source, threads, NO_LEASE)
    assert b"".join(pieces) == read_all(blob, size)
    blob.close()
    assert 1 == source.closed
    threads.close()


def test_without_a_free_thread_the_sender_reads_itself(threads):
    leave = threading.Event()
    for _ in range(2):
        threads.start(lambda: leave.wait(20))
    blob = BlobStream(lambda: Source([b"ab", b"c"]), threads, NO_LEASE)
    assert b"abc" == read_all(blob)
    blob.close()
    leave.set()


def test_a_slow_sender_lets_no_more_be_read_than_fits(threads):
    source = Source([bytes(CHUNK_BYTES)] * 100)
    blob = BlobStream(lambda: source, threads, NO_LEASE)
    for taken in range(1, 20):
        assert CHUNK_BYTES == len(blob.read(CHUNK_BYTES))
        assert source.has_read <= taken * CHUNK_BYTES + AHEAD_BYTES + CHUNK_BYTES
    blob.close()
    assert source.has_read < 100 * CHUNK_BYTES


def test_reading_goes_on_while_the_sender_is_busy(threads):
    second = threading.Event()

    def read_second():
        second.set()
        return b"second"

    source = Source([b"first", read_second])
    blob = BlobStream(lambda: source, threads, NO_LEASE)
    assert second.wait(20), "it is read before anybody asks"
    assert b"firstsecond" == read_all(blob)
    blob.close()


def test_an_error_of_the_source_comes_after_what_it_gave_and_is_known_as_its_own(threads):
    error = TruncatedError("it broke off")
    blob = BlobStream(lambda: Source([b"ab", error, b"never"]), threads, NO_LEASE)
    assert b"ab" == blob.read()
    with pytest.raises(TruncatedError):
        blob.read()
    assert error is blob.error
    blob.close()


def test_closing_ends_a_source_that_waits(threads):
    source = Source([lambda: pause(3600, current_lease(), "r.test", "429")])
    blob = BlobStream(lambda: source, threads, NO_LEASE)
    blob.close()
    assert (1, 0) == (source.closed, source.readers)


def test_a_lost_lease_ends_the_wait_for_a_source(threads):
    class Lease:
        def check(self):
            raise LeaseLostError("lost")

        def require(self, seconds):
            self.check()

    leave = threading.Event()
    blob = BlobStream(lambda: Source([lambda: leave.wait(20) and b""]), threads, Lease())
    with pytest.raises((LeaseLostError, ItemCancelledError)):
        blob.read()
    leave.set()
    blob.close()


def test_the_first_bytes_are_left_out(threads):
    blob = BlobStream(lambda: Source([b"ab", b"cd", b"e"]), threads, NO_LEASE, 3)
    assert b"de" == read_all(blob)
    blob.close()
