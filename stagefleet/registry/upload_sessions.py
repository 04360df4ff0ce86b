"""Uploads of blobs: what they teach about registries, and their sessions ("Pushing blobs", specification).

Facts that a process learns while it uploads blobs decide how it sends others. Content goes into a session,
which another attempt can resume or cancel.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar, Unpack
from urllib.parse import urlencode, urlsplit, urlunsplit

import requests

from stagefleet import errors
from stagefleet.leases import NO_LEASE, Lease, UndoLease, current_lease
from stagefleet.manifests import Descriptor
from stagefleet.names import Digest, Repository
from stagefleet.registry.api import RequestOptions, scopes_of
from stagefleet.registry.blob_reader import BlobApi
from stagefleet.registry.http.client import ApiRequest
from stagefleet.registry.http.origins import base_url, join_url, origin_of
from stagefleet.registry.http.responses import check_stored, received_bytes
from stagefleet.registry.http.transport import Body
from stagefleet.settings import Settings

# Facts: guesses about the next request. A wrong one costs a round trip more, and is corrected. Each kind is
# bounded.

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
        refused = self._refused_mounts
        return next((each for each in (wanted, destination) if (each, destination) not in refused), None)

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
            blob.size <= min(self.body_limit(destination.host) or WHOLE_LAYER_BYTES, WHOLE_LAYER_BYTES)
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


# Sessions.

RESUMED_BYTES = 8 * 1024 * 1024
"""Smallest blob whose upload is resumed: to send it again costs more than what it takes to ask."""
STORED = frozenset({200, 201, 202, 204})
"""Statuses of success: registries do not always send the one of the specification (containerd #3750)."""
_CANCEL_SECONDS = 5.0
_CANCELLED = frozenset({200, 202, 204, 404, 416})
_MISPLACED = 416
BLOB_HEADERS = MappingProxyType({"Content-Type": "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session that a registry has opened; the content of the blob goes to `url`.

    If it `came_with_content`, that should have been ignored, and may not have been. One that is resumed has
    `offset` bytes of the blob's `size` already.
    """

    repository: Repository
    digest: Digest
    url: str = field(repr=False)  # it may hold a signature
    came_with_content: bool = False
    offset: int = 0
    size: int = 0

    @property
    def subject(self) -> str:
        """The blob, for messages."""
        return f"blob {self.digest} of {self.repository}"


@dataclass(frozen=True, slots=True)
class SessionStore:
    """Store of the session of one blob, so that another attempt, in another process, can resume it.

    An address has no scheme and no host. It works like a token: it must be in no log and no error.

    Attributes:
        take: Returns the address, and forgets it; None if there is none.
        keep: Remembers an address.
    """

    take: Callable[[], str | None]
    keep: Callable[[str], None]


class CurrentUpload:
    """The upload in which a blob is being sent, at its latest address ("Pushing a blob in chunks").

    `on_move` is called with each address that it gets.
    """

    def __init__(self, upload: Upload, on_move: Callable[[Upload], None]) -> None:
        self.upload = upload
        self._on_move = on_move

    def move(self, upload: Upload) -> None:
        """Go on in another upload, or at another address of this one."""
        self.upload = upload
        self._on_move(upload)


class UploadSessionApi(BlobApi):
    """Calls of the API in an upload's session."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self.upload_facts = UploadFacts(settings)

    def cancel_upload(self, upload: Upload, *, lease: Lease = NO_LEASE) -> None:
        """Delete an upload that nobody will finish, within a few seconds or not at all.

        Registries keep what was sent, for a week by default (distribution's `uploadpurging`). Distribution 3
        takes a DELETE only under the address of the last byte, for which it is asked; 2.8 tells nobody.
        """
        if self._own_address(upload) is None:
            return  # a store of which nobody knows what it deletes
        undo = UndoLease(current_lease(lease), seconds=_CANCEL_SECONDS)
        with suppress(errors.StagefleetError):
            if self._delete_session(upload, undo) == _MISPLACED:
                current = self._ask_session(upload, undo)
                self._delete_session(current, undo)

    def _resumed(self, upload: Upload, lease: Lease) -> Upload | None:
        """Ask how much of a blob a session has; None if the registry cannot go on from there.

        OCI distribution specification 1.1, "Pushing a blob in chunks" (end-13). Distribution 2.8 has dropped
        the session after an interruption; distribution 3 and zot go on.
        """
        try:
            current = self._ask_session(upload, lease)
        except errors.RegistryError:
            return None
        return current if 0 < current.offset <= upload.size else None

    def _ask_session(self, upload: Upload, lease: Lease) -> Upload:
        """Return an upload with the address and the offset that the registry has for it now."""
        request = self._upload_request("GET", upload, lease, expected=frozenset({204}), retries=True)
        response, _ = self._http_client.read(request)
        has_moved = "Location" in response.headers
        url = self._location(response, upload.repository) if has_moved else upload.url
        return replace(upload, url=url, offset=received_bytes(response.headers))

    def _delete_session(self, upload: Upload, lease: Lease) -> int:
        """Send the DELETE of an upload; return the status of the answer."""
        request = self._upload_request("DELETE", upload, lease, expected=_CANCELLED)
        return self._http_client.read(request)[0].status_code

    def _upload_request(
        self, method: str, upload: Upload, lease: Lease, **options: Unpack[RequestOptions]
    ) -> ApiRequest:
        """Make a request of an upload, without retries: an upload goes on in another way after a failure."""
        options = {"expected": STORED, "retries": False, **options}
        scopes = scopes_of(upload.repository, "delete,pull,push" if method == "DELETE" else "pull,push")
        return self._request(
            method, upload.repository, upload.url, upload.subject, scopes=scopes, lease=lease, **options
        )

    def _own_address(self, upload: Upload) -> str | None:
        """Return the address of an upload without scheme and host; None if the registry does not serve it."""
        if origin_of(upload.url) != origin_of(base_url(upload.repository.host, self._settings)):
            return None
        return urlunsplit(urlsplit(upload.url)._replace(scheme="", netloc=""))

    def _kept_upload(self, repository: Repository, blob: Descriptor, address: str) -> Upload | None:
        """Return the upload at an address that was kept; None if that is not the registry's own."""
        url = join_url(base_url(repository.host, self._settings), address)
        upload = Upload(repository, blob.digest, url, size=blob.size)
        return None if self._own_address(upload) is None else upload

    def _send_once(
        self,
        current: CurrentUpload,
        open_body: Callable[[], bytes | Body],
        lease: Lease,
        *,
        answer_seconds: float | None = None,
    ) -> None:
        """Send the content of a blob, in chunks if it is larger than what gets through."""
        upload = current.upload
        limit = self.upload_facts.body_limit(upload.repository.host)
        try:
            if limit is None:
                return self._put_blob(upload, open_body, lease, answer_seconds)
            body = open_body()
            if len(body) <= limit:
                opened = [body]
                return self._put_blob(
                    upload, lambda: opened.pop() if opened else open_body(), lease, answer_seconds
                )
            content = io.BytesIO(body) if isinstance(body, bytes) else body
            self._send_chunks(current, content, limit, lease)
            rest = replace(current.upload, offset=0)  # nothing of it follows
            return self._put_blob(rest, lambda: b"", lease, answer_seconds)
        except errors.RegistryError as error:
            if error.status != requests.codes.request_entity_too_large:
                raise
            raise BodyLimitError(error, limit) from None

    def _send_chunks(
        self, current: CurrentUpload, source: Body | io.BytesIO, size: int, lease: Lease
    ) -> None:
        """Send a blob in chunks; the upload moves with each: an older address leads nowhere."""
        offset = current.upload.offset
        while piece := _read_chunk(source, size):
            headers = {**BLOB_HEADERS, "Content-Range": f"{offset}-{offset + len(piece) - 1}"}
            request = self._upload_request("PATCH", current.upload, lease, headers=headers, body=piece)
            response, _ = self._http_client.read(request)
            offset += len(piece)
            if "Location" in response.headers:
                url = self._location(response, current.upload.repository)
                current.move(replace(current.upload, url=url))

    def _put_blob(
        self, upload: Upload, body: Callable[[], bytes | Body], lease: Lease, answer_seconds: float | None
    ) -> None:
        parts = urlsplit(upload.url)
        query = "&".join(filter(None, [parts.query, urlencode({"digest": str(upload.digest)}, safe=":")]))
        ended = replace(upload, url=urlunsplit(parts._replace(query=query, fragment="")))
        headers = dict(BLOB_HEADERS)
        if 0 < upload.offset < upload.size:
            headers["Content-Range"] = f"{upload.offset}-{upload.size - 1}"
        request = self._upload_request(
            "PUT", ended, lease, headers=headers, body=body, answer_seconds=answer_seconds
        )
        response, _ = self._http_client.read(request)
        check_stored(response.headers, upload.subject, upload.digest)

    def _location(self, response: requests.Response, repository: Repository) -> str:
        location = response.headers.get("Location")
        if not location:
            raise errors.RegistryError(
                f"{repository.host} began an upload without saying where: no Location",
                method="POST",
                repository=str(repository),
                status=response.status_code,
            )
        return self._same_registry(repository, response.url, location)


class BodyLimitError(Exception):
    """A gateway does not let a body through that was sent under the limit `tried`."""

    def __init__(self, cause: errors.RegistryError, tried: int | None) -> None:
        super().__init__()
        self.cause, self.tried = cause, tried


def _read_chunk(source: Body | io.BytesIO, size: int) -> bytes:
    """Read `size` bytes, fewer at the end."""
    pieces, left = [], size
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
