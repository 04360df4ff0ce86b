"""Referrers of manifests: the signatures, attestations and bills of materials that belong to an image.

Three ways lead from a manifest to them:

1. the API of OCI distribution specification 1.1, "Listing Referrers";
2. where a registry lacks that, an index under the tag `sha256-HEX` ("Referrers Tag Schema" there);
3. cosign's tags `sha256-HEX.sig`, `.att` and `.sbom` (sigstore/cosign, specs/SIGNATURE_SPEC.md).

Referrers have referrers, as the signature of a bill of materials is one: all are followed, within limits.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stagefleet.errors import NotFoundError, UnsupportedManifestError
from stagefleet.leases import current_lease
from stagefleet.manifests import Descriptor, Manifest
from stagefleet.names import Digest, Reference, Repository
from stagefleet.registry.client import RegistryClient

MAX_REFERRERS = 200
"""Most referrers of one stage that are followed, direct and indirect."""
MAX_DEPTH = 4
"""Longest chain of referrers that is followed."""

_TAG = re.compile(r"sha(?:256-[a-f0-9]{64}|512-[a-f0-9]{64})(?:\.(?:sig|att|sbom))?")
_COSIGN_SUFFIXES = ("sig", "att", "sbom")
_ALGORITHM_LETTERS, _HEX_LETTERS = 32, 64


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest that refers to another, its `subject`; `tag` is the one of cosign for it, or ""."""

    descriptor: Descriptor
    subject: Digest
    tag: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it in the form of commands."""
        return {
            "digest": str(self.descriptor.digest),
            "subject": str(self.subject),
            "artifact_type": self.descriptor.artifact_type,
            "media_type": self.descriptor.media_type,
            "size": self.descriptor.size,
            "tag": self.tag,
        }


def is_referrer_tag(tag: str) -> bool:
    """Return True for the tags that lead from a digest to its referrers, which are nobody's own."""
    return _TAG.fullmatch(tag) is not None


def bounded_tags(tags: Iterable[str], most: int) -> list[str] | None:
    """Return the tags that lead to referrers; None if there are too many to keep."""
    found = list(islice(filter(is_referrer_tag, tags), most + 1))
    return found if len(found) <= most else None


def fallback_tag(subject: Digest) -> str:
    """Return the tag of the index that stands in for the API ("Referrers Tag Schema")."""
    return f"{subject.algorithm[:_ALGORITHM_LETTERS]}-{subject.hex[:_HEX_LETTERS]}"


def cosign_tags(subject: Digest) -> list[str]:
    """Return the tags under which cosign keeps what belongs to a digest; none if they were too long."""
    if len(subject.hex) > _HEX_LETTERS:
        return []
    return [f"{subject.algorithm}-{subject.hex}.{suffix}" for suffix in _COSIGN_SUFFIXES]


class ReferrerLookup:
    """Find the referrers of manifests in one repository.

    `tags` are its tags of `is_referrer_tag`, so that no others are asked for; None if they are not known.
    """

    def __init__(
        self, client: RegistryClient, repository: Repository, tags: Container[str] | None = None
    ) -> None:
        self._client = client
        self._repository = repository
        self._tags = tags
        self.is_cut_short = False

    def find_all(self, subjects: Iterable[Digest]) -> Iterator[Referrer]:
        """Yield direct and indirect referrers, each once, a subject's before theirs.

        Where the limits leave some out, `is_cut_short` is True at the end.
        """
        level, seen, found = list(dict.fromkeys(subjects)), set[tuple[Digest, str]](), 0
        for depth in range(MAX_DEPTH + 1):
            following: list[Digest] = []
            for subject in level:
                for referrer in self._find(subject):
                    key = (referrer.descriptor.digest, referrer.tag)
                    if key in seen:
                        continue
                    if found >= MAX_REFERRERS or depth == MAX_DEPTH:
                        self.is_cut_short = True
                        return
                    seen.add(key)
                    found += 1
                    following.append(referrer.descriptor.digest)
                    yield referrer
            level = list(dict.fromkeys(following))

    def _find(self, subject: Digest) -> Iterator[Referrer]:
        current_lease().check()
        for descriptor in self.listed(subject):
            yield Referrer(descriptor, subject)
        for tag in cosign_tags(subject):
            if self.may_exist(tag):
                try:
                    descriptor = self._client.head_manifest(self._repository.tagged(tag))
                except NotFoundError:
                    continue
                yield Referrer(descriptor, subject, tag)

    def listed(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what the API lists, or the index that stands in for it."""
        found = self._client.referrers(self._repository, subject)
        if found is not None:
            return found
        try:
            index = self.fallback_index(subject)
        except UnsupportedManifestError:
            return ()
        return () if index is None else tuple(member for member in index.members if member.is_manifest)

    def fallback_index(self, subject: Digest) -> Manifest | None:
        """Return the index under the fallback tag; None if there is none.

        Raises:
            UnsupportedManifestError: Something else is there, which clients leave alone ("Pushing Manifests
                with Subject").
        """
        tag = fallback_tag(subject)
        if not self.may_exist(tag):
            return None
        try:
            index = self._client.fetch_manifest(self._repository.tagged(tag))
        except NotFoundError:
            return None
        if not index.is_index:
            raise UnsupportedManifestError(
                f"{self._repository.tagged(tag)} is no index of referrers: move it to another tag"
            )
        return index

    def fetch(self, referrer: Referrer) -> Manifest:
        """Fetch the manifest of a referrer; `NotFoundError` where a list names one that is gone."""
        return self._client.fetch_manifest(Reference.of(self._repository, referrer.descriptor.digest))

    def may_exist(self, tag: str) -> bool:
        """Return True unless the tag is known not to be there."""
        return self._tags is None or tag in self._tags
