"""Take a tag away from a digest that stays: move it to a placeholder, and delete that.

The order matters. While a stage's tag leads to the placeholder, a rejection keeps builders from taking it for
the stage; so the rejection comes first and goes last. Each step can be repeated, and what a crash leaves is
finished by the next attempt, which sees how far the last one came.
"""

from __future__ import annotations

from stagefleet.errors import BrokenStageError, NotFoundError, UnsupportedManifestError
from stagefleet.manager.deletion_way import delete_manifest
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.records import DELETION_LABEL, make_placeholder, make_rejection
from stagefleet.registry import Manifest, RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.storages.description import describe_image
from stagefleet.storages.record_writer import put_record

__all__ = ["Displacement"]


class Displacement:
    """The displacement of one tag.

    Args:
        client: Speaks to registries.
        repository: Where.
        tag: The tag that goes.
        leash: Holds the work back.
    """

    def __init__(self, client: RegistryClient, repository: Repository, tag: str, *, leash: Leash) -> None:
        self._client = client
        self._repository = repository
        self._tag = repository.tagged(tag)
        stage_id = StageId.from_tag(tag)
        self._rejection = None if stage_id is None else repository.tagged(stage_id.rejected_tag)
        self._leash = leash

    def begin(self) -> Digest:
        """Reject the stage if the tag is that of one, then move the tag to a new placeholder.

        Returns:
            The placeholder's digest.
        """
        if self._rejection is not None:
            self._reject(self._rejection)
        placeholder = Manifest.of(make_placeholder())
        self._client.put_manifest(self._tag, placeholder, leash=self._leash)
        return placeholder.digest

    def finish(self, placeholder: Digest) -> None:
        """Delete the placeholder, and with it the tag; then withdraw the rejection."""
        delete_manifest(self._client, Reference.of(self._repository, placeholder), leash=self._leash)
        self.withdraw()

    def _reject(self, rejection: Reference) -> None:
        try:
            self._client.head_manifest(rejection)
        except NotFoundError:
            record = make_rejection(self._repository.name, while_deleting=True)
            put_record(self._client, rejection, record, leash=self._leash)

    def withdraw(self) -> None:
        """Remove the rejection if it was made for the deletion alone; others' stay."""
        if self._rejection is None:
            return
        try:
            record = self._client.fetch_manifest(self._rejection)
            if record.config is None or record.is_index:
                return
            config = self._client.fetch_blob(self._repository, record.config)
            labels = describe_image(self._rejection, record, config).labels
        except (NotFoundError, BrokenStageError, UnsupportedManifestError):
            return  # none, or none of ours
        if DELETION_LABEL in labels:
            delete_manifest(self._client, Reference.of(self._repository, record.digest), leash=self._leash)
