"""How a registry deletes: by tag and that tag alone, or by digest and every tag of it.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 where it is off. Some registries
accept it and take the other tags of the digest along, so it is tried, on a throwaway image under two tags of
our own and never on a user's.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum

from stagefleet.errors import DeletionDisabledError, ForbiddenError, NotFoundError, RegistryError
from stagefleet.names import Digest, Reference, Repository
from stagefleet.records import RecordImage
from stagefleet.registry import Descriptor, RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.runs.book import FLEET, SharedBook
from stagefleet.storages.record_writer import put_record

__all__ = ["DeletionWay", "delete_manifest", "find_way", "forget_way", "refuses_tags"]

_REMEMBERED_SECONDS = 24 * 3600
_WAIT_SECONDS = 60
_METHOD_NOT_ALLOWED = 405
_BAD_REQUEST = 400
_PROBE_LABEL = "io.stagefleet.probe"


class DeletionWay(StrEnum):
    """What a deletion takes."""

    TAG = "tag"
    """A tag can be deleted, and nothing else goes with it."""
    DIGEST = "digest"
    """Only digests can be deleted, with all of their tags."""


def find_way(client: RegistryClient, book: SharedBook, reference: Reference, *, leash: Leash) -> DeletionWay:
    """Find out how a registry deletes; once for the whole fleet, and remembered for a day.

    Args:
        client: Speaks to registries.
        book: Remembers.
        reference: What is to be deleted; nothing is tried in a repository that does not have it.
        leash: Holds the work back.

    Raises:
        NotFoundError: The reference is not there; nothing was found out.
        DeletionDisabledError: Deletion is switched off; this is not remembered.
    """
    way = book.once(
        FLEET,
        _key(reference.repository),
        lambda: str(_Probe(client, reference, leash).find()),
        ttl_seconds=_REMEMBERED_SECONDS,
        wait_seconds=_WAIT_SECONDS,
        leash=leash,
    )
    return DeletionWay(way)


def forget_way(book: SharedBook, repository: Repository) -> None:
    """Find out again the next time: the registry has changed its mind."""
    book.drop(FLEET, _key(repository))


def refuses_tags(error: RegistryError) -> bool:
    """Whether an error says that tags cannot be deleted (400 on distribution 2, else 405)."""
    return error.status in {_BAD_REQUEST, _METHOD_NOT_ALLOWED}


def delete_manifest(client: RegistryClient, reference: Reference, *, leash: Leash) -> bool:
    """Delete, where deletion of what is gone already is success.

    Returns:
        Whether it was there.

    Raises:
        DeletionDisabledError: Deletion is switched off in the registry.
    """
    try:
        client.delete_manifest(reference, leash=leash)
    except NotFoundError:
        return False
    except RegistryError as error:
        if reference.digest is not None and error.status == _METHOD_NOT_ALLOWED:
            raise _disabled(reference.repository, error) from error
        raise
    return True


def _key(repository: Repository) -> str:
    return f"deletion {repository.host}"


def _disabled(repository: Repository, error: RegistryError) -> DeletionDisabledError:
    return DeletionDisabledError(
        f"{repository.host} does not delete: deletion is switched off. For distribution set "
        "storage.delete.enabled: true in the registry's configuration, or "
        "REGISTRY_STORAGE_DELETE_ENABLED=true in its environment, and restart it",
        method=error.method,
        repository=str(repository),
        status=error.status,
        codes=error.codes,
    )


class _Probe:
    """One trial, on an image that is like no other."""

    def __init__(self, client: RegistryClient, reference: Reference, leash: Leash) -> None:
        self._client = client
        self._wanted = reference
        self._repository = reference.repository
        self._leash = leash
        token = secrets.token_hex(8)
        self._tags = [self._repository.tagged(f"stagefleet-probe-{token}-{letter}") for letter in "ab"]
        self._image = RecordImage.of(self._repository.name, {_PROBE_LABEL: token})

    def find(self) -> DeletionWay:
        self._client.head_manifest(self._wanted)  # or the trial would create a repository
        # An unused digest: 404 where deletion is on, 405 where it is off. So nothing is left where it is off.
        unused = Digest("sha256", hashlib.sha256(secrets.token_bytes(32)).hexdigest())
        delete_manifest(self._client, Reference.of(self._repository, unused), leash=self._leash)
        try:
            for tag in self._tags:
                image = put_record(self._client, tag, self._image, leash=self._leash)
        except ForbiddenError:  # a login that may delete and not push: no tag can be moved aside either
            return DeletionWay.DIGEST
        return self._try(image)

    def _try(self, image: Descriptor) -> DeletionWay:
        first, second = self._tags
        way = DeletionWay.DIGEST
        try:
            self._client.delete_manifest(first, leash=self._leash)
            if self._client.head_manifest(second).digest == image.digest:
                way = DeletionWay.TAG
        except NotFoundError:
            pass  # the second went with the first
        except RegistryError as error:
            if error.retryable:
                raise
        finally:
            self._clear(way, image)
        return way

    def _clear(self, way: DeletionWay, image: Descriptor) -> None:
        if way is DeletionWay.TAG:
            delete_manifest(self._client, self._tags[1], leash=self._leash)
        try:
            delete_manifest(self._client, Reference.of(self._repository, image.digest), leash=self._leash)
        except RegistryError:
            # Without its tags it is the registry's garbage; with them, two tags stay that say what they are.
            return
