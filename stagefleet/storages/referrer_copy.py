"""Copy what refers to a stage: see `stagefleet/registry/referrers.py` for the ways that lead to it.

A referrer is copied byte for byte, under its digest; a destination with the API lists it by itself. One
without gets it into the index under the fallback tag: read, changed and written again under a lock of the
fleet, as the specification has no way to do that at once ("Referrers Tag Schema"). Entries of others stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.manifests import OCI_INDEX, Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.registry.referrers import MAX_DEPTH, MAX_REFERRERS, Referrer, ReferrerLookup, fallback_tag
from stagefleet.storages.repository import find_subjects
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import StageCopy


def with_referrers(
    item_result: ItemResult, storages: Storages, source: Repository, destination: Repository, attempt: Attempt
) -> ItemResult:
    """Copy the referrers of the stage `attempt.item`, copied or there; return its result with their number.

    A stage that was there with other content keeps its own, and gets none.
    """
    stage_id = StageId.parse(attempt.item)
    try:
        subjects = find_subjects(storages.registries.client, source, stage_id)
        if item_result.skipped and storages.open(destination).find_digest(stage_id) != subjects[0]:
            return item_result
    except errors.StageNotFoundError:
        return item_result  # it went meanwhile
    copy = ReferrerCopy(storages, source, destination, attempt)
    copy.execute(subjects)
    counted: dict[str, Any] = {"referrers": copy.copied}
    notes = [*(item_result.result or {}).get("notes", ()), *copy.notes]
    if notes:
        counted["notes"] = notes
    return replace(
        item_result,
        result=(item_result.result or {}) | counted,
        bytes=item_result.bytes + copy.sent_bytes,
        skipped=item_result.skipped and not copy.copied,
    )


class ReferrerCopy:
    """One attempt at copying the referrers of a stage.

    Attributes:
        copied: How many went along.
        sent_bytes: What they have sent to the destination.
        notes: What a person should know of those that stayed.
    """

    def __init__(
        self, storages: Storages, source: Repository, destination: Repository, attempt: Attempt
    ) -> None:
        self._storages = storages
        self._registries = storages.registries
        self._client = storages.registries.client
        self._source = source
        self._destination = destination
        self._attempt = attempt
        tags = storages.registries.referrer_tags(source, attempt.run_id, attempt.lease)
        self._lookup = ReferrerLookup(self._client, source, tags)
        self._there = ReferrerLookup(self._client, destination)
        self.copied = self.sent_bytes = 0
        self.notes: list[str] = []

    def execute(self, subjects: Iterable[Digest]) -> None:
        """Copy what refers to some manifests, and what refers to that."""
        copied: dict[Digest, list[Manifest]] = {}
        listed: dict[Digest, frozenset[Digest]] = {}
        for referrer in self._lookup.find_all(subjects):
            self._attempt.lease.check()
            try:
                manifest = self._lookup.fetch(referrer)
            except (errors.NotFoundError, errors.UnsupportedManifestError) as error:
                self.notes.append(f"a referrer of {self._source}@{referrer.subject} stays: {error}")
                continue
            if referrer.tag:
                self._copy_tagged(referrer, manifest)
                continue
            subject = referrer.subject
            if subject not in listed:
                listed[subject] = frozenset(entry.digest for entry in self._there.listed(subject))
            if manifest.digest not in listed[subject]:
                self._send(manifest)
                copied.setdefault(subject, []).append(manifest)
        for subject, manifests in copied.items():
            if self._client.referrers(self._destination, subject) is None:
                self._extend_index(subject, manifests)
        if self._lookup.is_cut_short:
            self.notes.append(
                f"{self._source} has stages with more than {MAX_REFERRERS} referrers, or chains of more than "
                f"{MAX_DEPTH}: the rest of them stays"
            )

    def _send(self, manifest: Manifest, tag: str = "") -> None:
        here, there = self._storages.open(self._source), self._storages.open(self._destination)
        copy = StageCopy(self._registries, here, there, self._attempt)
        self.sent_bytes += copy.copy_manifest(manifest, tag)
        self.copied += 1

    def _copy_tagged(self, referrer: Referrer, manifest: Manifest) -> None:
        """Copy what cosign keeps under a tag, unless the destination has more there than the source.

        A signature is a layer of the image under the tag: one more makes a new image, under the same tag.
        """
        tag = self._destination.tagged(referrer.tag)
        try:
            there = self._client.fetch_manifest(tag)
        except errors.NotFoundError:
            there = None
        if there is not None and there.digest == manifest.digest:
            return
        if there is not None and not set(there.layers) <= set(manifest.layers):
            self.notes.append(f"{tag} stays as it is: it has content that {self._source} has not")
            return
        self._send(manifest, referrer.tag)

    def _extend_index(self, subject: Digest, manifests: list[Manifest]) -> None:
        """Add referrers to the index under the fallback tag."""
        locks = self._registries.stage_locks
        with locks.lock_referrers(self._destination, subject, self._attempt) as lease:
            try:
                found = self._there.fallback_index(subject)
            except errors.UnsupportedManifestError as error:
                self.notes.append(
                    f"referrers of {self._destination}@{subject} are copied and not listed: {error}"
                )
                return
            empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            document: dict[str, Any] = empty if found is None else json.loads(found.raw)
            listed = {str(entry.get("digest")) for entry in document["manifests"]}
            added = [_descriptor(each) for each in manifests if str(each.digest) not in listed]
            if added:
                document["manifests"] += added
                index = Manifest.of(document)
                target: Reference = self._destination.tagged(fallback_tag(subject))
                self._client.put_manifest(target, index, lease=lease)


def _descriptor(manifest: Manifest) -> dict[str, Any]:
    """Describe a referrer as the API does ("Listing Referrers"): with its artifact type and annotations."""
    told = json.loads(manifest.raw).get("artifactType")
    kind = told or (manifest.config.media_type if manifest.config is not None else "")
    described: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": manifest.size,
    }
    if kind:
        described["artifactType"] = kind
    if manifest.annotations:
        described["annotations"] = dict(manifest.annotations)
    return described
