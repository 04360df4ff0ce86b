"""Bring the images of one stage from a repository into an engine, under the primary's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stagefleet.errors import EngineError, PlatformMissingError
from stagefleet.manager.platform_images import choose_images, members_for
from stagefleet.manager.produced import Produced
from stagefleet.manager.renaming import renamed
from stagefleet.names import Digest, Reference, Repository, StageId
from stagefleet.platforms import Platform, PlatformChoice
from stagefleet.registry import RegistryClient
from stagefleet.registry.leash import Leash
from stagefleet.stages import ImageInfo, StageDescription
from stagefleet.storages import RegistryStorage
from stagefleet.storages.description import describe_index
from stagefleet.storages.engine import Engine, StageImages

__all__ = ["StageDelivery"]


class StageDelivery:
    """The images of one stage on their way into an engine.

    Args:
        client: Speaks to registries.
        engine: The host's engine.
        note: Told the name of each image that was asked for, once it is there.
        primary: The repository under whose name they are kept.
        stage_id: Which stage.
        platforms: Which of its platforms.
        leash: Holds the work back.
    """

    def __init__(
        self,
        client: RegistryClient,
        engine: Engine,
        note: Callable[[str], None],
        primary: Repository,
        stage_id: StageId,
        *,
        platforms: PlatformChoice,
        leash: Leash,
    ) -> None:
        self._client = client
        self._engine = engine
        self._note = note
        self._primary = primary
        self._stage_id = stage_id
        self._platforms = platforms
        self._leash = leash
        self._images = StageImages(engine, primary, stage_id)

    def look(self) -> Produced | None:
        """What is produced if all is there already, found without a request to a registry.

        None if something is to be brought, or may be: which platforms are all, only a registry knows.
        """
        if not self._platforms:
            info = self._images.find()
            if info is None:
                return None
            self._note(info.name)
            return Produced(StageDescription(stage_id=self._stage_id, info=info).as_json(), skipped=True)
        found = {platform: self._images.find(platform) for platform in self._platforms.named}
        there = {platform: info for platform, info in found.items() if info is not None}
        return self._conclude(there) if there and len(there) == len(found) else None

    def bring(self, source: Repository) -> Produced:
        """Bring what lacks from one repository.

        Raises:
            PlatformMissingError: The stage has no image for a platform that was asked for.
            StagefleetError: The repository does not give all of it, or the engine does not take it.
        """
        storage = RegistryStorage(self._client, source)
        if self._platforms:
            return self._bring_chosen(storage)
        description = self._describe_own(storage)
        moved = self._bring_own(storage)
        self._note(str(self._primary.tagged(str(self._stage_id))))
        return Produced(renamed(description, self._primary).as_json(), bytes=moved)

    def wanted_members(self, source: Repository) -> Sequence[Digest]:
        """The members of an index that a fetch brings; none of a stage that is one image.

        Raises:
            PlatformMissingError: There is none for a platform; what the engine takes instead it alone knows.
            StageNotFoundError: The repository does not have the stage.
        """
        storage = RegistryStorage(self._client, source)
        if not storage.fetch_manifest(self._stage_id).is_index:
            return ()
        own = self._engine.platform
        chosen = choose_images(storage, self._stage_id, self._platforms or PlatformChoice((own,)), own)
        return [image.member for _, image in chosen if image.member is not None]

    def _describe_own(self, storage: RegistryStorage) -> StageDescription:
        """Describe the stage; of an index only what the engine chooses of it is looked at.

        An index may lack the members that nobody asks for: platforms that were cleaned away, or attestations
        that a proxy does not serve (goharbor/harbor #18216).
        """
        manifest, reader = storage.fetch_manifest(self._stage_id), storage.reader()
        reference = storage.address.tagged(str(self._stage_id))
        if not manifest.is_index:
            return StageDescription(stage_id=self._stage_id, info=reader.describe(reference, manifest))
        own = self._engine.platform
        infos = []
        for digest in members_for(manifest, own):
            name = Reference.of(storage.address, digest)
            infos.append(reader.describe(name, reader.member(manifest, digest)))
        return StageDescription(stage_id=self._stage_id, info=describe_index(reference, manifest, infos))

    def _bring_own(self, storage: RegistryStorage) -> int:
        """Bring what the engine itself chooses of an index; the bytes that came."""
        try:
            return self._pull(storage.address, str(self._stage_id))
        except PlatformMissingError:
            own = self._engine.platform
            choose_images(storage, self._stage_id, PlatformChoice((own,)), own)  # raises, with what there is
            raise

    def _bring_chosen(self, storage: RegistryStorage) -> Produced:
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
        """Pull one image; the bytes that came.

        Args:
            source: From where.
            tag: What it is kept under.
            platform: Which of an index; what the engine chooses if None.
            member: It by digest; by the stage's tag if None.
        """
        reference = Reference.of(source, member or str(self._stage_id))
        name = str(reference)
        if reference == self._primary.tagged(tag):
            return self._engine.pull(reference, platform=platform, leash=self._leash)
        there = self._engine.find(name)
        fits = there is not None and (member is not None or self._images.is_for(there, platform))
        moved = 0 if fits else self._engine.pull(reference, platform=platform, leash=self._leash)
        # A digest under the primary's own name goes with the tag, and stays as the image's repo digest.
        self._rename(name, tag, keep=there is not None or source == self._primary)
        return moved

    def _rename(self, name: str, tag: str, *, keep: bool) -> None:
        """Give an image the primary's name; without the other nobody has two to clean up."""
        found = self._engine.find(name)
        if found is not None:
            self._engine.tag(str(found["Id"]), str(self._primary), tag)
            if not keep:
                self._engine.remove(name)
        else:
            self._expect(tag)  # another fetch was faster

    def _expect(self, tag: str) -> ImageInfo:
        """What was just brought."""
        info = self._images.describe(tag)
        if info is None:
            name = self._primary.tagged(tag)
            raise EngineError(f"{name} vanished from the engine while it was fetched")
        return info

    def _conclude(
        self, there: Mapping[Platform, ImageInfo], *, moved: int = 0, skipped: bool = True
    ) -> Produced:
        """The first of the platforms described, with the names of all."""
        for info in there.values():
            self._note(info.name)
        first = StageDescription(stage_id=self._stage_id, info=next(iter(there.values())))
        names = {str(platform): info.name for platform, info in there.items()}
        return Produced({**first.as_json(), "platforms": names}, bytes=moved, skipped=skipped)
