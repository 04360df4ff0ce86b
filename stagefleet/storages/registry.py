"""A repository in a registry as a storage of stages."""

from __future__ import annotations

from collections.abc import Iterator

from stagefleet.errors import BrokenStageError, NotFoundError, StageNotFoundError, UnsupportedManifestError
from stagefleet.names import Reference, Repository, StageId
from stagefleet.records import is_placeholder, rejected_stage
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.stages import ImageInfo, StageDescription
from stagefleet.storages.description import describe_image, describe_index
from stagefleet.storages.id_list import StageIdList

__all__ = ["RegistryStorage"]

_MAX_DEPTH = 4  # indexes in indexes; nobody nests deeper but by mistake or malice


class RegistryStorage:
    """A repository as a storage of stages; keeps the promises of `StageStorage`.

    Attributes:
        address: The repository.
    """

    def __init__(self, client: RegistryClient, repository: Repository) -> None:
        self.address = repository
        self._client = client

    def stage_ids(self) -> StageIdList:
        """See `StageStorage.stage_ids`."""
        rejected: set[StageId] = set()
        found = StageIdList(self._candidates(rejected))
        return found.without(rejected) if rejected else found

    def rejected_ids(self) -> set[StageId]:
        """The stages with a record that rejects them."""
        rejected: set[StageId] = set()
        for _ in self._candidates(rejected):
            pass
        return rejected

    def _candidates(self, rejected: set[StageId]) -> Iterator[StageId]:
        """The stages by tag; those that a record rejects are noted aside, the record may come later."""
        try:
            for tag in self._client.tags(self.address):
                if stage_id := StageId.from_tag(tag):
                    yield stage_id
                elif stage_id := rejected_stage(tag):
                    rejected.add(stage_id)
        except NotFoundError:
            return  # a repository comes into being with its first push

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        """The manifest or index of a stage.

        Raises:
            StageNotFoundError: There is none, or a placeholder instead.
            BrokenStageError: The registry knows of it, but cannot give it.
        """
        reference = self.address.tagged(str(stage_id))
        try:
            manifest = self._client.fetch_manifest(reference)
        except NotFoundError as error:
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}") from error
        if is_placeholder(manifest.annotations):
            raise StageNotFoundError(f"{self.address} has no stage {stage_id}: it is being deleted")
        return manifest

    def describe(self, stage_id: StageId) -> StageDescription:
        """See `StageStorage.describe`."""
        manifest = self.fetch_manifest(stage_id)
        reference = self.address.tagged(str(stage_id))
        return StageDescription(stage_id=stage_id, info=self._describe(reference, manifest))

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe any image of the repository.

        Raises:
            NotFoundError: It is not there.
            BrokenStageError: The registry knows of it, but cannot give it.
        """
        return self._describe(reference, self._client.fetch_manifest(reference))

    def fetch_member(self, index: Manifest, member: Reference) -> Manifest:
        """A manifest that an index names.

        Raises:
            BrokenStageError: The registry cannot give it.
        """
        try:
            return self._client.fetch_manifest(member)
        except NotFoundError as error:
            raise _broken(Reference.of(self.address, index.digest), error) from error

    def fetch_config(self, manifest: Manifest) -> bytes:
        """The configuration of an image.

        Raises:
            BrokenStageError: The registry cannot give it.
            UnsupportedManifestError: The manifest names none.
        """
        reference = Reference.of(self.address, manifest.digest)
        if manifest.config is None:
            raise UnsupportedManifestError(f"{reference}: the manifest names no configuration")
        try:
            return self._client.fetch_blob(self.address, manifest.config)
        except NotFoundError as error:
            raise _broken(reference, error) from error

    def _describe(self, reference: Reference, manifest: Manifest, depth: int = 1) -> ImageInfo:
        if not manifest.is_index:
            return describe_image(reference, manifest, self.fetch_config(manifest))
        check_depth(reference, depth)
        members = []
        for descriptor in manifest.members:
            member = Reference.of(self.address, descriptor.digest)
            members.append(self._describe(member, self.fetch_member(manifest, member), depth + 1))
        return describe_index(reference, manifest, members)


def check_depth(reference: Reference, depth: int) -> None:
    """Refuse indexes nested beyond reason.

    Raises:
        UnsupportedManifestError: `depth` is too deep.
    """
    if depth > _MAX_DEPTH:
        raise UnsupportedManifestError(f"{reference}: indexes nested more than {_MAX_DEPTH} deep")


def _broken(reference: Reference, error: Exception) -> BrokenStageError:
    return BrokenStageError(f"{reference}: the registry cannot give all of it ({error}); build it again")
