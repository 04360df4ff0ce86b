from types import SimpleNamespace
from typing import cast

import pytest
import requests

from stagefleet.errors import RegistryUnreachableError
from stagefleet.registry.http.responses import ResponseBody


class Body:
    """An answer whose body comes in given pieces, each after so many seconds of waiting."""

    url = "https://registry.example.com/v2/app/blobs/x?signature=hidden"

    def __init__(self, *pieces, seconds=0.0):
        self.pieces = list(pieces)
        self.seconds = seconds
        self.now = 0.0
        self.closed = False
        self.raw = SimpleNamespace(read1=self.read1)

    def read1(self, size):
        self.now += self.seconds
        return self.pieces.pop(0)[:size] if self.pieces else b""

    def clock(self):
        return self.now

    def close(self):
        self.closed = True

    def incoming(self):
        return ResponseBody(cast("requests.Response", self), clock=self.clock)


def test_a_body_that_drips_is_given_up():
    body = Body(*[b"x"] * 100, seconds=10)
    incoming = body.incoming()

    for _ in range(6):
        incoming.read(1024)
    with pytest.raises(RegistryUnreachableError, match=r"registry\.example\.com sends 7 bytes in 70 s"):
        incoming.read(1024)
    assert body.closed


def test_a_slow_body_that_goes_on_is_read_to_its_end():
    body = Body(*[b"x" * 20_000] * 100, seconds=10)
    incoming = body.incoming()

    assert 100 * 20_000 == sum(len(piece) for piece in iter(lambda: incoming.read(20_000), b""))


def test_time_spent_elsewhere_is_not_the_bodys():
    body = Body(*[b"x"] * 100)
    incoming = body.incoming()

    for _ in range(100):
        incoming.read(1)
        body.now += 1000  # as when the destination is slow

    assert not body.closed
