"""Try how a registry deletes, on a throwaway image under two tags of our own, and never on a user's.

A trial that ends in its middle leaves its tags; the next one in the repository finds them by their names and
removes them. Where the registry lets nobody remove them, no others are added.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain

from stagefleet.errors import (
    ContentError,
    DeletionDisabledError,
    ForbiddenError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
    StagefleetError,
)
from stagefleet.manager.deletion_proof import see_gone
from stagefleet.names import Digest, Reference, Repository
from stagefleet.records import RecordImage
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.leash import UNLEASHED, Leash, UndoLeash, under
from stagefleet.registry.pauses import pause
from stagefleet.storages.record_labels import read_labels
from stagefleet.storages.record_writer import put_record

__all__ = ["DeletionProbe", "DeletionWay", "Trial", "delete_manifest", "words_on_probe_tags"]

SECOND_LOOK_SECONDS = 5.0
"""Between the two looks at what a tag's deletion left: caches in front may know it for a while longer."""
UNDER_WAY_SECONDS = 15.0
"""A tag that is younger may be that of a trial under way; after that time it is one that was left."""

_PREFIX = "stagefleet-probe-"
_TAG = re.compile(_PREFIX + r"(?:(?P<seconds>[0-9]{10})-)?[0-9a-f]{16}-[ab]")
_LABEL = "io.stagefleet.probe"
_METHOD_NOT_ALLOWED = 405
_UNDO_SECONDS = 10.0
_MOST_REMOVED = 100
"""Of the tags that trials have left, so many are removed by one."""
_SHOWN_TAGS = 4

_SOMETHING_ELSE = Digest("sha256", "0" * 64)
_HALF_WAY = RegistryError("the manifest goes, and its tags are listed still: a deletion ends half way there")

_LOGGER = logging.getLogger(__name__)


class DeletionWay(StrEnum):
    """What a deletion takes."""

    TAG = "tag"
    """A tag can be deleted, and nothing else goes with it."""
    DIGEST = "digest"
    """Only digests can be deleted, with all of their tags."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial showed.

    Attributes:
        way: What a deletion takes.
        left: The tags of trials that cannot be removed. Where there are some, nothing is to be added that has
            to be removed again.
        refusal: How the registry refuses to remove them.
        passes: Whether that may pass by itself.
    """

    way: DeletionWay
    left: tuple[str, ...] = ()
    refusal: str = ""
    passes: bool = False


def delete_manifest(
    client: RegistryClient, reference: Reference, *, leash: Leash, look: Callable[[], float] | None = None
) -> bool:
    """Delete, where deletion of what is gone already is success.

    Args:
        client: Speaks to registries.
        reference: What is to be deleted.
        leash: Holds the work back.
        look: As of `RegistryClient.delete_manifest`.

    Returns:
        Whether it was there.

    Raises:
        DeletionDisabledError: Deletion is switched off in the registry.
    """
    try:
        client.delete_manifest(reference, leash=leash, look=look)
    except NotFoundError:
        return False
    except RegistryError as error:
        if reference.digest is not None and error.status == _METHOD_NOT_ALLOWED:
            raise _disabled(reference.repository, error) from error
        raise
    return True


def words_on_probe_tags(repository: Repository, tags: Sequence[str], refusal: str) -> str:
    """Say in one line which tags of ours stay in a repository, and why."""
    shown = ", ".join(tags[:_SHOWN_TAGS])
    more = f" and {len(tags) - _SHOWN_TAGS:,} more" if len(tags) > _SHOWN_TAGS else ""
    return (
        f"{repository} keeps {shown}{more}, on which was tried how it deletes ({refusal}); no others are "
        "added: allow their deletion there, or remove them by hand"
    )


class DeletionProbe:
    """One trial in a repository.

    Args:
        client: Speaks to registries.
        wanted: What is to be deleted; nothing is tried in a repository that does not have it.
        leash: Holds the work back.
    """

    def __init__(self, client: RegistryClient, wanted: Reference, leash: Leash) -> None:
        self._client = client
        self._wanted = wanted
        self._repository = wanted.repository
        self._leash = leash

    def carry_out(self) -> Trial:
        """Find out how the repository's registry deletes.

        Raises:
            NotFoundError: What is to be deleted is not there; nothing was tried.
            DeletionDisabledError: Deletion is switched off in the registry; nothing was pushed.
            RegistryError: The registry refuses in a way that says nothing about tags.
        """
        self._see_repository()
        # An unused digest: 404 where deletion is on, 405 where it is off. Where it is off nothing is pushed.
        unused = Digest("sha256", hashlib.sha256(secrets.token_bytes(32)).hexdigest())
        delete_manifest(self._client, Reference.of(self._repository, unused), leash=self._leash)
        left = self._remove_left()
        if left.left:  # others would stay as well; these cannot be deleted by tag
            return left
        token = secrets.token_hex(8)
        name = f"{_PREFIX}{int(time.time()):010}-{token}"
        tags = [self._repository.tagged(f"{name}-{letter}") for letter in "ab"]
        image = RecordImage.of(self._repository.name, {_LABEL: token})
        digest = Manifest.of(image.manifest).digest
        try:
            way = self._try(image, digest, *tags)
        except Exception as error:
            trial = self._remove(digest, tags)
            if trial.left and isinstance(error, RegistryError):
                return trial  # to be remembered: the next attempt adds no others
            raise
        return replace(self._remove(digest, tags), way=way)

    def _see_repository(self) -> None:
        try:
            self._client.head_manifest(self._wanted)  # a trial must not be what creates a repository
        except (RegistryUnavailableError, ContentError):
            return  # it is there, and damaged

    def _try(self, image: RecordImage, digest: Digest, first: Reference, second: Reference) -> DeletionWay:
        try:
            for tag in (first, second):
                put_record(self._client, tag, image, leash=self._leash)
        except ForbiddenError:  # a login that may delete and not push: no tag can be moved aside either
            return DeletionWay.DIGEST
        try:
            self._client.delete_manifest(first, leash=self._leash)
        except RegistryError as error:
            if error.retryable:
                raise
            return DeletionWay.DIGEST
        if self._look(second) != digest:
            return DeletionWay.DIGEST
        pause(SECOND_LOOK_SECONDS, self._leash, text="a second look at how the registry deletes")
        went_alone = self._look(second) == digest and self._look(first) is None
        return DeletionWay.TAG if went_alone else DeletionWay.DIGEST

    def _look(self, tag: Reference) -> Digest | None:
        """Look at what a tag names, by GET: some answer a HEAD out of what they remember."""
        try:
            return self._client.fetch_manifest(tag).digest
        except NotFoundError:
            return None
        except ContentError:
            return _SOMETHING_ELSE

    # Clearing away

    def _remove_left(self) -> Trial:
        """Remove what other trials left, up to the first that stays: the others would not go either."""
        images = self._find_left()
        while images:
            digest, tags = images.popitem()
            tried = self._remove(digest, tags, others=chain.from_iterable(images.values()))
            if tried.left:
                return tried
        return Trial(DeletionWay.DIGEST)

    def _find_left(self) -> dict[Digest, list[Reference]]:
        """Find the tags of trials that nobody is at any more, by the image that they name."""
        found = self._probe_tags()
        wait = max(map(_seconds_under_way, found), default=0.0)
        if wait:
            pause(wait, self._leash, text="somebody else may be trying how the registry deletes")
            found &= self._probe_tags()
        images: dict[Digest, list[Reference]] = {}
        for tag in sorted(found)[:_MOST_REMOVED]:
            reference = self._repository.tagged(tag)
            with suppress(RegistryError):  # what cannot be read cannot be told from somebody else's
                digest = self._image_of(reference)
                if digest is not None:
                    images.setdefault(digest, []).append(reference)
        return images

    def _image_of(self, tag: Reference) -> Digest | None:
        """Give the image of a trial that a tag names; None if it names something else."""
        found = read_labels(self._client, tag)
        if found is not None:
            return found.digest if _LABEL in found.labels else None
        if _TAG.fullmatch(tag.identifier) is None:
            return None
        # A deletion that broke off half way: the tag is listed, and its image gone (distribution #3191).
        image = RecordImage.of(self._repository.name, {_LABEL: secrets.token_hex(8)})
        return put_record(self._client, tag, image, leash=self._leash).digest

    def _probe_tags(self) -> set[str]:
        try:
            return {tag for tag in self._client.tags(self._repository) if tag.startswith(_PREFIX)}
        except RegistryError:
            return set()  # some do not list; they can delete all the same

    def _remove(self, image: Digest, tags: Sequence[Reference], others: Iterable[Reference] = ()) -> Trial:
        """Remove an image of a trial with its tags, by digest, else tag by tag; warn of what stays.

        Args:
            image: The image.
            tags: Its tags.
            others: What stays, too, if these do.
        """
        leash = UndoLeash(UNLEASHED, seconds=_UNDO_SECONDS)  # nobody else has it: no lease is needed
        whole = Reference.of(self._repository, image)
        refusals: list[StagefleetError] = []
        with under(leash):  # also the looks: the item's own leash may be why this is taken back
            for reference in (whole, *tags):
                try:
                    if delete_manifest(self._client, reference, leash=leash) and reference == whole:
                        see_gone(self._client, tags[-1], image, leash=leash)
                        break
                    refusals += [_HALF_WAY] if reference == whole else []
                except StagefleetError as error:
                    refusals.append(error)
            if not refusals:
                return Trial(DeletionWay.DIGEST)
            listed = self._probe_tags()
            left = [tag.identifier for tag in tags if tag.identifier in listed or not self._is_gone(tag)]
        if not left:
            return Trial(DeletionWay.DIGEST)
        left += [tag.identifier for tag in others]
        refusal = refusals[0]
        _LOGGER.warning("%s", words_on_probe_tags(self._repository, left, str(refusal)))
        return Trial(DeletionWay.DIGEST, tuple(left), str(refusal), refusal.retryable)

    def _is_gone(self, tag: Reference) -> bool:
        try:
            return self._look(tag) is None
        except StagefleetError:
            return False  # nobody knows: better named once too often


def _seconds_under_way(tag: str) -> float:
    """How long the trial of a tag may still be under way, 0 where it cannot be."""
    match = _TAG.fullmatch(tag)
    if match is None or match["seconds"] is None:
        return 0.0
    age = time.time() - int(match["seconds"])
    return UNDER_WAY_SECONDS - age if 0 <= age < UNDER_WAY_SECONDS else 0.0


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
