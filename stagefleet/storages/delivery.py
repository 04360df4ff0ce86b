"""Transfer of one stage's images from a repository into an engine, under the primary's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stagefleet.attempt import ItemResult
from stagefleet.errors import EngineError, PlatformNotFoundError
from stagefleet.image_config import describe_index, relocated
from stagefleet.images import ImageInfo, Platform, PlatformSelection, StageDescription
from stagefleet.leases import Lease
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.storages.docker_engine import StageImages
from stagefleet.storages.repository import RegistryStorage
from stagefleet.storages.stage_verification import choose_images, members_for
from stagefleet.storages.storages import Storages


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
        except PlatformNotFoundError:
            own = self._engine.platform
            choose_images(
                storage, self._stage_id, PlatformSelection((own,)), own
            )  # raises, with the platforms
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
            raise EngineError(f"{name} vanished from the engine while it was fetched")
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
