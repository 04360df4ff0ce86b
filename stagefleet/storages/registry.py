"""A repository as a storage of stages."""

from __future__ import annotations

from collections.abc import Iterator

from stagefleet.errors import NotFoundError, StageNotFoundError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records import is_placeholder, rejected_stage
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.storages.id_list import StageIdList
from stagefleet.storages.known_rejections import KnownRejections
from stagefleet.storages.rejections import Rejections
from stagefleet.storages.stage_reader import StageReader

__all__ = ["RegistryStorage"]


class RegistryStorage:
    """`StageStorage` for a repository.

    Args:
        client: Client for registries.
        repository: The repository.
        known: Cache of rejections; without it each listing reads them again.

    Attributes:
        address: The repository.
    """

    def __init__(
        self, client: RegistryClient, repository: Repository, *, known: KnownRejections | None = None
    ) -> None:
        self.address = repository
        self._client = client
        self._rejections = Rejections(client, repository, known)

    def stage_ids(self) -> StageIdList:
        named: set[StageId] = set()
        found = StageIdList(self._candidates(named))
        return found.without(self._rejections.standing(named)) if named else found

    def rejected_ids(self) -> set[StageId]:
        """Return the stages that a record rejects."""
        named: set[StageId] = set()
        for _ in self._candidates(named):
            pass
        return self._rejections.standing(named) if named else named

    def rejected_digests(self) -> set[Digest]:
        """Return the digests of rejected stages."""
        return self._rejections.digests(self.rejected_ids())

    def _candidates(self, rejected: set[StageId]) -> Iterator[StageId]:
        """Yield the stages of the tag list, and collect those with a rejection record in `rejected`.

        The record may come after its stage.
        """
        try:
            for tag in self._client.tags(self.address):
                if stage_id := StageId.from_tag(tag):
                    yield stage_id
                elif stage_id := rejected_stage(tag):
                    rejected.add(stage_id)
        except NotFoundError:
            return  # the first push creates a repository

    def fetch_manifest(self, stage_id: StageId) -> Manifest:
        """Fetch the manifest or index of a stage.

        Raises:
            StageNotFoundError: There is none, or a placeholder.
            BrokenStageError: The registry lists it, but cannot deliver it.
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
        manifest = self.fetch_manifest(stage_id)
        reference = self.address.tagged(str(stage_id))
        return StageDescription(stage_id=stage_id, info=self.reader().describe(reference, manifest))

    def describe_image(self, reference: Reference) -> ImageInfo:
        """Describe any image of the repository.

        Raises:
            NotFoundError: It does not exist.
            BrokenStageError: The registry lists it, but cannot deliver it.
        """
        return self.reader().describe(reference, self._client.fetch_manifest(reference))

    def reader(self) -> StageReader:
        """Create a reader for one stage or image."""
        return StageReader(self._client, self.address)
