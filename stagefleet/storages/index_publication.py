"""Publication of a multi-platform stage: an image index over existing platform images.

The same images in the same order yield the same index, byte for byte, so that publishing can be repeated, and
two jobs that publish the same stage agree. For Docker's images the bytes are equal to werf's
(go-containerregistry: the fields of `v1.Descriptor` and `v1.Platform` in their order), so that its next build
does not move the tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import NotFoundError, StageNotFoundError, UsageError
from stagefleet.image_config import platform_in
from stagefleet.images import Platform
from stagefleet.manifests import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, Manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records.image import is_placeholder
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import StageCopy

_PLATFORM_FIELDS = ("architecture", "os", "os.version", "os.features", "variant")
"""Fields of go-containerregistry's `v1.Platform`, in its order."""


class _Member(NamedTuple):
    """An image chosen for the index, the repository that has it, and its platform entry in the index."""

    manifest: Manifest
    source: Repository
    platform: Mapping[str, Any]


class IndexPublication:
    """One attempt at publishing one index."""

    def __init__(self, storages: Storages, repository: Repository, attempt: Attempt) -> None:
        self._storages = storages
        self._registries = storages.registries
        self._client = storages.registries.client
        self._repository = repository
        self._storage = storages.open(repository)
        self._attempt = attempt
        self._rejected: dict[Repository, set[Digest]] = {}

    def publish(self, stage_id: StageId, images: Mapping[Platform, Reference]) -> ItemResult:
        """Push an index over images, in their order; copy images of other repositories first.

        An image that is an index itself serves with its member for the platform. The result is the index's
        description; skipped if it exists already.

        Raises:
            UsageError: The stage id is that of one image, or there are no images, or one is for another
                platform or of a rejected stage, or the stage exists with other images, or is rejected.
            NotFoundError: An image does not exist.
            BrokenStageError: An image is listed, but cannot be delivered.
        """
        if not stage_id.is_multiplatform:
            raise UsageError(
                f"{stage_id} is the id of one image: name a multi-platform stage by DIGEST alone"
            )
        if not images:
            raise UsageError("an index needs images: name one at least")
        chosen = [self._choose(platform, reference) for platform, reference in images.items()]
        index = _index(chosen)
        target = self._repository.tagged(str(stage_id))
        is_there = self._is_there(stage_id, index)
        sent = 0
        if not is_there:
            sent = sum(self._bring(member.manifest, member.source) for member in chosen)
            self._client.put_manifest(target, index, lease=self._attempt.lease)
        self._storage.withdraw_deletion(stage_id, self._attempt.lease)
        description = self._storage.read(stage_id)
        return ItemResult(description.as_json(), bytes=sent, skipped=is_there)

    def _choose(self, platform: Platform, reference: Reference) -> _Member:
        """Return the one image of a platform."""
        manifest = self._client.fetch_manifest(reference)
        if is_placeholder(manifest.annotations):
            raise NotFoundError(
                f"{reference} is being deleted", repository=str(reference.repository), status=404
            )
        named = manifest.digest
        if manifest.is_index:
            member = next((m for m in manifest.members if platform.matches(m.platform or {})), None)
            if member is None:
                raise UsageError(f"{reference} is an index without an image for {platform}")
            manifest = self._client.fetch_manifest(Reference.of(reference.repository, member.digest))
            if manifest.is_index:
                raise UsageError(f"{reference} has an index inside for {platform}: name the image itself")
        self._refuse_rejected(reference, {named, manifest.digest})
        return _Member(manifest, reference.repository, self._platform(platform, reference, manifest))

    def _refuse_rejected(self, reference: Reference, digests: set[Digest]) -> None:
        """Refuse the image of a rejected stage, under any name."""
        where, stage_id = reference.repository, StageId.from_tag(reference.tag or "")
        is_rejected = stage_id is not None and self._registries.rejections(where).stands(stage_id)
        if stage_id is None or len(digests) > 1:
            if where not in self._rejected:
                rejected = self._storages.open(where).rejected_ids()
                self._rejected[where] = self._registries.rejections(where).digests(rejected)
            is_rejected = is_rejected or not self._rejected[where].isdisjoint(digests)
        if is_rejected:
            raise UsageError(f"{reference} is the image of a rejected stage: name another")

    def _platform(self, platform: Platform, reference: Reference, manifest: Manifest) -> Mapping[str, Any]:
        """Return the platform entry: from the image's configuration, else from the caller."""
        config = self._storages.open(reference.repository).reader().config(manifest)
        found = platform_in(config)
        if found is None:
            return platform.as_json()
        if not platform.matches(found):
            raise UsageError(
                f"{reference} is an image for {Platform.display_name(found)}, not for {platform}"
            )
        told = {name: found[name] for name in _PLATFORM_FIELDS if _is_text(found.get(name))}
        return told | platform.as_json()

    def _is_there(self, stage_id: StageId, index: Manifest) -> bool:
        """Return True if an index with the same members exists, whatever its bytes.

        Refuse another index, or a rejected stage: a stage's name never changes its meaning.
        """
        if self._registries.rejections(self._repository).stands(stage_id):
            raise UsageError(
                f"{self._repository} has the stage {stage_id} rejected: delete it first, with "
                f"stagefleet records remove {self._repository} rejected-stage {stage_id}"
            )
        try:
            there = self._storage.fetch_manifest(stage_id)
        except StageNotFoundError:
            return False
        if _members(there) != _members(index):
            raise UsageError(
                f"{self._repository} has the stage {stage_id} with other images: delete it first"
            )
        return True

    def _bring(self, manifest: Manifest, source: Repository) -> int:
        """Copy an image into the repository, by digest; return the bytes sent."""
        if source == self._repository:
            return 0
        copy = StageCopy(self._registries, self._storages.open(source), self._storage, self._attempt)
        return copy.copy_manifest(manifest)


def _index(chosen: list[_Member]) -> Manifest:
    """Build the index over images (OCI image 1.1, "Image Index"); Docker's if all of them are."""
    is_dockers = all(image.media_type == DOCKER_MANIFEST for image, *_ in chosen)
    members = [
        {"mediaType": image.media_type, "size": image.size, "digest": str(image.digest), "platform": platform}
        for image, _, platform in chosen
    ]
    media_type = DOCKER_INDEX if is_dockers else OCI_INDEX
    return Manifest.of({"schemaVersion": 2, "mediaType": media_type, "manifests": members})


def _is_text(value: object) -> bool:
    """Return True if a platform's field is a non-empty string, or a list of such."""
    texts = value if isinstance(value, list) else [value]
    return bool(value) and all(isinstance(text, str) for text in texts)


def _members(index: Manifest) -> Counter[tuple[Digest, Platform | None]]:
    """Count the members of an index by digest and platform; order and spelling do not matter."""
    return Counter((member.digest, Platform.of(member.platform or {})) for member in index.members)
