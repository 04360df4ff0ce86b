"""Diff ids: of what a layer unpacks to, whatever packed it, and in bounded memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tracemalloc

import pytest

from stagefleet.errors import DigestMismatchError, ItemCancelledError, UnreadableContentError
from stagefleet.layers import diff_id_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = bytes(range(256)) * 4000
PACKED = {
    "plain": CONTENT,
    "gzip": gzip.compress(CONTENT),
    "gzip in members": gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]),
    "gzip, padded": gzip.compress(CONTENT) + bytes(512),
    "zstd": zstd.compress(CONTENT),
    "zstd in frames": zstd.compress(CONTENT[:1000]) + zstd.compress(CONTENT[1000:]),
    "zstd after a skippable frame": b"\x50\x2a\x4d\x18\x04\0\0\0four" + zstd.compress(CONTENT),
    "short": b"abc",
    "empty": b"",
}


class Drip:
    """A stream of small pieces, as a network brings them; `error` is raised at its end."""

    def __init__(self, content, error=None):
        self._stream = io.BytesIO(content)
        self._error = error

    def read(self, size=-1):
        piece = self._stream.read(min(1000, size) if size >= 0 else 1000)
        if not piece and self._error is not None:
            raise self._error
        return piece


@pytest.mark.parametrize("packing", PACKED)
def test_the_diff_id_is_that_of_the_unpacked_content(packing):
    packed = PACKED[packing]
    content = packed if packing in {"plain", "short", "empty"} else CONTENT
    assert hashlib.sha256(content).hexdigest() == diff_id_of(Drip(packed), len(packed)).hex


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(CONTENT)[:-9],
        gzip.compress(CONTENT)[:500] + bytes(500),
        gzip.compress(CONTENT) + b"more",
        zstd.compress(CONTENT)[:100] + b"garbage",
        b"\x28\xb5\x2f\xfdgarbage",
    ],
    ids=["gzip cut", "gzip altered", "gzip and more", "zstd altered", "no zstd"],
)
def test_what_cannot_be_unpacked_is_unreadable(packed):
    with pytest.raises(UnreadableContentError, match="cannot be unpacked"):
        diff_id_of(Drip(packed), len(packed))


def test_an_altered_layer_is_told_by_its_digest_first():
    with pytest.raises(DigestMismatchError):
        diff_id_of(Drip(gzip.compress(CONTENT)[:500] + bytes(500), DigestMismatchError("other")), 1000)


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_bomb_ends_at_the_limit_in_flat_memory(pack):
    bomb = pack(bytes(64 * 1024**2))
    tracemalloc.start()
    with pytest.raises(UnreadableContentError, match="unpacks to more than 16,777,216 bytes"):
        diff_id_of(Drip(bomb), len(bomb), most_bytes=16 * 1024**2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 1024**2


def test_a_large_layer_may_unpack_to_more_than_the_limit():
    packed = gzip.compress(CONTENT, 1)
    found = diff_id_of(Drip(packed), len(CONTENT) // 10, most_bytes=10)
    assert hashlib.sha256(CONTENT).hexdigest() == found.hex


def test_a_window_beyond_what_zstd_itself_admits_is_refused():
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    packed = packer.compress(CONTENT) + packer.flush()
    with pytest.raises(UnreadableContentError):
        diff_id_of(Drip(packed), len(packed))


def test_the_lease_ends_the_unpacking_within_a_chunk():
    class Lease:
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 3:
                raise ItemCancelledError("cancelled")

        def require(self, seconds):
            raise NotImplementedError

    bomb, lease = gzip.compress(bytes(8 * 1024**2)), Lease()
    with pytest.raises(ItemCancelledError):
        diff_id_of(Drip(bomb), len(bomb), lease=lease)
    assert 3 == lease.checks
