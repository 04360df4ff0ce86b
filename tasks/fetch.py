"""Task that fetches one stage to this worker's host: its engine pulls the image, from a cache if one has it.

Storages are asked directly, never the fleet's memory of them: the stage must be there now.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stagefleet import errors
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.image_config import describe_index, relocated
from stagefleet.images import ImageInfo, Platform, PlatformSelection, StageDescription
from stagefleet.leases import Lease
from stagefleet.locks.stage_locks import image_of
from stagefleet.logs import errors_as_warnings
from stagefleet.names import Digest, EngineProject, Reference, Repository, StageId
from stagefleet.operations.fetch import FetchOperation
from stagefleet.storages.docker_engine import StageImages
from stagefleet.storages.repository import RegistryStorage, choose_images, members_for
from stagefleet.storages.storages import Storages
from stagefleet.storages.transfer import transfer
from stagefleet.storages.verification import RejectionCheck, StageFault

_LOGGER = logging.getLogger(__name__)


def fetch_stage(storages: Storages, attempt: Attempt) -> ItemResult:
    """Fetch the stage `attempt.item`, as `FetchOperation` says.

    One lock covers all its platforms. The result is the description, under the primary's name.
    """
    fetch = _StageFetch(storages, attempt)
    with storages.host.images.lock_shared(fetch.image, check=attempt.lease.check):
        return fetch.execute()


class _StageFetch:
    """One attempt at fetching one stage to this host; `image` is the name of its image in the engine."""

    def __init__(self, storages: Storages, attempt: Attempt) -> None:
        self._storages = storages
        self._attempt = attempt
        self._lease = attempt.lease
        operation = attempt.parsed(FetchOperation)
        self._project, self._platforms = operation.storages, operation.selection
        self._stage_id = StageId.parse(attempt.item)
        self.image = image_of(self._project.primary, self._stage_id)

    def execute(self) -> ItemResult:
        """Fetch the stage; skip it if its image is present.

        Raises:
            StorageStateChangedError: The primary no longer has it, or it is broken: look it up again.
            PlatformNotFoundError: It has no image for a requested platform.
            EngineError: The engine could not pull it.
        """
        primary, stage_id = self._project.primary, self._stage_id
        if primary.is_engine:
            return self._require_present(primary)
        assert not primary.is_layout  # as `FetchOperation` checks
        delivery = StageDelivery(self._storages, primary, stage_id, self._platforms, self._lease)
        there = delivery.find_present()
        if there is not None:
            return there
        lacking: list[Repository] = []
        item_result = self._from_caches(delivery, lacking) or self._from_primary(delivery, primary)
        if failed := self._refill(primary, lacking):
            return replace(item_result, result=(item_result.result or {}) | {"caches": failed})
        return item_result

    def _require_present(self, primary: EngineProject) -> ItemResult:
        """Check that the engine, which is the primary storage itself, has the stage."""
        storage = self._storages.open(primary)
        try:
            description = storage.read(self._stage_id)
        except errors.StageNotFoundError as error:
            raise self._changed(error) from error
        storage.host.note_use(storage.name_of(self._stage_id))
        return ItemResult(description.as_json(), skipped=True)

    def _from_caches(self, delivery: StageDelivery, lacking: list[Repository]) -> ItemResult | None:
        """Pull the stage from the first cache that delivers it; collect the caches before it in `lacking`."""
        for cache in self._project.caches:
            what = f"cache {cache} does not give stage {self._stage_id}"
            with (
                errors_as_warnings(what, quiet=(errors.CircuitOpenError,)),
                self._storages.circuit_breakers.guarding(cache),
            ):
                try:
                    return delivery.pull(cache)
                except errors.StageNotFoundError:
                    _LOGGER.info("cache %s does not have stage %s", cache, self._stage_id)
            lacking.append(cache)
        return None

    def _from_primary(self, delivery: StageDelivery, primary: Repository) -> ItemResult:
        try:
            self._storages.open(primary).refuse_rejected(self._stage_id, self._lease)
            return delivery.pull(primary)
        except errors.StageNotFoundError as error:
            _LOGGER.warning("stage %s is no longer available in %s", self._stage_id, primary)
            raise self._changed(error) from error
        except (
            errors.NotFoundError,
            errors.BrokenStageError,
            errors.DigestMismatchError,
            errors.TruncatedError,
        ) as error:
            self._judge(delivery, primary, error)
            raise self._changed(error) from error

    def _judge(self, delivery: StageDelivery, primary: Repository, error: errors.StagefleetError) -> None:
        """Reject a broken stage, but only after two reads of our own confirmed it.

        A multi-platform stage is never rejected: builders would then refuse to build its image for good. If
        the registry delivers all of it, or the reads are inconclusive, the error is temporary.
        """
        stage_id = self._stage_id
        try:
            part = self._find_fault(delivery, primary)
        except errors.StageNotFoundError:
            _LOGGER.warning("stage %s is no longer available in %s", stage_id, primary)
            return
        if part is None:
            raise errors.TruncatedError(f"{error}; but here it gives all of it: try again") from error
        if part.member is not None or stage_id.is_multiplatform:
            what = "" if part.member in {None, part.content.digest} else f" in its member {part.member}"
            raise errors.BrokenStageError(
                f"{primary} {part}{what} of the multi-platform stage {stage_id}: run "
                f"stagefleet delete {primary} {stage_id}, and build it again"
            ) from error
        _LOGGER.warning("stage %s will be rejected: %s %s", stage_id, primary, part)
        self._storages.open(primary).reject(stage_id, project=self._project.name, lease=self._lease)

    def _find_fault(self, delivery: StageDelivery, primary: Repository) -> StageFault | None:
        """Return a requested part that the primary cannot deliver; None if reads are inconclusive."""
        try:
            members = delivery.wanted_members(primary)
            client = self._storages.registries.client
            return RejectionCheck(client, primary, self._stage_id, lease=self._lease).find_fault(members)
        except (errors.BrokenStageError, errors.PlatformNotFoundError):
            return None  # the manifest cannot be read, or only the engine knows its choice

    def _refill(self, primary: Repository, lacking: Sequence[Repository]) -> dict[str, str]:
        """Copy the stage into the caches that lacked it; failures are returned by cache."""
        failed = {}
        for cache in lacking:
            what = f"cache {cache} could not be given stage {self._stage_id}"
            with (
                errors_as_warnings(what, quiet=(errors.CircuitOpenError,)) as failure,
                self._storages.circuit_breakers.guarding(cache),
            ):
                transfer(self._storages, primary, cache, self._stage_id, self._attempt)
            if failure.error is not None:
                failed[str(cache)] = f"failed: {failure.error}"
        return failed

    def _changed(self, error: errors.StagefleetError) -> errors.StorageStateChangedError:
        return errors.StorageStateChangedError(
            f"stage {self._stage_id} is not what it was when it was found: {error}"
        )


class StageDelivery:
    """Transfer of one stage's images into the engine of this host, under the primary's names."""

    def __init__(
        self,
        storages: Storages,
        primary: Repository,
        stage_id: StageId,
        platforms: PlatformSelection,
        lease: Lease,
    ) -> None:
        self._storages = storages
        self._host = storages.host
        self._engine = storages.host.engine
        self._primary = primary
        self._stage_id = stage_id
        self._platforms = platforms
        self._lease = lease
        self._images = StageImages(self._engine, primary, stage_id)

    def find_present(self) -> ItemResult | None:
        """Return the result if all images are present, without a request to a registry.

        None if an image is missing or may be: only a registry knows the full list of platforms.
        """
        if not self._platforms:
            info = self._images.find()
            if info is None:
                return None
            self._host.note_use(info.name)
            return ItemResult(StageDescription(stage_id=self._stage_id, info=info).as_json(), skipped=True)
        found = {platform: self._images.find(platform) for platform in self._platforms.named}
        there = {platform: info for platform, info in found.items() if info is not None}
        return self._conclude(there) if there and len(there) == len(found) else None

    def pull(self, source: Repository) -> ItemResult:
        """Pull the missing images from one repository.

        Raises:
            PlatformNotFoundError: The stage has no image for a requested platform.
            StagefleetError: The repository cannot deliver all of it, or the engine refuses it.
        """
        storage = self._storages.open(source)
        if self._platforms:
            return self._bring_chosen(storage)
        description = self._describe_own(storage)
        moved = self._bring_own(storage)
        self._host.note_use(str(self._primary.tagged(str(self._stage_id))))
        return ItemResult(relocated(description, self._primary).as_json(), bytes=moved)

    def wanted_members(self, source: Repository) -> Sequence[Digest]:
        """Return the members of an index that a fetch pulls; empty for a stage that is one image.

        Raises:
            PlatformNotFoundError: There is none for a platform; the engine may still choose one.
            StageNotFoundError: The repository does not have the stage.
        """
        storage = self._storages.open(source)
        if not storage.fetch_manifest(self._stage_id).is_index:
            return ()
        own = self._engine.platform
        chosen = choose_images(storage, self._stage_id, self._platforms or PlatformSelection((own,)), own)
        return [image.member for _, image in chosen if image.member is not None]

    def _describe_own(self, storage: RegistryStorage) -> StageDescription:
        """Describe the stage; of an index only the member that the engine chooses.

        An index may lack members that nobody requests: platforms that were cleaned away, or attestations that
        a proxy does not serve (goharbor/harbor #18216).
        """
        manifest, reader = storage.fetch_manifest(self._stage_id), storage.reader()
        tag = str(self._stage_id)
        if not manifest.is_index:
            return StageDescription(stage_id=self._stage_id, info=reader.describe(manifest, tag))
        chosen = members_for(manifest, self._engine.platform)
        infos = [reader.describe(reader.member(manifest, digest)) for digest in chosen]
        info = describe_index(storage.address, tag, manifest, infos)
        return StageDescription(stage_id=self._stage_id, info=info)

    def _bring_own(self, storage: RegistryStorage) -> int:
        """Pull the member of an index that the engine itself chooses; return the bytes received."""
        try:
            return self._pull(storage.address, str(self._stage_id))
        except errors.PlatformNotFoundError:
            own = self._engine.platform
            # It raises, with the platforms.
            choose_images(storage, self._stage_id, PlatformSelection((own,)), own)
            raise

    def _bring_chosen(self, storage: RegistryStorage) -> ItemResult:
        moved, is_new, own_tag = 0, False, str(self._stage_id)
        there: dict[Platform, ImageInfo] = {}
        chosen = choose_images(storage, self._stage_id, self._platforms, self._engine.platform)
        for platform, image in chosen:
            info = self._images.find(platform)
            if info is None:
                tag = self._images.tag_for(platform) if image.member else own_tag
                member = None if tag == own_tag else image.member
                moved += self._pull(storage.address, tag, platform, member)
                info, is_new = self._expect(tag), True
            there[platform] = info
        return self._conclude(there, moved=moved, skipped=not is_new)

    def _pull(
        self, source: Repository, tag: str, platform: Platform | None = None, member: Digest | None = None
    ) -> int:
        """Pull one image under a tag of the engine, by the digest of a member if any; return the bytes."""
        reference = Reference.of(source, member or str(self._stage_id))
        name = str(reference)
        if reference == self._primary.tagged(tag):
            return self._engine.pull(reference, platform=platform, lease=self._lease)
        there = self._engine.find(name)
        fits = there is not None and (member is not None or self._images.is_for(there, platform))
        moved = 0 if fits else self._engine.pull(reference, platform=platform, lease=self._lease)
        # A digest under the primary's own name is removed with the tag; the image keeps its repo digest.
        self._rename(name, tag, keep=there is not None or source == self._primary)
        return moved

    def _rename(self, name: str, tag: str, *, keep: bool) -> None:
        """Give an image the primary's name, and remove the other name, so that clean-up sees one."""
        found = self._engine.find(name)
        if found is not None:
            self._engine.tag(str(found["Id"]), str(self._primary), tag)
            if not keep:
                self._engine.remove(name)
        else:
            self._expect(tag)  # another fetch has done so

    def _expect(self, tag: str) -> ImageInfo:
        """Return the image that was just pulled."""
        info = self._images.describe(tag)
        if info is None:
            name = self._primary.tagged(tag)
            raise errors.EngineError(f"{name} vanished from the engine while it was fetched")
        return info

    def _conclude(
        self, there: Mapping[Platform, ImageInfo], *, moved: int = 0, skipped: bool = True
    ) -> ItemResult:
        """Build the result: the first platform's description, with the names of all."""
        for info in there.values():
            self._host.note_use(info.name)
        first = StageDescription(stage_id=self._stage_id, info=next(iter(there.values())))
        names = {str(platform): info.name for platform, info in there.items()}
        return ItemResult({**first.as_json(), "platforms": names}, bytes=moved, skipped=skipped)
