"""Facts that a process learns about registries while it uploads blobs; they decide how others are sent.

A fact is a guess about the next request: if it is wrong, that request costs a round trip more, and the fact
is corrected. Each kind is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from stagefleet.manifests import Descriptor
from stagefleet.names import Repository
from stagefleet.settings import Settings

WHOLE_LAYER_BYTES = 4 * 1024 * 1024
"""Largest layer that is sent with one POST, without asking if it is there."""
WHOLE_CONFIG_BYTES = 64 * 1024
"""Largest configuration that is sent so, also to a registry that may have to read it in vain."""
_ABSENT_IN_A_ROW = 4
"""Blobs in a row that a repository lacked, after which it is expected to lack the next one, too."""
_ASKED_EVERY = 8
"""So often it is asked all the same, of blobs that it would take without."""
_KIB = 1024
_BODY_BYTES = (4096 * _KIB, 1024 * _KIB, 512 * _KIB, 64 * _KIB)
"""Sizes that are tried in turn; a chunk is held in memory, as it may have to be sent again with a login."""
_MOST_DIGITS = 12
_MOST_FACTS = 1024

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class UploadFacts:
    """Facts about registries and their repositories, for all uploads of a process; thread-safe.

    `chunk_bytes` of a registry's settings is a fact, too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refused_mounts: dict[tuple[Repository, Repository], bool] = {}
        self._absent_in_a_row: dict[tuple[Repository, Repository], int] = {}
        self._whole_limits: dict[str, float] = {}  # of registries that take whole blobs; not that size itself
        self._body_limits: dict[str, int] = {}

    # Mounts (OCI distribution specification 1.1, "Mounting a blob from another repository"): some registries
    # refuse them instead of opening an upload (containerd #14086, oras #1892).

    def mount_source(self, wanted: Repository, destination: Repository) -> Repository | None:
        """Return where to mount from: as wanted, else the destination itself, None if both were refused."""
        sources = (source for source in (wanted, destination) if self.may_mount(source, destination))
        return next(sources, None)

    def may_mount(self, source: Repository, destination: Repository) -> bool:
        """Return False if a mount between these repositories was refused."""
        return (source, destination) not in self._refused_mounts

    def note_refused_mount(self, source: Repository, destination: Repository) -> None:
        """Learn that a registry refuses to mount from one repository into the other."""
        _learn(self._refused_mounts, (source, destination), value=True)

    # Presence: a repository that lacked the last blobs of another one lacks the next, too.

    def expects_absence(self, source: Repository, destination: Repository) -> bool:
        """Return True if the destination is expected to lack the next blob of the source."""
        return self._absent_in_a_row.get((source, destination), 0) >= _ABSENT_IN_A_ROW

    def note_presence(self, source: Repository, destination: Repository, *, is_absent: bool) -> None:
        """Learn if the destination had a blob of the source."""
        streak = self._absent_in_a_row.get((source, destination), 0)
        _learn(self._absent_in_a_row, (source, destination), streak + 1 if is_absent else 0)

    # Whole blobs (OCI distribution specification 1.1, "Single POST"): registries may ignore the content.

    def takes_unasked(self, destination: Repository, blob: Descriptor) -> bool:
        """Return True for a blob to send with one POST: a small one that is expected to be absent."""
        return (
            blob.size <= WHOLE_LAYER_BYTES
            and blob.size < self._whole_limits.get(destination.host, 0)
            and self.expects_absence(destination, destination)
            and self._absent_in_a_row.get((destination, destination), 0) % _ASKED_EVERY > 0
        )

    def note_whole_taken(self, host: str) -> None:
        """Learn that a registry takes whole blobs; a size that it refused stays refused."""
        _learn(self._whole_limits, host, self._whole_limits.get(host, float("inf")))

    def note_whole_refused(self, host: str, size: int) -> None:
        """Learn that a registry refuses whole blobs of this size."""
        _learn(self._whole_limits, host, size)

    def note_whole_ignored(self, host: str) -> None:
        """Learn that a registry begins an upload instead of taking a whole blob."""
        self._whole_limits.pop(host, None)

    # Bodies (OCI distribution specification 1.1, "Pushing a blob in chunks"): nginx allows 1 MiB if nobody
    # says otherwise, Cloudflare 100 MB; a larger body is answered 413. `OCI-Chunk-Max-Length` is what
    # registries propose to say (distribution-spec #485).

    def body_limit(self, host: str) -> int | None:
        """Return the largest body for a registry in bytes; None if no limit is known."""
        return self._body_limits.get(host) or self._settings.registry(host).chunk_bytes

    def note_headers(self, host: str, headers: Mapping[str, str]) -> None:
        """Learn the limit that a response names."""
        told = headers.get("OCI-Chunk-Max-Length", "").strip()
        if told.isascii() and told.isdigit() and len(told) <= _MOST_DIGITS and int(told) >= _BODY_BYTES[-1]:
            _learn(self._body_limits, host, min(int(told), _BODY_BYTES[0]))

    def lower_body_limit(self, host: str, tried: int | None) -> bool:
        """Learn from a body that was too large; return False if no smaller one is left to try.

        `tried` was the limit when it was sent: by now another upload may have learned more.
        """
        limit = self.body_limit(host)
        if limit is not None and (tried is None or limit < tried):
            return True
        smaller = next((size for size in _BODY_BYTES if tried is None or size < tried), None)
        if smaller is not None:
            _learn(self._body_limits, host, smaller)
        return smaller is not None


def _learn(facts: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(facts) >= _MOST_FACTS and key not in facts:
        facts.clear()
    facts[key] = value
