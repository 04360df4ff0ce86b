"""Effect of deletions in a repository: of a tag alone, or of a digest and all its tags.

OCI distribution specification 1.1, "Deleting tags": optional, 400 or 405 if it is off. Some registries accept
it and delete the other tags of the digest, too, so a probe decides. Its result holds for one repository:
there may be several registries behind one host, by path.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import Any

from stagefleet import errors
from stagefleet.bounds import join_first
from stagefleet.deletion.checks import confirm_deleted
from stagefleet.leases import NO_LEASE, Lease, UndoLease, under_lease
from stagefleet.manifests import Manifest
from stagefleet.names import Digest, Reference, Repository
from stagefleet.records.image import RecordImage, put_record, read_labels
from stagefleet.registry.client import RegistryClient
from stagefleet.registry.http.waits import pause
from stagefleet.shared_state.base import FLEET_NAMESPACE, SharedState

_REMEMBERED_SECONDS = 24 * 3600
_REFUSED_SECONDS = 600
_PASSING_SECONDS = 60
_WAIT_SECONDS = 60
_METHOD_NOT_ALLOWED = 405
_BAD_REQUEST = 400


def detect_deletion_mode(
    client: RegistryClient, shared_state: SharedState, reference: Reference, *, lease: Lease
) -> ProbeResult:
    """Find out how a registry deletes; once per repository for the whole fleet, and remembered for a day.

    Raises:
        NotFoundError: The reference does not exist; nothing was found out.
        DeletionDisabledError: Deletion is switched off; this is not remembered.
    """
    found = _ask(client, shared_state, reference, lease)
    if found["until"] < time.time():  # a refusal that left tags may have been temporary
        forget_deletion_mode(shared_state, reference.repository)
        found = _ask(client, shared_state, reference, lease)
    return ProbeResult(DeletionMode(found["way"]), tuple(found["left"]), found["refusal"], found["passes"])


def forget_deletion_mode(shared_state: SharedState, repository: Repository) -> None:
    """Drop the result, because the registry's behaviour has changed."""
    shared_state.forget_value(FLEET_NAMESPACE, _key(repository))


def may_use_placeholders(shared_state: SharedState, repository: Repository) -> bool:
    """Return True if tags may have been moved aside: the registry is not known to delete tags."""
    found = shared_state.peek(FLEET_NAMESPACE, _key(repository))
    return found is None or DeletionMode(found["way"]) is not DeletionMode.TAG


def describe_remaining_tags(shared_state: SharedState, repositories: Iterable[Repository]) -> list[str]:
    """Report for each repository, in one line, which of our tags cannot be removed; nothing for most."""
    return [
        describe_probe_tags(repository, found["left"], found["refusal"])
        for repository in repositories
        if (found := shared_state.peek(FLEET_NAMESPACE, _key(repository))) and found["left"]
    ]


def refuses_tags(error: errors.RegistryError) -> bool:
    """Return True if an error means that tags cannot be deleted (400 on distribution 2, else 405)."""
    return error.status in {_BAD_REQUEST, _METHOD_NOT_ALLOWED}


def _ask(client: RegistryClient, shared_state: SharedState, reference: Reference, lease: Lease) -> Any:
    def try_it() -> dict[str, Any]:
        probe_result = DeletionProbe(client, reference, lease).execute()
        found = asdict(probe_result)
        return {"way": found.pop("mode"), "until": time.time() + _seconds_of(probe_result), **found}

    return shared_state.get_or_compute(
        FLEET_NAMESPACE,
        _key(reference.repository),
        try_it,
        ttl_seconds=_REMEMBERED_SECONDS,
        wait_seconds=_WAIT_SECONDS,
        lease=lease,
    )


def _seconds_of(probe_result: ProbeResult) -> float:
    """Return the lifetime of a probe's result."""
    if not probe_result.left:
        return _REMEMBERED_SECONDS
    return _PASSING_SECONDS if probe_result.passes else _REFUSED_SECONDS


def _key(repository: Repository) -> str:
    return f"deletion {repository}"


# Probe of how a registry deletes, on a throwaway image under two tags of our own, never on a user's.
#
# An interrupted probe leaves its tags; the next one in the repository finds them by their names and removes
# them. If the registry does not let them be removed, no others are added.

SECOND_LOOK_SECONDS = 5.0
"""Pause between two checks after a tag's deletion: caches on the way may serve the tag a while longer."""
UNDER_WAY_SECONDS = 15.0
"""Age up to which a tag may belong to a probe under way; an older one is a leftover."""

_PREFIX = "stagefleet-probe-"
_TAG = re.compile(_PREFIX + r"(?:(?P<seconds>[0-9]{10})-)?[0-9a-f]{16}-[ab]")
_LABEL = "io.stagefleet.probe"
_UNDO_SECONDS = 10.0
_MOST_REMOVED = 100
"""Most leftover tags that one probe removes."""
_SHOWN_TAGS = 4

_SOMETHING_ELSE = Digest("sha256", "0" * 64)
_HALF_WAY = errors.RegistryError(
    "the manifest goes, and its tags are listed still: a deletion ends half way there"
)

_LEASE_ENDS = (errors.LeaseLostError, errors.LockLostError, errors.ItemCancelledError)
"""Errors of a lease, not of the registry."""

_LOGGER = logging.getLogger(__name__)


class DeletionMode(StrEnum):
    """Effect of a deletion."""

    TAG = "tag"
    """A tag can be deleted alone."""
    DIGEST = "digest"
    """Only digests can be deleted, with all of their tags."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a probe.

    If there are tags of probes `left` that cannot be removed, do not add tags that have to be removed. The
    registry's `refusal` to remove them may be temporary if it `passes`.
    """

    mode: DeletionMode
    left: tuple[str, ...] = ()
    refusal: str = ""
    passes: bool = False


def delete_manifest(
    client: RegistryClient, reference: Reference, *, lease: Lease, precheck: Callable[[], float] | None = None
) -> bool:
    """Delete a manifest or tag; False if it was missing, `DeletionDisabledError` if that is switched off."""
    try:
        client.delete_manifest(reference, lease=lease, precheck=precheck)
    except errors.NotFoundError:
        return False
    except errors.RegistryError as error:
        if reference.digest is None or error.status != _METHOD_NOT_ALLOWED:
            raise
        raise errors.DeletionDisabledError(
            f"{reference.repository.host} does not delete: deletion is switched off. For distribution set "
            "storage.delete.enabled: true in the registry's configuration, or "
            "REGISTRY_STORAGE_DELETE_ENABLED=true in its environment, and restart it",
            method=error.method,
            repository=str(reference.repository),
            status=error.status,
            codes=error.codes,
        ) from error
    return True


def describe_probe_tags(repository: Repository, tags: Sequence[str], refusal: str) -> str:
    """Explain in one line which of our tags stay in a repository, and why."""
    return (
        f"{repository} keeps {join_first(tags, _SHOWN_TAGS)}, on which was tried how it deletes ({refusal}); "
        "no others are added: allow their deletion there, or remove them by hand"
    )


class DeletionProbe:
    """One probe in a repository."""

    def __init__(self, client: RegistryClient, wanted: Reference, lease: Lease) -> None:
        self._client = client
        self._wanted = wanted
        self._repository = wanted.repository
        self._lease = lease
        self._image = _SOMETHING_ELSE

    def execute(self) -> ProbeResult:
        """Find out how the repository's registry deletes.

        Raises:
            NotFoundError: `wanted` does not exist; there was no probe.
            DeletionDisabledError: Deletion is switched off in the registry; nothing was pushed.
            RegistryError: The registry refuses for a reason that does not concern tags.
        """
        with suppress(errors.RegistryUnavailableError, errors.ContentError):  # it exists, but is damaged
            self._client.head_manifest(self._wanted)  # a probe must not create a repository
        self._check_switched_on()
        left = self._remove_left()
        if left.left:  # others would stay, too; these cannot be deleted by tag
            return left
        token = secrets.token_hex(8)
        name = f"{_PREFIX}{int(time.time()):010}-{token}"
        tags = [self._repository.tagged(f"{name}-{letter}") for letter in "ab"]
        image = RecordImage.of(self._repository.name, {_LABEL: token})
        self._image = Manifest.of(image.manifest).digest
        try:
            mode = self._try(image, *tags)
        except Exception as error:
            probe_result = self._remove(self._image, tags)
            if probe_result.left and isinstance(error, errors.RegistryError):
                return probe_result  # remembered, so that the next attempt adds no others
            raise
        return replace(self._remove(self._image, tags), mode=mode)

    def _check_switched_on(self) -> None:
        """Delete an unused digest: 404 where deletion is on, 405 where it is off; nothing is pushed then.

        A registry may delete tags and no digests ("Deleting tags" and "Deleting Manifests" are two things in
        the specification, either of them optional), so an unused tag is tried next.
        """
        token = secrets.token_bytes(32)
        unused = Digest("sha256", hashlib.sha256(token).hexdigest())
        try:
            delete_manifest(self._client, Reference.of(self._repository, unused), lease=self._lease)
        except errors.DeletionDisabledError as disabled:
            tag = self._repository.tagged(f"{_PREFIX}{token.hex()[:16]}-a")
            try:
                delete_manifest(self._client, tag, lease=self._lease)
            except errors.RegistryError as error:
                if error.retryable:
                    raise
                raise disabled from error

    def _try(self, image: RecordImage, first: Reference, second: Reference) -> DeletionMode:
        try:
            for tag in (first, second):
                self._image = put_record(self._client, tag, image, lease=self._lease).digest
        except errors.ForbiddenError:  # a login that may delete but not push: no tag can be moved aside
            return DeletionMode.DIGEST
        try:
            self._client.delete_manifest(first, lease=self._lease)
        except errors.RegistryError as error:
            if error.retryable:
                raise
            return DeletionMode.DIGEST
        if self._seen_digest(second) != self._image:
            return DeletionMode.DIGEST
        pause(SECOND_LOOK_SECONDS, self._lease, text="a second look at how the registry deletes")
        went_alone = self._seen_digest(second) == self._image and self._seen_digest(first) is None
        return DeletionMode.TAG if went_alone else DeletionMode.DIGEST

    def _seen_digest(self, tag: Reference) -> Digest | None:
        """Resolve a tag, by GET: some registries answer a HEAD from a cache."""
        try:
            return self._client.fetch_manifest(tag).digest
        except errors.NotFoundError:
            return None
        except errors.ContentError:
            return _SOMETHING_ELSE

    # Clean-up

    def _remove_left(self) -> ProbeResult:
        """Remove leftovers of other probes, up to the first failure: the others would fail, too."""
        images = self._find_left()
        while images:
            self._lease.check()
            digest, tags = images.popitem()
            tried = self._remove(digest, tags, others=chain.from_iterable(images.values()))
            if tried.left:
                return tried
        return ProbeResult(DeletionMode.DIGEST)

    def _find_left(self) -> dict[Digest, list[Reference]]:
        """Find the tags of ended probes, by the image that they name."""
        found = self._probe_tags()
        wait = max(map(_seconds_under_way, found), default=0.0)
        if wait:
            pause(wait, self._lease, text="somebody else may be trying how the registry deletes")
            found &= self._probe_tags()
        images: dict[Digest, list[Reference]] = {}
        for tag in sorted(found)[:_MOST_REMOVED]:
            reference = self._repository.tagged(tag)
            with suppress(errors.RegistryError):  # an unreadable tag may be someone else's
                if (digest := self._image_of(reference)) is not None:
                    images.setdefault(digest, []).append(reference)
        return images

    def _image_of(self, tag: Reference) -> Digest | None:
        """Return the probe image that a tag names; None if it names something else."""
        found = read_labels(self._client, tag)
        if found is not None:
            return found.digest if _LABEL in found.labels else None
        if _TAG.fullmatch(tag.identifier) is None:
            return None
        # An interrupted deletion: the tag is listed, but its image is gone (distribution #3191).
        image = RecordImage.of(self._repository.name, {_LABEL: secrets.token_hex(8)})
        return put_record(self._client, tag, image, lease=self._lease).digest

    def _probe_tags(self) -> set[str]:
        try:
            return {tag for tag in self._client.tags(self._repository) if tag.startswith(_PREFIX)}
        except errors.RegistryError:
            return set()  # some do not list tags, but can delete them

    def _remove(
        self, image: Digest, tags: Sequence[Reference], others: Iterable[Reference] = ()
    ) -> ProbeResult:
        """Remove a probe's image with its tags, by digest, else tag by tag; warn of those that stay.

        A registry may take long for each request, so only an item that has to end hurries: what it leaves the
        next probe removes.
        """
        try:
            return self._remove_under(self._lease, image, tags, others)
        except _LEASE_ENDS:
            lease = UndoLease(NO_LEASE, seconds=_UNDO_SECONDS)  # nobody else knows it: no lease is needed
            with suppress(*_LEASE_ENDS):
                return self._remove_under(lease, image, tags)
            raise

    def _remove_under(
        self, lease: Lease, image: Digest, tags: Sequence[Reference], others: Iterable[Reference] = ()
    ) -> ProbeResult:
        whole = Reference.of(self._repository, image)
        refusals: list[errors.StagefleetError] = []
        with under_lease(lease):  # for reads, too: the item's own lease may be the reason for this undo
            for reference in (whole, *tags):
                try:
                    if delete_manifest(self._client, reference, lease=lease) and reference == whole:
                        confirm_deleted(self._client, tags[-1], image, lease=lease)
                        break
                    refusals += [_HALF_WAY] if reference == whole else []
                except _LEASE_ENDS:
                    raise
                except errors.StagefleetError as error:
                    refusals.append(error)
            if not refusals:
                return ProbeResult(DeletionMode.DIGEST)
            listed = self._probe_tags()
            left = [tag.identifier for tag in tags if tag.identifier in listed or not self._is_gone(tag)]
        if not left:
            return ProbeResult(DeletionMode.DIGEST)
        left += [tag.identifier for tag in others]
        refusal = refusals[0]
        _LOGGER.warning("%s", describe_probe_tags(self._repository, left, str(refusal)))
        return ProbeResult(DeletionMode.DIGEST, tuple(left), str(refusal), refusal.retryable)

    def _is_gone(self, tag: Reference) -> bool:
        try:
            return self._seen_digest(tag) is None
        except _LEASE_ENDS:
            raise
        except errors.StagefleetError:
            return False  # unknown: better reported once too often


def _seconds_under_way(tag: str) -> float:
    """Return how much longer a tag's probe may be under way, 0 if it has ended."""
    match = _TAG.fullmatch(tag)
    if match is None or match["seconds"] is None:
        return 0.0
    age = time.time() - int(match["seconds"])
    return UNDER_WAY_SECONDS - age if 0 <= age < UNDER_WAY_SECONDS else 0.0
